"""A flush is a barrier: what was subscribed to before it, the server knows after it."""

from __future__ import annotations

import asyncio
import json

import nats

from edgeward.bus.client import Bus

INFO = {"server_id": "x", "version": "2.11.0", "proto": 1, "max_payload": 1 << 20, "headers": True}


class Server:
    """Speaks as much of the protocol as a connection needs, and remembers in which order commands came."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"INFO {json.dumps(INFO)}\r\n".encode())
        while line := await reader.readline():
            command = line.split(b" ", 1)[0].strip().decode()
            self.heard.append(command)
            if command == "PING":
                writer.write(b"PONG\r\n")
        writer.close()


async def test_what_was_asked_for_before_a_flush_is_with_the_server_when_it_answers() -> None:
    heard = Server()
    server = await asyncio.start_server(heard, "127.0.0.1", 0)
    client = await nats.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    async def nothing(_: object) -> None: ...

    for number in range(3):
        await client.subscribe(f"work.{number}", cb=nothing)
    await Bus(client).flush()

    assert heard.heard[-1] == "PING"
    assert heard.heard.count("SUB") == 3, "all of it before the question that was answered last"
    await client.close()
    server.close()
