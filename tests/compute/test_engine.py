"""The engine role: it answers with the truth, in time or busy, and survives what it is given."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pytest
from pydicom.data import get_testdata_file
from tests.support.objects import dataset, to_bytes
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.compute import engine as engine_module
from edgeward.compute import isolated
from edgeward.compute.analyser import AnalysisResult, load_analyser
from edgeward.compute.breast_ultrasound import Assessment
from edgeward.compute.decode import DecodeError, Frame
from edgeward.compute.engine import Engine, EngineHung
from edgeward.compute.runtime import RuntimeFailure
from edgeward.config import Engine as EngineSettings
from edgeward.device.phantom import phantom
from edgeward.gateway.engines import Engines, Lost
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

    def __init__(
        self,
        act: Callable[[bytes], AnalysisResult | None] = lambda _: None,
        needs: Callable[[bytes], Iterable[float]] = lambda _: (),
    ) -> None:
        self.act, self.needs = act, needs  # what it yields before it acts: a loop's steps
        self.seen: list[bytes] = []

    def steps(
        self,
        source: BinaryIO,
        clock: Callable[[], float],
        *,
        cine_frames: int,
        left_s: Callable[[], float] | None,
    ) -> Generator[float, None, AnalysisResult]:
        data = source.read()
        self.seen.append(data)
        self.left_s, self.cine_frames = left_s, cine_frames
        yield from self.needs(data)
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

    bench.engine._typical_ms = 60_000.0  # longer than a busy machine takes to ask
    hurried = bench.request(budget_ms=60_000)
    answer = await bench.ask(hurried)
    assert isinstance(answer, WorkBusy)
    assert answer.free_in_ms > 0

    others = [
        asyncio.create_task(bench.ask(bench.request(attempt=2, budget_ms=60_000))),
        asyncio.create_task(bench.ask(bench.request(attempt=1, budget_ms=-100))),  # late already: still done
    ]
    await waiting(bench, 3)
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


class Loops:
    """Steps of loops as a test lets them go on: each waits at the end of a step until it is told."""

    def __init__(self, needs_s: float) -> None:
        self.needs_s = needs_s
        self.order: list[bytes] = []  # of the steps
        self.go = threading.Semaphore(0)

    def __call__(self, data: bytes) -> Iterator[float]:
        for _ in range(4 if data.startswith(b"loop") else 0):
            self.order.append(data)
            self.go.acquire(timeout=20)
            yield self.needs_s

    def act(self, data: bytes) -> None:
        self.order.append(data + b" done")


async def waiting(bench: Bench, count: int) -> None:
    """Wait until the engine has so many requests."""
    while len(bench.engine._present) < count:
        await asyncio.sleep(0.01)


async def test_a_frame_behind_a_loop_has_its_turn_after_the_loops_next_step(bus_site: TestSite) -> None:
    loops = Loops(needs_s=0.3)
    bench = await Bench(bus_site, AnalyserDouble(loops.act, loops)).start()
    loop = asyncio.create_task(bench.ask(bench.request(b"loop")))
    while not loops.order:
        await asyncio.sleep(0.01)
    frames = [asyncio.create_task(bench.ask(bench.request(data))) for data in (b"frame",)]
    await waiting(bench, 2)

    loops.go.release()
    answers = await asyncio.gather(*frames)

    assert not loop.done()
    assert loops.order[:2] == [b"loop", b"frame done"]
    loops.go.release(10)
    assert all(isinstance(answer, WorkDone) for answer in [*answers, await loop])
    assert loops.order[-1] == b"loop done"


async def test_a_loop_whose_time_is_needed_for_its_own_frames_goes_first(bus_site: TestSite) -> None:
    loops = Loops(needs_s=30.0)
    bench = await Bench(bus_site, AnalyserDouble(loops.act, loops)).start()
    loop = asyncio.create_task(bench.ask(bench.request(b"loop", budget_ms=20_000)))
    while not loops.order:
        await asyncio.sleep(0.01)
    frame = asyncio.create_task(bench.ask(bench.request(b"frame")))
    await waiting(bench, 2)

    loops.go.release(10)
    await asyncio.gather(loop, frame)

    assert loops.order == [b"loop"] * 4 + [b"loop done", b"frame done"]


async def test_of_two_loops_the_first_is_finished_first_and_the_second_has_begun(bus_site: TestSite) -> None:
    loops = Loops(needs_s=0.3)
    bench = await Bench(bus_site, AnalyserDouble(loops.act, loops)).start()
    first = asyncio.create_task(bench.ask(bench.request(b"loop 1")))
    while not loops.order:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(bench.ask(bench.request(b"loop 2")))
    await waiting(bench, 2)

    loops.go.release(20)
    await asyncio.gather(first, second)

    assert loops.order == [b"loop 1", b"loop 2"] + [b"loop 1"] * 3 + [b"loop 1 done"] + [b"loop 2"] * 3 + [
        b"loop 2 done"
    ]


async def test_a_loop_that_fails_between_two_steps_is_answered_with_why_and_others_go_on(bus_site: TestSite) -> None:
    def steps(data: bytes) -> Iterator[float]:
        if data == b"broken":
            yield 0.1
            raise DecodeError("the frame is damaged")

    bench = await Bench(bus_site, AnalyserDouble(needs=steps)).start()

    broken, whole = await asyncio.gather(*(bench.ask(bench.request(data)) for data in (b"broken", b"whole")))

    assert broken == WorkFailed(reason="the frame is damaged", retryable=False)
    assert isinstance(whole, WorkDone)


async def test_a_loop_is_finished_when_the_engine_stops_in_the_middle_of_it(bus_site: TestSite) -> None:
    loops = Loops(needs_s=0.3)
    bench = await Bench(bus_site, AnalyserDouble(loops.act, loops)).start()
    loop = asyncio.create_task(bench.ask(bench.request(b"loop")))
    while not loops.order:
        await asyncio.sleep(0.01)

    stopping = asyncio.create_task(bench.engine.stop())
    loops.go.release(10)

    await stopping
    assert isinstance(await loop, WorkDone)


async def test_a_loop_that_gave_others_their_turn_for_long_does_not_count_as_hung(
    bus_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_LOOK_S", 0.01)
    loops = Loops(needs_s=0.3)
    bench = await Bench(bus_site, AnalyserDouble(loops.act, loops)).start()
    loop = asyncio.create_task(bench.ask(bench.request(b"loop")))
    while not loops.order:
        await asyncio.sleep(0.01)
    (job,) = bench.engine._present
    job.started -= 1000.0

    with pytest.raises(TimeoutError):  # it looked many times, and let it be
        await asyncio.wait_for(bench.engine.watch(), 0.2)

    loops.go.release(10)
    assert isinstance(await loop, WorkDone)


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


# ---------------------------------------- with the model that ships, in processes of their own

_STALLS_IN_A_LOOP = """
import sys, time
from edgeward.cli import main
from edgeward.compute.analyser import Analyser

assessed, frames = Analyser._assessed, []

def stalling(self, looks, times):
    if len(frames) == 3:
        print("in the middle", flush=True)
        time.sleep(600)
    frames.append(looks)
    return assessed(self, looks, times)

Analyser._assessed = stalling
sys.exit(main(sys.argv[1:]))
"""


@asynccontextmanager
async def engine_process(site: TestSite, *how: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *how, "_role", "engine", "--home", str(site.home.path),
        env={**os.environ, "EDGEWARD_BUS__PORT": str(site.settings.bus.port)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while json.loads(await process.stderr.readline())["message"] != "ready":
            pass
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_an_engine_killed_in_the_middle_of_a_loop_costs_time_and_changes_nothing(bus_site: TestSite) -> None:
    frames = np.stack([phantom(seed, kind="malignant").image for seed in (900, 901, 902, 903, 904)])
    objects = [to_bytes(dataset(frames)), to_bytes(dataset(frames[1]))]
    analyser = load_analyser()
    expected = [analyser.analyse(data, time.perf_counter, cine_frames=8) for data in objects]
    bench = Bench(bus_site, AnalyserDouble())
    bench.gateway = await bus_site.bus("gateway")
    engines = Engines(bench.gateway)
    await engines.start()
    requests = [bench.request(data) for data in objects]

    async with engine_process(bus_site, "-c", _STALLS_IN_A_LOOP) as doomed:
        while not engines._known:  # its heartbeat
            await asyncio.sleep(0.01)
        asked = [asyncio.create_task(engines.ask(subjects.work_image("node1"), one)) for one in requests]
        assert doomed.stdout is not None
        assert (await doomed.stdout.readline()).strip() == b"in the middle"
        doomed.kill()
    async with engine_process(bus_site, "-m", "edgeward.cli"):
        lost = await asyncio.gather(*asked)
        again = [msgspec.structs.replace(one, attempt=2, isolate=n == 0) for n, one in enumerate(requests)]
        answers = [await engines.ask(subjects.work_image("node1"), one) for one in again]

    assert isinstance(lost[0], Lost)
    assert isinstance(lost[1], Lost | WorkDone)  # the single frame may have had its turn before
    for request, answer, known in zip(requests, answers, expected, strict=True):
        assert isinstance(answer, WorkDone)
        found = known.finding(
            finding_id=answer.finding.finding_id, item_id=request.item_id, created_ns=answer.finding.created_ns
        )
        assert msgspec.structs.replace(answer.finding, stages=[]) == msgspec.structs.replace(found, stages=[])
        assert answer.preview == known.preview
