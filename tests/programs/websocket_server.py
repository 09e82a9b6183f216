"""A server of WebSocket at port 8765: answers by the path that is asked for."""

import asyncio

from websockets.asyncio.server import basic_auth, serve
from websockets.exceptions import ConnectionClosed

CHECK = basic_auth(realm="private", credentials=("user", "secret"))


async def talk(connection):
    path = connection.request.path
    try:
        if path == "/echo":
            async for message in connection:
                await connection.send(message)
        elif path == "/many":
            for number in range(1000):
                await connection.send(str(number))
        elif path == "/closes":
            await connection.close(4000, "enough")
        elif path == "/peer":
            await connection.send(connection.remote_address[0])
        elif path == "/waits":
            await connection.send("waits")
            await connection.wait_closed()
            print("waits: gone", connection.close_code, flush=True)
    except ConnectionClosed as closed:
        print(path, closed, flush=True)


async def check(connection, request):
    return await CHECK(connection, request) if request.path == "/private" else None


async def main():
    async with serve(talk, "0.0.0.0", 8765, process_request=check, max_size=1 << 24) as server:
        await server.serve_forever()


asyncio.run(main())
