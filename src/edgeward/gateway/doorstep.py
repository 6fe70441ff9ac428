"""Where connections wait that have not said who they are: accepted in the event loop, TLS established, then let in.

Responsible for connections up to the end of their TLS handshake: how many there may be, in all and from one address,
and for how long. When there are too many the oldest gives way, so that whoever holds many silent ones keeps nobody
else out. Not responsible for who comes in, or for what is spoken then (``gateway.mllp``, ``gateway.web``).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

_log = logging.getLogger("edgeward.gateway.doorstep")

HANDSHAKE_S = 10.0
WAITING = 256  # connections within their TLS handshake
PER_ADDRESS = 64
_SHUTDOWN_S = 2.0
_ACCEPT_AGAIN_S = 0.1

Refused = Callable[[str, str], None]
"""Called with the address and the reason when a connection did not come in."""


class Doorstep:
    """Accepts the connections of one listening socket.

    Parameters
    ----------
    listener
        Listening and not blocking; closed by `close`.
    context
        TLS begins with the first byte of a connection, or never if None.
    welcome
        Returns the protocol of a new connection; its ``connection_made`` is called once the handshake is done.
    refused
        Called when a connection did not come in.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        welcome: Callable[[], asyncio.BaseProtocol],
        refused: Refused,
    ) -> None:
        self._listener, self._context = listener, context
        self._welcome, self._refused = welcome, refused
        self._waiting: dict[asyncio.Task[None], str] = {}  # in the order in which they came
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept no more, and drop what has not come in. What has is its protocol's."""
        self._accepting.cancel()
        for task in self._waiting:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing is left of what `close` ended."""
        await asyncio.wait([self._accepting, *self._waiting])
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, peer = await loop.sock_accept(self._listener)
            except OSError as error:  # no file handles left
                _log.error("a connection could not be accepted: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            address = str(peer[0])
            self._make_room(address)
            task = loop.create_task(self._let_in(client, address))
            self._waiting[task] = address
            task.add_done_callback(self._waiting.pop)

    def _make_room(self, address: str) -> None:
        own = [task for task, other in self._waiting.items() if other == address]
        if len(own) < PER_ADDRESS and len(self._waiting) < WAITING:
            return
        oldest = own[0] if len(own) >= PER_ADDRESS else next(iter(self._waiting))
        whose = self._waiting.pop(oldest)
        oldest.remove_done_callback(self._waiting.pop)
        oldest.cancel()
        self._refused(whose, "too many connections that have not said who they are; the oldest were closed")

    async def _let_in(self, client: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._context is None:
                await loop.connect_accepted_socket(self._welcome, client)
            else:
                await loop.connect_accepted_socket(
                    self._welcome,
                    client,
                    ssl=self._context,
                    ssl_handshake_timeout=HANDSHAKE_S,
                    ssl_shutdown_timeout=_SHUTDOWN_S,
                )
        except OSError as error:
            client.close()
            self._refused(address, f"no TLS 1.3 connection: {_told(error)}")
        except asyncio.CancelledError:
            client.close()
            raise


_VERIFY = {9: "its certificate is not valid yet", 10: "its certificate has expired"}  # X509_V_ERR_* of OpenSSL
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no certificate",
    "UNSUPPORTED_PROTOCOL": "it offers no TLS 1.3",
    "HTTP_REQUEST": "it speaks no TLS",
    "WRONG_VERSION_NUMBER": "it speaks no TLS",
}


def certificate_fault(error: ssl.SSLCertVerificationError) -> str:
    """Return what is wrong with the certificate of a peer that was turned away in the handshake."""
    return _VERIFY.get(error.verify_code, "its certificate is not from this site")


def _told(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return certificate_fault(error)
    if isinstance(error, ssl.SSLError) and error.reason in _REASONS:
        return _REASONS[error.reason]
    return "it closed the connection, or the handshake failed"
