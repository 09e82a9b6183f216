"""Flask with its own server, or FastAPI with uvicorn."""

import importlib.metadata
import sys


def escape(text):
    codes = text.encode("utf-8", "surrogateescape")
    return "".join(
        chr(code) if 0x20 < code < 0x7F and code != 0x5C else f"\\x{code:02x}" for code in codes
    )


def flask(port):
    from flask import Flask, Response, request

    app = Flask(__name__, static_folder=None)

    def handler(name):
        return lambda **_: Response(
            headers={"x-reached": name, "x-read": escape(request.path)}
        )

    for name, rule in [
        ("public", "/public/<path:rest>"),
        ("admin", "/admin/<path:rest>"),
        ("secret", "/secret"),
        ("keys", "/api/<id>/keys"),
    ]:
        app.add_url_rule(rule, name, handler(name))
    app.run("127.0.0.1", port)


def fastapi(port):
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app = FastAPI(openapi_url=None)

    def add(name, rule):
        @app.get(rule)
        def handler(request: Request):
            headers = {"x-reached": name, "x-read": escape(request.scope["path"])}
            return Response(headers=headers)

    add("public", "/public/{rest:path}")
    add("admin", "/admin/{rest:path}")
    add("secret", "/secret")
    add("keys", "/api/{id}/keys")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")


if len(sys.argv) == 2:
    print(importlib.metadata.version(sys.argv[1]))
else:
    {"flask": flask, "fastapi": fastapi}[sys.argv[1]](int(sys.argv[2]))
