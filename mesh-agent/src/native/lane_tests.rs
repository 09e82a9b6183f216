//! Streams that go on with another tunnel, between two real ends of tunnels.

use std::future::poll_fn;

use bytes::{Buf as _, Bytes};
use tokio::io::duplex;
use tokio::sync::mpsc;

use super::*;
use crate::io::link::Plain;
use crate::io::relay::{Incoming as _, Outgoing as _};
use crate::native::fixture::options;
use crate::native::frame::Open;
use crate::native::quota::{Bounds, Most, Quota, Quotas};
use crate::native::stream::{Asked, Receiver, Sender, Stream};
use crate::native::tunnel::{Lease, Served, hello, serve};
use crate::native::{Error, Options};
use crate::task::scope::Scope;
use crate::telemetry::{self, Protocol, Target, Telemetry};

/// More than three times what makes a bulk transfer.
const BYTES: usize = 3_500_000;

fn ends(peer: &str) -> Ends {
    Ends {
        peer: SpiffeId::new("cluster.local", "demo", peer).unwrap(),
        local: ResourceName::new("demo", "local"),
    }
}

/// A server, with what its peers have asked for.
struct Site {
    lanes: Lanes,
    scope: Scope,
    options: Options,
    /// Of the tunnels' clients.
    quota: Option<Arc<Quota>>,
    asked: mpsc::Receiver<Asked>,
    tell: mpsc::Sender<Asked>,
}

impl Site {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: Options) -> Self {
        let (tell, asked) = mpsc::channel(16);
        let (lanes, scope) = (Lanes::default(), Scope::new("test"));
        Self { lanes, scope, options, quota: None, asked, tell }
    }

    /// A tunnel of `peer` over a pipe that holds `pipe` bytes.
    fn tunnel(&self, peer: &'static str, pipe: usize, of: Option<Name>) -> (Arc<Tunnel>, Lease) {
        let (ours, theirs) = duplex(pipe);
        let (ours, mut theirs) = (Plain(ours), Plain(theirs));
        let (lanes, tell, scope) = (self.lanes.clone(), self.tell.clone(), self.scope.clone());
        let options = self.options;
        self.scope.spawn(Box::pin(async move {
            let (hello, input) = hello(&mut theirs).await.unwrap();
            assert_eq!(hello.lane_of, of);
            let served = Served { input, ends: ends(peer), lanes: &lanes };
            let asked = |_, asked| tell.try_send(asked).unwrap();
            let _end: Result<(), Error> = serve(theirs, served, &options, &scope, asked).await;
        }));
        let telemetry = Telemetry::new(telemetry::Options {
            access_log: Target::Off,
            access_log_queue: 1,
            max_series: 1,
            version: "",
        });
        let counted = telemetry.unwrap().tunnel_opened(Protocol::Native);
        let quota = self.quota.clone();
        Tunnel::start((ours, of), &self.options, quota, &self.scope, counted)
    }

    /// A stream, as both ends hold it.
    async fn stream(&mut self, lease: &Lease) -> (Arc<Stream>, Arc<Stream>) {
        let destination = "10.0.0.1:80".parse().unwrap();
        let open = lease.open(Open { destination, client: None, hostname: None, trace: None });
        let (ours, theirs) =
            tokio::join!(open, async { self.asked.recv().await.unwrap().accept().unwrap() });
        (Arc::new(ours.unwrap()), Arc::new(theirs))
    }
}

fn pattern(seed: usize, from: usize, length: usize) -> Bytes {
    (from..from + length).map(|at| ((at * 31 + seed * 7) >> 3).to_le_bytes()[0]).collect()
}

async fn send(sender: &mut Sender, seed: usize, bytes: usize, piece: usize) {
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

async fn receive(receiver: &mut Receiver, seed: usize) -> usize {
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

/// `up` and `down` bytes over a stream that moves as soon as it may.
async fn check(pipe: usize, (up, down): (usize, usize), piece: usize) {
    let mut site = Site::new();
    let (tunnel, lease) = site.tunnel("peer", pipe, None);
    let (ours, theirs) = site.stream(&lease).await;
    let ((mut to_them, mut from_them), (mut to_us, mut from_us)) = (ours.split(), theirs.split());
    let moving = async {
        if up + down < 1 << 20 {
            return None;
        }
        let with = poll_fn(|cx| ours.poll_bulk(cx)).await;
        let (lane, lease) = site.tunnel("peer", pipe, Some(with.tunnel));
        // All of it may have come through a large pipe meanwhile.
        match ours.go_on(lease, with).await {
            Err(Error::Reset(code::NOT_TAKEN)) if pipe > BULK => {}
            moved => moved.unwrap(),
        }
        Some(lane)
    };
    let (lane, (), (), got_up, got_down) = tokio::join!(
        moving,
        send(&mut to_them, 1, up, piece),
        send(&mut to_us, 2, down, piece),
        receive(&mut from_us, 1),
        receive(&mut from_them, 2),
    );
    assert_eq!((got_up, got_down), (up, down));
    drop((to_them, from_them, to_us, from_us, ours, theirs));
    if let Some(lane) = lane {
        // It has gone back, and can be used again.
        assert!(lane.lease_alone().is_some());
    }
    assert_eq!(tunnel.lock().session.streams(), 0);
    assert!(tunnel.lock().slots.is_empty());
}

#[tokio::test]
async fn a_bulk_transfer_moves_in_order_either_way_and_both() {
    for pipe in [1_000, 4 * BULK] {
        check(pipe, (BYTES, 0), 100_000).await;
        check(pipe, (0, BYTES), 100_000).await;
        check(pipe, (BYTES, BYTES), 70_000).await;
        check(pipe, (BYTES, 1_000), 262_144).await;
        check(pipe, (1_000, BYTES), 262_144).await;
    }
    check(4 * BULK, (500_000, 500_000), 70_000).await;
}

#[tokio::test]
async fn a_lane_is_used_again() {
    let mut site = Site::new();
    let (_tunnel, lease) = site.tunnel("peer", 1 << 20, None);
    let mut lane = None;
    for seed in 0..3 {
        let (ours, theirs) = site.stream(&lease).await;
        let ((mut to_them, _from_them), (_to_us, mut from_us)) = (ours.split(), theirs.split());
        let moving = async {
            let with = poll_fn(|cx| ours.poll_bulk(cx)).await;
            let lease = match &lane {
                None => {
                    let (new, lease) = site.tunnel("peer", 1 << 20, Some(with.tunnel));
                    lane = Some(new);
                    lease
                }
                Some(lane) => lane.lease_alone().unwrap(),
            };
            ours.go_on(lease, with).await.unwrap();
        };
        let sending = send(&mut to_them, seed, BYTES, 100_000);
        let ((), (), got) = tokio::join!(moving, sending, receive(&mut from_us, seed));
        assert_eq!(got, BYTES);
    }
}

#[tokio::test]
async fn a_reset_after_the_move_is_a_reset() {
    let mut site = Site::new();
    let (_tunnel, lease) = site.tunnel("peer", 1 << 20, None);
    let (ours, theirs) = site.stream(&lease).await;
    let ((mut to_them, _from_them), (_to_us, mut from_us)) = (ours.split(), theirs.split());
    let all = async {
        let with = poll_fn(|cx| ours.poll_bulk(cx)).await;
        let (_lane, lease) = site.tunnel("peer", 1 << 20, Some(with.tunnel));
        ours.go_on(lease, with).await.unwrap();
        // The next bytes go there.
        let mut data = Bytes::from_static(b"more");
        poll_fn(|cx| to_them.poll_send(cx, &mut data)).await.unwrap();
        to_them.reset();
    };
    let mut data = pattern(0, 0, BULK);
    let bulk = async {
        let (mut sender, _receiver) = ours.split();
        while !data.is_empty() {
            poll_fn(|cx| sender.poll_send(cx, &mut data)).await.unwrap();
        }
    };
    let reading = async {
        loop {
            match poll_fn(|cx| from_us.poll_data(cx)).await {
                Some(Ok(data)) => from_us.taken(data.remaining()).unwrap(),
                Some(Err(_reset)) => break,
                None => panic!("a stream that was cut looks complete"),
            }
        }
    };
    tokio::join!(
        async {
            bulk.await;
            all.await;
        },
        reading
    );
}

/// Exactly what makes a bulk transfer.
const BULK: usize = 1 << 20;

#[tokio::test]
async fn a_stream_of_another_peer_cannot_be_continued() {
    let mut site = Site::new();
    let (_tunnel, lease) = site.tunnel("peer", 1 << 20, None);
    let (ours, theirs) = site.stream(&lease).await;
    let ((mut to_them, _from_them), (_to_us, mut from_us)) = (ours.split(), theirs.split());
    let stealing = async {
        let with = poll_fn(|cx| ours.poll_bulk(cx)).await;
        for of in
            [with, Continued { stream: 9, ..with }, Continued { tunnel: Name([0; 16]), ..with }]
        {
            let thief = if of == with { "thief" } else { "peer" };
            let (_lane, lease) = site.tunnel(thief, 1 << 20, Some(of.tunnel));
            let stolen = lease.go_on(of).await.unwrap_err();
            assert!(matches!(stolen, Error::Reset(code::NOT_TAKEN)), "{stolen:?}");
        }
        assert!(site.lanes.home_of(with.tunnel, &ends("thief")).is_none());
        assert!(site.lanes.home_of(with.tunnel, &ends("peer")).is_some());
    };
    let sending = send(&mut to_them, 1, BYTES, 100_000);
    // And it stays where it is, whole.
    let ((), (), got) = tokio::join!(stealing, sending, receive(&mut from_us, 1));
    assert_eq!(got, BYTES);
}

#[tokio::test]
async fn a_peer_has_so_many_streams_over_all_its_tunnels() {
    let mut site = Site::with(for_clients(Most { streams: 2, bytes: 1 << 20 }));
    let tunnels: Vec<_> = (0..3).map(|_| site.tunnel("peer", 1 << 20, None)).collect();
    let mut open = Vec::new();
    for (_, lease) in &tunnels[..2] {
        open.push(site.stream(lease).await);
    }
    let one_more = async || {
        let destination = "10.0.0.1:80".parse().unwrap();
        let open =
            tunnels[2].1.open(Open { destination, client: None, hostname: None, trace: None });
        let stream = open.await?;
        poll_fn(|cx| stream.poll_accepted(cx)).await
    };
    let refused = one_more().await.unwrap_err();
    assert!(matches!(refused, Error::Reset(code::NOT_TAKEN)), "{refused:?}");
    // Another peer has its own.
    let (_tunnel, lease) = site.tunnel("other", 1 << 20, None);
    open.push(site.stream(&lease).await);
    drop(open.remove(0));
    let (ours, _theirs) =
        tokio::join!(one_more(), async { site.asked.recv().await.unwrap().accept().unwrap() });
    ours.unwrap();
}

#[tokio::test]
async fn a_peer_that_leaves_too_much_unread_loses_the_stream_that_is_too_much() {
    let mut site = Site::with(for_clients(Most { streams: 8, bytes: 100_000 }));
    let (_tunnel, lease) = site.tunnel("peer", 1 << 20, None);
    let (first, read_first) = site.stream(&lease).await;
    let lease = tunnel_of(&lease);
    let (second, _unread) = site.stream(&lease).await;
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
        let (_tunnel, lease) = site.tunnel(peer, 1 << 20, None);
        let (ours, theirs) = site.stream(&lease).await;
        streams.push((ours, theirs, lease));
    }
    let [(first, to_first, _), (second, to_second, _)] = &streams[..] else { unreachable!() };
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
async fn fill(stream: &Arc<Stream>) -> Sender {
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

/// Another place on the same tunnel.
fn tunnel_of(lease: &Lease) -> Lease {
    lease.tunnel.lease().unwrap()
}
