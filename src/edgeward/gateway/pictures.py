"""Pictures of what is in the vault, for whoever asks by DICOMweb (PS3.18, 8.3.5 and 10.4).

Responsible for which objects are drawn, for the media type, and for several pictures in one answer. Not responsible for
what a client wishes of a picture (``rendered``) or for asking an engine (``rendering``).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec import structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from edgeward.gateway.accept import accepted, multipart_parts
from edgeward.gateway.multipart import body_end, part_head
from edgeward.gateway.paths import address_of, frame_list
from edgeward.gateway.rendered import PICTURES, asks_for, wishes
from edgeward.gateway.rendering import NoPicture, Renderer
from edgeward.messages import FrameQuery
from edgeward.privacy.catalogue import Held

_THUMBNAIL = 128  # columns
_PICTURES = 1_000  # in one answer


class Pictures:
    """Gives out pictures.

    Parameters
    ----------
    held
        Returns the objects that a request's path names, or raises what it is answered with.
    """

    def __init__(self, renderer: Renderer, held: Callable[[Request], Awaitable[list[Held]]]) -> None:
        self._renderer, self._held = renderer, held

    async def rendered(self, request: Request) -> Response:
        """Serve ``GET .../rendered`` of anything and ``.../frames/{number}/rendered``: pictures (PS3.18, 8.3.5, 10.4).

        Of a study or a series one picture of each object that is an image, of its first frame.
        """
        if "instance" not in request.path_params:
            return await self._all_rendered(request)
        (held,) = await self._held(request)
        number = request.path_params.get("frames", "1")
        (frame,) = frame_list(number, most=1)
        return await self._picture(request, held, wishes(request, FrameQuery(item_id=held.item_id, frame=frame - 1)))

    async def _all_rendered(self, request: Request) -> Response:
        held = await self._held(request)
        images = [one for one in held if one.rows]
        if not images:
            raise HTTPException(404, "there is no image in it")
        if len(images) > _PICTURES:
            raise HTTPException(413, f"an answer has {_PICTURES} pictures at most: ask for series or instances")
        kind = multipart_parts(accepted(request)).best_of(*PICTURES)
        if kind is None:
            raise HTTPException(406, 'pictures are multipart/related; type="image/jpeg", "image/png" or "image/gif"')
        boundary = secrets.token_hex(16)
        parts = self._drawn(request, images, kind, boundary)
        try:
            first = await anext(parts)
        except StopAsyncIteration:
            raise HTTPException(406, "none of its images can be drawn") from None
        return StreamingResponse(
            _after(first, parts),
            200 if len(images) == len(held) else 206,
            media_type=f'multipart/related; type="{kind}"; boundary={boundary}',
        )

    async def _drawn(self, request: Request, images: list[Held], kind: str, boundary: str) -> AsyncIterator[bytes]:
        """Yield the parts. What cannot be drawn is left out; if no engine has time, the answer breaks off."""
        root = f"{request.base_url}dicomweb"
        drawn = False
        for held in images:
            query = structs.replace(wishes(request, FrameQuery(item_id=held.item_id, frame=0)), media_type=kind)
            try:
                picture = await self._renderer.of_item(query)
            except NoPicture as error:
                if not error.again:
                    continue
                if drawn:
                    raise
                raise HTTPException(503, str(error), {"Retry-After": "2"}) from None
            drawn = True
            location = f"{address_of(root, held)}/rendered"
            head = {"Content-Type": picture.media_type, "Content-Location": location}
            yield part_head(boundary, head | {"Content-Length": str(len(picture.data))}) + picture.data
        if drawn:
            yield body_end(boundary)

    async def thumbnail(self, request: Request) -> Response:
        """Serve ``GET .../thumbnail`` of anything: a small picture of its first image."""
        held = next((one for one in await self._held(request) if one.rows), None)
        if held is None:
            raise HTTPException(404, "there is no image in it")
        (frame,) = frame_list(request.path_params.get("frames", "1"), most=1)
        query = FrameQuery(item_id=held.item_id, frame=frame - 1, max_width=_THUMBNAIL)
        return await self._picture(request, held, wishes(request, query))

    async def _picture(self, request: Request, held: Held, query: FrameQuery) -> Response:
        if held.frames > 0 and query.frame >= held.frames:
            raise HTTPException(404, f"the object has {held.frames} frames")
        kind = accepted(request).best_of(*PICTURES)
        if kind is None:
            raise HTTPException(406, "pictures are image/jpeg, image/png or image/gif")
        query = structs.replace(query, media_type=kind)
        try:
            picture = await self._renderer.of_item(query)
        except NoPicture as error:
            raise HTTPException(
                503 if error.again else 406, str(error), {"Retry-After": "2"} if error.again else None
            ) from None
        headers = {"Cache-Control": "no-store"}
        if passed_over := ", ".join(name for name in ("annotation", "iccprofile") if asks_for(request, name)):
            headers["Warning"] = f'299 {request.url.netloc} "the picture is drawn without: {passed_over}"'
        return Response(picture.data, media_type=picture.media_type, headers=headers)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
