//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

/// A TCP application for tests. Reports JSON lines; ends when its standard input closes.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Network namespace to enter, as /run/netns/NAME
    #[arg(long)]
    pub netns: Option<PathBuf>,
    /// Folder of the cgroup to join
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Become another program
    Exec {
        /// How many files it may have open: 1,024, which it may raise to this
        #[arg(long, value_name = "N")]
        files: Option<u64>,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Accept connections
    Serve(Serve),
    /// Connect, exchange, close; again and again
    Connect(Connect),
    /// Send and receive many bytes at once, and check each
    Transfer(Transfer),
    /// Treat one socket in ways that a shorter way than TCP may not expect
    Press(Press),
    /// Open connections and keep them; each line of input is another exchange on each
    Hold(Connect),
    /// Send a datagram and read it back
    Datagram(Target),
    /// Echo what is asked by HTTP/1.1, HTTP/2 or gRPC
    HttpServe(HttpServe),
    /// Ask by HTTP/1.1, HTTP/2 or gRPC
    Http(Http),
}

/// A server's action on a connection.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Service {
    /// Sends back what it reads
    Echo,
    /// Sends the banner and closes
    Version,
    /// Reads to the end, and closes without an answer
    Sink,
    /// Sends `--bytes` and closes its direction; then reads to the end
    Source,
    /// Reads to the end while sending `--bytes`, then confirms what it read, and closes
    Digest,
    /// Reads `--bytes`, then resets the connection
    Reset,
    /// Closes at once
    Close,
    /// Sends datagrams (UDP) back
    Datagram,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct Serve {
    pub service: Service,
    /// Where to listen; `[::]` takes IPv4 as well
    #[arg(long, default_value = "[::]:0")]
    pub listen: SocketAddr,
    /// Send a banner first, with this as the version
    #[arg(long)]
    pub name: Option<String>,
    /// How many bytes the service is about
    #[arg(long, default_value_t = 0)]
    pub bytes: u64,
    /// Report the end of each connection
    #[arg(long)]
    pub log: bool,
    /// Begin to serve connections only when a line of input is read
    #[arg(long)]
    pub late: bool,
}

/// The action on a socket.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Pressure {
    /// Send to a `digest` server that does not read, until nothing more is taken for half a second;
    /// report how much; after a line of input, end as a transfer does
    Flood,
    /// Send from four threads at once to an `echo` server, in messages whose order is checked
    Writers,
    /// Ask for the kernel's TLS; report what it says
    Tls,
    /// Send to an `echo` server, and read the answer with `splice(2)`
    Splice,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct Press {
    pub pressure: Pressure,
    #[command(flatten)]
    pub target: Target,
    /// The size of each message
    #[arg(long, default_value_t = 65_536)]
    pub size: usize,
}

/// The destination, and how long to wait.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Target {
    /// The server
    #[arg(long)]
    pub to: SocketAddr,
    /// Reach an IPv4 address through an IPv6 socket
    #[arg(long)]
    pub mapped: bool,
    /// Bind the socket to this address first
    #[arg(long)]
    pub bind: Option<IpAddr>,
    /// Use this address with the same socket first, which must fail
    #[arg(long)]
    pub first: Option<SocketAddr>,
    /// Wait in `connect(2)` instead of asking it not to block
    #[arg(long)]
    pub blocking: bool,
    /// Seconds after which a connection, or an exchange on it, has failed
    #[arg(long, default_value_t = 20)]
    pub timeout: u64,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct Connect {
    #[command(flatten)]
    pub target: Target,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    pub count: u64,
    /// How many at once
    #[arg(long, default_value_t = 1)]
    pub concurrency: u64,
    /// Read a banner first
    #[arg(long)]
    pub banner: bool,
    /// Send this text and read it back
    #[arg(long)]
    pub send: Option<String>,
    /// Send this many bytes and read them back
    #[arg(long, conflicts_with = "send")]
    pub bytes: Option<usize>,
    /// How a connection is ended
    #[arg(long, value_enum, default_value_t = End::Orderly)]
    pub end: End,
    /// Go on until the input closes; each line of it is answered with what happened since the last
    #[arg(long)]
    pub continuous: bool,
    /// With --continuous: at most this many connections a second
    #[arg(long)]
    pub rate: Option<u32>,
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum End {
    /// Closes its direction, and waits for the server to close the other
    Orderly,
    /// Closes the socket
    Leave,
    /// Resets the connection
    Reset,
}

/// The side that closes its direction first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Closer {
    /// We do, after the last byte; the server (`digest`) goes on and confirms
    Client,
    /// The server (`source`) does; we begin to send after its end of stream
    Server,
    /// We do, and do not live to read the server's bytes
    Dead,
    /// Nobody does: we reset the connection after the last byte, and read nothing
    Reset,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct Transfer {
    #[command(flatten)]
    pub target: Target,
    /// Bytes to send
    #[arg(long, default_value_t = 0)]
    pub up: u64,
    /// Bytes that the server sends
    #[arg(long, default_value_t = 0)]
    pub down: u64,
    /// The side that closes its direction first
    #[arg(long, value_enum, default_value_t = Closer::Client)]
    pub closer: Closer,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct HttpServe {
    /// Where to listen; several times for several ports
    #[arg(long, default_value = "[::]:0")]
    pub listen: Vec<SocketAddr>,
    /// The server's name in its answers
    #[arg(long, default_value = "server")]
    pub name: String,
    /// Report each request
    #[arg(long)]
    pub log: bool,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct Http {
    #[command(flatten)]
    pub target: Target,
    /// The requests, as a JSON array
    #[arg(long)]
    pub asks: String,
    /// Ask the first again and again until the input closes; each line of it is answered with what
    /// happened since the last
    #[arg(long)]
    pub continuous: bool,
}

impl Target {
    /// The address to connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.form(self.to.ip()), self.to.port())
    }

    /// An address in the form of our socket's family.
    pub(crate) const fn form(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(v4) if self.mapped => IpAddr::V6(v4.to_ipv6_mapped()),
            other => other,
        }
    }

    /// After which a connection has failed.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

impl Connect {
    /// The bytes to send and to read back.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let text = self.send.as_ref().map(|text| text.as_bytes().to_vec());
        text.unwrap_or_else(|| (0..=u8::MAX).cycle().take(self.bytes.unwrap_or(0)).collect())
    }
}
