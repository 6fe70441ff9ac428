"""The listeners of the DICOM door: connections accepted, TLS shaken hands, an association started in a thread.

Responsible for what happens before the first byte of an association: nothing here waits for a peer but its own thread,
and connections that have not come as far as an association are limited, in all and per address; the oldest gives way to
the newest. Not responsible for who may associate (``gateway.admission``) or for the association.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable

from edgeward.gateway.admission import Door, Peer
from edgeward.gateway.doorstep import certificate_fault
from edgeward.gateway.wire import PlainWire, TlsWire, Wire

_log = logging.getLogger("edgeward.gateway.dicom")

_HANDSHAKE_S = 10.0
_YOUNG = 256  # connections without an association at one time
_YOUNG_PER_ADDRESS = 64
_BACKLOG = 128
_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)  # seconds, seconds, probes

Refuse = Callable[[str, str, str], None]  # peer, reason, what to do


class Listener:
    """One listening socket.

    Parameters
    ----------
    address
        Host and port; port 0 takes a free one.
    door
        Which door.
    tls
        The TLS context, None for the plain door.
    may_knock
        Whether an address may connect at all.
    refuse
        Called when a connection is not let in.
    serve
        Runs the association of a connection until it ends, and closes it; called in the connection's own thread. Its
        last argument is to be called once that is an association, and before it is closed.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        door: Door,
        tls: ssl.SSLContext | None,
        may_knock: Callable[[Door, str], bool],
        refuse: Refuse,
        serve: Callable[[Wire, Peer, Callable[[], None]], None],
    ) -> None:
        self._door, self._tls, self._may_knock = door, tls, may_knock
        self._refuse, self._serve = refuse, serve
        self._young: OrderedDict[int, tuple[socket.socket, str]] = OrderedDict()
        self._lock = threading.Lock()
        self._count = 0
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._accept, name=f"dicom-{door}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and close what has not become an association."""
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        self._socket.close()
        os.close(self._bell)
        with self._lock:
            young = [client for client, _ in self._young.values()]
        for client in young:
            _shut(client)

    # ------------------------------------------------------------ accepting, in the listener's thread

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        while True:
            ready = {handle for handle, _ in poll.poll()}
            if self._bell in ready:
                return
            try:
                client, address = self._socket.accept()
            except BlockingIOError:
                continue
            except OSError as error:  # no file handles left, or it is gone already
                _log.error("a connection could not be accepted: %s", error.strerror)
                poll.poll(100)
                continue
            try:
                self._welcome(client, str(address[0]))
            except (OSError, RuntimeError) as error:
                _log.error("a connection could not be served: %s", type(error).__name__)
                client.close()

    def _welcome(self, client: socket.socket, address: str) -> None:
        if not self._may_knock(self._door, address):
            self._refuse(
                address,
                f"it connected to the {self._door} port, which is open to listed devices only",
                "let the device use TLS 1.3 with its certificate, or list it under [[dicom.legacy]]",
            )
            client.close()
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            client.setsockopt(socket.IPPROTO_TCP, option, value)
        number = self._make_room(client, address)
        name = "dicom-association"
        threading.Thread(target=self._run, args=(number, client, address), name=name, daemon=True).start()

    def _make_room(self, client: socket.socket, address: str) -> int:
        """Enter a connection into the list of those without an association; return its number there."""
        with self._lock:
            self._count += 1
            self._young[self._count] = (client, address)
            own = [number for number, (_, other) in self._young.items() if other == address]
            surplus = own[0] if len(own) > _YOUNG_PER_ADDRESS else None
            if surplus is None and len(self._young) > _YOUNG:
                surplus = next(iter(self._young))
            if surplus is None:
                return self._count
            _shut(self._young.pop(surplus)[0])
        self._refuse(address, "too many connections that ask for nothing; the oldest were closed", "")
        return self._count

    # ------------------------------------------------------------ a connection, in its own thread

    def _run(self, number: int, client: socket.socket, address: str) -> None:
        try:
            wire, peer = self._shake_hands(number, client, address)
            self._serve(wire, peer, lambda: self._left(number))
        except (OSError, ValueError) as error:
            self._refuse(address, *_why(error))
        except Exception as error:
            # Only the type: the text of an unforeseen error may quote what the peer sent.
            _log.error("a connection could not be served: %s", type(error).__name__)
        finally:
            self._left(number)
            client.close()

    def _shake_hands(self, number: int, client: socket.socket, address: str) -> tuple[Wire, Peer]:
        if self._tls is None:
            return PlainWire(client), Peer(door=self._door, address=address)
        client.settimeout(_HANDSHAKE_S)
        secure = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        try:
            with self._lock:
                if number in self._young:
                    self._young[number] = (secure, address)
            secure.do_handshake()
            der = secure.getpeercert(binary_form=True) or b""
            return TlsWire(secure), Peer(self._door, address, secure.getpeercert() or None, der)
        except BaseException:
            self._left(number)
            secure.close()
            raise

    def _left(self, number: int) -> None:
        """Take a connection off the list: it is an association now, or about to be closed."""
        with self._lock:
            self._young.pop(number, None)


def _shut(client: socket.socket) -> None:
    """Wake whoever waits on a socket, and tell the peer; closing is its owner's."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(client, socket.SHUT_RDWR)


_TLS_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("it has no certificate", "enrol the device and install its certificate"),
    "UNSUPPORTED_PROTOCOL": (
        "it offers no TLS 1.3",
        "update the device, or list it under [[dicom.legacy]] with transport tls1.2",
    ),
    "HTTP_REQUEST": ("it speaks HTTP, not DICOM over TLS", "find out who this is"),
    "WRONG_VERSION_NUMBER": ("it speaks no TLS", "switch TLS on in the device, or list it under [[dicom.legacy]]"),
}


def _why(error: Exception) -> tuple[str, str]:
    """Return reason and what to do for a connection that did not come as far as an association."""
    if isinstance(error, TimeoutError):
        return "it connected and said nothing", "look for a scanner or a wrong port"
    if isinstance(error, ssl.SSLCertVerificationError):
        return certificate_fault(error), "enrol the device and install the certificate of that enrolment"
    if isinstance(error, ssl.SSLError) and error.reason in _TLS_REASONS:
        return _TLS_REASONS[error.reason]
    if isinstance(error, ssl.SSLError) and error.reason and "UNEXPECTED_EOF" not in error.reason:
        return f"TLS failed: {error.reason.lower().replace('_', ' ')}", "look at the TLS settings of the device"
    return "it closed the connection during the handshake", "check that it trusts this site's authority (ca.pem)"
