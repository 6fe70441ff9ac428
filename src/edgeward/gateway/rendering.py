"""Pictures of stored objects, drawn by an engine for whoever asks the gateway.

Responsible for resolving an item to its object, for asking an engine in time, and for saying why there is no picture.
Not responsible for decoding or drawing (``compute.render``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from edgeward.bus import subjects
from edgeward.bus.client import Bus, NoAnswer
from edgeward.messages import FrameQuery, MessageError, Refused, Rendered, RenderRequest
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import WrongKey
from edgeward.privacy.vault import Vault, VaultError

T = TypeVar("T")
ANSWER_S = 15.0
AT_ONCE = 8  # pictures that engines are asked for at the same time; others wait
_LARGEST = 1 << 14  # columns


class NoPicture(Exception):
    """There is no picture; the text says why. `again`: it may well work in a moment."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


class Renderer:
    """Asks engines for pictures."""

    def __init__(self, bus: Bus, journal: Journal, vault: Vault, threads: Executor | None = None) -> None:
        self._bus, self._journal, self._vault, self._threads = bus, journal, vault, threads
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def answer(self, query: FrameQuery) -> Rendered | Refused:
        """Answer a `FrameQuery` of another role."""
        try:
            return await self.of_item(query)
        except NoPicture as error:
            return Refused(reason=str(error))

    async def of_item(self, query: FrameQuery) -> Rendered:
        """Return a picture of an item.

        Raises
        ------
        NoPicture
            If there is none.
        """
        try:
            item = await self._in_thread(lambda: self._journal.item(query.item_id))
        except KeyError:
            raise NoPicture("there is no such item") from None
        if not item.wrapped_key:
            raise NoPicture("the object was erased")
        if item.rows == 0:
            raise NoPicture("the object is not an image")
        if query.frame < 0 or (item.frames > 0 and query.frame >= item.frames):
            raise NoPicture(f"the object has no frame {query.frame + 1}")
        if query.window_width is not None and not query.window_width > 0:
            raise NoPicture("the window's width must be above 0")
        if not 0 <= query.max_width <= _LARGEST:
            raise NoPicture(f"the width must be at most {_LARGEST} columns")
        port = query.viewport
        if port is not None and not (0 < port.width < _LARGEST and 0 < port.height < _LARGEST):
            raise NoPicture(f"a viewport must have between 1 and {_LARGEST} pixels on each side")
        if not 0 <= query.quality <= 100:
            raise NoPicture("the quality must be between 1 and 100")
        try:
            reference = await self._in_thread(
                lambda: self._vault.reference(item.object_id, item.wrapped_key, item.size)
            )
        except (WrongKey, VaultError) as error:
            raise NoPicture(f"the object cannot be read: {error}") from None
        request = RenderRequest(
            object=reference,
            frame=query.frame,
            window_center=query.window_center,
            window_width=query.window_width,
            max_width=query.max_width,
            media_type=query.media_type,
            window_function=query.window_function,
            viewport=query.viewport,
            square_pixels=query.square_pixels,
            quality=query.quality,
        )
        try:
            async with asyncio.timeout(2 * ANSWER_S), self._turn:
                answer = await self._bus.request(subjects.RENDER_ANY, request, Rendered | Refused, ANSWER_S)
        except TimeoutError:
            raise NoPicture("too many pictures are asked for at once: try again", again=True) from None
        except NoAnswer:
            raise NoPicture("no engine drew it in time: try again", again=True) from None
        except MessageError:
            raise NoPicture("the engine answered something else than a picture") from None
        if isinstance(answer, Refused):
            raise NoPicture(answer.reason)
        picture: Rendered = answer
        return picture

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
