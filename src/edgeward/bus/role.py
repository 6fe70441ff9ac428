"""What every role has in common: settings, the bus, a heartbeat, a clean stop.

Responsible for the frame around a role's ``run``. Not responsible for processes: those are the supervisor's.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import resource
import signal
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

from edgeward import log
from edgeward.bus import permissions, subjects
from edgeward.bus.client import Bus, BusError, connect
from edgeward.bus.process import die_with_parent, pulse, raise_file_limit, resident_mb
from edgeward.bus.server import seed_path
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import Quarantined, RoleState, ServiceClass, StageStats

_log = logging.getLogger("edgeward.role")
_KEEP = 1000  # values per stage from which percentiles are computed
HEARTBEAT_S = 1.0


class Stats:
    """Counters, stage times and budget misses of one role. Not thread-safe: call from the event loop."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.budgets: dict[str, int] = {}
        self.missed_by: dict[str, int] = {}
        self.warnings: set[str] = set()
        self._stages: dict[str, deque[float]] = {}
        self._counts: dict[str, int] = {}

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter."""
        self.counters[name] = self.counters.get(name, 0) + n

    def stage(self, service_class: ServiceClass, name: str, ms: float) -> None:
        """Record how long a stage took."""
        key = f"{service_class}/{name}"
        values = self._stages.setdefault(key, deque(maxlen=_KEEP))
        values.append(ms)
        self._counts[key] = self._counts.get(key, 0) + 1

    def miss(self, service_class: ServiceClass, stage: str) -> None:
        """Count a missed budget and the stage that ate it."""
        self.budgets[service_class] = self.budgets.get(service_class, 0) + 1
        key = f"{service_class}/{stage}"
        self.missed_by[key] = self.missed_by.get(key, 0) + 1

    def stages(self) -> dict[str, StageStats]:
        """Return the distribution of each stage over its most recent values."""
        result: dict[str, StageStats] = {}
        for key, values in self._stages.items():
            ordered = sorted(values)
            last = len(ordered) - 1
            result[key] = StageStats(
                count=self._counts[key],
                p50_ms=ordered[round(last * 0.5)],
                p99_ms=ordered[round(last * 0.99)],
                max_ms=ordered[-1],
            )
        return result


class RoleContext:
    """What a role's ``run(context)`` is given."""

    def __init__(self, role: str, home: Home, settings: Settings, bus: Bus) -> None:
        self.role = role
        self.node = settings.site.node
        self.home = home
        self.settings = settings
        self.bus = bus
        self.stats = Stats()
        self.stopping = asyncio.Event()
        self._status = "starting"
        self._reason = ""
        self._started_ns = time.time_ns()
        self._cpu = (time.monotonic(), sum(os.times()[:2]))

    def ready(self) -> None:
        """Say that the role serves."""
        self._status, self._reason = "ready", ""
        _log.info("ready")

    def degraded(self, reason: str) -> None:
        """Say that the role cannot do its work, and why. Logged once per reason."""
        if (self._status, self._reason) != ("degraded", reason):
            _log.error("degraded: %s", reason)
        self._status, self._reason = "degraded", reason

    def recovered(self) -> None:
        """Say that what ``degraded`` told is over."""
        if self._status == "degraded":
            _log.warning("recovered from: %s", self._reason)
            self._status, self._reason = "ready", ""

    async def quarantine(self, where: str, peer: str, reason: str, what_to_do: str = "") -> None:
        """Tell the gateway that something was refused or set aside. Must not contain identity."""
        entry = Quarantined(at_ns=time.time_ns(), where=where, peer=peer, reason=reason, what_to_do=what_to_do)
        try:
            await self.bus.publish(subjects.QUARANTINED, entry)
        except BusError as error:
            _log.warning("quarantine entry not sent (%s): %s %s %s", error, where, peer, reason)

    def state(self) -> RoleState:
        """Return the heartbeat."""
        now, used = time.monotonic(), sum(os.times()[:2])
        then, before = self._cpu
        self._cpu = (now, used)
        return RoleState(
            role=self.role,
            node=self.node,
            pid=os.getpid(),
            at_ns=time.time_ns(),
            started_ns=self._started_ns,
            status=self._status,  # type: ignore[arg-type]
            reason=self._reason,
            memory_mb=resident_mb(os.getpid()),
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            cpu_percent=100.0 * (used - before) / max(now - then, 1e-3),
            counters=dict(self.stats.counters),
            budgets=dict(self.stats.budgets),
            missed_by=dict(self.stats.missed_by),
            stages=self.stats.stages(),
            warnings=sorted(self.stats.warnings),
        )

    async def beat(self) -> None:
        """Publish the heartbeat until cancelled."""
        while True:
            try:
                await self.bus.publish(subjects.role_state(self.role), self.state())
            except BusError as error:
                _log.debug("heartbeat not sent: %s", error)
            await asyncio.sleep(HEARTBEAT_S)


def bus_url(settings: Settings) -> str:
    """Return the address roles connect to."""
    if settings.bus.url:
        return settings.bus.url
    host = "127.0.0.1" if settings.bus.host in ("0.0.0.0", "::") else settings.bus.host  # noqa: S104
    return f"tls://{host}:{settings.bus.port}"


async def open_bus(
    role: str,
    home: Home,
    settings: Settings,
    tls: ssl.SSLContext,
    *,
    user: str = "",
    on_change: Callable[[bool], None] | None = None,
    patience_s: float = 15.0,
) -> Bus:
    """Connect `role` to the site's bus, as `user` if its seed has another name.

    Raises
    ------
    BusError
        If the seed is missing or no connection could be made.
    """
    folder = Path(settings.bus.credentials) if settings.bus.credentials else home.keys / "bus"
    path = seed_path(folder, user or role)
    try:
        seed = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise BusError(f"{path} is missing: run `edgeward init`") from None
    inbox = subjects.INBOX if user else permissions.inbox(role)
    return await connect(
        bus_url(settings),
        name=user or role,
        seed=seed,
        tls=tls,
        inbox=inbox,
        on_change=on_change,
        patience_s=patience_s,
    )


def run_role(
    role: str,
    run: Callable[[RoleContext], Awaitable[None]],
    home: Home,
    settings: Settings,
    tls: ssl.SSLContext,
    *,
    stand_by: Callable[[RoleContext], Awaitable[bool]] | None = None,
) -> int:
    """Run a role in this process until it is told to stop; return its exit code.

    Parameters
    ----------
    stand_by : callable, optional
        Comes first: it returns once this process is needed, or False if it never will be. Until then the role says
        nothing of itself.
    """
    import uvloop

    log.configure(role, settings.log.level)
    faulthandler.enable()  # where a library crashed, on stderr: without it such a death leaves no trace
    die_with_parent()
    raise_file_limit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> int:
        loop = asyncio.get_running_loop()

        def changed(connected: bool) -> None:
            if connected:
                _log.warning("the bus is back")
            else:
                _log.warning("the bus is lost; reconnecting")

        beating = loop.create_task(pulse())
        bus = await open_bus(role, home, settings, tls, on_change=changed)
        context = RoleContext(role, home, settings, bus)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, context.stopping.set)
        heartbeat: asyncio.Task[None] | None = None
        try:
            if stand_by is None or await stand_by(context):
                heartbeat = loop.create_task(context.beat())
                await run(context)
        finally:
            if heartbeat is not None:
                heartbeat.cancel()
            await bus.close()
            beating.cancel()
        return 0

    try:
        return uvloop.run(main())
    except BusError as error:
        _log.error("%s", error)
        return 3
    except Exception:
        _log.exception("the role ended")
        return 1
