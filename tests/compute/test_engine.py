"""The engine role: it answers with the truth, in time or busy, and survives what it is given."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pytest
from pydicom.data import get_testdata_file
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.compute import engine as engine_module
from edgeward.compute import isolated
from edgeward.compute.analyser import AnalysisResult
from edgeward.compute.breast_ultrasound import Assessment
from edgeward.compute.decode import DecodeError, Frame
from edgeward.compute.engine import Engine, EngineHung
from edgeward.compute.runtime import RuntimeFailure
from edgeward.config import Engine as EngineSettings
from edgeward.messages import ServiceClass, StageTime, WorkBusy, WorkDone, WorkFailed, WorkReply, WorkRequest
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault, read


def result() -> AnalysisResult:
    frame = Frame(
        **{
            name: value
            for name, value in {
                "pixels": np.zeros((8, 8, 3), np.uint8),
                "index": 0,
                "frames": 1,
                "spacing_mm": None,
                "spacing_source": "",
                "region": None,
                "sop_instance_uid": "1.2.3",
                "sop_class_uid": "1.2",
                "modality": "US",
            }.items()
            if name in Frame.__dataclass_fields__
        }
    )
    return AnalysisResult(frame, Assessment("a test", []), "m", "1", b"jpeg", 1.0, [StageTime(name="infer", ms=5.0)])


class AnalyserDouble:
    """Analyses as the test says, in the engine's threads."""

    def __init__(self, act: Callable[[bytes], AnalysisResult | None] = lambda _: None) -> None:
        self.act = act
        self.seen: list[bytes] = []

    def analyse(
        self,
        source: BinaryIO,
        clock: Callable[[], float],
        *,
        cine_frames: int,
        left_s: Callable[[], float] | None,
    ) -> AnalysisResult:
        data = source.read()
        self.seen.append(data)
        self.left_s, self.cine_frames = left_s, cine_frames
        return self.act(data) or result()


class Bench:
    """An engine on a real bus and a gateway that asks it."""

    def __init__(self, site: TestSite, analyser: AnalyserDouble, **settings: int) -> None:
        self.site, self.analyser, self.settings = site, analyser, EngineSettings(**settings)
        self.vault = FileVault(site.home.vault, SiteKey.load(site.home))

    async def start(self) -> Bench:
        self.context = await self.site.context("engine")
        self.engine = Engine(self.context, self.settings, self.analyser)
        await self.engine.start()
        self.gateway = await self.site.bus("gateway")
        return self

    def request(self, data: bytes = b"frame", *, attempt: int = 1, budget_ms: float = 60_000) -> WorkRequest:
        stored = self.vault.put(data)
        now = time.time_ns()
        return WorkRequest(
            item_id=stored.object_id,
            trace_id="t",
            service_class=ServiceClass.INTERACTIVE,
            received_ns=now,
            deadline_ns=now + round(budget_ms * 1e6),
            attempt=attempt,
            object=self.vault.reference(stored.object_id, stored.wrapped_key, stored.size),
            sop_class_uid="1.2",
            sop_instance_uid="1.2.3",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
        )

    async def ask(self, request: WorkRequest, subject: str = "") -> WorkReply:
        answer: WorkReply = await self.gateway.request(
            subject or subjects.work_image("node1"), request, WorkReply, 20.0
        )
        return answer


async def test_a_frame_becomes_a_finding_with_the_time_of_every_stage(bus_site: TestSite) -> None:
    bench = await Bench(bus_site, AnalyserDouble()).start()
    request = bench.request(b"the frame")

    answers = [await bench.ask(request), await bench.ask(request, subjects.WORK_IMAGE_ANY)]

    assert bench.analyser.seen == [b"the frame"] * 2
    one, two = answers
    assert isinstance(one, WorkDone)
    assert isinstance(two, WorkDone)
    assert [stage.name for stage in one.finding.stages] == ["queue", "read", "infer"]
    assert one.finding.item_id == request.item_id
    assert one.finding.finding_id == two.finding.finding_id  # asked twice, the same finding
    assert one.preview == b"jpeg"


@pytest.mark.parametrize(
    ("error", "retryable", "text"),
    [
        (DecodeError("no pixel data"), False, "no pixel data"),
        (MemoryError(), False, "memory"),
        (RuntimeFailure("session broke"), True, "session broke"),
        (ValueError("MUSTERFRAU^ERIKA"), True, "ValueError"),
    ],
)
async def test_what_cannot_be_analysed_is_answered_with_why(
    bus_site: TestSite, error: Exception, retryable: bool, text: str
) -> None:
    def act(_: bytes) -> None:
        raise error

    bench = await Bench(bus_site, AnalyserDouble(act)).start()

    answer = await bench.ask(bench.request())

    assert isinstance(answer, WorkFailed)
    assert answer.retryable is retryable
    assert text in answer.reason
    assert "MUSTERFRAU" not in answer.reason
    bench.analyser.act = lambda _: None
    assert isinstance(await bench.ask(bench.request()), WorkDone)  # and it serves on


async def test_an_analysis_knows_how_long_it_may_take_and_how_many_frames_to_look_at(bus_site: TestSite) -> None:
    bus_site.settings.imaging.cine_frames = 5
    bench = await Bench(bus_site, AnalyserDouble()).start()

    await bench.ask(bench.request(budget_ms=20_000))
    assert bench.analyser.cine_frames == 5
    assert bench.analyser.left_s is not None
    assert 5 < bench.analyser.left_s() < 15  # the budget less delivery's share

    await bench.ask(msgspec.structs.replace(bench.request(), service_class=ServiceClass.BATCH))
    assert bench.analyser.left_s is None


async def test_a_damaged_object_is_answered_with_why(bus_site: TestSite) -> None:
    bench = await Bench(bus_site, AnalyserDouble()).start()
    request = bench.request()
    Path(request.object.path).write_bytes(b"EWVAULT1" + bytes(100))

    answer = await bench.ask(request)

    assert isinstance(answer, WorkFailed)
    assert not answer.retryable


async def test_the_first_asked_says_busy_when_it_would_be_late_and_the_next_does_it(bus_site: TestSite) -> None:
    release = threading.Event()
    bench = await Bench(bus_site, AnalyserDouble(lambda _: release.wait(20) and None)).start()
    running = asyncio.create_task(bench.ask(bench.request()))
    while not bench.analyser.seen:
        await asyncio.sleep(0.01)

    hurried = bench.request(budget_ms=200)
    answer = await bench.ask(hurried)
    assert isinstance(answer, WorkBusy)
    assert answer.free_in_ms > 0

    others = [
        asyncio.create_task(bench.ask(bench.request(attempt=2, budget_ms=200))),
        asyncio.create_task(bench.ask(bench.request(attempt=1, budget_ms=-100))),  # late already: still done
    ]
    await asyncio.sleep(0.1)
    release.set()
    assert all(isinstance(answer, WorkDone) for answer in await asyncio.gather(running, *others))


async def test_an_idle_engine_never_says_busy_however_slow_it_is(bus_site: TestSite) -> None:
    bench = await Bench(bus_site, AnalyserDouble()).start()
    bench.engine._typical_ms = 5000.0

    assert isinstance(await bench.ask(bench.request(budget_ms=500)), WorkDone)


async def test_a_full_queue_says_busy_and_work_is_done_in_the_order_it_came(bus_site: TestSite) -> None:
    release = threading.Event()
    bench = await Bench(bus_site, AnalyserDouble(lambda _: release.wait(20) and None), queue=3).start()
    tasks = []
    for number in range(4):  # one running, three waiting
        tasks.append(asyncio.create_task(bench.ask(bench.request(f"frame {number}".encode()))))
        while len(bench.engine._present) <= number:
            await asyncio.sleep(0.01)

    assert isinstance(await bench.ask(bench.request(attempt=5)), WorkBusy)

    release.set()
    await asyncio.gather(*tasks)
    assert bench.analyser.seen == [f"frame {number}".encode() for number in range(4)]


async def test_two_are_analysed_at_once_when_so_configured(bus_site: TestSite) -> None:
    together = threading.Barrier(2, timeout=10)
    bench = await Bench(bus_site, AnalyserDouble(lambda _: together.wait() and None), concurrency=2).start()

    answers = await asyncio.gather(bench.ask(bench.request()), bench.ask(bench.request()))

    assert all(isinstance(answer, WorkDone) for answer in answers)


async def test_an_analysis_that_never_ends_ends_the_process(bus_site: TestSite, monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "HUNG_S", 0.2)
    monkeypatch.setattr(engine_module, "_LOOK_S", 0.05)
    release = threading.Event()
    bench = await Bench(bus_site, AnalyserDouble(lambda _: release.wait(20) and None)).start()
    asking = asyncio.create_task(bench.ask(bench.request()))

    with pytest.raises(EngineHung):
        await asyncio.wait_for(bench.engine.watch(), 10)

    release.set()
    await asking


async def test_a_stopping_engine_finishes_what_it_has_and_takes_nothing_new(bus_site: TestSite) -> None:
    release = threading.Event()
    bench = await Bench(bus_site, AnalyserDouble(lambda _: release.wait(20) and None)).start()
    running = asyncio.create_task(bench.ask(bench.request()))
    while not bench.analyser.seen:
        await asyncio.sleep(0.01)
    threading.Timer(0.3, release.set).start()

    stopping = asyncio.create_task(bench.engine.stop())
    await asyncio.sleep(0.05)
    assert isinstance(await bench.ask(bench.request(attempt=3)), WorkBusy)

    await stopping
    assert isinstance(await running, WorkDone)


async def test_a_package_that_must_not_serve_degrades_the_role_and_says_why(bus_site: TestSite, tmp_path: Path) -> None:
    bus_site.settings.engine.model = str(tmp_path / "no-package")
    context = await bus_site.context("engine")
    running = asyncio.create_task(engine_module.run(context))
    async with asyncio.timeout(30):
        while context.state().status == "starting":
            await asyncio.sleep(0.02)

    state = context.state()
    assert state.status == "degraded"
    assert state.reason
    context.stopping.set()
    await running


async def test_the_role_with_the_model_that_ships_answers_about_a_real_ultrasound_file(bus_site: TestSite) -> None:
    context = await bus_site.context("engine")
    running = asyncio.create_task(engine_module.run(context))
    async with asyncio.timeout(60):
        while context.state().status == "starting":
            await asyncio.sleep(0.05)
    assert context.state().status == "ready", context.state().reason
    bench = Bench(bus_site, AnalyserDouble())
    bench.gateway = await bus_site.bus("gateway")

    path = get_testdata_file("examples_ybr_color.dcm")
    answer = await bench.ask(bench.request(Path(str(path)).read_bytes()))
    broken = await bench.ask(bench.request(b"this is no DICOM"))

    assert isinstance(answer, WorkDone)
    assert answer.finding.frames == 30
    assert answer.preview.startswith(b"\xff\xd8")
    assert isinstance(broken, WorkFailed)
    assert not broken.retryable
    context.stopping.set()
    await running


async def test_a_suspect_is_analysed_apart_and_its_crash_is_the_objects_end(bus_site: TestSite) -> None:
    bench = await Bench(bus_site, AnalyserDouble()).start()
    apart: list[bytes] = []

    def analyse(path: str, data_key: bytes) -> AnalysisResult:
        data = read(path, data_key)
        apart.append(data)
        if data == b"poison":
            raise isolated.AnalysisCrashed("the analysis crashed (exit code -11)")
        return result()

    bench.engine._isolated = analyse

    harmless = await bench.ask(msgspec.structs.replace(bench.request(b"harmless"), isolate=True))
    poison = await bench.ask(msgspec.structs.replace(bench.request(b"poison"), isolate=True))
    other = await bench.ask(bench.request(b"other"))

    assert isinstance(harmless, WorkDone)
    assert poison == WorkFailed(reason="the analysis crashed (exit code -11)", retryable=False)
    assert isinstance(other, WorkDone)
    assert apart == [b"harmless", b"poison"]
    assert bench.analyser.seen == [b"other"]
