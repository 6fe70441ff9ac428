"""Pictures on request: one at a time, busy when asked too much, and alive after whatever it was asked to show."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.support.objects import dataset, to_bytes
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.compute import engine as engine_module
from edgeward.compute import render_service
from edgeward.compute.render_service import RenderService
from edgeward.messages import ObjectRef, Refused, Rendered, RenderRequest
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault

PICTURE = np.random.default_rng(1).integers(0, 256, (60, 80), dtype=np.uint8)


@pytest.fixture
async def service() -> AsyncIterator[RenderService]:
    pictures = RenderService()
    yield pictures
    await asyncio.to_thread(pictures.stop)


def kept(folder: Path, data: bytes) -> ObjectRef:
    vault = FileVault(folder, SiteKey(bytes(32)))
    stored = vault.put(data)
    return vault.reference(stored.object_id, stored.wrapped_key, stored.size)


def request(folder: Path, data: bytes = b"", **options: object) -> RenderRequest:
    return RenderRequest(object=kept(folder, data or to_bytes(dataset(PICTURE))), **options)


async def test_a_frame_of_a_vault_object_is_rendered(service: RenderService, tmp_path: Path) -> None:
    answer = await service.take(request(tmp_path))

    assert isinstance(answer, Rendered)
    assert (answer.width, answer.height, answer.media_type) == (80, 60, "image/jpeg")


async def test_what_cannot_be_shown_is_refused_with_why(service: RenderService, tmp_path: Path) -> None:
    broken = request(tmp_path, b"this is no DICOM object at all" * 10)
    missing = RenderRequest(object=ObjectRef(object_id="o", path=str(tmp_path / "no.ew"), data_key=bytes(32), size=1))

    answers = [await service.take(r) for r in (broken, missing, request(tmp_path, frame=9))]

    assert [type(a) for a in answers] == [Refused] * 3
    assert "DICOM" in answers[0].reason
    assert "vault" in answers[1].reason
    assert "frame" in answers[2].reason


async def test_a_crash_ends_only_the_child_and_the_next_picture_is_made(
    service: RenderService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(await service.take(request(tmp_path)), Rendered)
    child = service._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    given, started = threading.Event(), service._started

    def give() -> tuple[Connection, BaseProcess]:
        found = started()
        given.set()
        return found

    monkeypatch.setattr(service, "_started", give)
    asked = asyncio.create_task(service.take(request(tmp_path)))
    assert await asyncio.to_thread(given.wait, 30)  # sooner, it would be found dead and another started
    os.kill(child.pid, signal.SIGSEGV)
    os.kill(child.pid, signal.SIGCONT)

    assert isinstance(await asked, Refused)
    assert isinstance(await service.take(request(tmp_path)), Rendered)


async def test_one_that_hangs_is_given_up(tmp_path: Path) -> None:
    service = RenderService(timeout_s=1.0)
    try:
        while not isinstance(await service.take(request(tmp_path)), Rendered):
            service._timeout_s *= 2  # a loaded machine starts children slowly
        assert service._child is not None
        os.kill(service._child.pid, signal.SIGSTOP)

        assert isinstance(await service.take(request(tmp_path)), Refused)
    finally:
        await asyncio.to_thread(service.stop)


async def test_too_many_at_once_are_refused_as_busy_and_the_others_are_made(
    service: RenderService, tmp_path: Path
) -> None:
    one = request(tmp_path)

    answers = await asyncio.gather(*(service.take(one) for _ in range(render_service.WAITING + 4)))

    assert sum(isinstance(a, Rendered) for a in answers) == render_service.WAITING + 1
    assert {a.reason for a in answers if isinstance(a, Refused)} == {"busy"}


async def test_it_yields_to_analysis_and_leaves_no_process(tmp_path: Path) -> None:
    service = RenderService()
    await service.take(request(tmp_path))
    assert service._child is not None
    process = psutil.Process(service._child.pid)

    assert process.nice() >= psutil.Process().nice() + 5 or process.nice() == 19
    await asyncio.to_thread(service.stop)
    assert not process.is_running()
    assert isinstance(await service.take(request(tmp_path)), Refused)


async def test_the_engine_serves_pictures_also_when_its_model_must_not_serve(
    bus_site: TestSite, tmp_path: Path
) -> None:
    bus_site.settings.engine.model = str(tmp_path / "no-package")
    context = await bus_site.context("engine")
    running = asyncio.create_task(engine_module.run(context))
    async with asyncio.timeout(60):
        while context.state().status == "starting":
            await asyncio.sleep(0.02)
    gateway = await bus_site.bus("gateway")

    answer = await gateway.request(subjects.RENDER_ANY, request(tmp_path), Rendered | Refused, 20.0)

    assert isinstance(answer, Rendered)
    context.stopping.set()
    await running
