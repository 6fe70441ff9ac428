"""Runs a whole site on one machine: the embedded NATS server and one process per role.

Responsible for starting in order, restarting what dies (with a cap, then a visible degraded state), noticing what
hangs, collecting one log, and stopping cleanly. It knows no role's work. Not responsible for one process of a role
(``children``) or for where the site listens (``site_ports``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import signal
import time
from collections.abc import Iterator
from typing import IO

from edgeward import children
from edgeward.bus import server, subjects
from edgeward.bus.client import Bus, BusError
from edgeward.bus.process import resident_mb
from edgeward.bus.role import open_bus
from edgeward.children import Child, Living
from edgeward.config import Settings
from edgeward.home import Home, write_json
from edgeward.messages import RoleState, SiteState
from edgeward.privacy.identity import client_context
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.setup import bring_up_to_date
from edgeward.site_ports import PortError, announce_site, choose_ports, ports_environment, ports_in_use

ROLES = ("gateway", "engine", "monitor", "recorder", "deliver", "console")
BUS = "bus"
RESTARTS = 5  # this many within RESTART_WINDOW_S, then degraded
RESTART_WINDOW_S = 60.0
DEGRADED_RETRY_S = 30.0
STOP_S = 6.0
STANDBY_AFTER_S = 2.0  # a role that serves for so long gets a process that stands by for it
STANDBY_AGAIN_S = 30.0  # after one that ended

_log = logging.getLogger("edgeward.supervisor")


class SupervisorError(RuntimeError):
    """The site cannot be started; the text says why and what to do."""


@contextlib.contextmanager
def only_one(home: Home) -> Iterator[None]:
    """Hold the site's lock.

    Raises
    ------
    SupervisorError
        If another supervisor runs this site.
    """
    path = home.run / "lock"
    home.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise SupervisorError(
                f"this site runs already (process {file.read().strip() or '?'}); see `edgeward status`"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


class SiteLog:
    """The one log file: JSON lines of all roles."""

    def __init__(self, home: Home, keep_mb: int) -> None:
        handler = logging.handlers.RotatingFileHandler(
            home.logs / "edgeward.log", maxBytes=keep_mb * 1_000_000 // 4, backupCount=3, encoding="utf-8"
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._handler = handler

    def write(self, role: str, line: str) -> None:
        """Append a line; what is not JSON already (a crash's last words) is wrapped."""
        if not line.startswith("{"):
            line = json.dumps({"level": "error", "role": role, "message": line}, ensure_ascii=False)
        self._handler.emit(logging.LogRecord("site", logging.INFO, "", 0, line, None, None))


class Supervisor:
    """Starts, watches and stops one site."""

    def __init__(self, home: Home, settings: Settings, roles: tuple[str, ...] = ROLES) -> None:
        self.home = home
        try:
            self.settings = choose_ports(settings)
        except PortError as error:
            raise SupervisorError(str(error)) from error
        self._key = SiteKey.load(home)
        for role in bring_up_to_date(home, settings):
            _log.warning("this site was made before there was a %s: it has its certificate and credentials now", role)
        self.children = {name: Child(name) for name in ((BUS, *roles) if not settings.bus.url else roles)}
        self._log = SiteLog(home, settings.log.keep_mb)
        self._stopping = asyncio.Event()
        self._watchers: list[asyncio.Task[None]] = []
        self._bus: Bus | None = None
        self._started_ns = time.time_ns()
        self._loop = asyncio.get_running_loop()

    # ---------------------------------------- life

    async def start(self) -> None:
        """Start everything; returns when the bus is up and the roles are starting.

        Raises
        ------
        SupervisorError
            If the bus cannot be started.
        """
        if BUS in self.children:
            try:
                await self._start_bus(self.children[BUS])
            except server.ServerError as error:
                raise SupervisorError(str(error)) from error
            self._watch(self.children[BUS])
        for name, child in self.children.items():
            if name != BUS:
                await self._start_role(child)
                self._watch(child)
        try:
            tls = client_context(self.home, "supervisor")
            self._bus = await open_bus("supervisor", self.home, self.settings, tls)
        except BusError as error:
            await self.stop()
            raise SupervisorError(str(error)) from error
        await self._bus.subscribe(subjects.ROLE_STATE_ALL, RoleState, self._heard)
        self._watchers.append(self._loop.create_task(self._report()))
        write_json(self.home.run / "site.json", {"pid": os.getpid(), "ports": self.ports()})

    async def wait_ready(self, *names: str, timeout_s: float) -> list[str]:
        """Wait until these roles (all, if none is named) serve; return the names of those that do not."""
        wanted = [child for name, child in self.children.items() if name != BUS and (not names or name in names)]
        waits = [self._loop.create_task(child.ready.wait()) for child in wanted]
        if waits:
            await asyncio.wait(waits, timeout=timeout_s)
        for wait in waits:
            wait.cancel()
        return [child.name for child in wanted if not child.ready.is_set()]

    async def stop(self) -> None:
        """Stop the roles, then the bus; whoever does not stop in time is killed."""
        self._stopping.set()
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        if self._bus is not None:
            await self._bus.close()
        roles = [child for name, child in self.children.items() if name != BUS]
        await asyncio.gather(*(self._end(child) for child in roles))
        if BUS in self.children:
            await self._end(self.children[BUS])
        (self.home.run / "site.json").unlink(missing_ok=True)

    def ports(self) -> dict[str, int]:
        """Return the ports in use, by what is spoken there."""
        return ports_in_use(self.settings)

    def state(self) -> SiteState:
        """Return what is known of all children."""
        memory = {
            child.name: resident_mb(child.process.pid)
            for child in self.children.values()
            if child.process is not None and child.process.returncode is None
        }
        memory |= {
            f"{child.name} (standing by)": resident_mb(child.standby.process.pid)
            for child in self.children.values()
            if child.standby is not None and child.standby.process.returncode is None
        }
        memory["supervisor"] = resident_mb(os.getpid())
        warnings = [
            f"device {legacy.name} ({legacy.ae_title}) is excepted from TLS 1.3: {legacy.transport}"
            for legacy in self.settings.dicom.legacy
        ]
        warnings += [f"{entry.name} may send HL7 v2 without TLS" for entry in self.settings.mllp.legacy]
        return SiteState(
            at_ns=time.time_ns(),
            site=self.settings.site.name,
            node=self.settings.site.node,
            started_ns=self._started_ns,
            roles={child.name: child.state for child in self.children.values()},
            restarts={child.name: child.restarts for child in self.children.values()},
            reasons={child.name: child.reason for child in self.children.values() if child.reason},
            warnings=warnings,
            memory_mb=memory,
            ports=self.ports(),
        )

    # ---------------------------------------- children

    async def _start_bus(self, child: Child) -> None:
        roles = self.home.identity / "roles"
        tls = server.TlsFiles(roles / "bus.pem", roles / "bus.key", self.home.identity / "ca.pem")
        child.process = await server.start(
            self.home,
            self.settings.bus,
            tls,
            self._key.jetstream_key(),
            node=self.settings.site.node,
            log=self.home.logs / "nats.log",
        )
        child.state = "running"
        child.ready.set()

    async def _start_role(self, child: Child) -> None:
        """Let the process that stands by take over; start one if there is none."""
        if child.living is not None:
            child.living.let_go()
        standby, child.standby = child.standby, None
        if standby is not None and standby.process.returncode is None:
            await children.go(standby)
            _log.warning("%s: the process that stood by takes over", child.name)
        else:
            standby = await self._spawn(child.name)
        child.begin(standby, self._loop.time())
        child.state = "running"

    async def _spawn(self, name: str, *, standby: bool = False) -> Living:
        living, log = await children.start(
            name, self.home.root, ports_environment(self.settings), self._loop.time(), standby=standby
        )
        self._watchers.append(self._loop.create_task(self._collect(name, log)))
        return living

    async def _stand_by(self, child: Child) -> None:
        """Have a process stand by for a role that serves: its start is most of the time that it is away."""
        now, standby = self._loop.time(), child.standby
        if standby is not None and standby.process.returncode is not None:
            _log.error("the process that stood by for %s ended", child.name)
            standby.let_go()
            child.standby, child.standby_from = None, now + STANDBY_AGAIN_S
        elif standby is not None:
            standby.feel(now)
            if now - standby.pulsed > children.STANDBY_HANGS_S:
                with contextlib.suppress(ProcessLookupError):
                    standby.process.kill()
        wanted = child.name == "monitor" and self.settings.monitor.standby and child.was_ready
        if child.standby is None and wanted and now > max(child.was_ready + STANDBY_AFTER_S, child.standby_from):
            try:
                child.standby = await self._spawn(child.name, standby=True)
            except OSError as error:
                _log.error("no process can stand by for %s: %s", child.name, error)
                child.standby_from = now + STANDBY_AGAIN_S

    async def _collect(self, name: str, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the limit: keep reading, its text is not worth memory
                self._log.write(name, "(a line of the log was too long)")
                continue
            if not line:
                return
            self._log.write(name, line.decode(errors="replace").rstrip())

    def _watch(self, child: Child) -> None:
        self._watchers.append(self._loop.create_task(self._keep_alive(child)))

    async def _keep_alive(self, child: Child) -> None:
        """Wait for the process to end, and start it again: at once, then slower, then only every 30 s."""
        while True:
            if child.process is not None:
                code = await child.process.wait()
                if self._stopping.is_set():
                    return
                child.ready.clear()
                child.reason = f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                child.recent.append(self._loop.time())
                _log.error("%s %s", child.name, child.reason)
            window = [at for at in child.recent if self._loop.time() - at < RESTART_WINDOW_S]
            if len(window) >= RESTARTS:
                child.state = "degraded"
                child.reason += f" ({RESTARTS} times within {RESTART_WINDOW_S:.0f} s; tried again every "
                child.reason += f"{DEGRADED_RETRY_S:.0f} s; see {self.home.logs / 'edgeward.log'})"
                await asyncio.sleep(DEGRADED_RETRY_S)
            else:
                child.state = "restarting"
                await asyncio.sleep(min(2.0, 0.05 * 3 ** max(0, len(window) - 1)))
            child.restarts += 1
            try:
                if child.name == BUS:
                    await self._start_bus(child)
                else:
                    await self._start_role(child)
            except (server.ServerError, OSError) as error:
                child.process = None
                child.reason = str(error)
                child.recent.append(self._loop.time())
                _log.error("%s cannot be started: %s", child.name, error)

    async def _end(self, child: Child) -> None:
        if child.standby is not None:
            with contextlib.suppress(ProcessLookupError):
                child.standby.process.kill()
            await child.standby.process.wait()
            child.standby.let_go()
        process = child.process
        child.state = "stopped"
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            _log.warning("%s did not stop within %.0f s and is killed", child.name, STOP_S)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    # ---------------------------------------- state

    async def _heard(self, _: str, state: RoleState) -> None:
        child = self.children.get(state.role)
        if child is None or child.process is None or child.process.pid != state.pid:
            return
        if child.process.returncode is not None:  # its last words, which came after its end: it serves no more
            return
        child.heard, child.spoke = self._loop.time(), True
        child.role_state = state
        if state.status != "starting" and not child.was_ready:
            child.was_ready = child.heard
        if state.status == "ready":
            child.ready.set()
            if child.state in ("running", "restarting"):
                child.state, child.reason = "running", ""
        elif state.status == "degraded":
            child.ready.clear()
            child.reason = state.reason

    async def _report(self) -> None:
        assert self._bus is not None
        before = self._loop.time()
        while True:
            now = self._loop.time()
            # After a pause of this very process nobody was heard; that is not their silence.
            paused, before = now - before > 3.0, now
            for child in self.children.values():
                if child.name == BUS or child.process is None or child.process.returncode is not None:
                    continue
                if not self._bus.connected:
                    child.heard = now
                if paused:
                    child.excuse(now)
                elif reason := child.hangs(now):
                    _log.error("%s %s and is killed", child.name, reason)
                    child.excuse(now)
                    with contextlib.suppress(ProcessLookupError):
                        child.process.kill()
                else:
                    await self._stand_by(child)
            try:
                await self._bus.publish(subjects.SITE_STATE, self.state())
            except BusError as error:
                _log.debug("site state not sent: %s", error)
            await asyncio.sleep(1.0)


async def run(home: Home, settings: Settings, *, announce: IO[str], as_json: bool = False) -> int:
    """Run a site until SIGINT or SIGTERM; return the exit code."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    with only_one(home):
        supervisor = Supervisor(home, settings)
        await supervisor.start()
        try:
            waiting = loop.create_task(supervisor.wait_ready(timeout_s=60.0))
            stopped = loop.create_task(stop.wait())
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                reasons = {name: supervisor.children[name].reason for name in waiting.result()}
                announce_site(home, supervisor.settings, reasons, announce, as_json=as_json)
            await stopped
            if not as_json:
                print("\nstopping ...", file=announce, flush=True)
        finally:
            await supervisor.stop()
    if not as_json:
        print("stopped", file=announce, flush=True)
    return 0
