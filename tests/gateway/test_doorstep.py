"""Whoever holds many connections keeps nobody else out of the doors that live in the event loop."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop
from tests.gateway.door import tls_of
from tests.gateway.hl7_door import open_door, orm
from tests.gateway.webdoor import open_web

from edgeward.gateway import doorstep
from edgeward.gateway import web as web_module


def in_uvloop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in the loop that the gateway runs in: it reads earlier than asyncio's own."""

    @functools.wraps(test)
    def run(*arguments: object, **named: object) -> None:
        uvloop.run(test(*arguments, **named))

    return run


def strangers(port: int, count: int, address: str = "127.0.0.1") -> list[socket.socket]:
    """Connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", port), source_address=(address, 0)) for _ in range(count)]


@in_uvloop
async def test_a_client_that_speaks_at_once_is_heard(tmp_path: Path) -> None:
    """Its first bytes may be there before anything of ours has run."""
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")

        for number in range(20):
            answer = await door.ask(folder, orm(number=f"P{number}", accession=f"A{number}"))
            assert answer.code == "AA"


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6")]
)
@in_uvloop
async def test_silent_strangers_keep_no_system_out(tmp_path: Path, addresses: tuple[str, ...]) -> None:
    async with open_door(tmp_path / "hl7") as door, open_web(tmp_path / "web") as web:
        folder, viewer = door.site.enrol("his", "emr"), web.viewer()
        ports = (door.mllp.ports["tls"], web.door.port)
        many = [await asyncio.to_thread(strangers, port, 80, address) for port in ports for address in addresses]
        silent = [one for some in many for one in some]
        await asyncio.sleep(0.1)

        assert (await door.ask(folder, orm())).code == "AA"
        assert (await viewer.get("/studies")).status_code == 204

        for one in silent:
            one.close()


@in_uvloop
async def test_the_oldest_stranger_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorstep, "PER_ADDRESS", 3)
    async with open_web(tmp_path / "home") as web:
        silent = await asyncio.to_thread(strangers, web.door.port, 5)

        for one in silent[:2]:
            one.settimeout(5)
            assert await asyncio.to_thread(one.recv, 1) == b""
        silent[2].settimeout(0.2)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(silent[2].recv, 1)
        assert any("too many connections" in reason for reason in web.reasons())

        for one in silent:
            one.close()


@in_uvloop
async def test_one_device_with_many_connections_keeps_no_other_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_module, "PER_PEER", 4)
    async with open_web(tmp_path / "home") as web:
        greedy = tls_of(web.site.enrol("us9", "ultrasound", "US9"))
        held = [await asyncio.open_connection("127.0.0.1", web.door.port, ssl=greedy) for _ in range(8)]
        async with asyncio.timeout(10):
            while len(web.door._connections) != 4:
                await asyncio.sleep(0.01)

        assert (await web.viewer().get("/studies")).status_code == 204
        assert "too many connections at once" in web.reasons()

        for _, writer in held:
            writer.close()
