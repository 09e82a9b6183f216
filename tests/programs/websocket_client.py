"""A client of WebSocket: says what it gets."""

import asyncio
import hashlib
import sys

from websockets.asyncio.client import connect

HOST, CASE = sys.argv[1:]


def at(path, **options):
    return connect(f"ws://{HOST}:8765{path}", max_size=1 << 24, **options)


async def messages():
    async with at("/echo") as connection:
        print(connection.response.status_code, sorted(name.lower() for name in connection.response.headers))
        print("server", connection.remote_address, "client", connection.local_address[0])
        for message in ["text", "ünïcödé", b"\x00\xff" * 100, "", b"x" * 5_000_000]:
            await connection.send(message)
            answer = await connection.recv()
            print(type(answer).__name__, len(answer), answer == message)
        await connection.send(["in ", "three ", "parts"])
        print(await connection.recv())
        await (await connection.ping(b"are you there"))
        print("pong")
    print("closed", connection.close_code, repr(connection.close_reason))
    async with at("/many") as connection:
        digest = hashlib.sha256()
        async for message in connection:
            digest.update(message.encode())
        print(digest.hexdigest(), connection.close_code)
    async with at("/peer") as connection:
        print("seen as", await connection.recv())


async def closes():
    async with at("/closes") as connection:
        await connection.recv()


async def wrong_password():
    async with at("/private"):
        print("let in")


async def refused():
    async with at("/echo"):
        print("let in")


async def waits():
    async with at("/waits") as connection:
        print(await connection.recv(), flush=True)
        await connection.recv()


try:
    asyncio.run(globals()[CASE]())
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(1)
