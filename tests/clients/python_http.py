"""Python's http.client: a connection that is kept, bodies with a length and in chunks, and an answer
that is read in parts. Prints what answered each request.

usage: python_http.py HOST PORT COUNT
"""

import http.client
import json
import sys

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = http.client.HTTPConnection(host, port, timeout=20)


def ask(method, path, body=None, headers=None, **more):
    connection.request(method, path, body=body, headers=headers or {}, **more)
    answer = connection.getresponse()
    return answer, answer.read()


versions = []
for number in range(count):
    answer, body = ask("GET", f"/anything?n={number}", headers={"X-Client": "python"})
    seen = json.loads(body)
    assert (answer.status, seen["path"]) == (200, f"/anything?n={number}"), (answer.status, seen)
    versions.append(seen["server"])
answer, body = ask("POST", "/length", body="x" * 300_000)
assert len(json.loads(body)["body"]) == 300_000
answer, body = ask("POST", "/chunks", body=iter([b"ab", b"cd"]), encode_chunked=True,
                   headers={"Transfer-Encoding": "chunked"})
assert json.loads(body)["body"] == "abcd", body
answer, body = ask("HEAD", "/anything")
assert (answer.status, body) == (200, b"")
answer, body = ask("GET", "/bytes?n=1000000")
assert body == b"0123456789" * 100_000
answer, body = ask("GET", "/trailers")
assert answer.status == 200
print(json.dumps(versions))
