//! The state of a tunnel's task.

use bytes::BytesMut;
use tokio::time::Instant;

use crate::native::pings::Pings;
use crate::native::sync::Receiver;

/// The state of a tunnel's task.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) released: Receiver<u32>,
    /// What has been read and was not looked at: a part of a frame.
    pub(super) input: BytesMut,
    /// That is more: the peer has asked for as many streams as it may in one turn.
    pub(super) is_held: bool,
    /// How many pings may still come.
    pub(super) pings: Pings,
    /// Something waits to be written.
    pub(super) is_dirty: bool,
    /// Streams of which bytes waited where they were read, after the last turn that read; and how
    /// many bytes it read.
    pub(super) slices: Vec<u32>,
    pub(super) n_read: usize,
    /// When a stream was last open.
    pub(super) used: Instant,
    /// When the last ping was sent.
    pub(super) pinged: Instant,
}

impl Driver {
    /// Puts a piece behind what is there: a part of a frame, if anything.
    pub(super) fn append(&mut self, piece: BytesMut) {
        if self.input.is_empty() {
            self.input = piece;
        } else {
            self.input.extend_from_slice(&piece);
        }
    }

    /// A tunnel that waits keeps no memory.
    pub(super) fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }
}
