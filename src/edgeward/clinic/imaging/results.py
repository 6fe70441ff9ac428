"""From a request to the objects to be sent: read the image once, write the report, draw the capture.

Responsible for doing that off the event loop, once per item however many destinations there are, and as soon as an item
arrives. Not responsible for the content of either object (``report``, ``capture``).
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from edgeward.clinic.imaging.capture import build_capture
from edgeward.clinic.imaging.header import Source, derived_uid, read_source
from edgeward.clinic.imaging.report import as_text, build_report
from edgeward.clinic.imaging.sink import Result
from edgeward.compute.decode import DecodeError, decode_frame
from edgeward.messages import DeliverRequest, Finding, Lesion, StageTime
from edgeward.privacy import vault

_log = logging.getLogger("edgeward.deliver.results")
_KEEP = 4  # prepared items: one per destination at work is enough, a backlog is built one by one


class CannotBuild(Exception):
    """The objects cannot be made from this item. The text quotes nothing of it."""


@dataclass(slots=True)
class Prepared:
    """One item's objects in the making. `capture` gives None where there is nothing to draw; `notes` says why."""

    report: asyncio.Future[Result]
    capture: asyncio.Future[Result | None]
    stages: list[StageTime] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Workshop:
    """Makes objects in one thread of its own, the report before the capture, items in order."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="build")
        self._prepared: OrderedDict[str, Prepared] = OrderedDict()

    def prepare(self, request: DeliverRequest) -> Prepared:
        """Start making an item's objects, or return those in the making. Waiting on a part raises `CannotBuild`."""
        prepared = self._prepared.get(request.item_id)
        if prepared is not None and not _failed(prepared):
            self._prepared.move_to_end(request.item_id)
            return prepared
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[tuple[bytes, Source]] = loop.run_in_executor(self._pool, _read, request)
        prepared = self._prepared[request.item_id] = Prepared(loop.create_future(), loop.create_future())
        task = loop.create_task(self._build(request.finding, reading, prepared))
        task.add_done_callback(lambda done: done.cancelled() or done.result())
        while len(self._prepared) > _KEEP:
            self._prepared.popitem(last=False)
        return prepared

    async def text(self, request: DeliverRequest) -> str:
        """Return the report as plain text."""
        report = await self.prepare(request).report
        return as_text(report.dataset)

    def has_room(self) -> bool:
        """Whether another item may be started before its turn, without pushing out one that is needed sooner."""
        return len(self._prepared) < _KEEP

    def forget(self, item_id: str) -> None:
        """Let go of a settled item."""
        self._prepared.pop(item_id, None)

    async def warm_up(self) -> None:
        """Make objects of nobody, so that the first real ones do not pay for imports and tables (0.4 to 0.8 s)."""
        await asyncio.get_running_loop().run_in_executor(self._pool, _warm_up)

    def close(self) -> None:
        """Start nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _build(self, finding: Finding, reading: asyncio.Future[tuple[bytes, Source]], prepared: Prepared) -> None:
        loop = asyncio.get_running_loop()
        try:
            data, source = await reading
            result, ms = await loop.run_in_executor(self._pool, _timed, _report, finding, source)
            prepared.stages.append(StageTime(name="make_sr", ms=ms))
            prepared.report.set_result(result)
            if finding.status != "analysed":
                prepared.capture.set_result(None)
                return
            result, ms = await loop.run_in_executor(self._pool, _timed, _capture, finding, source, data)
            prepared.stages.append(StageTime(name="make_capture", ms=ms))
            prepared.capture.set_result(result)
        except (DecodeError, ValueError) as error:
            if not prepared.report.done():
                _fail(prepared, error)
                return
            prepared.notes.append("no capture: the frame cannot be decoded")
            _log.warning("no capture drawn: %s", error if isinstance(error, DecodeError) else type(error).__name__)
            prepared.capture.set_result(None)
        except Exception as error:  # whatever it is belongs to those who wait for the parts
            _fail(prepared, error)


def _failed(prepared: Prepared) -> bool:
    return any(part.done() and part.exception() is not None for part in (prepared.report, prepared.capture))


def _fail(prepared: Prepared, error: Exception) -> None:
    if isinstance(error, vault.VaultDamaged):
        reason = f"the image is not to be had: {error}"
    else:
        # The text of an error from deep inside may quote the image's attributes; its kind does not.
        reason = f"the results cannot be written ({type(error).__name__})"
        _log.error("results cannot be written: %s", whereabouts(error))
    for part in (prepared.report, prepared.capture):
        if not part.done():
            part.set_exception(CannotBuild(reason))
            part.exception()  # nobody need wait for both


def whereabouts(error: BaseException) -> str:
    """Return an error's kind and where it arose, for the log. Its text may quote a name; it is left out."""
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-6:])}"


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    return function(*arguments), (time.perf_counter() - started) * 1e3


def _read(request: DeliverRequest) -> tuple[bytes, Source]:
    data = vault.read(request.object.path, request.object.data_key)
    dataset: Dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    return data, read_source(dataset, request.finding)


def _report(finding: Finding, source: Source) -> Result:
    return Result("sr", build_report(finding, source, _zone(finding.created_ns)))


def _capture(finding: Finding, source: Source, data: bytes) -> Result:
    frame = decode_frame(data)
    if frame.index != finding.frame:
        raise DecodeError(f"frame {frame.index} was decoded, frame {finding.frame} was analysed")
    return Result("capture", build_capture(finding, source, frame.pixels, _zone(finding.created_ns)))


def _warm_up() -> None:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = UltrasoundImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = derived_uid("warm-up")
    image.Rows = image.Columns = 64
    image.SamplesPerPixel, image.BitsAllocated, image.BitsStored, image.HighBit = 1, 8, 8, 7
    image.PixelRepresentation, image.PhotometricInterpretation = 0, "MONOCHROME2"
    image.PixelData = bytes(64 * 64)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    outline = [(10.0, 10.0), (30.0, 12.0), (20.0, 30.0)]
    lesion = Lesion(
        contour=outline,
        box=(10.0, 10.0, 30.0, 30.0),
        long_axis=2.0,
        short_axis=2.0,
        area=4.0,
        unit="mm",
        probability=0.9,
    )
    finding = Finding(
        finding_id="",
        item_id="warm-up",
        sop_instance_uid=image.SOPInstanceUID,
        status="analysed",
        model="-",
        model_version="-",
        rows=64,
        columns=64,
        lesions=[lesion],
        label="benign",
        malignancy=0.1,
    )
    for _ in range(2):
        source = read_source(pydicom.dcmread(io.BytesIO(buffer.getvalue()), stop_before_pixels=True), finding)
        report = _report(finding, source)
        as_text(report.dataset)
        for result in (report, _capture(finding, source, buffer.getvalue())):
            pydicom.dcmwrite(io.BytesIO(), result.dataset, enforce_file_format=True)


def _zone(at_ns: int) -> timezone:
    """Return this host's offset from UTC as it was at `at_ns`: the same on every repeat, also across a clock change."""
    return timezone(timedelta(seconds=time.localtime(at_ns // 1_000_000_000).tm_gmtoff))
