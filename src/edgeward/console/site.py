"""Questions that the console asks other roles, each with a time limit and an honest answer when there is none.

Responsible for subjects, time limits and the cache of previews. The console keeps nothing of its own: what it shows
comes from the role that owns it.
"""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from typing import TypeVar, cast

from PIL import Image

from edgeward.bedside import AlarmPause, AlarmQuery, BedInfo, Numerics, SetBed, Strip, StripQuery, Trend, TrendQuery
from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.messages import (
    Alarm,
    AlarmAck,
    Alarms,
    Ask,
    Destinations,
    Devices,
    FrameQuery,
    Items,
    ItemsQuery,
    ItemSummary,
    Message,
    MessageError,
    Ok,
    Orders,
    OrdersQuery,
    Preview,
    QuarantineList,
    Refused,
    Rendered,
    ReportText,
    Resend,
    Resent,
    Verdict,
)

Answer = TypeVar("Answer", bound=Message)

TIMEOUT_S = 2.0
FRAME_TIMEOUT_S = 8.0  # an engine may have to decode it first, behind more urgent work
RECORDER_TIMEOUT_S = 6.0  # it reads from disk and decrypts
FRAMES_AT_ONCE = 8  # a cine loop that somebody plays must not fill the engines' queue
THUMB_PX = (192, 144)
_CACHE_BYTES = 24 * 1024 * 1024


class Unavailable(Exception):
    """The role that owns the answer did not give one; `refused` says that it answered, and why not."""

    def __init__(self, role: str, reason: str, *, refused: bool = False) -> None:
        super().__init__(f"{role}: {reason}")
        self.role = role
        self.reason = reason
        self.refused = refused


class Site:
    """The other roles, as seen from the console."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._cache: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._frames = asyncio.Semaphore(FRAMES_AT_ONCE)

    async def _ask(
        self, role: str, subject: str, message: Message, kind: type[Answer], timeout_s: float = TIMEOUT_S
    ) -> Answer:
        try:
            reply = await self._bus.request(subject, message, kind | Refused, timeout_s)
        except (BusError, MessageError) as error:
            raise Unavailable(role, str(error)) from error
        if isinstance(reply, Refused):
            raise Unavailable(role, reply.reason, refused=True)
        return cast("Answer", reply)

    async def items(self, query: ItemsQuery) -> Items:
        """Return the worklist rows that `query` asks for."""
        return await self._ask("gateway", subjects.GATEWAY_ITEMS, query, Items)

    async def item(self, item_id: str) -> ItemSummary | None:
        """Return one row, or None if there is no such item."""
        answer = await self._ask("gateway", subjects.GATEWAY_ITEMS, ItemsQuery(item_id=item_id, limit=1), Items)
        return next((item for item in answer.items if item.item_id == item_id), None)

    async def orders(self, query: OrdersQuery) -> Orders:
        """Return orders of the modality worklist, the ones due next first."""
        return await self._ask("gateway", subjects.GATEWAY_ORDERS, query, Orders)

    async def frame(self, query: FrameQuery) -> Rendered | Refused:
        """Return one rendered frame, or why there is none.

        Raises
        ------
        Unavailable
            If the gateway gave no answer in time.
        """
        async with self._frames:
            try:
                answer: Rendered | Refused = await self._bus.request(
                    subjects.GATEWAY_FRAME, query, Rendered | Refused, FRAME_TIMEOUT_S
                )
            except (BusError, MessageError) as error:
                raise Unavailable("gateway", str(error)) from error
        return answer

    async def resend(self, wish: Resend) -> int:
        """Put dead letters into their queues again; return how many.

        Raises
        ------
        Unavailable
            If `deliver` did not do it; the reason says why.
        """
        return (await self._ask("deliver", subjects.DELIVER_RESEND, wish, Resent)).count

    async def devices(self) -> Devices:
        """Return the enrolled devices."""
        return await self._ask("gateway", subjects.GATEWAY_DEVICES, Ask(), Devices)

    async def quarantine(self) -> QuarantineList:
        """Return what was refused or set aside."""
        return await self._ask("gateway", subjects.GATEWAY_QUARANTINE, Ask(), QuarantineList)

    async def alarms(self, device_id: str = "") -> Alarms:
        """Return active and recent alarms of one device or of all."""
        return await self._ask("monitor", subjects.MONITOR_ALARMS, Ask(argument=device_id), Alarms)

    async def report(self, item_id: str) -> ReportText:
        """Return the structured report as text."""
        return await self._ask("deliver", subjects.DELIVER_REPORT, Ask(argument=item_id), ReportText)

    async def destinations(self) -> Destinations:
        """Return how each destination of results stands."""
        return await self._ask("deliver", subjects.DELIVER_STATUS, Ask(), Destinations)

    async def decide(self, verdict: Verdict) -> None:
        """Hand a verdict to the gateway; it is durable when this returns.

        Raises
        ------
        Unavailable
            If the gateway did not take it; the reason says why.
        """
        await self._ask("gateway", subjects.GATEWAY_VERDICT, verdict, Ok)

    async def acknowledge(self, alarm_id: str, by: str, at_ns: int) -> None:
        """Acknowledge one alarm.

        Raises
        ------
        Unavailable
            If the monitor did not take it.
        """
        await self._ask("monitor", subjects.MONITOR_ACK, AlarmAck(alarm_id=alarm_id, by=by, at_ns=at_ns), Ok)

    async def pause(self, wish: AlarmPause) -> None:
        """Pause the sound of a bed or of one alarm, or end the pause.

        Raises
        ------
        Unavailable
            If the monitor did not take it.
        """
        await self._ask("monitor", subjects.MONITOR_PAUSE, wish, Ok)

    async def events(self, query: AlarmQuery) -> list[Alarm]:
        """Return transitions of alarms from the log, newest first."""
        return (await self._ask("monitor", subjects.MONITOR_EVENTS, query, Alarms)).recent

    async def bed(self, bed_id: str) -> BedInfo:
        """Return a bed's settings, what its profile says, and who changed what."""
        return await self._ask("monitor", subjects.MONITOR_BED, Ask(argument=bed_id), BedInfo)

    async def set_bed(self, wish: SetBed) -> None:
        """Change a bed.

        Raises
        ------
        Unavailable
            If the monitor did not take it; the reason says why.
        """
        await self._ask("monitor", subjects.MONITOR_SET_BED, wish, Ok)

    async def enter(self, numerics: Numerics) -> None:
        """Hand over what a person entered at a bed.

        Raises
        ------
        Unavailable
            If the monitor did not take it; the reason says why.
        """
        await self._ask("monitor", subjects.MONITOR_NUMERICS, numerics, Ok)

    async def strip(self, query: StripQuery) -> Strip:
        """Return waveforms as they arrived."""
        return await self._ask("recorder", subjects.RECORDER_STRIP, query, Strip, RECORDER_TIMEOUT_S)

    async def trend(self, query: TrendQuery) -> Trend:
        """Return trends of a bed."""
        return await self._ask("recorder", subjects.RECORDER_TREND, query, Trend, RECORDER_TIMEOUT_S)

    async def preview(self, item_id: str, *, thumb: bool) -> bytes:
        """Return the JPEG of the analysed frame, or a small one; empty if there is none yet."""
        key = (item_id, "thumb" if thumb else "full")
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        jpeg = (await self._ask("gateway", subjects.GATEWAY_PREVIEW, Ask(argument=item_id), Preview)).jpeg
        if not jpeg:
            return b""
        if thumb:
            jpeg = await asyncio.to_thread(_shrink, jpeg)
        self._cache[key] = jpeg
        self._cached_bytes += len(jpeg)
        while self._cached_bytes > _CACHE_BYTES:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])
        return jpeg

    def forget(self, item_id: str) -> None:
        """Drop what is cached of an item: it has been analysed again."""
        for kind in ("thumb", "full"):
            self._cached_bytes -= len(self._cache.pop((item_id, kind), b""))


def _shrink(jpeg: bytes) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (THUMB_PX[0] * 2, THUMB_PX[1] * 2))
        small = image.convert("RGB")
        small.thumbnail((THUMB_PX[0], THUMB_PX[1]))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=82)
    return out.getvalue()
