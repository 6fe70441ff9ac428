"""WADO-RS: objects, their metadata, frames and pictures go out over HTTPS (PS3.18, 10.4).

Responsible for what the client accepts and for streaming objects from the vault piece by piece. Objects leave as they
are stored: nothing is decoded or transcoded here; pictures are drawn by an engine (``gateway.pictures``). Not
responsible for who may ask (``gateway.web``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from pydicom.uid import ExplicitVRLittleEndian
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from edgeward.gateway.accept import accepted, dicom_syntaxes, frame_type, model_wanted
from edgeward.gateway.bulkdata import NoBulk, bulk_value, place_of
from edgeward.gateway.frames import NoFrames, PixelStore, pixel_store
from edgeward.gateway.metadata import metadata
from edgeward.gateway.multipart import body_end, part_head
from edgeward.gateway.native_xml import xml_multipart, xml_part
from edgeward.gateway.paths import address_of, frame_list
from edgeward.gateway.pictures import Pictures
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.rendering import Renderer
from edgeward.privacy.catalogue import Catalogue, Held
from edgeward.privacy.keys import WrongKey
from edgeward.privacy.reading import open_object
from edgeward.privacy.vault import Vault, VaultDamaged

_log = logging.getLogger("edgeward.gateway.wado")
T = TypeVar("T")

# Also what is no UID by the standard: some that make objects anonymous write hashes, and they are stored as they are.
_UID = re.compile(r"[0-9A-Za-z._-]{1,1024}")
_PIECE = 1 << 20
_PIXELS = ((0x7FE00010,), (0x7FE00009,), (0x7FE00008,))


class Wado:
    """Gives out what is in the vault.

    Parameters
    ----------
    threads
        Where blocking work is done.
    """

    def __init__(
        self, catalogue: Catalogue, vault: Vault, renderer: Renderer, quarantine: Quarantine, threads: Executor
    ) -> None:
        self._catalogue, self._vault = catalogue, vault
        self._quarantine, self._threads = quarantine, threads
        pictures = Pictures(renderer, self._held)
        self.rendered, self.thumbnail = pictures.rendered, pictures.thumbnail

    async def retrieve(self, request: Request) -> Response:
        """Serve ``GET`` of a study, a series or an instance: the objects as they are stored."""
        wanted = dicom_syntaxes(accepted(request), single="instance" in request.path_params)
        held = await self._held(request)
        giving = [one for one in held if wanted.takes(one.transfer_syntax_uid)]
        if not giving:
            raise HTTPException(
                406,
                "objects are given as they are stored, as application/dicom: ask for transfer-syntax=* or leave it out",
            )
        status = 200 if len(giving) == len(held) else 206
        first = await self._open(giving[0])
        if wanted.single:
            return StreamingResponse(
                self._pieces(first),
                media_type=_dicom(giving[0]),
                headers={"Content-Length": str(first.size)},
            )
        boundary = secrets.token_hex(16)
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return StreamingResponse(self._objects(giving, first, boundary), status, media_type=kind)

    async def metadata(self, request: Request) -> Response:
        """Serve ``GET .../metadata``: all attributes but bulk data, as DICOM JSON or XML."""
        model = model_wanted(request)
        held = await self._held(request)
        root = f"{request.base_url}dicomweb"
        first = await self._described(held[0], root)
        if model == "json":
            return StreamingResponse(self._descriptions(first, held[1:], root), media_type="application/dicom+json")
        boundary = secrets.token_hex(16)
        return StreamingResponse(self._documents(first, held[1:], root, boundary), media_type=xml_multipart(boundary))

    async def bulkdata(self, request: Request) -> Response:
        """Serve ``GET .../bulkdata/{path}``: one long binary value, under the address that metadata gives."""
        try:
            place = place_of(request.path_params["path"])
            if place in _PIXELS:
                return await self._pixels(request)
            kind = frame_type(accepted(request), str(ExplicitVRLittleEndian), single=True)
            if kind is None:
                raise HTTPException(406, "bulk data is application/octet-stream")
            (held,) = await self._held(request)
            opened = await self._open(held)
            async with contextlib.aclosing(opened):
                value = await self._in_thread(lambda: bulk_value(opened.file, place))
        except NoBulk as error:
            raise HTTPException(404, str(error)) from None
        if kind.single:
            return Response(value, media_type=kind.name)
        boundary = secrets.token_hex(16)
        head = part_head(boundary, {"Content-Type": kind.name, "Content-Length": str(len(value))})
        return Response(
            head + value + body_end(boundary),
            media_type=f'multipart/related; type="application/octet-stream"; boundary={boundary}',
        )

    async def frames(self, request: Request) -> Response:
        """Serve ``GET .../frames/{list}``: single frames as they are stored."""
        return await self._given(request, frame_list(request.path_params["frames"]))

    async def _pixels(self, request: Request) -> Response:
        """Serve pixel data under the address that metadata gives: uncompressed as one value, else frame by frame."""
        (held,) = await self._held(request)
        opened = await self._open(held)
        kind = None
        try:
            store = await self._in_thread(lambda: pixel_store(opened.file))
            if f"{store.tag:08X}" != request.path_params["path"].upper():
                raise HTTPException(404, "the object has its pixels under another tag")
            if not store.encapsulated:
                kind = frame_type(accepted(request), str(ExplicitVRLittleEndian), single=True)
                if kind is None:
                    raise HTTPException(406, "pixels are given as they are stored: ask for application/octet-stream")
                first = await self._in_thread(lambda: store.native(0, _PIECE))
        except NoFrames as error:
            await opened.close()
            raise HTTPException(404, str(error)) from None
        except BaseException:
            await opened.close()
            raise
        if kind is None:
            await opened.close()
            return await self._given(request, range(1, store.frames + 1))
        boundary = "" if kind.single else secrets.token_hex(16)
        whole = f'multipart/related; type="application/octet-stream"; boundary={boundary}'
        return StreamingResponse(
            self._value(opened, store, first, boundary, kind.name), media_type=kind.name if kind.single else whole
        )

    async def _value(
        self, opened: _Opened, store: PixelStore, first: bytes, boundary: str, kind: str
    ) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(opened):
            if boundary:
                yield part_head(boundary, {"Content-Type": kind, "Content-Length": str(store.length)})
            yield first
            for offset in range(_PIECE, store.length, _PIECE):
                yield await self._in_thread(partial(store.native, offset, _PIECE))
            if boundary:
                yield body_end(boundary)

    async def _given(self, request: Request, numbers: Sequence[int]) -> Response:
        """Answer with frames, counted from 1."""
        (held,) = await self._held(request)
        opened = await self._open(held)
        try:
            store = await self._in_thread(lambda: pixel_store(opened.file))
            if max(numbers) > store.frames:
                raise HTTPException(404, f"the object has {store.frames} frames")
            syntax = store.transfer_syntax_uid if store.encapsulated else str(ExplicitVRLittleEndian)
            kind = frame_type(accepted(request), syntax, single=len(numbers) == 1)
            if kind is None:
                raise HTTPException(406, "frames are given as they are stored: ask for application/octet-stream")
            first = await self._in_thread(lambda: store.frame(numbers[0] - 1))
        except NoFrames as error:
            await opened.close()
            raise HTTPException(406, str(error)) from None
        except BaseException:
            await opened.close()
            raise
        if kind.single:
            await opened.close()
            return Response(first, media_type=kind.name)
        boundary = secrets.token_hex(16)
        inner = kind.name.partition(";")[0]
        return StreamingResponse(
            self._frames(opened, self._in_turn(store, first, numbers[1:]), boundary, kind.name),
            media_type=f'multipart/related; type="{inner}"; boundary={boundary}',
        )

    # ------------------------------------------------------------ objects

    async def _held(self, request: Request) -> list[Held]:
        """Return the objects that a path names.

        Raises
        ------
        HTTPException
            400 if the path has no UIDs, 410 if all of it was erased, 404 if there is nothing.
        """
        uids = [request.path_params.get(name, "") for name in ("study", "series", "instance")]
        if not all(_UID.fullmatch(uid) for uid in uids if uid):
            raise HTTPException(400, "the path has something that can be no UID")
        held = await self._in_thread(lambda: self._catalogue.held(*uids))
        if held:
            return held
        if await self._in_thread(lambda: self._catalogue.erased(*uids)):
            raise HTTPException(410, "it was here and was erased")
        raise HTTPException(404, "there is no such object here")

    async def _open(self, held: Held) -> _Opened:
        def work() -> _Opened:
            reference = self._vault.reference(held.object_id, held.wrapped_key, held.size)
            return _Opened(open_object(reference.path, reference.data_key), self._threads)

        try:
            return await self._in_thread(work)
        except (VaultDamaged, WrongKey) as error:
            self._damaged(held, error)
            raise HTTPException(500, "the object is damaged and cannot be given") from None

    def _damaged(self, held: Held, error: Exception) -> None:
        _log.error("an object cannot be read: %s", error)
        self._quarantine.note("vault", "", f"an object cannot be read: {error}", "restore it", held.item_id)

    async def _objects(self, held: list[Held], first: _Opened, boundary: str) -> AsyncIterator[bytes]:
        opened: _Opened | None = first
        try:
            for one in held:
                opened = opened or await self._open(one)
                yield part_head(boundary, {"Content-Type": _dicom(one), "Content-Length": str(opened.size)})
                async for piece in self._pieces(opened):
                    yield piece
                opened = None
            yield body_end(boundary)
        finally:
            if opened is not None:
                await opened.close()

    async def _pieces(self, opened: _Opened) -> AsyncIterator[bytes]:
        """Yield an object; an error leaves the answer without its end, so that nobody takes it for whole."""
        async with contextlib.aclosing(opened):
            while piece := await opened.read(_PIECE):
                yield piece

    async def _frames(
        self, opened: _Opened, frames: AsyncIterator[bytes], boundary: str, kind: str
    ) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(opened):
            async for data in frames:
                yield part_head(boundary, {"Content-Type": kind, "Content-Length": str(len(data))}) + data
            yield body_end(boundary)

    async def _in_turn(self, store: PixelStore, first: bytes, numbers: Sequence[int]) -> AsyncIterator[bytes]:
        yield first
        for number in numbers:
            yield await self._in_thread(partial(store.frame, number - 1))

    async def _descriptions(self, first: dict[str, Any], held: list[Held], root: str) -> AsyncIterator[bytes]:
        yield b"[" + _json(first)
        for one in held:
            yield b"," + _json(await self._described(one, root))
        yield b"]"

    async def _documents(
        self, first: dict[str, Any], held: list[Held], root: str, boundary: str
    ) -> AsyncIterator[bytes]:
        yield xml_part(boundary, first)
        for one in held:
            yield xml_part(boundary, await self._described(one, root))
        yield body_end(boundary)

    async def _described(self, held: Held, root: str) -> dict[str, Any]:
        opened = await self._open(held)
        address = address_of(root, held)
        async with contextlib.aclosing(opened):
            return await self._in_thread(lambda: metadata(opened.file, held, address))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Opened:
    """An object of the vault that is being read, in threads."""

    def __init__(self, file: Any, threads: Executor) -> None:
        self.file, self._threads = file, threads
        self.size = file.seek(0, 2)
        file.seek(0)

    async def read(self, count: int) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.file.read, count)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self.file.close)

    aclose = close


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False).encode()


def _dicom(held: Held) -> str:
    return f"application/dicom; transfer-syntax={held.transfer_syntax_uid}"
