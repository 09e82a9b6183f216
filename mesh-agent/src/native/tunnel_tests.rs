//! Tunnels between two real ends, and ends whose peer keeps no rules.

use std::cell::RefCell;

use bytes::{Buf as _, Bytes};
use std::sync::atomic::AtomicU64;

use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::io::leg::Leg;
use crate::io::link::Plain;
use crate::io::relay::{Incoming as _, Outgoing as _, Unsent, both_ways};
use crate::io::silence::News;
use crate::model::spiffe::SpiffeId;
use crate::native::fixture::options;
use crate::native::frame::{self, Decoder, Frame, Hello};
use crate::native::quota::{Bounds, Most, Quotas};
use crate::native::stream;
use crate::telemetry::{self, Protocol, Target, Telemetry};

/// More than windows hold.
const BYTES: usize = 3_500_000;

/// A server, with what its peers have asked for.
struct Site {
    quotas: Quotas<&'static str, &'static str>,
    scope: Scope,
    options: Options,
    /// Of the tunnels' clients.
    quota: Option<Arc<Quota>>,
    asked: mpsc::Receiver<Asked>,
    tell: mpsc::Sender<Asked>,
}

/// Causes of the end of the server's side of a tunnel.
struct Ends {
    retire: oneshot::Sender<()>,
    cut: oneshot::Sender<()>,
}

async fn told(receiver: oneshot::Receiver<()>) {
    if receiver.await.is_err() {
        pending::<()>().await;
    }
}

impl Site {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: Options) -> Self {
        let (tell, asked) = mpsc::channel(16);
        let (quotas, scope) = (Quotas::default(), Scope::new("test"));
        Self { quotas, scope, options, quota: None, asked, tell }
    }

    /// The server's end of a tunnel of `peer`.
    fn serve(&mut self, peer: &'static str, io: DuplexStream) -> Ends {
        let quota = self.quotas.of(&peer, &"local", self.options.clients);
        let (tell, scope, options) = (self.tell.clone(), self.scope.clone(), self.options);
        let ((retire, retired), (cut, is_cut)) = (oneshot::channel(), oneshot::channel());
        self.scope.spawn(Box::pin(async move {
            let asked = |_, asked| tell.try_send(asked).unwrap();
            let ending = Ending::within(&scope, told(retired), told(is_cut));
            let _end: Result<(), Error> = serve(Plain(io), quota, &options, ending, asked).await;
        }));
        Ends { retire, cut }
    }

    /// A tunnel of `peer` over a pipe that holds `pipe` bytes.
    fn tunnel(&mut self, peer: &'static str, pipe: usize) -> (Arc<Tunnel>, Lease, Ends) {
        let (ours, theirs) = duplex(pipe);
        let ends = self.serve(peer, theirs);
        let (tunnel, lease) = self.client(ours);
        (tunnel, lease, ends)
    }

    /// The client's end of a tunnel.
    fn client(&self, ours: DuplexStream) -> (Arc<Tunnel>, Lease) {
        let telemetry = Telemetry::new(telemetry::Options {
            access_log: Target::Off,
            access_log_queue_bytes: 1,
            access_log_rate: 0,
            max_series: 1,
            version: "",
        });
        let counted = telemetry.unwrap().tunnel_opened(Protocol::Native);
        let quota = self.quota.clone();
        let id = SpiffeId::new("cluster.local", "demo", "echo").unwrap();
        let news = Arc::new(News::new("10.0.0.1:15008".parse().unwrap(), id));
        let told = (|_| drop(counted), news);
        Tunnel::start(Plain(ours), &self.options, quota, &self.scope, told)
    }

    /// A stream, as both ends hold it.
    async fn stream(&mut self, lease: &Lease) -> (Arc<Stream>, Arc<Stream>) {
        let (ours, theirs) =
            tokio::join!(lease.open(open()), async { self.asked.recv().await.unwrap().accept() });
        (Arc::new(ours.unwrap()), Arc::new(theirs.unwrap()))
    }
}

fn open() -> Open {
    let destination = "10.0.0.1:80".parse().unwrap();
    Open { destination, client: None, hostname: None, trace: None }
}

fn pattern(seed: usize, from: usize, length: usize) -> Bytes {
    (from..from + length).map(|at| ((at * 31 + seed * 7) >> 3).to_le_bytes()[0]).collect()
}

async fn send(sender: &mut stream::Sender, seed: usize, bytes: usize, piece: usize) {
    let mut sent = 0;
    while sent < bytes {
        let mut data = pattern(seed, sent, piece.min(bytes - sent));
        sent += data.len();
        while !data.is_empty() {
            poll_fn(|cx| sender.poll_send(cx, &mut data)).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    sender.end().unwrap();
}

async fn receive(receiver: &mut stream::Receiver, seed: usize) -> usize {
    let mut got = 0;
    while let Some(data) = poll_fn(|cx| receiver.poll_data(cx)).await {
        let mut data = data.unwrap();
        let length = data.remaining();
        assert!(data.copy_to_bytes(length) == pattern(seed, got, length), "after {got} bytes");
        got += length;
        receiver.taken(length).unwrap();
        tokio::task::yield_now().await;
    }
    got
}

/// Waits until a tunnel has forgotten all of its streams.
async fn forgotten(tunnel: &Tunnel) {
    let is_empty = || {
        let core = tunnel.lock();
        core.slots.is_empty() && core.session.streams() == 0
    };
    for _ in 0..100_000 {
        if is_empty() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("a tunnel keeps streams that nobody holds: {tunnel:?}");
}

#[tokio::test]
async fn bytes_go_both_ways_in_order_and_nothing_is_left() {
    for (pipe, piece) in [(1_000, 100_000), (1 << 22, 70_000), (1 << 16, 262_144)] {
        let mut site = Site::new();
        let (tunnel, lease, _ends) = site.tunnel("peer", pipe);
        let (ours, theirs) = site.stream(&lease).await;
        let ((mut to_them, mut from_them), (mut to_us, mut from_us)) =
            (ours.split(), theirs.split());
        let ((), (), up, down) = tokio::join!(
            send(&mut to_them, 1, BYTES, piece),
            send(&mut to_us, 2, BYTES, piece),
            receive(&mut from_us, 1),
            receive(&mut from_them, 2),
        );
        assert_eq!((up, down), (BYTES, BYTES));
        drop((to_them, from_them, to_us, from_us, ours, theirs));
        forgotten(&tunnel).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_after_its_end_loses_nothing() {
    // As an application that answers and closes: its peer has neither read the answer nor ended.
    let mut site = Site::new();
    let (tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    let (ours, theirs) = site.stream(&lease).await;
    let (mut to_us, _) = theirs.split();
    send(&mut to_us, 1, 60_000, 60_000).await;
    to_us.leave();
    drop((to_us, theirs));
    let (mut to_them, mut from_them) = ours.split();
    // Bytes that come too late are not taken, which is said: that loses nothing either.
    let mut late = Bytes::from_static(b"late");
    poll_fn(|cx| to_them.poll_send(cx, &mut late)).await.unwrap();
    poll_fn(|cx| to_them.poll_closed(cx)).await.unwrap();
    assert_eq!(receive(&mut from_them, 1).await, 60_000);
    to_them.end().unwrap();
    to_them.leave();
    drop((ours, to_them, from_them));
    forgotten(&tunnel).await;
}

#[tokio::test]
async fn a_stream_that_is_given_up_after_its_end_is_reset() {
    // As a relay that a new policy cancels after its application has said all: the peer must not take
    // what it still sends for delivered.
    let mut site = Site::new();
    let (tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    let (ours, theirs) = site.stream(&lease).await;
    theirs.split().0.end().unwrap();
    drop(theirs);
    let (mut to_them, mut from_them) = ours.split();
    poll_fn(|cx| to_them.poll_closed(cx)).await.unwrap_err();
    // The end was an end all the same.
    assert!(poll_fn(|cx| from_them.poll_data(cx)).await.is_none());
    drop((ours, to_them, from_them));
    forgotten(&tunnel).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_with_bytes_in_hand_is_forgotten() {
    let mut site = Site::new();
    let (tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    let (ours, theirs) = site.stream(&lease).await;
    let (mut to_us, _from_us) = theirs.split();
    let mut data = pattern(1, 0, 50_000);
    poll_fn(|cx| to_us.poll_send(cx, &mut data)).await.unwrap();
    {
        let (mut to_them, mut from_them) = ours.split();
        poll_fn(|cx| from_them.poll_data(cx)).await.unwrap().unwrap();
        to_them.end().unwrap();
        to_them.leave();
    }
    drop(ours);
    while tunnel.lock().slots.values().any(|slot| slot.released.is_none()) {
        tokio::task::yield_now().await;
    }
    to_us.end().unwrap();
    forgotten(&tunnel).await;
}

#[tokio::test]
async fn what_was_read_for_a_stream_that_is_not_taken_is_all_there() {
    let mut site = Site::new();
    let (_tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    // Heard a moment ago: the next answer is not waited for.
    drop(site.stream(&lease).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let mut leg = Leg::new(accepted);
    // More than may be sent before the answer, in one read.
    let all = pattern(3, 0, 900_000);
    let (sent, unsent) = (AtomicU64::new(0), &mut Unsent::new());
    let stream = Arc::new(lease.open(open()).await.unwrap());
    let refusing = async {
        let asked = site.asked.recv().await.unwrap();
        while sent.load(Ordering::Relaxed) < 100_000 {
            tokio::task::yield_now().await;
        }
        asked.refuse(code::NOT_TAKEN);
    };
    let received = AtomicU64::new(0);
    let copying = async {
        tokio::join!(both_ways(&mut leg, stream.split(), &sent, &received, unsent), refusing).0
    };
    tokio::select! {
        copied = copying => copied.unwrap_err(),
        _never = async { (client.write_all(&all).await, pending::<()>().await) } => unreachable!(),
    };
    unsent.push_front(stream.untaken().unwrap());
    let kept: Vec<u8> = unsent.iter().flatten().copied().collect();
    assert_eq!(kept.len() as u64, sent.load(Ordering::Relaxed));
    assert!(kept == all[..kept.len()], "a hole in what is sent again");
}

/// An application whose server speaks first, and whose first stream was refused meanwhile.
#[tokio::test]
async fn a_stream_that_is_not_taken_before_anything_was_sent_is_made_up_for() {
    let mut site = Site::new();
    let (_tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    drop(site.stream(&lease).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let mut leg = Leg::new(accepted);
    let (counts, unsent) = ((AtomicU64::new(0), AtomicU64::new(0)), &mut Unsent::new());
    let refused = Arc::new(lease.open(open()).await.unwrap());
    let refusing = async { site.asked.recv().await.unwrap().refuse(code::NOT_TAKEN) };
    let copying = both_ways(&mut leg, refused.split(), &counts.0, &counts.1, unsent);
    tokio::join!(copying, refusing).0.unwrap_err();
    unsent.push_front(refused.untaken().unwrap());

    let (taken, theirs) = site.stream(&lease).await;
    let mut theirs = theirs.split().1;
    client.write_all(b"HELO").await.unwrap();
    let heard = async { poll_fn(|cx| theirs.poll_data(cx)).await.unwrap().unwrap() };
    let mut heard = tokio::select! {
        copied = both_ways(&mut leg, taken.split(), &counts.0, &counts.1, unsent) => {
            panic!("it ended: {copied:?}")
        }
        heard = timeout(Duration::from_secs(10), heard) => heard.expect("nothing comes"),
    };
    assert_eq!(&heard.copy_to_bytes(heard.remaining())[..], b"HELO");
}

/// Others on the thread have their turn after so many, however many are in one piece.
#[tokio::test]
async fn a_peer_asks_for_so_many_streams_in_one_turn() {
    const COUNT: u32 = 1_000;
    let (mut theirs, ours) = duplex(1 << 20);
    let (tunnel, mut driver) = Tunnel::new(Side::Server, &options(), None, 0);
    let mut said = BytesMut::new();
    frame::put(&mut said, &Frame::Hello(Hello::LEAST));
    for stream in 1..=COUNT {
        frame::put(&mut said, &Frame::Open(stream, open()));
        frame::put(&mut said, &Frame::Reset(stream, code::CANCEL));
    }
    theirs.write_all(&said).await.unwrap();
    let (mut io, mut asked, mut turns) = (Plain(ours), 0, 0);
    while asked < COUNT {
        let turn = async { poll_fn(|cx| tunnel.turn(cx, &mut io, &mut driver)).await };
        let (opened, end) = timeout(Duration::from_secs(10), turn).await.expect("some are lost");
        assert!(end.is_none() && opened.len() <= TURN_OPENS, "{}", opened.len());
        asked += u32::try_from(opened.len()).unwrap();
        turns += 1;
        for (stream, _) in opened {
            tunnel.release(stream);
        }
    }
    assert!(turns >= COUNT.div_ceil(64), "{turns}");
}

#[tokio::test]
async fn a_stream_that_is_dropped_before_its_end_is_reset() {
    let mut site = Site::new();
    let (tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    let (ours, theirs) = site.stream(&lease).await;
    let mut sender = theirs.split().0;
    let mut data = pattern(1, 0, 1_000);
    poll_fn(|cx| sender.poll_send(cx, &mut data)).await.unwrap();
    drop((sender, theirs));
    let (to_them, mut from_them) = ours.split();
    loop {
        match poll_fn(|cx| from_them.poll_data(cx)).await {
            Some(Ok(data)) => from_them.taken(data.remaining()).unwrap(),
            Some(Err(error)) => {
                assert!(error.to_string().contains("reset"), "{error}");
                break;
            }
            None => panic!("a stream that was cut looks complete"),
        }
    }
    drop((ours, to_them, from_them));
    forgotten(&tunnel).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_holds_does_not_wait_for_its_peer_for_good() {
    let mut site = Site::new();
    let (_tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    let (ours, theirs) = site.stream(&lease).await;
    let (mut to_us, _) = theirs.split();
    to_us.end().unwrap();
    to_us.leave();
    drop((to_us, theirs));
    // The client says nothing more; by and by the server does.
    let begun = Instant::now();
    poll_fn(|cx| ours.split().0.poll_closed(cx)).await.unwrap();
    let lasted = begun.elapsed();
    assert!(lasted >= site.options.ping_interval && lasted <= 2 * site.options.ping_interval);
}

#[tokio::test]
async fn streams_of_a_tunnel_that_is_cut_are_told() {
    let mut site = Site::new();
    let (_tunnel, lease, ends) = site.tunnel("peer", 1 << 20);
    let (ours, theirs) = site.stream(&lease).await;
    ends.cut.send(()).unwrap();
    for stream in [&ours, &theirs] {
        let end = poll_fn(|cx| stream.split().1.poll_data(cx)).await.unwrap();
        end.unwrap_err();
    }
}

#[tokio::test]
async fn a_retired_tunnel_takes_no_streams_and_keeps_those_that_there_are() {
    let mut site = Site::new();
    let (tunnel, lease, ends) = site.tunnel("peer", 1 << 20);
    let (ours, theirs) = site.stream(&lease).await;
    let second = tunnel.lease().unwrap();
    ends.retire.send(()).unwrap();
    while !tunnel.is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(tunnel.lease().is_none());
    let refused = second.open(open()).await;
    assert!(refused.is_err_and(|error| error.is_stale_tunnel()), "it may be tried on another");
    let ((mut to_them, _from_them), (_to_us, mut from_us)) = (ours.split(), theirs.split());
    let ((), got) = tokio::join!(send(&mut to_them, 1, 9, 9), receive(&mut from_us, 1));
    assert_eq!(got, 9);
}

/// The answer of a server to bytes, until it closes.
async fn answers(attack: &[u8]) -> (Vec<Frame>, Result<(), Error>) {
    answers_within(attack, options().clients.peer).await
}

/// The same, where the peer may use no more than `most`.
async fn answers_within(attack: &[u8], most: Most) -> (Vec<Frame>, Result<(), Error>) {
    let (peer, io) = duplex(1 << 20);
    let (mut from_us, mut to_us) = tokio::io::split(peer);
    let (scope, options) = (Scope::new("test"), options());
    let ending = Ending::within(&scope, pending(), pending());
    let quota = Arc::new(Quota::new(most, None));
    let kept = RefCell::new(Vec::new());
    let asked = |_, asked| kept.borrow_mut().push(asked);
    let serving = serve(Plain(io), quota, &options, ending, asked);
    to_us.write_all(attack).await.unwrap();
    let mut bytes = BytesMut::new();
    let reading = async {
        while from_us.read_buf(&mut bytes).await.unwrap() > 0 {}
        // A tunnel waits for those who hold its streams.
        kept.take();
    };
    let (served, ()) = tokio::join!(serving, reading);
    let mut decoder = Decoder::default();
    (std::iter::from_fn(|| decoder.next(&mut bytes).unwrap()).collect(), served)
}

#[tokio::test]
async fn the_first_frame_that_is_no_hello_ends_a_tunnel() {
    let mut attack = BytesMut::new();
    for _ in 0..64 {
        frame::put(&mut attack, &Frame::Skipped(0x10));
    }
    for first in [attack.as_ref(), &b"\0\x04\x01\x10\0\0\0\0"[..], &b"GET / HTTP/1.1\r\n\r\n"[..]] {
        let (answers, served) = answers(first).await;
        assert!(served.unwrap_err().is_violation());
        assert!(matches!(answers[..], [Frame::Hello(_), Frame::GoAway(0, code::PROTOCOL)]));
    }
}

#[tokio::test]
async fn bytes_that_come_with_the_question_count() {
    let mut attack = BytesMut::new();
    frame::put(&mut attack, &Frame::Hello(Hello::LEAST));
    for stream in 1..=3 {
        frame::put(&mut attack, &Frame::Open(stream, open()));
        frame::put(&mut attack, &Frame::Data(stream, vec![0; 40_000].into()));
    }
    frame::put(&mut attack, &Frame::Pong(9));
    let (answers, _violation) = answers_within(&attack, Most { streams: 8, bytes: 100_000 }).await;
    let reset = Frame::Reset(3, code::UNAVAILABLE);
    assert!(answers.contains(&reset), "{answers:?}");
}

#[tokio::test]
async fn bytes_of_streams_that_are_over_count_until_they_are_read() {
    let (mut peer, io) = duplex(1 << 20);
    let (mut io, mut attack) = (Plain(io), BytesMut::new());
    frame::put(&mut attack, &Frame::Hello(Hello::LEAST));
    for stream in 1..=3 {
        frame::put(&mut attack, &Frame::Open(stream, open()));
        frame::put(&mut attack, &Frame::Data(stream, vec![0; 40_000].into()));
        frame::put(&mut attack, &Frame::End(stream));
        frame::put(&mut attack, &Frame::Reset(stream, code::NONE));
    }
    peer.write_all(&attack).await.unwrap();
    let quota = Arc::new(Quota::new(Most { streams: 8, bytes: 100_000 }, None));
    let (tunnel, mut driver) = Tunnel::new(Side::Server, &options(), Some(Arc::clone(&quota)), 0);
    let (asked, end) = poll_fn(|cx| tunnel.turn(cx, &mut io, &mut driver)).await;
    assert!(end.is_none(), "{end:?}");
    // The third one has lost what it had.
    assert_eq!((asked.len(), quota.used()), (3, (3, 80_000)));
}

/// A peer that opens and resets streams in a loop, and a server that takes its time.
#[tokio::test]
async fn streams_that_were_reset_count_while_they_are_worked_on() {
    let (peer, io) = duplex(1 << 20);
    let (mut from_us, mut to_us) = tokio::io::split(peer);
    let scope = Scope::new("test");
    let options = options();
    let mut attack = BytesMut::new();
    frame::put(&mut attack, &Frame::Hello(Hello::LEAST));
    for stream in 1..=1_000 {
        frame::put(&mut attack, &Frame::Open(stream, open()));
        frame::put(&mut attack, &Frame::Reset(stream, code::CANCEL));
    }
    to_us.write_all(&attack).await.unwrap();
    to_us.shutdown().await.unwrap();
    let worked_on = RefCell::new(Vec::new());
    let asked = |_, asked| worked_on.borrow_mut().push(asked);
    let ending = Ending::within(&scope, pending(), pending());
    let quota = Arc::new(Quota::new(options.clients.peer, None));
    let serving = serve(Plain(io), quota, &options, ending, asked);
    let mut answers = Vec::new();
    let reading = async {
        from_us.read_to_end(&mut answers).await.unwrap();
        worked_on.take().len()
    };
    let (served, count) = tokio::join!(serving, reading);
    served.unwrap();
    assert_eq!(count, 64);
}

#[tokio::test]
async fn a_peer_has_so_many_streams_over_all_its_tunnels() {
    let mut site = Site::with(for_clients(Most { streams: 2, bytes: 1 << 20 }));
    let tunnels: Vec<_> = (0..3).map(|_| site.tunnel("peer", 1 << 20)).collect();
    let mut streams = Vec::new();
    for (_, lease, _) in &tunnels[..2] {
        streams.push(site.stream(lease).await);
    }
    let one_more = async || {
        let stream = tunnels[2].1.open(open()).await?;
        poll_fn(|cx| stream.poll_accepted(cx)).await?;
        Ok::<_, Error>(stream)
    };
    let refused = one_more().await.unwrap_err();
    assert!(matches!(refused, Error::Reset(code::NOT_TAKEN)), "{refused:?}");
    // Another peer has its own.
    let (_tunnel, lease, _ends) = site.tunnel("other", 1 << 20);
    streams.push(site.stream(&lease).await);
    drop(streams.remove(0));
    forgotten(&tunnels[0].0).await;
    let taking = async { site.asked.recv().await.unwrap().accept().unwrap() };
    let (ours, _theirs) = tokio::join!(one_more(), taking);
    ours.unwrap();
}

#[tokio::test]
async fn a_peer_that_leaves_too_much_unread_loses_the_stream_that_is_too_much() {
    let mut site = Site::with(for_clients(Most { streams: 8, bytes: 100_000 }));
    let (tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    let (first, read_first) = site.stream(&lease).await;
    let (second, _unread) = site.stream(&tunnel.lease().unwrap()).await;
    let mut kept = fill(&first).await;
    let mut lost = fill(&second).await;
    let reset = poll_fn(|cx| lost.poll_closed(cx)).await.unwrap_err();
    assert!(reset.to_string().contains("503"), "{reset}");
    // The other one goes on.
    kept.end().unwrap();
    assert_eq!(receive(&mut read_first.split().1, 1).await, 1 << 16);
}

#[tokio::test]
async fn a_server_that_is_not_read_loses_the_stream_that_is_too_much_for_the_workload() {
    let most = |bytes| Most { streams: usize::MAX, bytes };
    let bounds = Bounds { peer: most(1 << 20), workload: most(100_000) };
    let (mut site, mut quotas) = (Site::new(), Quotas::default());
    let mut streams = Vec::new();
    let each = ["peer", "other"].map(|peer| quotas.of(&peer, &"local", bounds));
    for (peer, quota) in ["peer", "other"].into_iter().zip(&each) {
        site.quota = Some(Arc::clone(quota));
        let (_tunnel, lease, ends) = site.tunnel(peer, 1 << 20);
        let (ours, theirs) = site.stream(&lease).await;
        streams.push((ours, theirs, lease, ends));
    }
    let [(first, to_first, ..), (second, to_second, ..)] = &streams[..] else { unreachable!() };
    let mut kept = fill(to_first).await;
    // It waits at the client before the other one comes.
    while each[0].used().1 < 1 << 16 {
        tokio::task::yield_now().await;
    }
    let mut lost = fill(to_second).await;
    let told = poll_fn(|cx| lost.poll_closed(cx)).await.unwrap_err();
    assert!(told.to_string().contains("503"), "{told}");
    let reset = poll_fn(|cx| second.split().1.poll_data(cx)).await.unwrap().unwrap_err();
    let cause = reset.cause().downcast_ref::<Error>();
    assert!(matches!(cause, Some(Error::Unread)), "{reset}");
    assert_eq!(each.each_ref().map(|quota| quota.used()), [(1, 1 << 16), (1, 0)]);
    // The other one goes on.
    kept.end().unwrap();
    assert_eq!(receive(&mut first.split().1, 1).await, 1 << 16);
    assert_eq!(each[0].used(), (1, 0));
}

/// As much as a new stream may be sent before anything of it is read.
async fn fill(stream: &Arc<Stream>) -> stream::Sender {
    let mut data = pattern(1, 0, 1 << 16);
    let (mut sender, _receiver) = stream.split();
    while !data.is_empty() {
        poll_fn(|cx| sender.poll_send(cx, &mut data)).await.unwrap();
    }
    sender
}

fn for_clients(peer: Most) -> Options {
    let options = options();
    Options { clients: Bounds { peer, ..options.clients }, ..options }
}

/// A client's tunnel that has been heard, and the end of a peer that answers nothing from now on.
async fn deaf() -> (Site, Arc<Tunnel>, Lease, DuplexStream) {
    let site = Site::new();
    let (ours, mut theirs) = duplex(1 << 20);
    let (tunnel, lease) = site.client(ours);
    let mut hello = BytesMut::new();
    frame::put(&mut hello, &Frame::Hello(Hello::LEAST));
    theirs.write_all(&hello).await.unwrap();
    while !tunnel.lock().session.is_greeted() {
        tokio::task::yield_now().await;
    }
    (site, tunnel, lease, theirs)
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_silent_tunnel_is_given_up_and_the_tunnel_is_not() {
    let (_site, tunnel, lease, mut theirs) = deaf().await;
    tokio::time::advance(Duration::from_secs(2)).await;
    let (start, error) = (Instant::now(), lease.open(open()).await.unwrap_err());
    assert!(matches!(error, Error::Unheard) && error.is_stale_tunnel(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    lease.close();
    assert!(tunnel.is_silent() && !tunnel.is_closed());
    // It was late, and not gone. It answers the ping, after what it should do first.
    let mut input = BytesMut::new();
    let mut decoder = Decoder::default();
    let ping = loop {
        match decoder.next(&mut input).unwrap() {
            Some(Frame::Ping(number)) => break number,
            Some(_) => {}
            None => drop(theirs.read_buf(&mut input).await.unwrap()),
        }
    };
    let mut pong = BytesMut::new();
    frame::put(&mut pong, &Frame::Pong(ping));
    theirs.write_all(&pong).await.unwrap();
    while tunnel.is_silent() {
        tokio::task::yield_now().await;
    }
    assert!(tunnel.lease().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_bytes_waits_on_a_silent_tunnel() {
    let (_site, tunnel, lease, _theirs) = deaf().await;
    // Heard a moment ago: it is not waited for.
    let stream = Arc::new(lease.open(open()).await.unwrap());
    let (mut to_them, _from_them) = stream.split();
    let mut data = Bytes::from_static(b"once");
    poll_fn(|cx| to_them.poll_send(cx, &mut data)).await.unwrap();
    let meter = stream.meter().unwrap();
    // Another tunnel is wanted for those that come.
    meter.crowds().await;
    assert!(tunnel.is_silent());
    assert_eq!(stream.untaken(), None);
    assert!(tunnel.lock().broken(1).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_slow_application_makes_no_tunnel_silent() {
    let mut site = Site::new();
    let (tunnel, lease, _ends) = site.tunnel("peer", 1 << 20);
    let opening = async {
        let asked = site.asked.recv().await.unwrap();
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(!tunnel.is_silent());
        asked.accept().unwrap()
    };
    let (ours, _theirs) = tokio::join!(lease.open(open()), opening);
    ours.unwrap();
}
