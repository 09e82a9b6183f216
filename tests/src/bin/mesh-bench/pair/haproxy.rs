//! A pair of haproxy: bytes of every port, and HTTP.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use mesh_tests::lab::Lab;
use mesh_tests::node::Node;

use super::{ENTRY, EXIT, HTTP_ENTRY, HTTP_EXIT, Kind, MAX_CONNECTIONS, Places, Proxy};
use crate::workload::{HTTP, HTTP2, PORTS};

/// Versions of HTTP, by the server's ports.
const ROUTED: [(u16, &str); 2] = [(HTTP, "http/1.1"), (HTTP2, "h2")];

/// Starts both.
///
/// # Errors
///
/// haproxy refuses its configuration or does not listen.
pub(crate) fn pair(lab: &Lab, nodes: [&Node; 2], server: Ipv4Addr) -> Result<[Proxy; 2]> {
    let args = &["-db", "-f"];
    Kind { program: "haproxy", args, entry, exit, offsets: [ENTRY, EXIT] }.pair(lab, nodes, server)
}

/// The beginning of both configurations. Time-outs are longer than any measurement.
fn common() -> String {
    format!(
        "\
global
    maxconn {MAX_CONNECTIONS}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    maxconn {MAX_CONNECTIONS}
    timeout connect 5s
    timeout client 600s
    timeout server 600s
"
    )
}

fn entry(folder: &Path, Places { near, far, .. }: Places) -> String {
    let pem = folder.display();
    let to = |port: u16| {
        format!(
            "server far {far}:{port} ssl verify required ca-file {pem}/ca.pem crt {pem}/entry.pem \
             sni str(exit) verifyhost exit"
        )
    };
    let bytes = PORTS.map(|port| {
        format!("listen p{port}\n    bind {near}:{}\n    {}\n", port + ENTRY, to(port + EXIT))
    });
    // A client of HTTP/2 is known by how it begins.
    let routed = ROUTED.map(|(port, version)| {
        let to = to(port + HTTP_EXIT);
        let bind = format!("bind {near}:{}", port + HTTP_ENTRY);
        format!(
            "listen h{port}\n    mode http\n    http-reuse always\n    {bind}\n    {to} alpn {version}\n"
        )
    });
    common() + &bytes.concat() + &routed.concat()
}

fn exit(folder: &Path, Places { far, server, .. }: Places) -> String {
    let pem = folder.display();
    let tls = format!("ssl crt {pem}/exit.pem ca-file {pem}/ca.pem verify required");
    let bytes = PORTS.map(|port| {
        let bind = format!("bind {far}:{} {tls}", port + EXIT);
        format!("listen p{port}\n    {bind}\n    server pod {server}:{port}\n")
    });
    let routed = ROUTED.map(|(port, version)| {
        let bind = format!("bind {far}:{} {tls} alpn {version}", port + HTTP_EXIT);
        let proto = if version == "h2" { " proto h2" } else { "" };
        let to = format!("server pod {server}:{port}{proto}");
        format!("listen h{port}\n    mode http\n    http-reuse always\n    {bind}\n    {to}\n")
    });
    common() + &bytes.concat() + &routed.concat()
}
