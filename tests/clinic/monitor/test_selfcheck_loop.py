"""The alarm system's look at itself: what it sees of its surroundings, and that it goes on whatever they do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.monitoring import OnTheBus

from edgeward.bedside import AlarmSystemState
from edgeward.bus.role import Stats
from edgeward.clinic.monitor import role as monitor
from edgeward.clinic.monitor import selfcheck_loop
from edgeward.clinic.monitor.selfcheck import STUCK_S
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import Alarm
from edgeward.privacy.keys import SiteKey


@pytest.fixture
async def role(tmp_path: Path) -> AsyncIterator[monitor.MonitorRole]:
    home = Home(tmp_path)
    SiteKey.create(home)
    home.data.mkdir(parents=True, exist_ok=True)
    context: Any = SimpleNamespace(bus=OnTheBus(), stats=Stats(), settings=Settings(), home=home)
    role = monitor.MonitorRole(context)
    role.waiting = None
    yield role
    await role.publisher.stop()
    role.log.close()


async def test_a_start_that_took_a_minute_is_no_failure_of_the_alarm_system(role: monitor.MonitorRole) -> None:
    check = role.selfcheck
    check._ticked_s = check._published_s = check.system.started_s = time.monotonic() - 67.0

    check.begin()

    around = await check.surroundings()
    assert max(around.tick_age_s, around.beds_age_s) < STUCK_S
    assert not check.system.unheard(time.monotonic())


async def test_a_disk_that_stands_is_told_in_time_and_as_an_alarm(
    role: monitor.MonitorRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prepare: whatever is written waits for a disk that does nothing.
    moves = threading.Event()
    monkeypatch.setattr(selfcheck_loop, "WRITE_S", 0.05)
    monkeypatch.setattr(role.log, "try_writing", lambda _: moves.wait(60))
    monkeypatch.setattr(role.numerics_log, "keep", lambda *_: moves.wait(60))
    monkeypatch.setattr(monitor, "KEEP_S", 0.01)
    role.selfcheck.system._patient = SimpleNamespace(problem=lambda: "")  # type: ignore[assignment]
    bus: Any = role.context.bus
    loops = [asyncio.create_task(one()) for one in (role.publisher.run, role.write_values, role.selfcheck.run)]

    # Execute
    async with asyncio.timeout(30):
        while not {AlarmSystemState, Alarm} <= {type(one) for one in bus.sent}:
            bus.news.clear()
            await bus.news.wait()

    # Assert
    state = next(one for one in bus.sent if isinstance(one, AlarmSystemState))
    assert not state.ok
    assert any("alarm log" in problem for problem in state.problems)
    assert "alarm_system_failure" in {one.code for one in bus.sent if isinstance(one, Alarm)}
    moves.set()
    for one in loops:
        one.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
