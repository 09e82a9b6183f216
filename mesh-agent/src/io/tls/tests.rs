//! Our records against rustls' own, and against peers that break the rules.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rustls::{AlertDescription, ClientConfig, ContentType, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex, split,
};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::fixture::{Mesh, client_config, clients, id, server, server_config, target};
use crate::identity::verify::peer_error;
use crate::io::link::Link as _;
use crate::io::tls::handshake;
use crate::io::tls::stream::{Stream, is_violation};

type Ours = Stream<DuplexStream>;

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Configs {
    fn new() -> Self {
        let mesh = Mesh::new("cluster.local");
        let (a, b) = (mesh.node("node-a"), mesh.node("node-b"));
        let (client, server) = (a.ensure_now(&id("a")).unwrap(), b.ensure_now(&id("b")).unwrap());
        Self { client: client_config(&client, vec![id("b")]), server: server_config(&server) }
    }

    fn name() -> ServerName<'static> {
        ServerName::try_from("mesh.invalid").unwrap()
    }

    async fn ours_connects(&self, io: DuplexStream) -> Ours {
        let shaken = handshake::connect(Arc::clone(&self.client), Self::name(), io);
        shaken.await.unwrap().into_stream().unwrap()
    }

    async fn ours_accepts(&self, io: DuplexStream) -> Ours {
        let hello = handshake::hello(io).await.unwrap();
        assert_eq!(hello.server_name(), Some("mesh.invalid"));
        let shaken = hello.accept(Arc::clone(&self.server)).await.unwrap();
        shaken.into_stream().unwrap()
    }

    /// Both ends are ours.
    async fn pair(&self) -> (Ours, Ours) {
        let (near, far) = duplex(1 << 20);
        Box::pin(async { tokio::join!(self.ours_connects(near), self.ours_accepts(far)) }).await
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31) >> 3).to_le_bytes()[0]).collect()
}

/// Sends in `pieces` each way at once, and ends; what comes must be what was sent.
async fn exchange(
    one: impl AsyncRead + AsyncWrite + Unpin,
    other: impl AsyncRead + AsyncWrite + Unpin,
    pieces: &[usize],
) {
    async fn both(io: impl AsyncRead + AsyncWrite + Unpin, pieces: &[usize]) {
        let (mut read, mut write) = split(io);
        let data = pattern(pieces.iter().sum());
        let sending = async {
            let mut rest = data.as_slice();
            for piece in pieces {
                let (now, later) = rest.split_at(*piece);
                write.write_all(now).await.unwrap();
                write.flush().await.unwrap();
                rest = later;
            }
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let ((), end) = tokio::join!(sending, read.read_to_end(&mut got));
        end.unwrap();
        assert!(got == data, "{} of {} bytes", got.len(), data.len());
    }
    tokio::join!(both(one, pieces), both(other, pieces));
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(Box::pin(test))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn ours_and_rustls_understand_each_other(
        // The server's tickets must fit in: nobody reads them before both handshakes are over.
        pipe in prop_oneof![1_000_usize..2_000, 1_000_usize..100_000],
        pieces in prop::collection::vec(prop_oneof![1_usize..100, 1_usize..60_000], 1..8),
    ) {
        let configs = Configs::new();
        run(async {
            let (near, far) = duplex(pipe);
            let acceptor = TlsAcceptor::from(Arc::clone(&configs.server));
            let (ours, theirs) = tokio::join!(configs.ours_connects(near), acceptor.accept(far));
            exchange(ours, theirs.unwrap(), &pieces).await;
            let (near, far) = duplex(pipe);
            let connector = TlsConnector::from(Arc::clone(&configs.client));
            let (theirs, ours) =
                tokio::join!(connector.connect(Configs::name(), near), configs.ours_accepts(far));
            exchange(theirs.unwrap(), ours, &pieces).await;
            let (near, far) = duplex(pipe);
            let (one, other) = tokio::join!(configs.ours_connects(near), configs.ours_accepts(far));
            exchange(one, other, &pieces).await;
        });
    }

    #[test]
    fn what_was_changed_on_the_way_is_never_taken(at in 0_usize..500, bits in 1_u8..) {
        let configs = Configs::new();
        run(async {
            let (mut one, mut other) = configs.pair().await;
            one.seal(ContentType::ApplicationData, &[&pattern(478)]).unwrap();
            let sealed = one.output.front_mut().unwrap();
            sealed[at] ^= bits;
            one.flush().await.unwrap();
            drop(one);
            // The version says nothing (RFC 8446, section 5.2).
            let taken = poll_fn(|cx| other.poll_take(cx)).await;
            assert_eq!(taken.is_ok(), matches!(at, 1 | 2), "{taken:?}");
        });
    }
}

/// Carries bytes, and changes one of them.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    change: (usize, u8),
) {
    let (mut at, mut buffer) = (0, [0; 1024]);
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if (at..at + length).contains(&change.0) {
            buffer[change.0 - at] ^= change.1;
        }
        at += length;
        // A reader that has gone needs nothing more.
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _gone: io::Result<()> = to.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// rustls panics if it is driven in another way than it expects, after an error above all.
    #[test]
    fn a_handshake_that_was_changed_on_the_way_ends(
        by_client: bool,
        change in (0_usize..2_500, 1_u8..),
    ) {
        let configs = Configs::new();
        run(async {
            let ((near, client), (far, server)) = (duplex(1 << 16), duplex(1 << 16));
            let (from_client, to_client) = split(client);
            let (from_server, to_server) = split(server);
            let never = (usize::MAX, 0);
            let (up, down) = if by_client { (change, never) } else { (never, change) };
            let connecting = async {
                let name = Configs::name();
                let shaken = handshake::connect(Arc::clone(&configs.client), name, near).await;
                shaken.map(|shaken| drop(shaken.into_stream().unwrap()))
            };
            let accepting = async {
                let hello = handshake::hello(far).await?;
                let shaken = hello.accept(Arc::clone(&configs.server)).await;
                shaken.map(|shaken| drop(shaken.into_stream().unwrap()))
            };
            let carrying =
                async { tokio::join!(carry(from_client, to_server, up), carry(from_server, to_client, down)) };
            let ends = async { tokio::join!(connecting, accepting, carrying) };
            // A length that has become larger has both wait for the rest, for as long as they are let.
            tokio::time::pause();
            let _late: Result<(_, _, _), _> = timeout(Duration::from_secs(10), Box::pin(ends)).await;
        });
    }
}

#[test]
fn keys_are_renewed_by_either_side() {
    let configs = Configs::new();
    run(async {
        let (near, far) = duplex(1 << 16);
        let acceptor = TlsAcceptor::from(Arc::clone(&configs.server));
        let (ours, theirs) = tokio::join!(configs.ours_connects(near), acceptor.accept(far));
        let (mut ours, mut theirs) = (ours, theirs.unwrap());
        for _ in 0..20 {
            ours.sealer.wear_after(2);
            theirs.get_mut().1.refresh_traffic_keys().unwrap();
            // rustls asks for a key update in return.
            theirs.write_all(b"to ours").await.unwrap();
            theirs.flush().await.unwrap();
            ours.write_all(b"one").await.unwrap();
            ours.write_all(b"two").await.unwrap();
            ours.write_all(b"three").await.unwrap();
            ours.flush().await.unwrap();
            let (mut here, mut there) = ([0; 7], [0; 11]);
            ours.read_exact(&mut here).await.unwrap();
            theirs.read_exact(&mut there).await.unwrap();
            assert_eq!((&here, &there), (b"to ours", b"onetwothree"));
        }
        exchange(ours, theirs, &[100_000, 1, 20_000]).await;
    });
}

#[test]
fn a_key_that_has_sealed_all_it_may_seals_no_more() {
    let configs = Configs::new();
    run(async {
        let (mut one, _other) = configs.pair().await;
        one.sealer.wear_after(1);
        one.sealer.seal(ContentType::ApplicationData, &[b"last"]).unwrap();
        one.sealer.seal(ContentType::ApplicationData, &[b"more"]).unwrap_err();
    });
}

#[test]
fn a_ticket_that_comes_after_the_handshake_resumes_it() {
    let mesh = Mesh::new("cluster.local");
    let (a, b) = (mesh.node("node-a"), mesh.node("node-b"));
    let (a, b) = (a.ensure_now(&id("a")).unwrap(), b.ensure_now(&id("b")).unwrap());
    let (clients, servers) = (clients(&a), server(&b));
    run(async {
        for resumed in [false, true, true] {
            let (dial, accept) = (clients.dial(&target(vec![id("b")])), servers.accept());
            let (near, far) = duplex(1 << 16);
            let connecting = handshake::connect(dial.config(), dial.name(), near);
            let accepting = async {
                let hello = handshake::hello(far).await?;
                hello.accept(accept.config()).await
            };
            let (client, server) = tokio::try_join!(connecting, accepting).unwrap();
            let met = dial.check(client.session()).unwrap();
            let seen = accept.check(server.session()).unwrap();
            assert_eq!((met.id, met.resumed), (id("b"), resumed));
            assert_eq!((seen.id, seen.resumed), (id("a"), resumed));
            // The tickets are read with the first data.
            exchange(client.into_stream().unwrap(), server.into_stream().unwrap(), &[10]).await;
        }
    });
}

#[test]
fn what_is_no_tls_is_refused() {
    let configs = Configs::new();
    run(async {
        for bytes in
            ["GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\x05hello", "\x16\x03\x01\x7f\x7fx"]
        {
            let (mut near, far) = duplex(1 << 16);
            near.write_all(bytes.as_bytes()).await.unwrap();
            let error = handshake::hello(far).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let mut told = Vec::new();
            near.read_to_end(&mut told).await.unwrap();
            // An alert (RFC 8446, section 6), if rustls has one for it.
            assert!(matches!(told.as_slice(), [] | [21, 3, 3, 0, 2, _, _]), "{told:?}");

            let (near, mut far) = duplex(1 << 16);
            far.write_all(bytes.as_bytes()).await.unwrap();
            let connecting = handshake::connect(Arc::clone(&configs.client), Configs::name(), near);
            let error = connecting.await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    });
}

/// Records of a peer, and the answer to them.
async fn check(records: &[(ContentType, &[u8])], alert: Option<AlertDescription>) {
    let configs = Configs::new();
    let (mut peer, mut ours) = configs.pair().await;
    for (kind, payload) in records {
        peer.seal(*kind, &[payload]).unwrap();
    }
    peer.flush().await.unwrap();
    let taken = poll_fn(|cx| ours.poll_take(cx)).await;
    let error = taken.expect_err("it was taken");
    assert!(poll_fn(|cx| ours.poll_take(cx)).await.is_err(), "it goes on after: {error}");
    drop(ours);
    let told = poll_fn(|cx| peer.poll_take(cx)).await.unwrap_err();
    let told = told.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).cloned();
    assert_eq!(told, alert.map(rustls::Error::AlertReceived), "{error}");
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_is_told_how() {
    use ContentType as Kind;
    const WRONG: Option<AlertDescription> = Some(AlertDescription::UnexpectedMessage);
    const MALFORMED: Option<AlertDescription> = Some(AlertDescription::DecodeError);
    // The server may not send what only clients may, and the other way round; `ours` is a server.
    check(&[(Kind::Handshake, &[4, 0, 0, 0])], WRONG).await;
    check(&[(Kind::Handshake, &[1, 0, 0, 0])], WRONG).await;
    check(&[(Kind::Handshake, &[])], WRONG).await;
    check(&[(Kind::Heartbeat, &[1])], WRONG).await;
    check(&[(Kind::ChangeCipherSpec, &[1])], WRONG).await;
    // A key update: its form, what comes with it, and what it is cut by.
    check(&[(Kind::Handshake, &[24, 0, 0, 1, 2])], MALFORMED).await;
    check(&[(Kind::Handshake, &[24, 0, 0, 2, 0, 0])], MALFORMED).await;
    check(&[(Kind::Handshake, &[24, 0, 0, 1, 0, 24])], WRONG).await;
    check(&[(Kind::Handshake, &[24, 0]), (Kind::ApplicationData, b"x")], WRONG).await;
    check(&[(Kind::Handshake, &[24, 1, 0, 0, 0])], MALFORMED).await;
    check(&[(Kind::Alert, &[1])], MALFORMED).await;
    check(&[(Kind::ApplicationData, b"".as_slice()); 65], WRONG).await;
    check(&[(Kind::Alert, [1, 90].as_slice()); 65], WRONG).await;
    // A peer that sends an alert listens no more.
    check(&[(Kind::Alert, &[2, 42])], None).await;
}

/// Renews the peer's keys `count` times, each time before `size` bytes; says after how many of them
/// ours has had enough.
async fn renew(count: usize, size: usize) -> Option<usize> {
    let (mut peer, mut ours) = Configs::new().pair().await;
    for renewed in 0..count {
        peer.sealer.wear_after(1);
        peer.write_all(&pattern(size)).await.unwrap();
        peer.flush().await.unwrap();
        let mut taken = 0;
        while taken < size {
            match poll_fn(|cx| ours.poll_take(cx)).await {
                Ok(piece) => taken += piece.unwrap().len(),
                Err(error) => {
                    assert!(is_violation(&error), "{error}");
                    assert!(error.to_string().contains("TooManyKeyUpdateRequests"), "{error}");
                    return Some(renewed);
                }
            }
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn keys_are_renewed_no_more_often_than_data_or_time_allow() {
    assert_eq!(renew(100, 1).await, Some(32));
    assert_eq!(renew(100, 2 << 14).await, None);
}

/// Sends `count` records of `size` bytes; one poll must take `most` of them at most.
async fn take_all(count: usize, size: usize, most: usize) {
    let (mut peer, mut ours) = Configs::new().pair().await;
    for _ in 0..count {
        peer.seal(ContentType::ApplicationData, &[&pattern(size)]).unwrap();
    }
    peer.flush().await.unwrap();
    let mut taken = 0;
    poll_fn(|cx| {
        let before = taken;
        while taken < count && ours.poll_take(cx)?.is_ready() {
            taken += 1;
        }
        assert!(taken - before <= most, "{} in one poll", taken - before);
        if taken < count { Poll::Pending } else { Poll::Ready(io::Result::Ok(())) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn others_have_their_turn_after_a_bounded_number_of_records() {
    take_all(2_000, 1, 128).await;
    take_all(60, 1 << 14, 26).await;
}

#[tokio::test]
async fn a_refusal_is_found_in_the_error() {
    let (mut peer, mut ours) = Configs::new().pair().await;
    let refused = AlertDescription::CertificateUnknown;
    peer.seal(ContentType::Alert, &[&[2, refused.into()]]).unwrap();
    peer.flush().await.unwrap();
    let error = poll_fn(|cx| ours.poll_take(cx)).await.unwrap_err();
    assert!(peer_error(&error).is_some(), "{error}");
}

#[tokio::test]
async fn a_cut_is_not_an_end() {
    let (mut peer, mut ours) = Configs::new().pair().await;
    peer.write_all(b"x").await.unwrap();
    peer.flush().await.unwrap();
    drop(peer);
    assert_eq!(ours.read_u8().await.unwrap(), b'x');
    let cut = ours.read_u8().await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    let (mut peer, mut ours) = Configs::new().pair().await;
    peer.shutdown().await.unwrap();
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(peer.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn pieces_come_as_they_were_sealed_and_a_tunnel_that_waits_holds_nothing() {
    let (mut one, mut other) = Configs::new().pair().await;
    let mut data = Bytes::from(pattern(40_000));
    poll_fn(|cx| one.poll_give(cx, &mut data)).await.unwrap();
    for expect in [16_384, 16_384, 7_232] {
        let piece = poll_fn(|cx| other.poll_take(cx)).await.unwrap().unwrap();
        assert_eq!(piece.len(), expect);
    }
    let waits = poll_fn(|cx| Poll::Ready(other.poll_take(cx).is_pending())).await;
    assert!(waits && other.holds() == 0);
}
