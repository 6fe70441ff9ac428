"""STOW-RS: objects come in over HTTPS (PS3.18, 10.5).

Responsible for taking a body apart while it arrives, handing each object to the same reception that C-STORE uses, and
for the answer per instance. Not responsible for admission (``gateway.web``), for putting metadata and bulk data
together (``metadata_parts``), or for the objects (``gateway.reception``). Memory is bounded whatever the size of an
object: DICOM files stream, and of metadata with bulk data only so much is taken, of few senders at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeward.gateway.accept import accepted
from edgeward.gateway.dataset import NotUnderstood
from edgeward.gateway.metadata_parts import MOST, Composed, MetadataParts, TooMuch
from edgeward.gateway.multipart import MediaType, MultipartError, PartBegin, PartData, PartEnd, Splitter, media_type
from edgeward.gateway.native_xml import native_xml
from edgeward.gateway.part10 import FileArrival
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Reception
from edgeward.gateway.web import WebPeer
from edgeward.privacy.database import DatabaseError, DatabaseFull
from edgeward.privacy.items import CONFLICT, CONFLICT_TO_DO, Item
from edgeward.privacy.vault import VaultError, VaultFull

_log = logging.getLogger("edgeward.gateway.stow")

# Failure Reason (0008,1197): PS3.18, Annex I.2.
OUT_OF_RESOURCES = 0xA700
PROCESSING_FAILURE = 0x0110
CANNOT_UNDERSTAND = 0xC000
_TYPES = ("application/dicom",)
_GATHERED: dict[str, Literal["json", "xml"]] = {"application/dicom+json": "json", "application/dicom+xml": "xml"}
_GATHERED_AT_ONCE = 2 * MOST  # bytes of metadata with bulk data, of all requests together
_JSON, _XML = "application/dicom+json", "application/dicom+xml"
_TAKEN = (
    'the body must be multipart/related; type="application/dicom" (DICOM files), or "application/dicom+json" or '
    '"application/dicom+xml" (metadata, then bulk data); a single object may also come without the multipart'
)
_PARTS = 100_000  # of one request
_AT_ONCE = 1 << 20  # bytes handed to the disk in one piece


class _NoRoom(Exception):
    """Too much is held for other requests."""


class Stow:
    """Takes objects in.

    Parameters
    ----------
    threads
        Where blocking work is done.
    admitted
        Called with each item that was taken in, and whether it is new.
    """

    def __init__(
        self,
        reception: Reception,
        quarantine: Quarantine,
        threads: Executor,
        admitted: Callable[[Item, bool], None],
    ) -> None:
        self._reception, self._quarantine = reception, quarantine
        self._threads, self._admitted = threads, admitted
        self._gathered = 0

    async def store(self, request: Request) -> Response:
        """Serve ``POST studies`` and ``POST studies/{study}``."""
        kind = accepted(request).best_of(_JSON, "application/json", _XML)
        if kind is None:
            raise HTTPException(406, "the answer is application/dicom+json or application/dicom+xml")
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise HTTPException(415, "the body must not be compressed", {"Accept-Encoding": "identity"})
        content = _content_type(request)
        splitter = _splitter(content)
        outcome = _Outcome(f"{request.base_url}dicomweb", request.path_params.get("study", ""))
        peer: WebPeer = request.scope["state"]["peer"]
        inner = _inner(content)
        if inner in _GATHERED:
            await self._store_gathered(request, splitter, _GATHERED[inner], outcome, peer)
        elif splitter is not None:
            await self._store_parts(request, splitter, outcome, peer)
        else:
            await self._store_one(request, outcome, peer)
        if not outcome.known:
            raise HTTPException(400, "there is no object in the request")
        return outcome.response(_XML if kind == _XML else _JSON)

    async def _store_one(self, request: Request, outcome: _Outcome, peer: WebPeer) -> None:
        """Take one DICOM file that is the whole body."""
        part: _Part | None = _Part(self._reception, peer.device_id, PartBegin({}), self._threads)
        assert part is not None
        try:
            async for chunk in request.stream():
                await part.write(chunk)
            ended, part = part, None
            await self._end(ended, outcome, peer)
        finally:
            if part is not None:
                await part.abort()

    async def _store_gathered(
        self,
        request: Request,
        splitter: Splitter | None,
        kind: Literal["json", "xml"],
        outcome: _Outcome,
        peer: WebPeer,
    ) -> None:
        """Take metadata with bulk data: each object is put together when the whole request is there."""
        mine = 0
        try:
            parts = MetadataParts(kind, str(request.url))
            try:
                if splitter is None:
                    parts.begin({})
                async for chunk in request.stream():
                    if self._gathered + len(chunk) > _GATHERED_AT_ONCE:
                        raise _NoRoom
                    mine, self._gathered = mine + len(chunk), self._gathered + len(chunk)
                    for event in splitter.feed(chunk) if splitter is not None else (PartData(chunk),):
                        if isinstance(event, PartBegin):
                            parts.begin(event.headers)
                        elif isinstance(event, PartData):
                            parts.write(event.data)
                        else:
                            parts.end()
                if splitter is None:
                    parts.end()
                else:
                    splitter.finish()
            except (TooMuch, _NoRoom) as error:
                async for _ in request.stream():  # a client that still sends would not see the answer
                    pass
                if isinstance(error, TooMuch):
                    raise HTTPException(413, str(error)) from None
                said = "others send metadata with bulk data: try again"
                raise HTTPException(503, said, {"Retry-After": "2"}) from None
            except MultipartError as error:
                raise HTTPException(400, str(error), {"Connection": "close"}) from None
            received_ns = time.time_ns()
            loop, objects = asyncio.get_running_loop(), parts.objects()
            while (one := await loop.run_in_executor(self._threads, next, objects, None)) is not None:
                await self._end(_Whole(self._reception, peer.device_id, one, received_ns, self._threads), outcome, peer)
        finally:
            self._gathered -= mine

    async def _store_parts(self, request: Request, splitter: Splitter, outcome: _Outcome, peer: WebPeer) -> None:
        """Take one DICOM file per part."""
        part: _Part | None = None
        parts = 0
        try:
            async for chunk in request.stream():
                for event in splitter.feed(chunk):
                    if isinstance(event, PartBegin):
                        parts += 1
                        if parts > _PARTS:
                            raise MultipartError(f"there are more than {_PARTS} parts")
                        part = _Part(self._reception, peer.device_id, event, self._threads)
                    elif isinstance(event, PartData) and part is not None:
                        await part.write(event.data)
                    elif isinstance(event, PartEnd) and part is not None:
                        await self._end(part, outcome, peer)
                        part = None
            splitter.finish()
        except MultipartError as error:
            if not outcome.known:
                raise HTTPException(400, str(error), {"Connection": "close"}) from None
            outcome.failed("", "", CANNOT_UNDERSTAND)  # what came whole before is kept, and told
            self._quarantine.note("web", peer.device_id, f"a multipart body: {error}", "look at the sender's log")
        finally:
            if part is not None:
                await part.abort()

    async def _end(self, part: _Part | _Whole, outcome: _Outcome, peer: WebPeer) -> None:
        """Admit the object of a part that is complete, and note how that went."""
        try:
            item, is_new = await part.finish(outcome.study)
        except NotUnderstood as error:
            reason, what_to_do, status = f"an object was refused: {error}", "look at the sender's log", error.status
        except (VaultFull, DatabaseFull):
            reason, what_to_do, status = "the disk is full: an object was refused", "make room", OUT_OF_RESOURCES
        except (VaultError, DatabaseError) as error:
            reason, what_to_do, status = f"an object was refused: {error}", "look at the disk", OUT_OF_RESOURCES
        except Exception as error:
            # Only the type: the text of an unforeseen error may quote the data set.
            _log.error("an object could not be taken in: %s", type(error).__name__)
            reason = f"an object could not be processed ({type(error).__name__})"
            what_to_do, status = "report this error", PROCESSING_FAILURE
        else:
            if is_new and item.reason == CONFLICT:
                self._quarantine.note("web", peer.device_id, CONFLICT, CONFLICT_TO_DO, item.item_id)
            self._admitted(item, is_new)
            outcome.stored(item)
            return
        self._quarantine.note("web", peer.device_id, reason, what_to_do)
        outcome.failed(part.sop_class_uid, part.sop_instance_uid, status)


class _Part:
    """One part on its way to the reception, in pieces that are worth a thread."""

    def __init__(self, reception: Reception, device: str, begin: PartBegin, threads: Executor) -> None:
        self._loop, self._threads = asyncio.get_running_loop(), threads
        self._arrival = FileArrival(reception, device=device)
        self._waiting = bytearray()
        self._wrong = ""
        try:
            if media_type(begin.headers.get("content-type", "application/dicom")).name not in _TYPES:
                self._wrong = "its content type is not application/dicom"
        except MultipartError:
            self._wrong = "its content type cannot be read"
        if begin.headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            self._wrong = "its transfer encoding is not binary"

    @property
    def sop_class_uid(self) -> str:
        return self._arrival.sop_class_uid

    @property
    def sop_instance_uid(self) -> str:
        return self._arrival.sop_instance_uid

    async def write(self, data: bytes) -> None:
        if self._wrong:
            return
        self._waiting += data
        if len(self._waiting) >= _AT_ONCE:
            await self._flush()

    async def finish(self, study: str) -> tuple[Item, bool]:
        received_ns = time.time_ns()
        if self._wrong:
            raise NotUnderstood(CANNOT_UNDERSTAND, self._wrong)
        await self._flush()
        self._arrival.study_instance_uid = study
        return await self._loop.run_in_executor(self._threads, self._arrival.finish, received_ns)

    async def abort(self) -> None:
        await self._loop.run_in_executor(self._threads, self._arrival.abort)

    async def _flush(self) -> None:
        data, self._waiting = self._waiting, bytearray()
        await self._loop.run_in_executor(self._threads, self._arrival.write, data)


class _Whole:
    """One object that is there already, or why it is not."""

    def __init__(
        self, reception: Reception, device: str, one: Composed | NotUnderstood, received_ns: int, threads: Executor
    ) -> None:
        self._reception, self._device, self._one = reception, device, one
        self._received_ns, self._threads = received_ns, threads
        self.sop_class_uid = one.sop_class_uid if isinstance(one, Composed) else ""
        self.sop_instance_uid = one.sop_instance_uid if isinstance(one, Composed) else ""

    async def finish(self, study: str) -> tuple[Item, bool]:
        one = self._one
        if isinstance(one, NotUnderstood):
            raise one
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._stored, one, study)

    def _stored(self, one: Composed, study: str) -> tuple[Item, bool]:
        arrival = self._reception.begin(
            device=self._device,
            calling="",
            sop_class_uid=one.sop_class_uid,
            sop_instance_uid=one.sop_instance_uid,
            transfer_syntax_uid=one.transfer_syntax_uid,
        )
        arrival.write(one.data)
        arrival.study_instance_uid = study
        return arrival.finish(self._received_ns)


class _Outcome:
    """The answer as it grows: DICOM JSON of the Store Instances Response Module (PS3.18, I.2)."""

    def __init__(self, root: str, study: str) -> None:
        self._root, self.study = root, study
        self._stored: list[dict[str, Any]] = []
        self._failed: list[dict[str, Any]] = []
        self._other: list[dict[str, Any]] = []
        self._studies: set[str] = set()

    @property
    def known(self) -> bool:
        """Whether anything is known yet."""
        return bool(self._stored or self._failed or self._other)

    def stored(self, item: Item) -> None:
        """Note that an instance is in safe keeping."""
        self._studies.add(item.study_instance_uid)
        told = _reference(item.sop_class_uid, item.sop_instance_uid)
        if item.study_instance_uid and item.series_instance_uid:  # else there is no path to it
            url = (
                f"{self._root}/studies/{item.study_instance_uid}/series/{item.series_instance_uid}"
                f"/instances/{item.sop_instance_uid}"
            )
            told["00081190"] = {"vr": "UR", "Value": [url]}
        self._stored.append(told)

    def failed(self, sop_class_uid: str, sop_instance_uid: str, status: int) -> None:
        """Note that an instance was refused; its UIDs are empty if it did not come so far."""
        reason = {"00081197": {"vr": "US", "Value": [status]}}
        if sop_class_uid and sop_instance_uid:
            self._failed.append(_reference(sop_class_uid, sop_instance_uid) | reason)
        else:
            self._other.append(reason)

    def response(self, kind: str) -> Response:
        """Return the answer: 200 if all were stored, 202 if some, 409 if none (PS3.18, 10.5.3.1)."""
        body: dict[str, Any] = {}
        study = self.study or (next(iter(self._studies)) if len(self._studies) == 1 else "")
        if study:
            body["00081190"] = {"vr": "UR", "Value": [f"{self._root}/studies/{study}"]}
        for tag, items in (("00081198", self._failed), ("00081199", self._stored), ("0008119A", self._other)):
            if items:
                body[tag] = {"vr": "SQ", "Value": items}
        bad = self._failed or self._other
        status = 200 if not bad else 202 if self._stored else 409
        if kind == _XML:
            return Response(native_xml(body), status, media_type=_XML)
        return JSONResponse(body, status, media_type=_JSON)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [sop_instance_uid]},
    }


def _content_type(request: Request) -> MediaType:
    try:
        return media_type(request.headers.get("content-type", ""))
    except MultipartError:
        raise HTTPException(415, _TAKEN) from None


def _inner(content: MediaType) -> str:
    """Return what a body is made of; 415 if that is nothing that is taken."""
    multipart = content.name == "multipart/related"
    inner = content.parameters.get("type", "application/dicom").lower() if multipart else content.name
    inner = inner.partition(";")[0].strip()  # some put the parts' own parameters in: "application/dicom; ..."
    if inner not in (*_TYPES, *_GATHERED):
        raise HTTPException(415, _TAKEN)
    return inner


def _splitter(content: MediaType) -> Splitter | None:
    """Return what takes a multipart body apart; None if the body is a single part."""
    if content.name != "multipart/related":
        return None
    try:
        return Splitter(content.parameters.get("boundary", ""))
    except MultipartError as error:
        raise HTTPException(400, str(error)) from None
