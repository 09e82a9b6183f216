"""A peer that speaks HBONE as its convention says, with other libraries than the agent's.

Python's ssl (OpenSSL) and h2. It prints one line of JSON for each thing that happens.

    hbone.py call    --to ADDR --authority HOST:PORT --send TEXT [how]
    hbone.py serve   [how]

How it shows itself: --cert FILE --key FILE --root FILE, --tls 1.2|1.3, --alpn NAMES, --expect URI.
"""

import argparse
import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

PORT = 15008
# The convention's windows: of a stream 4 MiB, of a tunnel 16 MiB; frames of 1 MiB.
SETTINGS = {
    h2.settings.SettingCodes.ENABLE_PUSH: 0,
    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 4 << 20,
    h2.settings.SettingCodes.MAX_FRAME_SIZE: 1 << 20,
}
TUNNEL_WINDOW = 16 << 20
BAGGAGE = "k8s.cluster.name=lab,k8s.namespace.name=demo,service.name=peer"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def say(**what):
    print(json.dumps(what), flush=True)


def context(args, server):
    purpose = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    made = ssl.SSLContext(purpose)
    made.check_hostname = False
    version = ssl.TLSVersion.TLSv1_2 if args.tls == "1.2" else ssl.TLSVersion.TLSv1_3
    made.minimum_version = made.maximum_version = version
    # A certificate is asked for and verified on both sides.
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(args.root)
    if args.cert:
        made.load_cert_chain(args.cert, args.key)
    if args.alpn:
        made.set_alpn_protocols(args.alpn.split(","))
    return made


def uris(tls):
    names = tls.getpeercert().get("subjectAltName", ())
    return [value for kind, value in names if kind == "URI"]


def h2_connection(client):
    config = h2.config.H2Configuration(
        client_side=client,
        header_encoding="utf-8",
        # A CONNECT of RFC 9113 has neither scheme nor path, which h2 asks for.
        validate_outbound_headers=False,
        validate_inbound_headers=False,
    )
    made = h2.connection.H2Connection(config=config)
    made.local_settings.update(SETTINGS)
    made.initiate_connection()
    made.increment_flow_control_window(TUNNEL_WINDOW - 65_535)
    return made


def events(tls, connection):
    """What comes, until the other side closes."""
    while True:
        data = tls.recv(65_536)
        if not data:
            return
        yield from connection.receive_data(data)
        tls.sendall(connection.data_to_send())


def call(args):
    raw = socket.create_connection((args.to, PORT), 20)
    # No server name: the address that is dialed says who is meant.
    tls = context(args, False).wrap_socket(raw)
    peer = uris(tls)
    if args.expect and args.expect not in peer:
        say(refused="wrong identity", peer=peer)
        return
    connection = h2_connection(True)
    stream = connection.get_next_available_stream_id()
    headers = [(":method", args.method), (":authority", args.authority)]
    if args.method != "CONNECT":
        headers += [(":scheme", "http"), (":path", "/")]
    headers += [("baggage", BAGGAGE), ("traceparent", TRACE)]
    if args.forwarded:
        headers.append(("forwarded", args.forwarded))
    connection.send_headers(stream, headers)
    tls.sendall(connection.data_to_send())
    status, body = None, b""
    for event in events(tls, connection):
        if isinstance(event, h2.events.ResponseReceived):
            status = dict(event.headers)[":status"]
            if status == "200":
                connection.send_data(stream, args.send.encode(), end_stream=True)
                tls.sendall(connection.data_to_send())
        elif isinstance(event, h2.events.DataReceived):
            body += event.data
            connection.acknowledge_received_data(event.flow_controlled_length, stream)
            tls.sendall(connection.data_to_send())
        elif isinstance(event, h2.events.StreamReset):
            say(status=status, reset=int(event.error_code), peer=peer)
            return
        elif isinstance(event, h2.events.StreamEnded):
            break
    say(
        status=status, body=body.decode(), peer=peer, version=tls.version(),
        alpn=tls.selected_alpn_protocol(),
    )


def serve(args):
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    made = context(args, True)
    say(listening=PORT)
    while True:
        raw, _client = listener.accept()
        raw.settimeout(60)
        try:
            tunnel(args, made.wrap_socket(raw, server_side=True))
        except (OSError, ssl.SSLError) as error:
            say(refused=getattr(error, "reason", None) or str(error))


def tunnel(args, tls):
    peer = uris(tls)
    if tls.selected_alpn_protocol() != "h2":
        say(refused="no h2", peer=peer)
        return tls.close()
    connection = h2_connection(False)
    tls.sendall(connection.data_to_send())
    for event in events(tls, connection):
        if isinstance(event, h2.events.RequestReceived):
            headers = dict(event.headers)
            names = sorted(name for name in headers if name.startswith(":"))
            good = headers[":method"] == "CONNECT" and names == [":authority", ":method"]
            status = args.status if good else "400"
            say(
                authority=headers.get(":authority"), pseudo=names, peer=peer, status=status,
                baggage="baggage" in headers,
            )
            connection.send_headers(event.stream_id, [(":status", status)], status != "200")
        elif isinstance(event, h2.events.DataReceived):
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            connection.send_data(event.stream_id, event.data)
        elif isinstance(event, h2.events.StreamEnded):
            connection.end_stream(event.stream_id)
        tls.sendall(connection.data_to_send())
    say(closed=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=["call", "serve"])
    for name in ("to", "authority", "cert", "key", "expect", "forwarded"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--root", required=True)
    parser.add_argument("--send", default="")
    parser.add_argument("--method", default="CONNECT")
    parser.add_argument("--status", default="200")
    parser.add_argument("--tls", default="1.3", choices=["1.2", "1.3"])
    parser.add_argument("--alpn", default="h2")
    args = parser.parse_args()
    try:
        {"call": call, "serve": serve}[args.role](args)
    except ssl.SSLError as error:
        # This Python may have no name for an alert that its OpenSSL has.
        say(refused=error.reason or str(error).upper().replace(" ", "_"))
    except OSError as error:
        say(refused=str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
