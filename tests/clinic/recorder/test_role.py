"""The recorder role on a real bus: records, answers, survives, and says when it does not record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.support.site import TestSite, new_home, running_bus
from tests.support.wearable import ecg

from edgeward.bedside import Observation, Observed, Recent, RecentQuery, Strip, StripQuery, Trend, TrendQuery
from edgeward.bus import subjects
from edgeward.bus.client import Bus, connect
from edgeward.bus.role import RoleContext, Stats, bus_url
from edgeward.bus.tasks import end
from edgeward.clinic.recorder import role as recorder
from edgeward.clinic.recorder import writing
from edgeward.clinic.recorder.archive import Archive
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import Bed, Beds, Ok, Refused, VitalState
from edgeward.privacy import identity
from edgeward.privacy.keys import WrongKey
from edgeward.waveform import WaveformPacket, encode

SECOND = 10**9


def packet(number: int, *, seed: int = 0, seconds: float = 1.0) -> bytes:
    count = round(250 * seconds)
    return encode(
        WaveformPacket(
            samples=ecg(seconds, 70, seed=seed + number).reshape(1, -1), sequence=number, first_sample=number * count,
            start_ns=time.time_ns(), rate_hz=250.0, gain_uv=1.0, leads=("II",), lead_off=(False,),
        )
    )  # fmt: skip


class Room:
    """A bus, the recorder, and everybody it talks to."""

    def __init__(self, site: TestSite, devices: Bus, monitor: Bus, console: Bus) -> None:
        self.site, self.devices, self.monitor, self.console = site, devices, monitor, console
        self.context: RoleContext | None = None
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.context = await self.site.context("recorder")
        self.task = asyncio.create_task(recorder.run(self.context))
        await self.until(lambda: self.context._status == "ready")

    async def stop(self) -> None:
        self.context.stopping.set()
        await self.task
        await self.context.bus.close()

    async def until(self, check: Callable[[], object], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not check():
                if self.task is not None and self.task.done():
                    self.task.result()
                await asyncio.sleep(0.02)

    async def send(self, source: str, data: bytes) -> None:
        await self.devices._client.publish(subjects.wave(source), data)

    async def ask(self, source: str, since_s: float = 60.0, **more: object) -> Strip:
        now = time.time_ns()
        query = StripQuery(source_id=source, start_ns=now - round(since_s * SECOND), end_ns=now, **more)
        return await self.console.request(subjects.RECORDER_STRIP, query, Strip | Refused, 5.0)


async def device_bus(site: TestSite) -> Bus:
    """A connection that may publish waveforms: in a site devices come by MQTT, which the gateway's tests cover."""
    from edgeward.bus.server import seed_path

    return await connect(
        bus_url(site.settings), name="devices", seed=seed_path(site.home.keys / "bus", "supervisor").read_text().strip(),
        tls=identity.client_context(site.home, "supervisor"), inbox="_INBOX_supervisor",
    )  # fmt: skip


@contextlib.asynccontextmanager
async def opened(path: Path, monkeypatch: pytest.MonkeyPatch, **sections: dict[str, object]) -> AsyncIterator[Room]:
    from edgeward.bus import permissions

    open_door = permissions.Permissions(publish=(subjects.WAVE_ALL, subjects.SITE_STATE))
    monkeypatch.setitem(permissions.ROLES, "supervisor", open_door)
    async with running_bus(path, **sections) as site:
        devices = await device_bus(site)
        site.buses.append(devices)
        room = Room(site, devices, await site.bus("monitor"), await site.bus("console"))
        await room.start()
        yield room
        if room.task is not None and not room.task.done():
            await room.stop()


@pytest.fixture
async def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    async with opened(tmp_path / "home", monkeypatch) as room:
        yield room


def samples(strip: Strip) -> np.ndarray:
    (row,) = strip.channels
    return np.frombuffer(row.samples, dtype="<i2")


async def test_what_arrives_can_be_asked_for_at_once_and_after_a_restart(room: Room) -> None:
    sent = [packet(n) for n in range(12)]
    for data in sent:
        await room.send("bed-1", data)
        await room.send("bed-2", packet(0))
    await room.devices.flush()
    async with asyncio.timeout(10):
        while not (strip := await room.ask("bed-1")).channels or len(samples(strip)) < 3000:
            await asyncio.sleep(0.05)
    wanted = np.concatenate([ecg(1, 70, seed=n) for n in range(12)])
    assert (samples(strip) == wanted).all()

    await room.stop()
    await room.start()

    assert (samples(await room.ask("bed-1")) == wanted).all()
    assert (await room.ask("nobody")).channels == []
    recent = await room.monitor.request(subjects.RECORDER_RECENT, RecentQuery(seconds=15), Recent, 5.0)
    assert [data for source, _, data in recent.packets if source == "bed-1"] == sent


async def test_what_is_written_while_somebody_asks_is_shown_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waiting when the question came, and is on the disk when that is read; a stream's first packet would begin
    another row."""
    sent = [packet(n) for n in range(4)]
    for data in sent:
        await room.send("bed-1", data)
    await room.devices.flush()
    await room.until(lambda: room.context.stats.counters.get("packets", 0) == 4)
    await room.stop()
    await room.start()
    waiting = writing.Batch(arrivals=[("bed-1", time.time_ns(), data) for data in sent])
    monkeypatch.setattr(writing.DiskQueue, "pending", lambda _: (waiting,))

    strip = await room.ask("bed-1")

    assert (samples(strip) == np.concatenate([ecg(1, 70, seed=n) for n in range(4)])).all()


async def test_a_day_later_nothing_of_a_wearables_signal_is_on_the_disk(tmp_path: Path) -> None:
    """From the wearable by MQTT (QoS 1, which the server may store) to the recorder, and every file looked at."""
    from tests.clinic.recorder.times import Machine
    from tests.support.wearable import Wearable

    from edgeward.gateway import mqtt

    def stored() -> int:
        return sum(path.stat().st_size for path in site.home.nats.rglob("*") if path.is_file())

    async with running_bus(tmp_path / "home") as site:
        door = await mqtt.start(await site.context("gateway"))
        machine = Machine(wall_ns=time.time_ns())
        context = await site.context("recorder")
        task = asyncio.create_task(recorder.run(context, machine))
        room = Room(site, context.bus, context.bus, await site.bus("console"))
        await room.until(lambda: context._status == "ready")
        wearable = await asyncio.to_thread(Wearable, site.enrol("bed-1"))
        signal_sent = (
            np.random.default_rng(5).integers(-30000, 30000, 250 * 200).astype(np.int16)
        )  # nothing to compress
        await asyncio.to_thread(wearable.play, signal_sent[:250], 1.0)  # the server makes its own files now
        before = stored()
        await asyncio.to_thread(wearable.play, signal_sent[250:], 1.0)
        wearable.close()
        await room.until(lambda: context.stats.counters.get("packets", 0) == 200)
        await room.until(lambda: sum(p.stat().st_size for p in (site.home.data / "recorder").glob("*.rec")) > 80_000)
        strip = await room.ask("bed-1")
        assert len(samples(strip)) > 10_000
        assert stored() - before < 50_000, "the server keeps waveforms, under a key that is not destroyed"

        machine.pass_s(24.5 * 3600 + 1)
        await room.until(lambda: not list((site.home.data / "recorder").glob("*.rec")))
        assert (await room.ask("bed-1", since_s=250_000.0)).channels == []
        context.stopping.set()
        await task
        await door.close()
        raw = signal_sent.tobytes()
        pieces = {raw[at : at + 12] for at in range(0, len(raw), 500)}
        for path in site.home.root.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(piece in data for piece in pieces), path
        assert sorted(path.name for path in (site.home.data / "recorder").iterdir()) == ["clock.json"]


async def test_a_strip_is_clipped_and_nonsense_is_refused(room: Room) -> None:
    query = StripQuery(source_id="bed-1", start_ns=5, end_ns=5)
    assert isinstance(await room.console.request(subjects.RECORDER_STRIP, query, Strip | Refused, 5.0), Refused)
    trend = TrendQuery(bed_id="b", since_ns=time.time_ns() + 3600 * SECOND)
    assert isinstance(await room.console.request(subjects.RECORDER_TREND, trend, Trend | Refused, 5.0), Refused)
    for seconds in (0.0, -1.0, float("nan")):
        recent = RecentQuery(seconds=seconds)
        assert isinstance(await room.monitor.request(subjects.RECORDER_RECENT, recent, Recent | Refused, 5.0), Refused)
    far = StripQuery(source_id="bed-1", start_ns=0, end_ns=1 << 62)
    assert isinstance(await room.console.request(subjects.RECORDER_STRIP, far, Strip | Refused, 5.0), Strip)


async def test_the_last_seconds_of_everybody_come_in_pages(room: Room) -> None:
    sent = {f"bed-{bed:03d}": [packet(n, seed=bed, seconds=4.0) for n in range(4)] for bed in range(150)}
    for number in range(4):
        for source, packets in sent.items():
            await room.send(source, packets[number])
    await room.devices.flush()
    await room.until(lambda: room.context.stats.counters.get("packets", 0) >= 600)

    found: dict[str, list[bytes]] = {}
    pages, after = 0, ""
    while True:
        query = RecentQuery(seconds=20, after=after)
        page = await room.monitor.request(subjects.RECORDER_RECENT, query, Recent, 5.0)
        assert sum(len(data) for _, _, data in page.packets) <= 900_000
        for source, _, data in page.packets:
            found.setdefault(source, []).append(data)
        pages, after = pages + 1, page.after
        if not after:
            break
    assert found == sent
    assert pages >= 2


async def test_trends_are_kept_over_a_restart(room: Room) -> None:
    begin = time.time_ns() // (10 * SECOND) * 10 * SECOND - 200 * SECOND
    for number in range(200):
        at = begin + number * SECOND
        vital = VitalState(parameter="heart_rate", value=60.0 + number % 10, unit="/min", at_ns=at)
        beds = Beds(at_ns=at, beds=[Bed(device_id="d", bed_id="bed-7", label="7", vitals=[vital])])
        await room.monitor.publish(subjects.STATE_BEDS, beds)
    await room.monitor.flush()

    async def asked() -> Trend:
        query = TrendQuery(bed_id="bed-7", since_ns=begin, until_ns=begin + 200 * SECOND)
        return await room.console.request(subjects.RECORDER_TREND, query, Trend | Refused, 5.0)

    async with asyncio.timeout(20):
        while not (trend := await asked()).series or len(trend.series[0].at_ns) < 20:
            await asyncio.sleep(0.05)
    (series,) = trend.series
    assert trend.interval_ms == 10_000
    assert (series.parameter, series.unit) == ("heart_rate", "/min")
    assert set(series.low) == {60.0}
    assert set(series.high) == {69.0}
    assert set(series.mean) == {64.5}

    await room.stop()
    await room.start()
    assert await asked() == trend


async def test_hostile_packets_are_counted_and_not_kept(room: Room) -> None:
    whole = packet(1)
    hostile = [b"", b"EWW1", whole[:-1], whole + b"x", os.urandom(600), b"A" * 2_000_000]
    for data in hostile:
        await room.send("bed-1", data)
    await room.send("bed-2", whole)
    await room.devices.flush()
    counters = room.context.stats.counters
    await room.until(lambda: counters.get("packets", 0) >= 1 and counters.get("packets_refused", 0) >= len(hostile))
    assert (await room.ask("bed-1")).channels == []
    assert len(samples(await room.ask("bed-2"))) == 250


async def test_a_flood_from_one_device_is_cut_off(room: Room) -> None:
    big = encode(
        WaveformPacket(
            samples=np.zeros((12, 4096), np.int16), sequence=0, first_sample=0, start_ns=0, rate_hz=2000.0,
            gain_uv=1.0, leads=tuple(f"L{n}" for n in range(12)), lead_off=(False,) * 12,
        )
    )  # fmt: skip
    for _ in range(110):
        await room.send("flood", big)
    await room.send("bed-2", packet(0))
    await room.devices.flush()
    counters = room.context.stats.counters
    await room.until(lambda: counters.get("packets", 0) + counters.get("packets_refused", 0) >= 111)
    assert counters["packets_refused"] >= 110 - (8 << 20) // len(big) - 1
    assert len(samples(await room.ask("bed-2"))) == 250


async def test_a_full_disk_is_told_kept_waiting_and_made_up_for(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "append", full)
        await room.send("bed-1", packet(0))
        await room.devices.flush()
        await room.until(lambda: room.context._status == "degraded")
        assert "No space" in room.context._reason
        assert len(samples(await room.ask("bed-1"))) == 250, "the last seconds are there without a disk"

    await room.until(lambda: room.context._status == "ready")
    await room.stop()
    await room.start()
    assert len(samples(await room.ask("bed-1"))) == 250


async def test_a_disk_that_hangs_is_told_and_the_oldest_goes_when_memory_is_full(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SLOW_S", 0.5)
    monkeypatch.setattr(writing, "MOST_WAITING", 2000)
    append = Archive.append
    hangs = True

    def slow(self: Archive, *arguments: object) -> object:
        while hangs:
            time.sleep(0.02)
        return append(self, *arguments)

    monkeypatch.setattr(Archive, "append", slow)
    await room.send("bed-1", packet(0))
    await room.devices.flush()
    await room.until(lambda: "slow" in room.context._reason)
    counters = room.context.stats.counters
    for number in range(1, 30):  # more than 2000 bytes, in more than one gathering
        await room.send("bed-1", packet(number))
    await room.devices.flush()
    await room.until(lambda: counters.get("packets_not_recorded"))
    hangs = False
    await room.until(lambda: room.context._status == "ready")


async def test_a_wrong_site_key_stops_the_role_and_touches_nothing(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    place = recorder.folder(home)
    place.mkdir()
    (place / "00000000.rec").write_bytes(b"somebody's data")
    (home.keys / "site.key").write_text("22" * 32)

    class Context:
        def __init__(self, home: Home, settings: Settings) -> None:
            self.home, self.settings = home, settings

    with pytest.raises(WrongKey, match="Nothing was started"):
        await recorder.run(Context(home, settings))  # type: ignore[arg-type]
    assert [path.name for path in place.iterdir()] == ["00000000.rec"]


async def test_what_was_gathered_goes_to_the_disk_with_no_further_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second of gathering, and then a second until the writer comes round, would be all that a kill may cost."""
    home, settings = new_home(tmp_path / "home")
    context: Any = SimpleNamespace(home=home, settings=settings, stats=Stats())
    system = recorder.SystemTime()
    role = recorder.Recorder(context, recorder.open_archive(context, system), system)
    monkeypatch.setattr(recorder, "GATHER_S", 3600.0)
    tasks = [asyncio.create_task(role.write())]
    await asyncio.sleep(0.2)  # a writer with a clock of its own is asleep by now
    monkeypatch.setattr(recorder, "GATHER_S", 0.01)
    tasks.append(asyncio.create_task(role.keep()))

    role.receive(subjects.wave("bed-1"), packet(0))

    async with asyncio.timeout(20):
        while not context.stats.counters.get("bytes_written"):
            await asyncio.sleep(0.01)
    await end(tasks)
    await role.finish()
    role.close()


async def test_what_is_handed_to_the_disk_in_the_moment_of_the_stop_is_not_lost(tmp_path: Path) -> None:
    """The writer is told to end after it gave the batch to its thread, and before that thread began."""
    home, settings = new_home(tmp_path / "home")
    context: Any = SimpleNamespace(home=home, settings=settings, stats=Stats())
    system = recorder.SystemTime()
    role = recorder.Recorder(context, recorder.open_archive(context, system), system)
    busy = threading.Event()
    role._writer.submit(busy.wait, 30)
    role.receive(subjects.wave("bed-1"), packet(0))
    role.gather()
    value = Observation(bed_id="b", source_id="b", parameter="spo2", value=97.0, at_ns=time.time_ns(), device_ns=1)
    offered = asyncio.create_task(role.observed(Observed(log="log", batches=[(1, [value])])))
    writing_ = asyncio.create_task(role.write_waiting())
    await asyncio.sleep(0)
    await end([writing_])
    busy.set()

    await role.finish()

    archive = recorder.open_archive(context, system)
    blocks = [block for _, _, block in archive.blocks((1,), "bed-1", 0, 1 << 62)]
    assert [len(recorder.packing.unpack(block, "bed-1")) for block in blocks] == [1]
    assert await offered == Ok()
    late = await role.observed(Observed(log="log", batches=[(2, [value])]))
    assert isinstance(late, Refused), "nobody writes any more"
    archive.close()
    role.close()


async def test_a_kill_loses_at_most_the_last_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "home", monkeypatch) as room:
        await room.stop()
        environment = {**os.environ, "EDGEWARD_BUS__PORT": str(room.site.settings.bus.port)}
        for _ in range(2):  # the second goes on in the segment of the first
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgeward.cli", "_role", "recorder", "--home", str(room.site.home.path),
                env=environment, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stderr is not None
            while json.loads(await process.stderr.readline())["message"] != "ready":
                pass
            sent: list[int] = []
            began = time.time_ns()
            for number in range(32):
                await room.send("bed-1", packet(number, seconds=0.1))
                await room.devices.flush()
                sent.append(time.time_ns())
                await asyncio.sleep(0.1)
            killed = time.time_ns()
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()

            context = await room.site.context("recorder")
            archive = await asyncio.to_thread(recorder.open_archive, context, recorder.SystemTime())
            blocks = [block for _, _, block in archive.blocks((1,), "bed-1", 0, 1 << 62)]
            kept = {at for block in blocks for _, at, _ in recorder.packing.unpack(block, "bed-1")}
            archive.close()
            await context.bus.close()
            due = [at for at in sent if at < killed - 2 * SECOND]
            mine = [at for at in kept if at >= began]
            assert len(due) <= len(mine) <= len(sent)
        assert archive.segments == 1
