"""What flows to the browsers: one subscription on the bus, fanned out to every WebSocket.

Responsible for the fan-out and for never letting a slow browser hold up another or the bus: state is coalesced (the
latest wins), traces are dropped (they carry sample indices, so the browser shows a gap), events are bounded and end in
a ``resync``. Not responsible for who may connect (``access``) or for the meaning of what is shown.

Text frames are JSON with the key ``k``; binary frames are traces, little-endian::

    offset size
    0      1    1, the version
    1      1    length of the device id, d
    2      1    length of the lead's name, l
    3      1    number of beats, b
    4      4    sampling rate, float32, Hz
    8      8    index of the first sample, float64
    16     8*b  indices of beats, float64
    ...    d, l names, UTF-8, then padding to an even length
    ...    2*n  samples, int16, microvolts
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.console.presence import Presence
from edgeward.console.watch import Watch
from edgeward.messages import (
    Alarm,
    Bed,
    Beds,
    ItemSummary,
    MessageError,
    Quarantined,
    RoleState,
    SiteState,
    Trace,
    Viewing,
    decode,
)

_log = logging.getLogger("edgeward.console")

TICK_S = 0.5  # a browser that hears nothing for 2.5 s says that it is not live
VIEWING_S = 2.0
SEND_TIMEOUT_S = 5.0
MAX_EVENTS = 256
MAX_TRACES = 512
MAX_VIEW = 256
CLOSE_RESTART, CLOSE_SLOW, CLOSE_LOGIN = 1012, 1013, 4401
_HEAD = struct.Struct("<BBBBfd")


class Socket(Protocol):
    """The part of a WebSocket that is used here."""

    async def send_text(self, data: str) -> None: ...  # noqa: D102
    async def send_bytes(self, data: bytes) -> None: ...  # noqa: D102
    async def close(self, code: int = 1000, reason: str | None = None) -> None: ...  # noqa: D102


def pack_trace(trace: Trace) -> bytes:
    """Return the binary frame of one stretch of trace."""
    device = trace.device_id.encode()[:255]
    lead = trace.lead.encode()[:255]
    beats = trace.beats[-255:]
    head = _HEAD.pack(1, len(device), len(lead), len(beats), trace.rate_hz, float(trace.start))
    names = device + lead
    if len(names) % 2:
        names += b"\0"
    return head + struct.pack(f"<{len(beats)}d", *map(float, beats)) + names + trace.samples


def alarm_view(alarm: Alarm) -> dict[str, Any]:
    """Return an alarm as the browser gets it: codes and numbers, no prose."""
    return {
        "id": alarm.alarm_id,
        "device": alarm.device_id,
        "code": alarm.code,
        "priority": alarm.priority.value,
        "technical": alarm.technical,
        "latching": alarm.latching,
        "present": alarm.present,
        "ended": alarm.state == "ended",
        "acknowledged": alarm.acknowledged,
        "by": alarm.by,
        "args": alarm.args,
        "raised": alarm.raised_ns // 1_000_000,
        "late": alarm.late,
    }


def bed_view(bed: Bed) -> dict[str, Any]:
    """Return a bed as the browser gets it."""
    return {
        "id": bed.device_id,
        "label": bed.label,
        "hr": bed.heart_rate,
        "quality": bed.quality,
        "width": bed.beat_width_ms,
        "vpm": bed.ventricular_per_min,
        "rhythm": bed.rhythm,
        "age": bed.age_ms,
        "stale": bed.stale,
        "off": bed.lead_off,
        "packets": bed.packets,
        "missing": bed.missing,
        "alarms": [alarm_view(alarm) for alarm in bed.alarms],
    }


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


class Connection:
    """One browser: its outbox and the task that empties it."""

    def __init__(self, socket: Socket, session_id: str, user: str = "") -> None:
        self.socket = socket
        self.session_id = session_id
        self.user = user
        self.viewing: frozenset[str] = frozenset()
        self.wants_beds = False
        self.dropped = 0
        self._latest: dict[str, str] = {}
        self._events: deque[str] = deque()
        self._traces: deque[bytes] = deque()
        self._ready = asyncio.Event()

    def put_latest(self, key: str, text: str) -> None:
        """Queue a state: an older one of the same key that still waits is replaced."""
        self._latest[key] = text
        self._ready.set()

    def put_event(self, text: str) -> None:
        """Queue an event; when too many wait they are all replaced by one ``resync``."""
        if len(self._events) >= MAX_EVENTS:
            self.dropped += len(self._events)
            self._events.clear()
            self._latest["resync"] = '{"k":"resync"}'
        self._events.append(text)
        self._ready.set()

    def put_trace(self, frame: bytes) -> None:
        """Queue a stretch of trace; the oldest is dropped when too many wait."""
        if len(self._traces) >= MAX_TRACES:
            self._traces.popleft()
            self.dropped += 1
        self._traces.append(frame)
        self._ready.set()

    async def pump(self) -> None:
        """Send what waits, most urgent first, until the socket fails or is too slow (``TimeoutError``)."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            events, self._events = self._events, deque()
            latest, self._latest = self._latest, {}
            traces, self._traces = self._traces, deque()
            async with asyncio.timeout(SEND_TIMEOUT_S):
                for text in (*events, *latest.values()):
                    await self.socket.send_text(text)
                for frame in traces:
                    await self.socket.send_bytes(frame)


class Hub:
    """All browsers that watch."""

    def __init__(
        self,
        bus: Bus,
        watch: Watch,
        session_valid: Callable[[str], bool],
        on_finding: Callable[[str], None],
        build: str,
    ) -> None:
        self._bus = bus
        self._watch = watch
        self._session_valid = session_valid
        self._on_new_finding = on_finding
        self._build = build
        self._connections: set[Connection] = set()
        self._view_changed = asyncio.Event()
        self._presence = Presence()
        self.closing = False

    # ------------------------------------ from the bus

    async def start(self) -> None:
        """Subscribe, once for everybody."""
        await self._bus.subscribe(subjects.STATE_BEDS, Beds, self._on_beds)
        await self._bus.subscribe(subjects.ALARM_ALL, Alarm, self._on_alarm)
        await self._bus.subscribe(subjects.FINDING_ALL, ItemSummary, self._on_finding)
        await self._bus.subscribe(subjects.ITEM_STATE_ALL, ItemSummary, self._on_item)
        await self._bus.subscribe(subjects.ROLE_STATE_ALL, RoleState, self._on_role)
        await self._bus.subscribe(subjects.SITE_STATE, SiteState, self._on_site)
        await self._bus.subscribe(subjects.QUARANTINED, Quarantined, self._on_quarantined)
        await self._bus.subscribe_raw(subjects.TRACE_ALL, self._on_trace)

    async def _on_beds(self, _: str, beds: Beds) -> None:
        self._watch.take_beds(beds)
        wanting = [connection for connection in self._connections if connection.wants_beds]
        if wanting:
            text = _json({"k": "beds", "at": beds.at_ns // 1_000_000, "beds": [bed_view(bed) for bed in beds.beds]})
            for connection in wanting:
                connection.put_latest("beds", text)

    async def _on_alarm(self, _: str, alarm: Alarm) -> None:
        self._event({"k": "alarm", "alarm": alarm_view(alarm)})

    async def _on_finding(self, _: str, item: ItemSummary) -> None:
        self._on_new_finding(item.item_id)
        # Only the id: what a reader may see of the item depends on who she is, and is asked for by the page.
        self._event({"k": "finding", "item": item.item_id})

    async def _on_item(self, _: str, item: ItemSummary) -> None:
        self._event({"k": "item", "item": item.item_id, "state": item.state})

    async def _on_quarantined(self, _: str, entry: Quarantined) -> None:
        self._event({"k": "quarantined", "where": entry.where})

    async def _on_role(self, _: str, state: RoleState) -> None:
        self._watch.take_role(state)

    async def _on_site(self, _: str, state: SiteState) -> None:
        self._watch.take_site(state)

    def _on_trace(self, subject: str, data: bytes) -> None:
        device_id = subject.rsplit(".", 1)[-1]
        watching = [connection for connection in self._connections if device_id in connection.viewing]
        if not watching:
            return
        try:
            frame = pack_trace(decode(Trace, data))
        except MessageError as error:
            _log.warning("malformed trace: %s", error)
            return
        for connection in watching:
            connection.put_trace(frame)

    def _event(self, value: dict[str, Any]) -> None:
        if self._connections:
            text = _json(value)
            for connection in self._connections:
                connection.put_event(text)

    # ------------------------------------ to the browsers

    def tick(self) -> dict[str, Any]:
        """Return the pulse of the console: whether what the browser shows is live, and how loud the site is."""
        age = self._watch.beds_age_s()
        alarms = [alarm for _, alarm in self._watch.alarms()]
        waiting = [alarm for alarm in alarms if not alarm.acknowledged]
        troubled = sum(view.status not in ("ready", "starting", "running") for view in self._watch.role_views())
        return {
            "k": "tick",
            "build": self._build,
            "bus": self._watch.connected(),
            "beds_age": None if age is None else round(age * 1000),
            "beds_live": self._watch.beds_live(),
            "alarms": {p: sum(a.priority.value == p for a in waiting) for p in ("high", "medium", "low")},
            "acknowledged": len(alarms) - len(waiting),
            "troubled": troubled,
        }

    async def pulse(self) -> None:
        """Send the tick, end sessions that are over, and keep the traces in view coming. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        next_viewing = 0.0
        while True:
            if self._connections:
                text = _json(self.tick())
                self._tell_presence()
                for connection in tuple(self._connections):
                    if self._session_valid(connection.session_id):
                        connection.put_latest("tick", text)
                    else:
                        await self._close(connection, CLOSE_LOGIN, "session over")
            if self._view_changed.is_set() or loop.time() >= next_viewing:
                self._view_changed.clear()
                next_viewing = loop.time() + VIEWING_S
                await self._tell_viewing()
            try:
                await asyncio.wait_for(self._view_changed.wait(), TICK_S)
            except TimeoutError:
                continue

    def _tell_presence(self) -> None:
        people = self._presence.take()
        if people is not None:
            text = _json({"k": "presence", "items": people})
            for connection in self._connections:
                connection.put_latest("presence", text)

    async def _tell_viewing(self) -> None:
        devices = sorted(frozenset().union(*(connection.viewing for connection in self._connections)))
        if not devices or not self._bus.connected:
            return
        try:
            await self._bus.publish(subjects.STATE_VIEWING, Viewing(device_ids=devices))
        except BusError as error:
            _log.info("the request for traces was not sent: %s", error)

    def join(self, socket: Socket, session_id: str, user: str = "") -> Connection:
        """Add a browser; it gets a tick, and who looks at what, at once."""
        connection = Connection(socket, session_id, user)
        connection.put_latest("tick", _json(self.tick()))
        if people := self._presence.now():
            connection.put_latest("presence", _json({"k": "presence", "items": people}))
        self._connections.add(connection)
        return connection

    def leave(self, connection: Connection) -> None:
        """Remove a browser."""
        self._connections.discard(connection)
        self._presence.leave(connection)

    def hear(self, connection: Connection, text: str) -> None:
        """Take what a browser says: ``{"view": [device ids], "beds": bool, "item": id}``. Anything else is ignored."""
        try:
            wish = msgspec.json.decode(text, type=_Wish)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if wish.beds is not None:
            if wish.beds and not connection.wants_beds and self._watch.beds is not None and self._watch.beds_live():
                beds = self._watch.beds
                view = {"k": "beds", "at": beds.at_ns // 1_000_000, "beds": [bed_view(bed) for bed in beds.beds]}
                connection.put_latest("beds", _json(view))
            connection.wants_beds = wish.beds
        if wish.item is not None and connection in self._connections:
            self._presence.look(connection, connection.user, wish.item)
        if wish.view is not None:
            connection.viewing = frozenset(name for name in wish.view[:MAX_VIEW] if subjects.TOKEN.match(name))
            self._view_changed.set()

    async def close_sessions(self, session_ids: list[str]) -> None:
        """Close the sockets of sessions that ended."""
        for connection in tuple(self._connections):
            if connection.session_id in session_ids:
                await self._close(connection, CLOSE_LOGIN, "logged out")

    async def close_all(self) -> None:
        """Close every socket: the console stops."""
        self.closing = True
        await asyncio.gather(*(self._close(c, CLOSE_RESTART, "console stops") for c in tuple(self._connections)))

    async def _close(self, connection: Connection, code: int, reason: str) -> None:
        self.leave(connection)
        try:
            await asyncio.wait_for(connection.socket.close(code, reason), 0.5)
        except (TimeoutError, RuntimeError, OSError) as error:
            _log.debug("a socket was gone already: %s", type(error).__name__)

    @property
    def count(self) -> int:
        """Number of browsers connected."""
        return len(self._connections)


class _Wish(msgspec.Struct):
    view: list[str] | None = None
    beds: bool | None = None
    item: str | None = None
