//! A stranger whose bytes the agent relays, and whom the application does not read.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use mesh_tests::apps::Server;
use mesh_tests::pair::{PORT, Pair};
use socket2::{Domain, Socket, Type};

use super::strangers::serves;
use super::{Arena, Bounds, Bystander, Trace};

/// Connections of the attacker.
const CONNECTIONS: usize = 300;

/// The port on which nobody accepts.
const OTHER: u16 = PORT + 1;

/// How long nothing more goes of one that is full.
const FULL: Duration = Duration::from_millis(20);

/// The memory that the agent keeps of them: a read each, of 27 KiB where so many are large, with what as many
/// connections take anyway. As large as they were where they are few, the reads have 35 MB.
const MEMORY_BYTES: u64 = 28 << 20;

/// Gives sockets of a namespace room for large reads, and not so much that the machine has no more.
fn room() {
    for (limits, room) in [("tcp_rmem", "4096 131072 1048576"), ("tcp_wmem", "4096 16384 65536")] {
        std::fs::write(Path::new("/proc/sys/net/ipv4").join(limits), room).unwrap();
    }
}

/// Sends until nothing more goes.
fn fill(stream: &mut TcpStream) {
    stream.set_write_timeout(Some(FULL)).unwrap();
    let bytes = vec![0; 1 << 18];
    loop {
        match stream.write(&bytes) {
            Ok(_sent) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn bytes_that_an_application_does_not_read_are_kept_within_bounds() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &["--threads", "1"]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let at = SocketAddr::from((pair.echo.v4(), OTHER));
    let listen = || {
        room();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&at.into()).unwrap();
        // The kernel takes them all, for nobody.
        socket.listen(1024).unwrap();
        socket
    };
    let _unread = pair.echo.netns().run(listen).unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "stranger", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let bounds = Bounds { memory_bytes: MEMORY_BYTES, descriptors: 800, descriptors_after: 800 };
    arena.within(bounds).attack("bytes that an application does not read", Trace::Told, || {
        let connect = || TcpStream::connect(at).unwrap();
        let open = |_| pair.client.netns().run(connect).unwrap();
        let mut held: Vec<_> = (0..CONNECTIONS).map(open).collect();
        held.iter_mut().for_each(fill);
        bystander.served();
        format!("{CONNECTIONS} connections keep less than {MEMORY_BYTES} bytes")
    });
}
