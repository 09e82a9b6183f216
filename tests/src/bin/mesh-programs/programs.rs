//! The programs: their ports, and the cases that their scripts have.

/// The bytes on a port: how it is routed depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// In any format, as nobody looks.
    Bytes,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    H2c,
    /// gRPC.
    Grpc,
}

/// The case that runs before the server does.
pub(crate) const REFUSED: &str = "refused";

/// A program, and its script's name.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether it needs little to be installed, and starts at once.
    pub(crate) is_quick: bool,
    /// Ports that the server listens on when it is ready.
    pub(crate) ports: &'static [(u16, Spoken)],
    /// Ports that it listens on now and then.
    pub(crate) more_ports: &'static [u16],
    /// Functions of the script. [`REFUSED`] is first, and what kills the server is last.
    pub(crate) cases: &'static [&'static str],
}

/// All programs.
pub(crate) static PROGRAMS: [Program; 12] = [
    Program {
        name: "redis",
        is_quick: true,
        ports: &[(6379, Spoken::Bytes)],
        more_ports: &[],
        cases: &[
            REFUSED,
            "commands",
            "addresses",
            "benchmark",
            "wrong_password",
            "client_killed",
            "server_killed",
        ],
    },
    Program {
        name: "nginx",
        is_quick: true,
        ports: &[(8080, Spoken::Http), (8081, Spoken::H2c)],
        more_ports: &[],
        cases: &[
            REFUSED,
            "keep_alive",
            "addresses",
            "chunked",
            "large",
            "http2",
            "wrong_password",
            "client_killed",
            "server_killed",
        ],
    },
    Program {
        name: "websocket",
        is_quick: true,
        ports: &[(8765, Spoken::Http)],
        more_ports: &[],
        cases: &[REFUSED, "messages", "closes", "wrong_password", "client_killed", "server_killed"],
    },
    Program {
        name: "grpc",
        is_quick: true,
        ports: &[(50051, Spoken::Grpc)],
        more_ports: &[],
        cases: &[
            REFUSED,
            "calls",
            "statuses",
            "ends",
            "wrong_password",
            "client_killed",
            "server_killed",
        ],
    },
    Program {
        name: "ftp",
        is_quick: true,
        ports: &[(21, Spoken::Bytes)],
        more_ports: &[30000, 30001, 30002, 30003],
        cases: &[REFUSED, "passive", "active", "wrong_password", "client_killed", "server_killed"],
    },
    Program {
        name: "smtp",
        is_quick: true,
        ports: &[(25, Spoken::Bytes)],
        more_ports: &[],
        cases: &[REFUSED, "mails", "wrong_password", "client_killed", "server_killed"],
    },
    Program {
        name: "dns",
        is_quick: true,
        ports: &[(53, Spoken::Bytes)],
        more_ports: &[],
        cases: &[REFUSED, "questions", "missing"],
    },
    Program {
        name: "ssh",
        is_quick: false,
        ports: &[(22, Spoken::Bytes)],
        more_ports: &[],
        cases: &[
            REFUSED,
            "commands",
            "addresses",
            "copies",
            "forward",
            "wrong_key",
            "client_killed",
            "server_killed",
        ],
    },
    Program {
        name: "git",
        is_quick: false,
        // The other port of its own is the one of `ssh`, which a service has once.
        ports: &[(9418, Spoken::Bytes), (22, Spoken::Bytes)],
        more_ports: &[],
        cases: &[REFUSED, "by_ssh", "by_daemon", "missing"],
    },
    Program {
        name: "rsync",
        is_quick: false,
        ports: &[(873, Spoken::Bytes)],
        more_ports: &[],
        cases: &[REFUSED, "copies", "wrong_password", "right_password", "missing", "server_killed"],
    },
    Program {
        name: "postgresql",
        is_quick: false,
        ports: &[(5432, Spoken::Bytes)],
        more_ports: &[],
        cases: &[
            REFUSED,
            "queries",
            "addresses",
            "wrong_password",
            "without_tls",
            "cancelled",
            "client_killed",
            "server_killed",
        ],
    },
    Program {
        name: "mariadb",
        is_quick: false,
        ports: &[(3306, Spoken::Bytes)],
        more_ports: &[],
        cases: &[
            REFUSED,
            "queries",
            "addresses",
            "wrong_password",
            "client_killed",
            "server_killed",
        ],
    },
];
