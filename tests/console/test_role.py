"""The role: its address, a prompt stop, HTTPS when the network can reach it."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import httpx
import pytest
import websockets

from edgeward.console import role
from edgeward.console.role import ConsoleError
from tests.console.conftest import Served
from tests.support.site import running_bus


async def test_the_chosen_port_is_told_and_the_file_goes_with_the_role(served: Served) -> None:
    path = served.hospital.site.home.run / "console.json"

    told = json.loads(path.read_text())

    assert told["url"] == f"http://127.0.0.1:{told['port']}/"
    assert told["port"] != 0
    assert path.stat().st_mode & 0o777 == 0o600


async def test_open_sockets_do_not_delay_the_stop(tmp_path: Path) -> None:
    async with running_bus(tmp_path / "home", console={"port": 0}) as site:
        context = await site.context("console")
        running = asyncio.create_task(role.run(context))
        path = site.home.run / "console.json"
        async with asyncio.timeout(15):
            while not path.exists():
                await asyncio.sleep(0.02)
        url = json.loads(path.read_text())["url"].rstrip("/")
        assert context.stats.counters["port"] == int(url.rsplit(":", 1)[1])
        async with httpx.AsyncClient(base_url=url) as client:
            first = json.loads((site.home.run / "first-login.json").read_text())["password"]
            await client.post("/login", data={"user": "admin", "password": first})
            await client.post(
                "/password",
                data={
                    "csrf": (await client.get("/password")).text.split('csrf" content="')[1].split('"')[0],
                    "current": first,
                    "new": "a long own word",
                    "again": "a long own word",
                },
            )
            sockets = [
                await websockets.connect(
                    url.replace("http", "ws") + "/live",
                    additional_headers={"cookie": f"edgeward={client.cookies['edgeward']}", "origin": url},
                )
                for _ in range(5)
            ]
            half_open = [await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1])) for _ in range(3)]

            context.stopping.set()
            assert role.STOP_S < 1.0
            async with asyncio.timeout(20):  # a busy machine; without a limit of its own it would wait for ever
                await running

        assert not path.exists()
        for socket in sockets:
            async with asyncio.timeout(20):
                await socket.wait_closed()
        for _, writer in half_open:
            writer.close()


async def test_beyond_loopback_the_console_speaks_tls_only(tmp_path: Path) -> None:
    async with running_bus(tmp_path / "home", console={"host": "0.0.0.0", "port": 0}) as site:
        context = await site.context("console")
        running = asyncio.create_task(role.run(context))
        path = site.home.run / "console.json"
        async with asyncio.timeout(15):
            while not path.exists():
                await asyncio.sleep(0.02)
        told = json.loads(path.read_text())
        trust = ssl.create_default_context(cafile=site.home.identity / "ca.pem")
        async with httpx.AsyncClient(verify=trust, base_url=f"https://localhost:{told['port']}") as client:
            answer = await client.get("/login")
            first = json.loads((site.home.run / "first-login.json").read_text())["password"]
            login = await client.post("/login", data={"user": "admin", "password": first})
            with pytest.raises(httpx.HTTPError):
                await httpx.AsyncClient().get(f"http://localhost:{told['port']}/login")
        context.stopping.set()
        await running

    assert told["url"].startswith("https://")
    assert "strict-transport-security" in answer.headers
    cookie = login.headers["set-cookie"]
    assert cookie.startswith("__Host-edgeward=")
    assert "Secure" in cookie


def test_a_taken_port_is_named() -> None:
    taken = role.listen("127.0.0.1", 0)
    port = taken.getsockname()[1]

    with pytest.raises(ConsoleError, match=f"console.port = {port}"):
        role.listen("127.0.0.1", port)
    taken.close()


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(ConsoleError, match=r"192\.0\.2\.77"):
        role.listen("192.0.2.77", 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.9.9.9", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("hospital.example", False),
    ],
)
def test_loopback_is_recognised(host: str, loopback: bool) -> None:
    assert role.is_loopback(host) is loopback
