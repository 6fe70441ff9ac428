"""The role ``console``: a web server inside the role's event loop.

Responsible for the socket, TLS, the announced address and a prompt stop. The pages are in ``pages``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Iterator

import uvicorn

from edgeward.bus.role import RoleContext
from edgeward.console.app import build, create_app
from edgeward.home import write_json
from edgeward.privacy import identity

_log = logging.getLogger("edgeward.console")
ADDRESS_FILE = "console.json"
STOP_S = 0.8  # sockets of browsers get this long to close


class ConsoleError(RuntimeError):
    """The console cannot serve; the text says why and what to do."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the role."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 chooses a free one.

    Raises
    ------
    ConsoleError
        If the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        raise ConsoleError(
            f"console.host = {host!r}, console.port = {port}: {error.strerror or error}; choose another in the settings"
        ) from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket, host: str, *, secure: bool) -> str:
    """Return the address to open in a browser."""
    port = listener.getsockname()[1]
    name = host
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        name = socket.gethostname() if secure else "127.0.0.1"
    if ":" in name:
        name = f"[{name}]"
    return f"{'https' if secure else 'http'}://{name}:{port}/"


async def run(context: RoleContext) -> None:
    """Serve the console until the role is told to stop.

    Raises
    ------
    ConsoleError
        If the address cannot be used.
    edgeward.privacy.identity.IdentityError
        If HTTPS is needed and the role's certificate cannot be used.
    """
    settings = context.settings.console
    secure = not is_loopback(settings.host)
    tls = identity.web_context(context.home, "console") if secure else None
    listener = listen(settings.host, settings.port)
    console = await asyncio.to_thread(build, context.home, context.settings, context.bus, secure=secure)
    server = _Server(_config(create_app(console), tls))
    await console.hub.start()
    pulse = asyncio.create_task(console.hub.pulse())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(context.stopping.wait())
    announcement = context.home.run / ADDRESS_FILE
    try:
        await server.up.wait()
        port = int(listener.getsockname()[1])
        url = address_of(listener, settings.host, secure=secure)
        write_json(announcement, {"url": url, "port": port, "pid": os.getpid()})
        context.stats.count("port", port)
        context.ready()
        _log.info("serving", extra={"fields": {"url": url}})
        watched: set[asyncio.Task[object]] = {serving, stopping, pulse}
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
            raise ConsoleError("the web server ended by itself")
    finally:
        announcement.unlink(missing_ok=True)
        stopping.cancel()
        pulse.cancel()
        await console.hub.close_all()
        server.should_exit = True
        try:
            await asyncio.wait_for(asyncio.gather(serving, return_exceptions=True), STOP_S)
        except TimeoutError:
            _log.info("open connections were cut")
        listener.close()


def _config(app: object, tls: ssl.SSLContext | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",
        ws="websockets-sansio",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        ws_max_size=16 * 1024,
        ws_ping_interval=10.0,
        ws_ping_timeout=10.0,
        ws_per_message_deflate=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
        limit_concurrency=1000,
    )
    if tls is not None:
        config.load()
        config.ssl = tls
    return config
