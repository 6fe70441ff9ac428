"""What flows to the browsers: one subscription on the bus, fanned out to every WebSocket.

Responsible for the fan-out and for never letting a slow browser hold up another or the bus: state is coalesced (the
latest wins), traces are dropped (they carry sample indices, so the browser shows a gap), events are bounded and end in
a ``resync``. Not responsible for who may connect (``access``) or for the meaning of what is shown.

Text frames are JSON with the key ``k``; binary frames are traces (``wire``). Of beds, a browser gets those it shows,
and of those the ones that changed: what waits for a slow one is a set of names, and it gets their latest state.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from edgeward.bedside import AlarmSystemState, Hearing
from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.console.presence import Presence
from edgeward.console.wall import WallWish, choose, loudness
from edgeward.console.watch import Watch
from edgeward.console.wire import alarm_view, bed_view, pack_trace
from edgeward.messages import (
    Alarm,
    Beds,
    ItemSummary,
    MessageError,
    Quarantined,
    RoleState,
    SiteState,
    Trace,
    Viewing,
    decode,
    json_decoder,
)

_log = logging.getLogger("edgeward.console")

TICK_S = 0.5  # a browser that hears nothing for 2.5 s says that it is not live
VIEWING_S = 2.0
SEND_TIMEOUT_S = 5.0
MAX_EVENTS = 256
MAX_TRACES = 512
MAX_VIEW = 256
MAX_WAVES, MAX_WAVE_NAME = 32, 16
CLOSE_RESTART, CLOSE_SLOW, CLOSE_LOGIN = 1012, 1013, 4401
# The login ran out, while the socket was open or before: a page from which patients are watched stays and says so
# (link.js).
SESSION_OVER, LOG_IN_FIRST = "session over", "log in first"
COALESCE_S = 0.04  # a storm of alarms costs one answer per screen in this time, not one per alarm


class Socket(Protocol):
    """The part of a WebSocket that is used here."""

    async def send_text(self, data: str) -> None: ...  # noqa: D102
    async def send_bytes(self, data: bytes) -> None: ...  # noqa: D102
    async def close(self, code: int = 1000, reason: str | None = None) -> None: ...  # noqa: D102


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


class Connection:
    """One browser: its outbox and the task that empties it."""

    def __init__(self, socket: Socket, session_id: str, user: str = "") -> None:
        self.socket = socket
        self.session_id = session_id
        self.user = user
        self.viewing: frozenset[str] = frozenset()
        self.waves: frozenset[str] = frozenset()  # traces, or kinds of them, beside the leading ECG of each
        self.wants_beds = False
        self.ward = ""  # what this screen sounds for; empty: the whole site
        self.wall: WallWish | None = None
        self.bed = ""
        self.shown: frozenset[str] = frozenset()  # beds on its page
        self.told_wall = ""
        self.dropped = 0
        self.compose: Callable[[set[str]], str] = lambda _: ""
        self._beds: set[str] = set()
        self._latest: dict[str, str] = {}
        self._events: deque[str] = deque()
        self._traces: deque[bytes] = deque()
        self._ready = asyncio.Event()

    def put_latest(self, key: str, text: str) -> None:
        """Queue a state: an older one of the same key that still waits is replaced."""
        self._latest[key] = text
        self._ready.set()

    def put_beds(self, bed_ids: set[str]) -> None:
        """Queue beds: their latest state is taken when it is their turn."""
        if bed_ids:
            self._beds |= bed_ids
            self._ready.set()

    def wants(self, changed: set[str]) -> set[str]:
        """Return those of `changed` that this browser shows."""
        return changed if self.wants_beds else changed & self.shown

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
            beds, self._beds = self._beds, set()
            async with asyncio.timeout(SEND_TIMEOUT_S):
                for text in (*events, *latest.values()):
                    await self.socket.send_text(text)
                if beds:
                    await self.socket.send_text(self.compose(beds))
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
        self._walls_changed = False
        self._cells: dict[str, bytes] = {}  # beds as JSON, made once for all browsers
        self._presence = Presence()
        self.closing = False

    # ------------------------------------ from the bus

    async def start(self) -> None:
        """Subscribe, once for everybody."""
        await self._bus.subscribe(subjects.STATE_BEDS, Beds, self._on_beds)
        await self._bus.subscribe(subjects.ALARM_ALL, Alarm, self._on_alarm)
        await self._bus.subscribe(subjects.ALARM_SYSTEM, AlarmSystemState, self._on_alarm_system)
        await self._bus.subscribe(subjects.FINDING_ALL, ItemSummary, self._on_finding)
        await self._bus.subscribe(subjects.ITEM_STATE_ALL, ItemSummary, self._on_item)
        await self._bus.subscribe(subjects.ROLE_STATE_ALL, RoleState, self._on_role)
        await self._bus.subscribe(subjects.SITE_STATE, SiteState, self._on_site)
        await self._bus.subscribe(subjects.QUARANTINED, Quarantined, self._on_quarantined)
        await self._bus.subscribe_raw(subjects.TRACE_ALL, self._on_trace)

    async def _on_beds(self, _: str, beds: Beds) -> None:
        self._changed(self._watch.take_beds(beds))

    async def _on_alarm(self, _: str, alarm: Alarm) -> None:
        self._event({"k": "alarm", "alarm": alarm_view(alarm)})
        if bed_id := self._watch.take_alarm(alarm):
            self._changed({bed_id})
            self._view_changed.set()  # the screens sound now, not at the next pulse

    async def _on_alarm_system(self, _: str, state: AlarmSystemState) -> None:
        self._watch.take_alarm_system(state)
        answer = Hearing(
            receiver=f"console-{os.getpid()}", number=state.number, at_ns=time.time_ns(), screens=len(self._connections)
        )
        try:
            await self._bus.publish(subjects.MONITOR_HEARING, answer)
        except BusError as error:
            _log.info("the monitor was not answered: %s", error)

    def _changed(self, bed_ids: set[str]) -> None:
        """Beds changed: tell the browsers that show them."""
        for bed_id in bed_ids:
            self._cells.pop(bed_id, None)
        self._walls_changed = True
        for connection in self._connections:
            connection.put_beds(connection.wants(bed_ids))

    def compose(self, bed_ids: set[str]) -> str:
        """Return the message with the latest state of some beds; those that are gone are named."""
        cells: list[bytes] = []
        gone: list[str] = []
        for bed_id in sorted(bed_ids):
            cell = self._cells.get(bed_id)
            if cell is None:
                bed = self._watch.bed(bed_id)
                if bed is None:
                    gone.append(bed_id)
                    continue
                cell = self._cells[bed_id] = msgspec.json.encode(bed_view(bed))
            cells.append(cell)
        at_ms = (self._watch.beds.at_ns if self._watch.beds else 0) // 1_000_000
        head = b'{"k":"beds","at":%d,"gone":%b,"beds":[' % (at_ms, msgspec.json.encode(gone))
        return (head + b",".join(cells) + b"]}").decode()

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
        frames: dict[frozenset[str], bytes] = {}  # screens that want the same get the same bytes
        try:
            trace = decode(Trace, data)
            for connection in watching:
                wishes = connection.waves
                if wishes not in frames:
                    frames[wishes] = pack_trace(trace, wishes)
        except MessageError as error:
            _log.warning("malformed trace: %s", error)
            return
        for connection in watching:
            connection.put_trace(frames[connection.waves])

    def _event(self, value: dict[str, Any]) -> None:
        if self._connections:
            text = _json(value)
            for connection in self._connections:
                connection.put_event(text)

    # ------------------------------------ to the browsers

    def tick(self, ward: str = "") -> dict[str, Any]:
        """Return the pulse of the console: whether what the browser shows is live, and how loud its ward is."""
        watch = self._watch
        age = watch.beds_age_s()
        system = watch.alarm_system
        now_ns = time.time_ns()
        return {
            "k": "tick",
            "build": self._build,
            "now": now_ns // 1_000_000,
            "bus": watch.connected(),
            "beds_age": None if age is None else round(age * 1000),
            "beds_live": watch.beds_live(),
            **loudness(watch.by_id.values(), ward, now_ns),
            "troubled": sum(view.status not in ("ready", "starting", "running") for view in watch.role_views()),
            "alarm_system": {
                "fails": watch.alarms_may_fail(),
                "age": round(watch.alarm_system_age_s() * 1000),
                "problems": system.problems if system else [],
                "flood": bool(system and system.flood),
            },
        }

    async def pulse(self) -> None:
        """Send the tick, end sessions that are over, and keep the traces in view coming. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        next_viewing = 0.0
        while True:
            if self._connections:
                self._tell_presence()
                self._tell_walls()
                ticks: dict[str, str] = {}
                for connection in tuple(self._connections):
                    if connection not in self._connections:
                        continue  # closed, and told why, while another was being closed
                    if self._session_valid(connection.session_id):
                        if connection.ward not in ticks:
                            ticks[connection.ward] = _json(self.tick(connection.ward))
                        connection.put_latest("tick", ticks[connection.ward])
                    else:
                        await self._close(connection, CLOSE_LOGIN, SESSION_OVER)
            if self._view_changed.is_set() or loop.time() >= next_viewing:
                self._view_changed.clear()
                next_viewing = loop.time() + VIEWING_S
                await self._tell_viewing()
            await asyncio.sleep(COALESCE_S)
            try:
                async with asyncio.timeout(TICK_S - COALESCE_S):
                    await self._view_changed.wait()
            except TimeoutError:
                continue

    def _tell_walls(self) -> None:
        if not self._walls_changed:
            return
        self._walls_changed = False
        pages: dict[WallWish, dict[str, Any]] = {}
        for connection in self._connections:
            if connection.wall is not None:
                self._tell_wall(connection, connection.wall, pages)

    def _tell_wall(self, connection: Connection, wish: WallWish, pages: dict[WallWish, dict[str, Any]]) -> None:
        if self._watch.beds is None:
            return
        page = pages.get(wish)
        if page is None:
            page = pages[wish] = choose(self._watch.by_id.values(), wish)
        text = _json(page)
        if text != connection.told_wall:
            connection.told_wall = text
            connection.put_latest("wall", text)
        shown = frozenset(page["ids"])
        connection.put_beds(set(shown - connection.shown))
        connection.shown = shown

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
            await self._bus.publish(subjects.STATE_VIEWING, Viewing(device_ids=devices, waves=self._wishes()))
        except BusError as error:
            _log.info("the request for traces was not sent: %s", error)

    def _wishes(self) -> dict[str, list[str]]:
        """Return what is wanted of each source beside its leading ECG, by all screens together."""
        wishes: dict[str, set[str]] = {}
        for connection in self._connections:
            if connection.waves:
                for source_id in connection.viewing:
                    wishes.setdefault(source_id, set()).update(connection.waves)
        return {source_id: sorted(wanted) for source_id, wanted in wishes.items()}

    def join(self, socket: Socket, session_id: str, user: str = "") -> Connection:
        """Add a browser; it gets a tick, and who looks at what, at once."""
        connection = Connection(socket, session_id, user)
        connection.compose = self.compose
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
        """Take what a browser says (`_Wish`): what it shows. Anything else is ignored."""
        try:
            wish = json_decoder(_Wish).decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if wish.ward is not None:
            connection.ward = wish.ward[:64]
            self._view_changed.set()
        if wish.beds is not None:
            if wish.beds and not connection.wants_beds:
                connection.put_beds(set(self._watch.by_id))
            connection.wants_beds = wish.beds
        if wish.wall is not None:
            connection.wall = wish.wall
            self._tell_wall(connection, wish.wall, {})
        if wish.bed is not None:
            connection.shown = frozenset({wish.bed})
            connection.put_beds(set(connection.shown))
        if wish.item is not None and connection in self._connections:
            self._presence.look(connection, connection.user, wish.item)
        if wish.view is not None:
            connection.viewing = frozenset(name for name in wish.view[:MAX_VIEW] if subjects.TOKEN.match(name))
            self._view_changed.set()
        if wish.waves is not None:
            connection.waves = frozenset(name for name in wish.waves[:MAX_WAVES] if 0 < len(name) <= MAX_WAVE_NAME)
            self._view_changed.set()

    async def close_sessions(self, session_ids: list[str]) -> None:
        """Close the sockets of sessions that somebody ended: all at once, one of them may be slow to close."""
        ended = [connection for connection in self._connections if connection.session_id in session_ids]
        for connection in ended:
            self.leave(connection)  # before anything is waited for: the pulse would tell it that its login ran out
        await asyncio.gather(*(self._close(connection, CLOSE_LOGIN, "logged out") for connection in ended))

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
    view: list[str] | None = None  # sources whose traces are in sight
    waves: list[str] | None = None  # which of them, beside the leading ECG: names, kinds or "*"
    beds: bool | None = None  # every bed of the site
    wall: WallWish | None = None  # one page of a wall
    bed: str | None = None  # one bed
    ward: str | None = None  # what the screen sounds for
    item: str | None = None
