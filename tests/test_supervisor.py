"""The supervisor: what dies is started again, what keeps dying becomes visible, nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from edgeward import children
from edgeward import supervisor as module
from edgeward.bus.process import LOADED
from edgeward.config import load
from edgeward.messages import RoleState
from edgeward.supervisor import Supervisor, SupervisorError, only_one
from tests.support.hospital import until
from tests.support.site import TestSite, new_home


def test_a_site_runs_once(tmp_path: Path) -> None:
    home, _ = new_home(tmp_path / "home")
    with only_one(home), pytest.raises(SupervisorError, match=str(os.getpid())), only_one(home):
        pass
    with only_one(home):
        pass


async def test_a_killed_role_comes_back_and_is_counted(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    site = Supervisor(home, settings, ("monitor",))
    await site.start()
    try:
        assert await site.wait_ready(timeout_s=60) == []
        child = site.children["monitor"]
        assert child.process is not None
        first = child.process.pid

        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts == 1, 10, "the restart")
        assert await site.wait_ready(timeout_s=60) == []

        assert child.process.pid != first
        assert site.state().roles == {"bus": "running", "monitor": "running"}
        assert site.state().restarts["monitor"] == 1
    finally:
        await site.stop()


async def test_the_killed_bus_comes_back_on_the_same_port(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    site = Supervisor(home, settings, ("monitor",))
    await site.start()
    try:
        await site.wait_ready(timeout_s=60)
        bus = site.children["bus"]
        assert bus.process is not None
        os.kill(bus.process.pid, signal.SIGKILL)
        await until(lambda: bus.restarts == 1 and bus.state == "running", 10, "the restart")
        heard = site.children["monitor"].heard
        await until(lambda: site.children["monitor"].heard > heard + 1, 15, "the monitor to be heard again")
        assert site.children["monitor"].restarts == 0
    finally:
        await site.stop()


async def test_a_role_that_cannot_start_becomes_degraded_and_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTARTS", 2)
    home, settings = new_home(tmp_path / "home")
    (home.keys / "bus" / "engine.nk").rename(home.keys / "bus" / "engine.away")
    (home.identity / "roles" / "engine.key").unlink()
    site = Supervisor(home, settings, ("monitor", "engine"))
    # The server's configuration needs the public key; only the role's own copy of its identity is gone.
    (home.keys / "bus" / "engine.away").rename(home.keys / "bus" / "engine.nk")
    await site.start()
    try:
        await until(lambda: site.children["engine"].state == "degraded", 60, "the degraded state")

        state = site.state()
        assert "exit code" in state.reasons["engine"]
        assert "see " in state.reasons["engine"]
        assert await site.wait_ready("monitor", timeout_s=60) == []
        assert "engine.key" in (home.logs / "edgeward.log").read_text()
    finally:
        await site.stop()


async def test_a_role_that_hangs_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "HANGS_S", 3.0)
    home, settings = new_home(tmp_path / "home")
    site = Supervisor(home, settings, ("monitor",))
    await site.start()
    try:
        await site.wait_ready(timeout_s=60)
        child = site.children["monitor"]
        assert child.process is not None

        os.kill(child.process.pid, signal.SIGSTOP)

        await until(lambda: child.restarts == 1, 20, "the restart")
        assert await site.wait_ready(timeout_s=60) == []
    finally:
        await site.stop()


async def test_a_process_that_stands_by_takes_over_and_another_one_stands_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STANDBY_AFTER_S", 0.1)
    home, settings = new_home(tmp_path / "home")
    settings.monitor.standby = True
    site = Supervisor(home, settings, ("monitor",))
    await site.start()
    try:
        assert await site.wait_ready(timeout_s=60) == []
        child = site.children["monitor"]
        assert child.process is not None
        await until(lambda: child.standby is not None, 20, "a process to stand by")
        assert child.standby is not None
        standing_by, second = child.standby.process.pid, child.standby
        assert "monitor (standing by)" in site.state().memory_mb

        os.kill(child.process.pid, signal.SIGKILL)

        await until(lambda: child.restarts == 1 and child.ready.is_set(), 60, "the monitor to be back")
        assert child.process.pid == standing_by
        await until(lambda: child.standby is not None and child.standby is not second, 20, "another one to stand by")
        assert child.standby is not None
        assert child.standby.process.pid != standing_by
        last = child.standby.process
    finally:
        await site.stop()
    assert last.returncode is not None, "nobody stands by for a site that stopped"


async def test_a_process_that_stood_by_and_died_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STANDBY_AFTER_S", 0.1)
    home, settings = new_home(tmp_path / "home")
    settings.monitor.standby = True
    site = Supervisor(home, settings, ("monitor",))
    await site.start()
    try:
        assert await site.wait_ready(timeout_s=60) == []
        child = site.children["monitor"]
        await until(lambda: child.standby is not None, 20, "a process to stand by")
        assert child.process is not None
        assert child.standby is not None
        os.kill(child.standby.process.pid, signal.SIGKILL)
        os.kill(child.process.pid, signal.SIGKILL)
        await until(lambda: child.restarts >= 1 and child.ready.is_set(), 60, "the monitor to be back")
    finally:
        await site.stop()


async def test_what_a_role_said_before_it_died_makes_nobody_think_that_it_serves(tmp_path: Path) -> None:
    """It may come after the end was noticed: on a busy machine the bus is slower than the kernel."""
    site = Supervisor(*new_home(tmp_path / "home"), ("monitor",))
    child = site.children["monitor"]
    process = await asyncio.create_subprocess_exec("true")
    child.process = process
    word = RoleState(role="monitor", node="node1", pid=process.pid, at_ns=1, started_ns=1, status="ready")
    await process.wait()

    await site._heard("", word)

    assert not child.ready.is_set()


def test_a_process_that_waits_for_its_turn_is_slow_and_one_that_waits_for_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    class Process:
        pid = 1

    def hangs(name: str, state: str, used_s: float, after_s: float) -> str:
        monkeypatch.setattr(children, "computing", lambda _: (state, used_s))
        child = children.Child(name)
        child.begin(children.Living(Process(), reading, 0.0), 100.0)  # type: ignore[arg-type]
        assert child.living is not None
        child.living.used_s, child.was_ready, child.heard = 0.0, 100.0, 100.0 + after_s
        return child.hangs(100.0 + after_s)

    try:
        assert hangs("monitor", "T", 0.0, 8.0) == "has not moved for 8 s"  # stopped
        assert hangs("monitor", "S", 0.0, 8.0)  # waits for a lock
        assert hangs("monitor", "R", 7.5, 8.0)  # turns in a circle
        assert not hangs("monitor", "R", 1.0, 8.0), "on a busy machine it gets no turn"
        assert not hangs("monitor", "D", 0.0, 8.0), "its disk is slow"
        assert hangs("monitor", "R", 1.0, 16.0)
        assert not hangs("engine", "R", 7.5, 8.0), "it may load a model"
        assert not hangs("monitor", "S", 0.0, 6.0)
        os.write(writing, b".")
        assert not hangs("monitor", "S", 0.0, 8.0), "its event loop has turned"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_process_that_stood_by_and_still_loads_is_given_the_time_of_one_that_starts() -> None:
    """The monitor may die while its successor has only just been started."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    class Process:
        pid = 1

    try:
        child = children.Child("monitor")
        child.begin(children.Living(Process(), reading, 0.0), 100.0)  # type: ignore[arg-type]
        assert not child.hangs(100.0 + children.FIRST_WORD_S)
        os.write(writing, LOADED)
        assert not child.hangs(200.0)
        assert not child.hangs(200.0 + children.SLOW_S)
        assert child.hangs(201.0 + children.SLOW_S)
    finally:
        os.close(reading)
        os.close(writing)


async def test_every_line_of_the_log_is_json_with_role(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    site = Supervisor(home, settings, ("monitor",))
    await site.start()
    await site.wait_ready(timeout_s=60)
    child = site.children["monitor"]
    assert child.process is not None
    os.kill(child.process.pid, signal.SIGABRT)
    await until(lambda: child.restarts == 1, 10, "the restart")
    await site.stop()

    lines = [json.loads(line) for line in (home.logs / "edgeward.log").read_text().splitlines()]
    assert lines
    assert {line["role"] for line in lines} == {"monitor"}
    assert all("message" in line for line in lines)


async def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    site = Supervisor(home, settings, ("monitor",))
    await site.start()
    pids = [child.process.pid for child in site.children.values() if child.process]
    await site.wait_ready(timeout_s=60)

    await site.stop()

    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert not (home.run / "site.json").exists()


async def test_a_wrong_site_key_starts_nothing(tmp_path: Path) -> None:
    from edgeward.privacy.keys import WrongKey

    home, settings = new_home(tmp_path / "home")
    (home.keys / "site.key").write_text("11" * 32)
    with pytest.raises(WrongKey, match="Nothing was started"):
        Supervisor(home, settings)
    await asyncio.sleep(0)
    assert not (home.nats / "store").exists()


async def test_an_existing_cluster_is_used_instead_of_an_own_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, settings = new_home(tmp_path / "home")
    cluster = TestSite(home, settings)
    await cluster.start_bus()
    monkeypatch.setenv("EDGEWARD_BUS__URL", f"tls://127.0.0.1:{settings.bus.port}")
    monkeypatch.setenv("EDGEWARD_BUS__CREDENTIALS", str(home.keys / "bus"))
    for section in ("DICOM", "MLLP", "WEB", "CONSOLE"):  # else those of the settings file: another site may be there
        monkeypatch.setenv(f"EDGEWARD_{section}__PORT", "0")
    site = Supervisor(home, load(home.root), ("gateway", "monitor"))
    await site.start()
    try:
        assert "bus" not in site.children
        assert await site.wait_ready(timeout_s=60) == []
    finally:
        await site.stop()
    assert cluster.process is not None
    assert cluster.process.returncode is None, "the cluster is not ours to stop"
    cluster.process.terminate()
    await cluster.process.wait()
