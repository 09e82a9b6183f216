//! A pair of nginx: HTTP. It takes HTTP/2 from clients, and speaks HTTP/1.1 to servers.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use mesh_tests::lab::Lab;
use mesh_tests::node::Node;

use super::{HTTP_ENTRY, HTTP_EXIT, Kind, MAX_CONNECTIONS, Places, Proxy};
use crate::workload::{HTTP, HTTP2};

/// The servers' ports, and what a listener for clients needs besides.
const ROUTED: [(u16, &str); 2] = [(HTTP, ""), (HTTP2, " http2")];

/// Connections that are kept open to the next one.
const KEPT: u16 = 128;

/// Starts both.
///
/// # Errors
///
/// nginx refuses its configuration or does not listen.
pub(crate) fn pair(lab: &Lab, nodes: [&Node; 2], server: Ipv4Addr) -> Result<[Proxy; 2]> {
    let kind =
        Kind { program: "nginx", args: &["-c"], entry, exit, offsets: [HTTP_ENTRY, HTTP_EXIT] };
    kind.pair(lab, nodes, server)
}

/// A configuration: what is for all servers, and the servers. One process for each processor, as many
/// as the agent has threads; limits are higher than any measurement.
fn config(folder: &Path, name: &str, (tls, servers): (&str, &str)) -> String {
    let folder = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {folder}/{name}-{kind};\n"));
    let temporary = temporary.concat();
    format!(
        "\
daemon off;
worker_processes auto;
worker_rlimit_nofile {files};
pid {folder}/{name}.pid;
error_log {folder}/{name}.err;
events {{ worker_connections {MAX_CONNECTIONS}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    proxy_http_version 1.1;
    proxy_set_header Connection '';
{temporary}{tls}{servers}}}
",
        files = 2 * MAX_CONNECTIONS + 1000,
    )
}

fn entry(folder: &Path, Places { near, far, .. }: Places) -> String {
    let pem = folder.display();
    let tls = format!(
        "    proxy_ssl_certificate {pem}/entry.pem;
    proxy_ssl_certificate_key {pem}/entry.pem;
    proxy_ssl_trusted_certificate {pem}/ca.pem;
    proxy_ssl_verify on;
    proxy_ssl_name exit;
    proxy_ssl_server_name on;
    proxy_ssl_protocols TLSv1.3;
"
    );
    let servers = ROUTED.map(|(port, version)| {
        let listen = format!("{near}:{}{version}", port + HTTP_ENTRY);
        server(port, &listen, ("https", &format!("{far}:{}", port + HTTP_EXIT)))
    });
    config(folder, "entry", (&tls, &servers.concat()))
}

fn exit(folder: &Path, Places { far, server: pod, .. }: Places) -> String {
    let pem = folder.display();
    let tls = format!(
        "    ssl_certificate {pem}/exit.pem;
    ssl_certificate_key {pem}/exit.pem;
    ssl_client_certificate {pem}/ca.pem;
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:S:10m;
"
    );
    let servers = ROUTED.map(|(port, _)| {
        let listen = format!("{far}:{} ssl", port + HTTP_EXIT);
        server(port, &listen, ("http", &format!("{pod}:{port}")))
    });
    config(folder, "exit", (&tls, &servers.concat()))
}

/// A server, and where it gets its answers.
fn server(port: u16, listen: &str, (scheme, to): (&str, &str)) -> String {
    format!(
        "    upstream p{port} {{
        server {to};
        keepalive {KEPT};
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{ proxy_pass {scheme}://p{port}; }}
    }}
"
    )
}
