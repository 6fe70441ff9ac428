"""Every frame the device was told is stored is analysed and delivered exactly once in effect, whatever is killed.

Counted from outside: what the simulated machine was told, and what lies in the PACS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
from tests.support.hospital import Site, running_site, until

from edgeward.home import Home
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.segments import Segments

pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]


async def kill_at_random(site: Site, role: str, times: int, rng: random.Random) -> None:
    for _ in range(times):
        await asyncio.sleep(rng.uniform(0.1, 1.2))
        site.kill(role)
        await site.ready(role, seconds=90.0) if role != "bus" else await asyncio.sleep(0.5)


@pytest.mark.parametrize("role", ["engine", "deliver", "gateway", "bus"])
async def test_killed_again_and_again_while_images_arrive(tmp_path: Path, role: str, campaign: bool) -> None:
    images, kills = (200, 25) if campaign else (12, 2)
    async with running_site(tmp_path / "home") as site:
        machine = await site.send(images, 4.0)

        await kill_at_random(site, role, kills, random.Random(role))
        told = await site.sent(machine, 600.0)

        assert len(told) == images
        await site.all_delivered(told, 300.0)
        await site.healthy()


async def test_the_engine_dies_in_the_middle_of_an_inference(tmp_path: Path) -> None:
    async with running_site(tmp_path / "home") as site:
        site.kill("engine", signal.SIGSTOP)  # it will hold a request and never answer
        machine = await site.send(3, 10.0)
        # At once: an engine that hangs for so long is ended by the supervisor, and the next one analyses what it held.
        await until(lambda: site.journal().get("dispatched", 0) > 0, 60.0, "an item to be dispatched")
        told = await site.sent(machine)

        for _ in range(4):  # whoever analyses it next is killed as well: the object itself is innocent
            site.kill("engine")
            await site.ready("engine")
            await asyncio.sleep(0.3)

        await site.all_delivered(told)


async def test_the_gateway_dies_between_storing_and_acknowledging(tmp_path: Path, campaign: bool) -> None:
    """Killed the moment the journal has the row: the device repeats, and the site has the image once."""
    rounds = 20 if campaign else 3
    async with running_site(tmp_path / "home") as site:
        path = site.home.db("journal")
        for number in range(rounds):
            before = count_items(path)
            machine = await site.send(1, 10.0, "--seed", str(number))
            await until(lambda before=before: count_items(path) > before, 60.0, "the row to be there", step=0.0)
            site.kill("gateway")
            await site.sent(machine)
        told = site.acknowledged()

        assert len(told) == rounds
        assert count_items(path) == rounds, "an unacknowledged image was stored twice"
        await site.all_delivered(told)
        assert half_written(site.home) == []


def count_items(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
        return int(db.execute("SELECT count(*) FROM items").fetchone()[0])


def half_written(home: Home) -> list[str]:
    """Return objects of the vault that no item knows."""
    with contextlib.closing(sqlite3.connect(f"file:{home.db('journal')}?mode=ro", uri=True, timeout=10)) as db:
        known = {row[0] for row in db.execute("SELECT object_id FROM items UNION SELECT preview_id FROM items")}
    there = [path.stem for path in home.vault.rglob("*") if path.suffix in (".ew", ".part")]
    there += Segments(home.vault, SiteKey.load(home)).objects()
    return [one for one in there if not any(str(object_id).startswith(one) for object_id in known)]


async def test_the_pacs_is_away(tmp_path: Path, campaign: bool) -> None:
    away = 120.0 if campaign else 6.0
    async with running_site(tmp_path / "home", pacs=False) as site:
        machine = await site.send(5, 5.0)
        told = await site.sent(machine)
        await asyncio.sleep(away)
        assert not (site.outside.folder / "pacs").exists()

        await site.start_pacs()

        await site.all_delivered(told, 90.0)


async def test_the_pacs_is_killed_and_comes_back(tmp_path: Path) -> None:
    async with running_site(tmp_path / "home") as site:
        machine = await site.send(10, 4.0)
        await asyncio.sleep(1.0)
        assert site.pacs is not None
        site.pacs.process.kill()
        await asyncio.sleep(2.0)
        await site.start_pacs()

        told = await site.sent(machine)

        await site.all_delivered(told)


async def test_the_whole_site_is_killed(tmp_path: Path) -> None:
    """Everything dies at once, as in a power cut; the next start finishes what was acknowledged."""
    async with running_site(tmp_path / "home") as site:
        machine = await site.send(6, 6.0)
        await until(lambda: count_items(site.home.db("journal")) >= 4, 60.0, "some images to be stored")
        for role in ("gateway", "engine", "deliver", "monitor", "console", "bus"):
            site.kill(role)
        told = await site.sent(machine)

        await site.all_delivered(told)


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 96 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.fail(f"this test needs to mount a tmpfs (run as root): {done.stderr.decode().strip()}")
    yield folder  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_the_disk_is_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be stored is refused, what was acknowledged is delivered, and with room again all goes on."""
    monkeypatch.setenv("EDGEWARD_VAULT__MIN_FREE_MB", "8")
    monkeypatch.setenv("EDGEWARD_BUS__STORE_MB", "64")
    async with running_site(small_disk / "home") as site:
        first = await site.sent(await site.send(3, 5.0))
        await site.all_delivered(first)
        filler = small_disk / "filler"
        free = shutil.disk_usage(small_disk).free
        with filler.open("wb") as file:
            file.write(b"\0" * max(0, free - 2_000_000))

        machine = await site.send(2, 5.0)
        await asyncio.sleep(4.0)
        assert site.acknowledged() == first, "something was acknowledged that could not be stored"
        assert half_written(site.home) == []

        filler.unlink()
        told = await site.sent(machine)
        assert len(told) == 5
        await site.all_delivered(told)
        await site.healthy()


async def test_nothing_remains_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """No orphan keeps a port or a file: the next start works."""
    import sys

    environment = {**os.environ, "EDGEWARD_HOME": ""}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.cli", "demo", "--home", str(tmp_path / "home"), "--beds", "2", "--quiet",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(90):
        while b"Ctrl-C" not in await process.stdout.readline():
            pass
    children = descendants(process.pid)
    assert len(children) >= 8

    process.kill()
    await process.wait()

    try:
        await until(lambda: not [pid for pid in children if alive(pid)], 15.0, "every child to be gone")
    except TimeoutError:
        left = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") for pid in children if alive(pid)}
        pytest.fail(f"still there: {left}")


async def test_ctrl_c_stops_everything_cleanly(tmp_path: Path) -> None:
    import sys

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.cli", "demo", "--home", str(tmp_path / "home"), "--beds", "2", "--quiet",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(90):
        while b"Ctrl-C" not in await process.stdout.readline():
            pass
    children = descendants(process.pid)

    process.send_signal(signal.SIGINT)

    assert await asyncio.wait_for(process.wait(), 25) == 0
    assert not [pid for pid in children if alive(pid)]
    log = (tmp_path / "home" / "logs" / "edgeward.log").read_text()
    assert "Traceback" not in log


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def alive(pid: int) -> bool:
    try:
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except FileNotFoundError:
        return False
