//! A client that sends its end before it has its answer: the application is told, and decides.

use mesh_tests::script::Script;

use super::suite::{PLAIN, Suite, To, policy, route};

/// Answers a request when its client has sent its end, and tells how many bytes came before.
const SERVER: &str = r#"
import socket, threading
listener = socket.create_server(("", PORT))
print("listens", flush=True)
def serve(end):
    said = b""
    while data := end.recv(65536):
        said += data
    body = len(said) - said.index(b"\r\n\r\n") - 4
    text = b"%d" % body
    end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text))
    end.close()
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"#;

/// Sends requests, each with its end behind it, at once or when it may have arrived; prints the answers.
const CLIENT: &str = r#"
import socket, time
def ask(length, late):
    end = socket.create_connection((HOST, PORT))
    end.settimeout(20)
    method = b"POST" if length else b"GET"
    head = b"%s /wait HTTP/1.1\r\nHost: echo\r\nContent-Length: %d\r\n\r\n" % (method, length)
    end.sendall(head + b"x" * length)
    late and time.sleep(0.3)
    end.shutdown(socket.SHUT_WR)
    said = b""
    while data := end.recv(65536):
        said += data
    return said.split(b"\r\n")[0].decode() + " " + said.split(b"\r\n\r\n")[1].decode()
# At once it may come before or after the request is passed on.
for _ in range(20):
    assert ask(0, False) == "HTTP/1.1 200 OK 0"
print([ask(length, late) for length in (0, 10, 1_000_000) for late in (False, True)], flush=True)
"#;

#[test]
fn the_end_of_a_client_is_passed_on() {
    let judged = policy("all", "ALLOW", "{to: [{operation: {methods: ['*']}}]}");
    let plain = route("  - backendRefs: [{name: echo-v1, port: 9090}]");
    let wanted = [0, 0, 10, 10, 1_000_000, 1_000_000].map(|n| format!("'HTTP/1.1 200 OK {n}'"));
    for (what, documents, to) in [
        ("not looked at", vec![], To::V1.at(PLAIN)),
        ("judged", vec![judged.clone()], To::V1.at(PLAIN)),
        ("routed", vec![plain.clone()], To::Echo.at(80)),
        ("both", vec![judged, plain], To::Echo.at(80)),
    ] {
        let suite = Suite::start(&documents);
        let server = format!("PORT = {PLAIN}\n{SERVER}");
        let (_server, listens) = Script::start(&suite.versions[0], &server).unwrap();
        assert_eq!(listens, "listens");
        let client = format!("HOST, PORT = '{}', {}\n{CLIENT}", to.ip(), to.port());
        let (_client, said) = Script::start(&suite.client, &client).unwrap();
        assert_eq!(said, format!("[{}]", wanted.join(", ")), "{what}");
    }
}
