"""From a request to the objects to be sent: read the image's header once, write the objects, draw the capture.

Responsible for doing that off the event loop, once per item and revision however many destinations there are, in the
order of sending, and as soon as an item arrives. Not responsible for the content of any object (``report``,
``segmentation``, ``presentation``, ``capture``).

There are two threads. One reads headers and writes what needs no pixels; the other decodes and draws. So a report never
waits for pixels, neither its own nor those of the image before.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from edgeward.clinic.imaging.capture import build_capture
from edgeward.clinic.imaging.header import encode_dataset, host_zone
from edgeward.clinic.imaging.presentation import build_presentation
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.report_text import as_text
from edgeward.clinic.imaging.segmentation import build_segmentation
from edgeward.clinic.imaging.sink import DICOM_KINDS, Result
from edgeward.clinic.imaging.source import INHERITED, Source, derived_uid, read_source
from edgeward.compute.decode import DecodeError, decode_frame
from edgeward.messages import DeliverRequest, Finding, Lesion, StageTime
from edgeward.privacy import vault
from edgeward.privacy.character_sets import declare
from edgeward.privacy.reading import open_object

_log = logging.getLogger("edgeward.deliver.results")
_KEEP = 4  # prepared items: one per destination at work is enough, a backlog is built one by one
_NAMES = {"seg": "segmentation", "gsps": "presentation state", "capture": "capture"}


class CannotBuild(Exception):
    """The objects cannot be made from this item. The text quotes nothing of it."""


@dataclass(slots=True)
class Prepared:
    """One revision of an item, its objects in the making. `notes` says why one of them is missing."""

    source: asyncio.Future[Source]
    parts: dict[str, asyncio.Future[Result | None]]
    stages: list[StageTime] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def header(self) -> Source:
        """Wait for what the image's header says.

        Raises
        ------
        CannotBuild
            If it cannot be read.
        """
        return await asyncio.shield(self.source)  # others wait for it too: whoever gives up must not cancel it

    async def part(self, kind: str) -> Result | None:
        """Wait for one object: ``sr``, ``seg``, ``gsps`` or ``capture``. None if there is none to be sent.

        Raises
        ------
        CannotBuild
            If it cannot be made.
        """
        future = self.parts.get(kind)
        return None if future is None else await asyncio.shield(future)


class Workshop:
    """Makes objects in the order in which they are sent, items in order.

    Parameters
    ----------
    kinds
        What any destination takes; nothing else is made. The report always is: the console shows it.
    """

    def __init__(self, kinds: Collection[str] = DICOM_KINDS) -> None:
        self._kinds = frozenset(kinds)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="build")
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._prepared: OrderedDict[tuple[str, int], Prepared] = OrderedDict()  # by item and revision
        self._building: set[asyncio.Task[None]] = set()

    def prepare(self, request: DeliverRequest) -> Prepared:
        """Start making an item's objects, or return those in the making. Waiting on a part raises `CannotBuild`.

        A later revision is a new report; the outlines, drawn once, stay what they are.
        """
        key = (request.item_id, request.revision)
        prepared = self._prepared.get(key)
        if prepared is not None and not _failed(prepared):
            self._prepared.move_to_end(key)
            return prepared
        loop = asyncio.get_running_loop()
        prepared = Prepared(loop.create_future(), {kind: loop.create_future() for kind in DICOM_KINDS})
        self._prepared[key] = prepared
        task = loop.create_task(self._build(request, prepared))
        self._building.add(task)
        task.add_done_callback(self._building.discard)
        while len(self._prepared) > _KEEP:
            self._prepared.popitem(last=False)
        return prepared

    async def text(self, request: DeliverRequest) -> str:
        """Return the report as plain text."""
        report = await self.prepare(request).part("sr")
        if report is None or report.dataset is None:
            raise CannotBuild("there is no report")
        return await asyncio.get_running_loop().run_in_executor(self._pool, as_text, report.dataset)

    def has_room(self) -> bool:
        """Whether another item may be started before its turn, without pushing out one that is needed sooner."""
        return len(self._prepared) < _KEEP

    def forget(self, item_id: str) -> None:
        """Let go of a settled item."""
        for key in [key for key in self._prepared if key[0] == item_id]:
            del self._prepared[key]

    async def warm_up(self) -> None:
        """Make objects of nobody, so that the first real ones do not pay for imports and tables."""
        await asyncio.get_running_loop().run_in_executor(self._pool, _warm_up)

    def close(self) -> None:
        """Start nothing more; whatever is in the making is made at the next start."""
        for task in self._building:
            task.cancel()
        for prepared in self._prepared.values():
            for future in _futures(prepared):
                future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._drawing.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------ within

    async def _build(self, request: DeliverRequest, prepared: Prepared) -> None:
        try:
            source = await self._timed(prepared, "read_header", self._pool, _read, request)
            prepared.source.set_result(source)
            report = await self._timed(prepared, "make_sr", self._pool, _report, request, source)
            prepared.parts["sr"].set_result(report)
            wanted = self._kinds if request.revision == 0 and request.finding.status == "analysed" else frozenset()
            async with asyncio.TaskGroup() as making:  # so that what ends this task ends the drawing too
                making.create_task(self._part(request, source, prepared, "capture", wanted))
                for kind in ("seg", "gsps"):
                    await self._part(request, source, prepared, kind, wanted)
        except Exception as error:  # whatever it is belongs to those who wait for the parts
            _fail(prepared, error)

    async def _part(
        self, request: DeliverRequest, source: Source, prepared: Prepared, kind: str, wanted: Collection[str]
    ) -> None:
        """Make one object beside the report; never raises.

        Where an image does not allow one of them, the item is delivered without it: a report alone is worth having. If
        the image cannot be read just now, that is for whoever waits to try again.
        """
        future = prepared.parts[kind]
        if kind not in wanted:
            future.set_result(None)
            return
        pool, make = (self._drawing, _capture) if kind == "capture" else (self._pool, _MAKERS[kind])
        try:
            future.set_result(await self._timed(prepared, f"make_{kind}", pool, make, request, source))
        except (vault.VaultDamaged, OSError) as error:
            _fail_parts([future], error)
        except Exception as error:
            prepared.notes.append(f"no {_NAMES[kind]}: {_why(error)}")
            _log.warning("no %s made: %s", _NAMES[kind], whereabouts(error))
            future.set_result(None)

    async def _timed(
        self, prepared: Prepared, stage: str, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        result, ms = await asyncio.get_running_loop().run_in_executor(pool, _timed, function, *arguments)
        prepared.stages.append(StageTime(name=stage, ms=ms))
        return result


def _futures(prepared: Prepared) -> list[asyncio.Future[Any]]:
    return [prepared.source, *prepared.parts.values()]


def _failed(prepared: Prepared) -> bool:
    return any(part.done() and (part.cancelled() or part.exception() is not None) for part in _futures(prepared))


def _fail(prepared: Prepared, error: Exception) -> None:
    _fail_parts([part for part in _futures(prepared) if not part.done()], error)


def _fail_parts(parts: list[asyncio.Future[Any]], error: Exception) -> None:
    if isinstance(error, vault.VaultDamaged):
        reason = f"the image is not to be had: {error}"
    else:
        # The text of an error from deep inside may quote the image's attributes; its kind does not.
        reason = f"the results cannot be written ({type(error).__name__})"
        _log.error("results cannot be written: %s", whereabouts(error))
    for part in parts:
        part.set_exception(CannotBuild(reason))
        part.exception()  # nobody need wait for all of them


def _why(error: Exception) -> str:
    if isinstance(error, DecodeError):
        return "the frame cannot be decoded"
    if isinstance(error, ValueError):
        return "the image does not allow it"
    return f"it cannot be written ({type(error).__name__})"


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


# ---------------------------------------- in the threads


def _read(request: DeliverRequest) -> Source:
    with open_object(request.object.path, request.object.data_key) as file:
        return _source(file, request.finding)


def _source(file: Any, finding: Finding) -> Source:
    dataset: Dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=INHERITED)
    return read_source(declare(dataset), finding)


def _result(kind: str, dataset: Dataset | None) -> Result | None:
    """Encode once for all destinations: writing a data set takes longer than making it."""
    return None if dataset is None else Result(kind, dataset, data=encode_dataset(dataset))


def _report(request: DeliverRequest, source: Source) -> Result | None:
    zone = host_zone(request.finding.created_ns)
    return _result("sr", build_report(request.finding, source, zone, request.revision, request.verdicts))


def _segmentation(request: DeliverRequest, source: Source) -> Result | None:
    return _result("seg", build_segmentation(request.finding, source, host_zone(request.finding.created_ns)))


def _presentation(request: DeliverRequest, source: Source) -> Result | None:
    return _result("gsps", build_presentation(request.finding, source, host_zone(request.finding.created_ns)))


def _capture(request: DeliverRequest, source: Source) -> Result | None:
    with open_object(request.object.path, request.object.data_key) as file:
        return _drawn(file, request.finding, source)


def _drawn(file: Any, finding: Finding, source: Source) -> Result | None:
    frame = decode_frame(file, finding.frame)
    return _result("capture", build_capture(finding, source, frame.pixels, host_zone(finding.created_ns)))


_MAKERS: dict[str, Callable[[DeliverRequest, Source], Result | None]] = {"seg": _segmentation, "gsps": _presentation}


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
        source = _source(io.BytesIO(buffer.getvalue()), finding)
        zone = host_zone(0)
        as_text(build_report(finding, source, zone))
        for kind, made in (
            ("sr", build_report(finding, source, zone)),
            ("seg", build_segmentation(finding, source, zone)),
            ("gsps", build_presentation(finding, source, zone)),
        ):
            _result(kind, made)
        _drawn(io.BytesIO(buffer.getvalue()), finding, source)
