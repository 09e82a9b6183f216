"""Python's h2 over a socket: many streams of one connection at once. Prints what answered each.

usage: python_h2.py HOST PORT COUNT
"""

import json
import socket
import sys

import h2.config
import h2.connection
import h2.events

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
connection.initiate_connection()
wire = socket.create_connection((host, port), timeout=20)
streams = {}
for number in range(count):
    stream = connection.get_next_available_stream_id()
    path = f"/anything?n={number}"
    connection.send_headers(stream, [
        (":method", "POST"), (":scheme", "http"), (":authority", "echo"), (":path", path),
        ("x-client", "python"),
    ])
    connection.send_data(stream, b"hello", end_stream=True)
    streams[stream] = {"path": path, "status": None, "body": b"", "ended": False}
while not all(stream["ended"] for stream in streams.values()):
    wire.sendall(connection.data_to_send())
    data = wire.recv(65536)
    assert data, "the connection has ended"
    for event in connection.receive_data(data):
        stream = streams.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.ResponseReceived):
            stream["status"] = dict(event.headers)[":status"]
        elif isinstance(event, h2.events.DataReceived):
            stream["body"] += event.data
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream["ended"] = True
        else:
            assert not isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)), event
servers = []
for stream in streams.values():
    seen = json.loads(stream["body"])
    assert (stream["status"], seen["path"], seen["body"]) == ("200", stream["path"], "hello"), stream
    servers.append(seen["server"])
connection.close_connection()
wire.sendall(connection.data_to_send())
print(json.dumps(servers))
