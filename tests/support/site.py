"""A real bus in a temporary state directory, for tests of single roles."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeward.bus import ports, server
from edgeward.bus.client import Bus
from edgeward.bus.role import RoleContext, open_bus
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.privacy import identity
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.setup import initialise

_given: deque[int] = deque(maxlen=1000)  # as many as a few tests need: the ports are not without end


def _own_ports() -> None:
    """Let each worker of a test run choose among ports of its own.

    Between choosing a port and listening on it lies up to a second, in which another worker would find it free; some
    tests leave one unused on purpose, or come back to it after a kill.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker.isdigit():
        count = (ports._HIGH - ports._LOW) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        ports._LOW += int(worker) * count
        ports._HIGH = ports._LOW + count - 2  # the port above one is also taken (`dicom.legacy_port`)


_own_ports()


def free_port() -> int:
    """Return a free port that no other test of this process was given lately."""
    port = ports.free_port(avoid=set(_given))
    _given.append(port)
    return port


def new_home(path: Path, **sections: dict[str, object]) -> tuple[Home, Settings]:
    """Initialise a site in `path`, with all ports chosen free; `sections` override settings.

    No process stands by for its monitor: starting one more takes seconds from whatever is tested.
    """
    home = Home(path)
    settings = Settings()
    settings.monitor.standby = False
    settings.bus.port, settings.bus.mqtt_port = free_port(), free_port()
    settings.dicom.port, settings.dicom.legacy_port = free_port(), free_port()
    settings.mllp.port, settings.mllp.legacy_port = free_port(), free_port()
    settings.web.port, settings.console.port = free_port(), free_port()
    for section, values in sections.items():
        current = getattr(settings, section)
        setattr(settings, section, type(current)(**{**current.model_dump(), **values}))
    initialise(home, settings)
    return home, settings


@dataclass
class TestSite:
    """A home with a running NATS server."""

    __test__ = False
    home: Home
    settings: Settings
    process: asyncio.subprocess.Process | None = None
    buses: list[Bus] = field(default_factory=list)

    async def start_bus(self) -> None:
        key = SiteKey.load(self.home)
        roles = self.home.identity / "roles"
        tls = server.TlsFiles(roles / "bus.pem", roles / "bus.key", self.home.identity / "ca.pem")
        self.process = await server.start(
            self.home, self.settings.bus, tls, key.jetstream_key(), node="node1", log=self.home.logs / "nats.log"
        )

    async def bus(self, role: str) -> Bus:
        bus = await open_bus(role, self.home, self.settings, identity.client_context(self.home, role))
        self.buses.append(bus)
        return bus

    async def context(self, role: str) -> RoleContext:
        return RoleContext(role, self.home, self.settings, await self.bus(role))

    async def kill_bus(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    def enrol(self, name: str, kind: str = "wearable", ae_title: str = "") -> Path:
        """Enrol a device and return its folder."""
        out = self.home.root / "devices"
        identity.enrol(
            self.home,
            self.settings.site.name,
            [name],
            kind=kind,
            out=out,
            ae_title=ae_title,
            addresses={
                "mqtt": {"host": "127.0.0.1", "port": self.settings.bus.mqtt_port},
                "dicom": {
                    "host": "127.0.0.1",
                    "port": self.settings.dicom.port,
                    "ae_title": self.settings.dicom.ae_title,
                },
                "mllp": {"host": "127.0.0.1", "port": self.settings.mllp.port},
                "web": {"host": "127.0.0.1", "port": self.settings.web.port},
            },
        )
        return out / name


@contextlib.asynccontextmanager
async def running_bus(path: Path, **sections: dict[str, object]) -> AsyncIterator[TestSite]:
    home, settings = new_home(path, **sections)
    site = TestSite(home, settings)
    await site.start_bus()
    try:
        yield site
    finally:
        for bus in site.buses:
            await bus.close()
        if site.process is not None and site.process.returncode is None:
            site.process.terminate()
            await site.process.wait()
