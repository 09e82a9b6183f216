//! Parts that the targets share: how they read their input, a stream to open, and rules to be found.

use std::sync::Arc;

pub mod hyper;
pub mod tunnels;

use bytes::BytesMut;
use mesh_agent::model::http::pattern::Expression;
use mesh_agent::model::http::rules::{HttpRule, HttpRules};
use mesh_agent::model::http::{Kind, Match, Rule, Timeouts};
use mesh_agent::model::id::ResourceName;
use mesh_agent::native::frame::{Decoder, Frame, Open};
use mesh_agent::route::http::{RequestView, compile, find};

/// The examples of HELLO and OPEN in `docs/transport.md`.
const EXAMPLES: &[u8] =
    b"\x00\x00\x0c\x81\x00\x00\x00\x00\x01\x04\x00\x00\x03\xe8\x02\x04\x00\x01\x00\x00\
    \x00\x00\x08\x82\x00\x00\x00\x01\x81\x06\x0a\x00\x00\x02\x00\x50";

/// An input, read as numbers and bytes until it ends. Every number is one byte, so that what a
/// mutation inserts or removes shifts as little as possible.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// Begins to read an input.
    pub const fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The next number. `None`: the input ends here, and with it the run.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next number as one of a stream, from 1 on.
    pub fn stream(&mut self) -> Option<u32> {
        Some(u32::from(self.byte()?).max(1))
    }

    /// The next number as one of bytes: four bits, shifted by as many as the other four say. From
    /// 0 to 15 exactly, and up to 15 << 14 = 245,760, with 64 KiB among them.
    pub fn size(&mut self) -> Option<usize> {
        let byte = self.byte()?;
        Some(usize::from(byte & 15) << (byte >> 4).min(14))
    }

    /// So many bytes as they are, or what is left.
    pub fn bytes(&mut self, count: u8) -> &'a [u8] {
        let (now, rest) = self.0.split_at(usize::from(count).min(self.0.len()));
        self.0 = rest;
        now
    }
}

/// The opening of a stream, as it comes from a peer: a new field of it does not matter here.
pub fn open() -> Open {
    let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::from(EXAMPLES));
    loop {
        match decoder.next(&mut bytes) {
            Ok(Some(Frame::Open(_, open))) => return open,
            Ok(Some(_)) => {}
            other => panic!("{other:?}: the example is not read"),
        }
    }
}

/// An expression that is one.
pub fn pattern(source: &str) -> Expression {
    Expression::new(source).expect("an expression")
}

/// Rules of one match each.
pub fn rules(matches: Vec<Match>) -> HttpRules {
    let route = Arc::new(ResourceName::new("default", "fuzz"));
    let rule = |(index, one): (usize, Match)| HttpRule {
        route: Arc::clone(&route),
        index,
        rule: Arc::new(Rule {
            name: None,
            matches: vec![one],
            filters: Vec::new(),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            persistence: None,
            split_by: None,
        }),
        backends: Vec::new(),
        mirrors: Vec::new(),
    };
    let rules: Vec<_> = matches.into_iter().enumerate().map(rule).collect();
    let table = Arc::new(compile(&rules));
    HttpRules { kind: Kind::Http, rules, table }
}

/// Whether a match is true of a request.
pub fn is_found(one: Match, request: &RequestView<'_>) -> bool {
    find(&rules(vec![one]), request).is_some()
}
