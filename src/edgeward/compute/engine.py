"""The role `engine`: takes image work from the bus, first come first served, and answers in time or says busy.

Responsible for admission by predicted finish, for the threads that analyse and whose turn it is there, and for never
answering less than the truth: a finding, busy, or why not. Not responsible for the analysis itself
(``compute.analyser``) or for retrying (the journal's owner does).

A loop is analysed in steps, and whatever comes meanwhile has its turn between two of them: a single frame is done at
once, of another loop the middle frame. The loop's own deadline sets the limit: when what is left of its time is needed
for its own frames, it goes first. Loops finish in the order in which they came.

It serves only after its model package was verified and reproduced its golden vectors on this machine; otherwise it
stays up, degraded, and says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Protocol

import msgspec.structs

from edgeward import log
from edgeward.bus import subjects
from edgeward.bus.role import RoleContext
from edgeward.compute import isolated
from edgeward.compute.analyser import AnalysisResult, load_analyser
from edgeward.compute.decode import DecodeError
from edgeward.compute.package import PackageError
from edgeward.compute.render_service import RenderService
from edgeward.compute.runtime import RuntimeFailure
from edgeward.config import Engine as EngineSettings
from edgeward.messages import (
    Finding,
    Message,
    RenderRequest,
    ServiceClass,
    StageTime,
    WorkBusy,
    WorkDone,
    WorkFailed,
    WorkReply,
    WorkRequest,
)
from edgeward.privacy.reading import open_object
from edgeward.privacy.vault import VaultDamaged

_log = logging.getLogger("edgeward.engine")

HUNG_S = 45.0  # an analysis that takes longer is stuck in native code; only a new process helps
_FIRST_GUESS_MS = 150.0
_SMOOTHING = 0.2  # weight of the newest analysis in the moving average
_DELIVERY_SHARE = 0.3  # of the budget: making and sending the results takes a fifth of it, and queues a little
_LOOK_S = 0.5
_DRAIN_S = 2.0


class CanAnalyse(Protocol):
    """What the engine needs of an analyser."""

    def steps(
        self,
        source: BinaryIO,
        clock: Callable[[], float],
        *,
        cine_frames: int,
        left_s: Callable[[], float] | None,
    ) -> Generator[float, None, AnalysisResult]:
        """Analyse one DICOM object; see `Analyser.steps`."""
        ...


class EngineHung(RuntimeError):
    """An analysis did not come back; the process must end."""


@dataclass(slots=True, eq=False)
class _Job:
    request: WorkRequest
    answer: asyncio.Future[WorkReply]
    queued: float
    started: float = 0.0
    stepping: float = 0.0  # since when its present step runs; 0 between two steps
    worked_s: float = 0.0  # its steps so far
    stages: list[StageTime] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Begun:
    """A job in the hands of a thread, between two steps."""

    job: _Job
    steps: Generator[float, None, WorkReply]
    left_s: Callable[[], float] | None
    needs_s: float = 0.0  # to its end

    def pressed(self, a_turn_s: float) -> bool:
        """Whether it would be late if another had a turn now."""
        return self.left_s is not None and self.left_s() < self.needs_s + a_turn_s


class Engine:
    """The queue and the threads behind it. Made and used in the event loop."""

    def __init__(self, context: RoleContext, settings: EngineSettings, analyser: CanAnalyse) -> None:
        self._context, self._settings, self._analyser = context, settings, analyser
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._present: set[_Job] = set()  # waiting or running
        self._cine_frames = context.settings.imaging.cine_frames
        self._isolated: Callable[[str, bytes], AnalysisResult] = partial(
            isolated.analyse, threads=settings.threads, model=settings.model, cine_frames=self._cine_frames
        )
        self._typical_ms = _FIRST_GUESS_MS
        self._stopping = False

    async def start(self) -> None:
        """Start the threads and serve."""
        for number in range(self._settings.concurrency):
            # Daemons: one that is stuck in native code must not keep a process alive that was told to end.
            threading.Thread(target=self._work, name=f"analysis-{number}", daemon=True).start()
        bus = self._context.bus
        await bus.serve(subjects.work_image(self._context.node), WorkRequest, self.take)
        await bus.serve(subjects.WORK_IMAGE_ANY, WorkRequest, self.take, subjects.ENGINES)
        await bus.flush()

    async def stop(self) -> None:
        """Take nothing new, and give what is in work a moment to finish."""
        self._stopping = True
        if running := [job.answer for job in self._present if job.started]:
            await asyncio.wait(running, timeout=_DRAIN_S)
        for _ in range(self._settings.concurrency):
            self._jobs.put(None)

    async def watch(self) -> None:
        """Raise `EngineHung` when an analysis does not come back."""
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            if any(job.stepping and now - job.stepping > HUNG_S for job in self._present):
                raise EngineHung(f"an analysis did not come back within {HUNG_S:g} s")

    async def take(self, request: WorkRequest) -> Message:
        """Answer a request: with a finding, or busy at once, or why there is none."""
        log.trace_id.set(request.trace_id)
        if reason := self._objection(request, time.time_ns()):
            self._context.stats.count("busy")
            return WorkBusy(reason=reason, free_in_ms=self._wait_ms(len(self._present)))
        job = _Job(request, self._loop.create_future(), time.monotonic())
        self._present.add(job)
        self._jobs.put(job)
        try:
            reply = await job.answer
        finally:
            self._present.discard(job)
        self._count(job, reply)
        return reply

    def _objection(self, request: WorkRequest, now_ns: int) -> str:
        if self._stopping:
            return "the engine is stopping"
        waiting = len(self._present) - self._settings.concurrency
        if waiting >= self._settings.queue:
            return "the queue is full"
        finish_ns = now_ns + round((self._wait_ms(len(self._present)) + self._typical_ms) * 1e6)
        # Only the first one asked may pass the work on for being late: when everybody is late, somebody must do it.
        if request.attempt == 1 and now_ns < request.deadline_ns < finish_ns and self._present:
            return "it would be late here"
        return ""

    def _wait_ms(self, ahead: int) -> float:
        return self._typical_ms * ahead / self._settings.concurrency

    def _count(self, job: _Job, reply: WorkReply) -> None:
        stats = self._context.stats
        if isinstance(reply, WorkDone):
            stats.count(reply.finding.status)
            for stage in reply.finding.stages:
                stats.stage(ServiceClass.INTERACTIVE, stage.name, stage.ms)
        elif isinstance(reply, WorkFailed):
            stats.count("failed")
            _log.warning("not analysed: %s", reply.reason)
        if job.request.isolate:
            return  # loading the model anew says nothing about the next one
        self._typical_ms += _SMOOTHING * (job.worked_s * 1e3 - self._typical_ms)

    # ------------------------------------------------------------ in the analysis threads

    def _work(self) -> None:
        begun: deque[_Begun] = deque()  # loops, in the order in which they came
        ending = False
        while begun or not ending:
            one = None
            if not ending and not (begun and begun[0].pressed(self._typical_ms / 1e3)):
                with contextlib.suppress(queue.Empty):
                    job = self._jobs.get(block=not begun)
                    ending = job is None
                    one = None if job is None else self._begin(job)
            if one is not None:
                if not self._step(one):
                    begun.append(one)
            elif begun and self._step(begun[0]):
                begun.popleft()

    def _begin(self, job: _Job) -> _Begun:
        job.started = time.monotonic()
        return _Begun(job, self._answer(job), _left(job.request))

    def _step(self, one: _Begun) -> bool:
        """Have a job do its next step, and answer if that was the last: then return True."""
        job = one.job
        log.trace_id.set(job.request.trace_id)
        job.stepping = began = time.monotonic()
        try:
            one.needs_s = next(one.steps)
        except StopIteration as end:
            reply: WorkReply | None = end.value
        else:
            reply = None
        job.stepping = 0.0
        job.worked_s += time.monotonic() - began
        if reply is None:
            return False
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
            self._loop.call_soon_threadsafe(_set, job.answer, reply)
        return True

    def _answer(self, job: _Job) -> Generator[float, None, WorkReply]:
        """Analyse in steps (`Analyser.steps`); what goes wrong is an answer as well."""
        reference = job.request.object
        try:
            if job.request.isolate:
                _log.warning("an engine died with this item: it is analysed in a process of its own")
                result, read_ms = self._isolated(reference.path, reference.data_key), 0.0
            else:
                with open_object(reference.path, reference.data_key) as file:
                    read_ms = (time.monotonic() - job.started) * 1e3
                    result = yield from self._analyser.steps(
                        file, time.perf_counter, cine_frames=self._cine_frames, left_s=_left(job.request)
                    )
        except (DecodeError, VaultDamaged, isolated.AnalysisCrashed) as error:
            return WorkFailed(reason=str(error), retryable=False)
        except MemoryError:
            return WorkFailed(reason="the object needs more memory than this node has", retryable=False)
        except RuntimeFailure as error:
            return WorkFailed(reason=str(error), retryable=True)
        except Exception as error:
            # Only the type: the text of an unforeseen error may quote the data set.
            return WorkFailed(reason=f"the analysis failed ({type(error).__name__})", retryable=True)
        finding = result.finding(finding_id="", item_id=job.request.item_id, created_ns=time.time_ns())
        stages = [
            StageTime(name="queue", ms=(job.started - job.queued) * 1e3),
            StageTime(name="read", ms=read_ms),
            *finding.stages,
        ]
        finding = msgspec.structs.replace(finding, finding_id=_finding_id(finding), stages=stages)
        return WorkDone(finding=finding, preview=result.preview, preview_scale=result.preview_scale)


def _left(request: WorkRequest) -> Callable[[], float] | None:
    """How long the analysis of a loop may still take: what is left of the budget, less delivery's share of it."""
    if request.service_class is ServiceClass.BATCH:
        return None
    reserve_ns = _DELIVERY_SHARE * (request.deadline_ns - request.received_ns)
    return lambda: (request.deadline_ns - reserve_ns - time.time_ns()) / 1e9


def _finding_id(finding: Finding) -> str:
    """The same item by the same model has the same finding, however often it is asked for."""
    name = f"{finding.item_id}:{finding.model}:{finding.model_version}"
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def _set(answer: asyncio.Future[WorkReply], reply: WorkReply) -> None:
    if not answer.done():
        answer.set_result(reply)


async def run(context: RoleContext) -> None:
    """Serve until told to stop."""
    warnings.simplefilter("ignore")  # pydicom's warnings quote the values they warn of
    settings = context.settings.engine
    pictures = RenderService()
    # Pictures need no model: they are served even where the model must not be.
    await context.bus.serve(subjects.RENDER_ANY, RenderRequest, pictures.take, subjects.ENGINES)
    try:
        await _run(context, settings)
    finally:
        await asyncio.to_thread(pictures.stop)


async def _run(context: RoleContext, settings: EngineSettings) -> None:
    try:
        analyser = await asyncio.to_thread(load_analyser, settings.threads, settings.model, helpers=settings.helpers)
    except PackageError as error:
        context.degraded(str(error))
        await context.stopping.wait()
        return
    engine = Engine(context, settings, analyser)
    await engine.start()
    context.ready()
    watching = asyncio.create_task(engine.watch())
    stopping = asyncio.create_task(context.stopping.wait())
    try:
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        stopping.cancel()
        await engine.stop()
        analyser.close()
