//! Data both ways on a TLS connection whose handshake is over.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ContentType, Error, ExtractedSecrets, InvalidMessage, PeerMisbehaved,
    Tls13CipherSuite,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::io::link::Link;
use crate::io::tls::allowance::{Allowance, poll_record};
use crate::io::tls::arena;
use crate::io::tls::handshake::invalid;
use crate::io::tls::pieces::Pieces;
use crate::io::tls::record::{MAX_PLAINTEXT_BYTES, Opener, Sealer};

/// How much is sealed before it is written: with 64 KiB eight bulk streams cost a fifth more, with
/// 512 KiB nothing less.
const BATCH_BYTES: usize = 256 * 1024;

/// Pieces that one record is made of, and records that are written at once, at most.
const PIECES: usize = 64;

/// The longest message of a handshake that may come later: a ticket, mostly. rustls has the same
/// limit.
const MAX_MESSAGE_BYTES: usize = 0xffff;

/// Messages of a handshake (RFC 8446, section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// A key update that asks for none in return (RFC 8446, section 4.6.3).
const UPDATED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// The maker of the next keys, which also takes tickets.
pub enum Keys {
    /// Of a client.
    Client(KernelConnection<ClientConnectionData>),
    /// Of a server.
    Server(KernelConnection<ServerConnectionData>),
}

/// A TLS connection. Its end is told from its being cut.
pub struct Stream<Io> {
    io: Io,
    suite: &'static Tls13CipherSuite,
    keys: Box<Keys>,
    pub(super) sealer: Sealer,
    opener: Opener,
    /// Records that are to be written, and how much of the first one was.
    pub(super) output: VecDeque<Vec<u8>>,
    written: usize,
    output_bytes: usize,
    /// Bytes that were read and not opened.
    input: BytesMut,
    /// Data that was opened and not asked for, by those who ask for a part.
    rest: BytesMut,
    /// A part of a handshake's message.
    message: BytesMut,
    /// Records that may still come without data.
    allowance: Allowance,
    /// The peer has asked for a key update.
    owes_update: bool,
    /// Nothing more is read: the peer has ended, or something was wrong.
    received: Received,
    /// Our end was sealed.
    ended: bool,
}

/// Messages that may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    More,
    End,
    Broken,
}

impl<Io> Stream<Io> {
    /// Goes on where a handshake has ended. `input` has come after its last record.
    pub(super) fn new(
        io: Io,
        input: BytesMut,
        suite: &'static Tls13CipherSuite,
        secrets: ExtractedSecrets,
        keys: Keys,
    ) -> Result<Self, Error> {
        Ok(Self {
            io,
            suite,
            keys: Box::new(keys),
            sealer: Sealer::new(suite, secrets.tx)?,
            opener: Opener::new(suite, secrets.rx)?,
            output: VecDeque::new(),
            written: 0,
            output_bytes: 0,
            input,
            rest: BytesMut::new(),
            message: BytesMut::new(),
            allowance: Allowance::new(Instant::now()),
            owes_update: false,
            received: Received::More,
            ended: false,
        })
    }

    /// The socket.
    pub const fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    /// How much room it has for what it reads.
    #[cfg(test)]
    pub(super) fn holds(&self) -> usize {
        self.input.capacity()
    }

    /// Puts a record behind those that are to be written.
    pub(super) fn seal(&mut self, kind: ContentType, payload: &[&[u8]]) -> io::Result<()> {
        if self.sealer.is_worn() || self.owes_update {
            self.owes_update = false;
            let update = self.sealer.seal(ContentType::Handshake, &[&UPDATED]).map_err(invalid)?;
            self.push(update);
            let next = match &mut *self.keys {
                Keys::Client(keys) => keys.update_tx_secret(),
                Keys::Server(keys) => keys.update_tx_secret(),
            };
            let sealer = next.and_then(|secrets| Sealer::new(self.suite, secrets));
            self.sealer = sealer.map_err(invalid)?;
        }
        let record = self.sealer.seal(kind, payload).map_err(invalid)?;
        self.push(record);
        Ok(())
    }

    fn push(&mut self, record: Vec<u8>) {
        self.output_bytes += record.len();
        self.output.push_back(record);
    }

    /// Seals what is next of `data`; says how much that was.
    fn seal_some(&mut self, data: &impl Buf) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = data.chunks_vectored(&mut slices);
        let mut pieces: [&[u8]; PIECES] = [&[]; PIECES];
        let (mut used, mut left) = (0, MAX_PLAINTEXT_BYTES);
        for (piece, slice) in pieces.iter_mut().zip(slices.get(..count).unwrap_or_default()) {
            let part = slice.len().min(left);
            *piece = slice.get(..part).unwrap_or_default();
            left -= part;
            used += 1;
            if left == 0 {
                break;
            }
        }
        self.seal(ContentType::ApplicationData, pieces.get(..used).unwrap_or_default())?;
        Ok(MAX_PLAINTEXT_BYTES - left)
    }

    /// The error of what the peer has sent; it is told, as far as it still listens.
    fn wrong(&mut self, error: Error) -> io::Error {
        self.received = Received::Broken;
        let alert = match error {
            Error::DecryptError => AlertDescription::BadRecordMac,
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::InvalidMessage(_) => AlertDescription::DecodeError,
            _ => AlertDescription::UnexpectedMessage,
        };
        self.end(alert);
        match error {
            // Anybody on the way may have made a record that cannot be opened.
            Error::DecryptError
            | Error::PeerSentOversizedRecord
            | Error::PeerMisbehaved(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec)
            | Error::AlertReceived(_) => invalid(error),
            error => io::Error::other(error),
        }
    }

    /// Seals our last record, once.
    fn end(&mut self, alert: AlertDescription) {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let level = if alert == AlertDescription::CloseNotify { WARNING } else { FATAL };
        // A key that may seal no more cannot say goodbye either.
        let _worn: io::Result<()> = self.seal(ContentType::Alert, &[&[level, alert.into()]]);
    }

    /// Takes a record that is not data.
    fn note(&mut self, kind: ContentType, payload: &[u8], now: Instant) -> Result<(), Error> {
        if !self.allowance.spend(now) {
            return Err(excess(kind).into());
        }
        match (kind, payload) {
            (ContentType::ApplicationData, _) => {}
            (ContentType::Alert, [_level, code]) => match AlertDescription::from(*code) {
                AlertDescription::CloseNotify => self.received = Received::End,
                // It says nothing: close_notify comes next (RFC 8446, section 6.1).
                AlertDescription::UserCanceled => {}
                alert => {
                    // It listens no more: it gets no answer.
                    self.ended = true;
                    return Err(Error::AlertReceived(alert));
                }
            },
            (ContentType::Alert, _) => {
                return Err(InvalidMessage::InvalidContentType.into());
            }
            (ContentType::Handshake, [_, ..]) => {
                if self.message.len() + payload.len() > MAX_MESSAGE_BYTES {
                    return Err(InvalidMessage::HandshakePayloadTooLarge.into());
                }
                self.message.extend_from_slice(payload);
                while self.message(now)? {}
            }
            _ => {
                return Err(Error::InappropriateMessage {
                    expect_types: vec![ContentType::ApplicationData],
                    got_type: kind,
                });
            }
        }
        Ok(())
    }

    /// Takes a message of a handshake off what has come. False: more must come.
    fn message(&mut self, now: Instant) -> Result<bool, Error> {
        let Some([kind, l0, l1, l2]) = self.message.first_chunk() else { return Ok(false) };
        let (kind, length) = (*kind, u32::from_be_bytes([0, *l0, *l1, *l2]));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        let Some(payload) = self.message.get(4..4 + length) else { return Ok(false) };
        if !self.allowance.spend(now) {
            return Err(excess(ContentType::Handshake).into());
        }
        match (kind, &mut *self.keys, payload) {
            (NEW_SESSION_TICKET, Keys::Client(keys), ticket) => {
                keys.handle_new_session_ticket(ticket)?;
            }
            (KEY_UPDATE, keys, [asks @ (0 | 1)]) => {
                self.owes_update |= *asks == 1;
                // The next message has other keys, so that it must not have begun (section 5.1).
                if self.message.len() > 4 + length {
                    return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                }
                let next = match keys {
                    Keys::Client(keys) => keys.update_rx_secret(),
                    Keys::Server(keys) => keys.update_rx_secret(),
                };
                self.opener = Opener::new(self.suite, next?)?;
            }
            (KEY_UPDATE, ..) => return Err(InvalidMessage::InvalidKeyUpdate.into()),
            _ => {
                return Err(Error::InappropriateHandshakeMessage {
                    expect_types: Vec::new(),
                    got_type: kind.into(),
                });
            }
        }
        self.message.advance(4 + length);
        if self.message.is_empty() {
            self.message = BytesMut::new();
        }
        Ok(true)
    }

    /// Opens the next record with data, and takes what is before it. `None`: more must come, or
    /// nothing will. Pending: others have their turn first.
    fn open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        while self.received == Received::More {
            let opened = ready!(poll_record(cx, || {
                let before = self.input.len();
                let opened = self.opener.open(&mut self.input);
                (before - self.input.len(), opened)
            }));
            let Some((kind, payload)) = opened.map_err(|error| self.wrong(error))? else { break };
            if kind == ContentType::ApplicationData && !payload.is_empty() {
                if !self.message.is_empty() {
                    return Poll::Ready(Err(
                        self.wrong(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into())
                    ));
                }
                self.allowance.earn(payload.len());
                return Poll::Ready(Ok(Some(payload)));
            }
            let noted = self.note(kind, &payload, Instant::now());
            noted.map_err(|error| self.wrong(error))?;
        }
        Poll::Ready(Ok(None))
    }
}

/// Whether an error of a [`Stream`] is that its peer has broken the rules of TLS, in a record that
/// nobody else can have made. `Other` is of the streams alone: the system has no such error.
pub fn is_violation(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other
}

/// More came without data than is allowed.
fn excess(kind: ContentType) -> PeerMisbehaved {
    match kind {
        ContentType::Alert => PeerMisbehaved::TooManyWarningAlertsReceived,
        ContentType::Handshake => PeerMisbehaved::TooManyKeyUpdateRequests,
        _ => PeerMisbehaved::TooManyEmptyFragments,
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Stream<Io> {
    /// Writes the records that are to be written.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut from = self.written;
            for (slice, record) in slices.iter_mut().zip(&self.output) {
                *slice = IoSlice::new(record.get(from..).unwrap_or_default());
                from = 0;
            }
            let filled = slices.get(..self.output.len()).unwrap_or(&slices);
            let mut count = match filled {
                [one] => ready!(Pin::new(&mut self.io).poll_write(cx, one))?,
                several => ready!(Pin::new(&mut self.io).poll_write_vectored(cx, several))?,
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output_bytes -= count;
            while let Some(first) = self.output.front() {
                let left = first.len() - self.written;
                if count < left {
                    self.written += count;
                    break;
                }
                count -= left;
                self.written = 0;
                self.output.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Answers a key update, if nothing else does.
    fn answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.owes_update && !self.ended && self.output.is_empty() {
            self.seal(ContentType::ApplicationData, &[])?;
        }
        // Our last words too; whoever writes next goes on with it.
        match self.poll_write_out(cx) {
            Poll::Ready(written) => written,
            Poll::Pending => Ok(()),
        }
    }

    /// Whether more may be written.
    fn may_write(&self) -> io::Result<()> {
        if self.ended { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Link for Stream<Io> {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        loop {
            let opened = self.open(cx);
            arena::give_back(&mut self.input);
            let failed = matches!(opened, Poll::Ready(Err(_)));
            if self.owes_update || failed {
                // The first error counts.
                let answered = self.answer(cx);
                if !failed {
                    answered?;
                }
            }
            match (ready!(opened)?, self.received) {
                (Some(data), _) => return Poll::Ready(Ok(Some(data))),
                (None, Received::More) => {}
                (None, Received::End) => return Poll::Ready(Ok(None)),
                (None, Received::Broken) => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
            if ready!(arena::poll_fill(&mut self.io, cx, &mut self.input))? == 0 {
                // Cut: an end would have been said.
                self.received = Received::Broken;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut impl Buf) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write_out(cx))?;
            if !data.has_remaining() {
                return Poll::Ready(Ok(()));
            }
            self.may_write()?;
            while data.has_remaining() && self.output_bytes < BATCH_BYTES {
                let sealed = self.seal_some(data)?;
                data.advance(sealed);
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut data) = ready!(self.poll_take(cx))? {
            let part = data.split_to(data.len().min(buffer.remaining()));
            buffer.put_slice(&part);
            self.rest = data;
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_write()?;
        if self.output_bytes >= BATCH_BYTES {
            ready!(self.poll_write_out(cx))?;
        }
        let mut pieces = Pieces::new(data);
        let mut taken = 0;
        while pieces.has_remaining() && self.output_bytes < BATCH_BYTES {
            let sealed = self.seal_some(&pieces)?;
            pieces.advance(sealed);
            taken += sealed;
        }
        // Bytes that are not written now are written when it is flushed.
        if let Poll::Ready(Err(error)) = self.poll_write_out(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end(AlertDescription::CloseNotify);
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<Io: fmt::Debug> fmt::Debug for Stream<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("io", &self.io)
            .field("received", &self.received)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
