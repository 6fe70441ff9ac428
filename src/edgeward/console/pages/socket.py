"""The live socket: who may open it, and its life."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from edgeward.console.access import console_of, same_origin, visitor_of
from edgeward.console.live import CLOSE_LOGIN, CLOSE_SLOW, LOG_IN_FIRST, Connection, Hub

_log = logging.getLogger("edgeward.console")
router = APIRouter()
MAX_SOCKETS = 500


@router.websocket("/live")
async def live(socket: WebSocket) -> None:
    """Serve one browser until it, its session or the console ends."""
    console = console_of(socket)
    visitor = visitor_of(socket)
    if not same_origin(socket, required=True) or console.hub.closing or console.hub.count >= MAX_SOCKETS:
        await socket.close(1008)  # before the handshake is complete: the browser sees 403
        return
    await socket.accept()
    if visitor is None or visitor.user.one_time:
        # After the handshake, so that the page learns why and goes to the login.
        await socket.close(CLOSE_LOGIN, LOG_IN_FIRST)
        return
    connection = console.hub.join(socket, visitor.session.id, visitor.user.name)
    pump = asyncio.create_task(connection.pump())
    listen = asyncio.create_task(_listen(socket, console.hub, connection))
    try:
        done, _ = await asyncio.wait({pump, listen}, return_when=asyncio.FIRST_COMPLETED)
        if pump in done and isinstance(pump.exception(), TimeoutError):
            _log.info("a slow browser was dropped", extra={"fields": {"user": visitor.user.name}})
            await asyncio.wait_for(socket.close(CLOSE_SLOW, "too slow"), 0.5)
    except (TimeoutError, RuntimeError, OSError) as error:
        _log.debug("a socket ended: %s", type(error).__name__)
    finally:
        console.hub.leave(connection)
        for task in (pump, listen):
            task.cancel()
        await asyncio.gather(pump, listen, return_exceptions=True)


async def _listen(socket: WebSocket, hub: Hub, connection: Connection) -> None:
    try:
        while True:
            hub.hear(connection, await socket.receive_text())
    except (WebSocketDisconnect, KeyError, RuntimeError):
        return  # the browser left, or sent a binary frame, which no page of ours does
