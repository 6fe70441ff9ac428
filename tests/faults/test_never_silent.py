"""Never silent: whatever happens to the site, an alarm that was due is raised, late at worst, and then it says so.

A real bus, a real monitor and a real recorder, each its own process under the supervisor; a generator process with
patients whose every arrhythmia is known; and faults, one after the other (`faults`), with a twentieth of the packets
lost, doubled and overtaken, and devices' clocks that are set. What is counted comes from outside the site: what was
sent, and what a receiver of alarms was told (``tests.support.never_silent``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.never_silent import HOUR_NS, Scene, account, generator, report, scene

pytestmark = [pytest.mark.fault, pytest.mark.timeout(3000)]

Fault = Callable[[], Awaitable[None]]


def faults(site: Scene, sender: int) -> dict[str, Fault]:
    """Return what is done to the site at full length, in this order, again and again.

    EDGEWARD_NEVER_SILENT_FAULTS chooses some by name. The monitor is killed less than five times a minute: then the
    supervisor would let it rest.
    """

    async def step(by_ns: int) -> None:
        site.step(by_ns)

    return {
        "monitor": lambda: site.kill("monitor"),
        "bus": lambda: site.kill("bus"),
        "pause": lambda: site.pause(5.0, sender),
        "forward": lambda: step(HOUR_NS),
        "monitor+recorder": lambda: site.kill("monitor", "recorder"),
        "recorder": lambda: site.kill("recorder"),
        "back": lambda: step(-HOUR_NS),
        "hang": lambda: site.freeze("monitor", 12.0),
        "store": site.lose_store,
        "bus+monitor": lambda: site.kill("bus", "monitor"),
        "recorder-hangs": lambda: site.freeze("recorder", 12.0),
        "full": lambda: site.no_room("recorder", 10.0),
        "twice": lambda: site.kill_twice("monitor"),
        "bus+recorder": lambda: site.kill("bus", "recorder"),
        "monitor+back": lambda: site.kill("monitor", step_ns=-HOUR_NS),
        "hang-longer": lambda: site.freeze("monitor", 30.0),
        "store+monitor": lambda: site.lose_store("monitor"),
    }


async def test_no_alarm_is_lost_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, campaign: bool, request: pytest.FixtureRequest
) -> None:
    """Short: one of each fault. With --campaign: more than 10,000 arrhythmias with a fault every 15 s."""
    seed = request.config.getoption("--seed") or 1
    patients = int(os.environ.get("EDGEWARD_NEVER_SILENT_PATIENTS", "1000")) if campaign else 150
    seconds = float(os.environ.get("EDGEWARD_NEVER_SILENT_SECONDS", "420")) if campaign else 40.0
    speed = 1.0  # a faster one is no device's: how far a stream is behind is told by its own pace
    disturbed = {"loss": 0.05, "duplicate": 0.05, "swap": 0.05, "clocks": 0.001}
    async with scene(tmp_path, patients, monkeypatch) as site:
        truth = tmp_path / "truth.npz"
        options = {"patients": patients, "seconds": seconds, "speed": speed, "seed": seed, **disturbed}
        sender = await generator(site, truth, **options)

        async def short() -> None:
            await asyncio.sleep(9.0)  # the first events are on
            await site.kill("monitor")
            site.step(HOUR_NS)
            await asyncio.sleep(3.0)
            await site.kill("bus")
            await asyncio.sleep(3.0)
            await site.pause(2.0, sender.pid)
            site.step(-2 * HOUR_NS)
            await asyncio.sleep(9.0)  # the last are over, and four seconds more
            sender.terminate()  # it writes the truth

        async def long() -> None:
            names = os.environ.get("EDGEWARD_NEVER_SILENT_FAULTS", "").split(",")
            plan = [
                site_fault for name, site_fault in faults(site, sender.pid).items() if names == [""] or name in names
            ]
            for fault in itertools.cycle(plan):
                await asyncio.sleep(15.0)
                await fault()

        trouble = asyncio.create_task(long() if campaign else short())
        try:
            await asyncio.wait_for(sender.wait(), seconds * 4 + 120)
        finally:
            trouble.cancel()
            outcome = await asyncio.gather(trouble, return_exceptions=True)
            if sender.returncode is None:
                sender.kill()
                await sender.wait()
        assert not [o for o in outcome if isinstance(o, Exception)], outcome
        assert sender.returncode == 0
        quiet = len(site.receiver.heard), time.monotonic()
        while time.monotonic() - quiet[1] < 3.0:  # until nothing more comes
            await asyncio.sleep(0.25)
            if len(site.receiver.heard) != quiet[0]:
                quiet = len(site.receiver.heard), time.monotonic()
            if time.monotonic() - quiet[1] > 60:
                break
        assert await site.supervisor.wait_ready(timeout_s=60) == []
        found = account(truth, site.receiver.heard, site.faults, speed)
        report(found, site.faults, Path(os.environ.get("EDGEWARD_NEVER_SILENT_REPORT", str(tmp_path / "account.json"))))

    kinds = {what for what, _, _ in site.faults}
    assert kinds >= {"monitor killed", "bus killed", "machine paused", "clock set"}
    assert sum(found.due.values()) >= (10_000 if campaign else 100)
    assert found.lost == []
    assert found.late_unsaid == []
    assert found.torn <= 0.08 * sum(found.due.values()), "so many cannot have been torn by a twentieth of the packets"
