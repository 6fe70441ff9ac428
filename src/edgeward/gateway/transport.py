"""DICOM connections that wait instead of polling, and that a hostile peer cannot wedge.

pynetdicom's state machine and DIMSE layer are used as they are; what is replaced is how they touch the socket:

- the TLS handshake runs in the connection's own thread with a time limit (theirs runs in the accept loop, so one
  silent client stops all others);
- a PDU is read in large pieces, under a time limit, never beyond the sizes we announced (theirs believes any length);
- the two threads of an association sleep until something happens (theirs wake 1,000 times a second each);
- connections that have not come as far as an association are limited, and the oldest gives way to the newest.

Not responsible for who may associate (``gateway.admission``) or for what becomes of what they send (``gateway.dicom``).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import select
import socket
import ssl
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AddressInformation, AssociationSocket, RequestHandler, ThreadedAssociationServer

from edgeward.gateway.admission import Door, Peer

_log = logging.getLogger("edgeward.gateway.dicom")

MAX_PDU = 131_072  # the largest that dcmtk sends; larger ones gain nothing
_PDU_LIMIT = 1 << 20  # an A-ASSOCIATE-RQ has no announced limit; real ones stay below 64 KB
_P_DATA_LIMIT = MAX_PDU + 6
_COMMAND_LIMIT = 1 << 16
_HANDSHAKE_S = 10.0
_PDU_S = 30.0  # a PDU that was begun must be complete within this
_WAIT_S = 0.25  # how long a thread of an association sleeps at most: timers are looked at that often
_YOUNG = 256  # connections without an association at one time
_PIECE = 1 << 16

Refuse = Callable[[str, str, str], None]  # peer, reason, what to do


class _Signalling(queue.Queue[Any]):
    """A queue that calls `signal` when something was put."""

    def __init__(self, signal: Callable[[], object]) -> None:
        super().__init__()
        self._signal = signal

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._signal()


class _Dimse(DIMSEServiceProvider):  # type: ignore[misc]
    """Makes the association's thread wait for a message, or for news from the other thread, instead of polling."""

    def __init__(self, association: Association, wake: threading.Event) -> None:
        super().__init__(association)
        self._wake = wake
        self.msg_queue = _Signalling(wake.set)

    def get_msg(self, block: bool = False) -> Any:
        if not block:
            self._wake.wait(_WAIT_S)
            self._wake.clear()
        return super().get_msg(block)

    def receive_primitive(self, primitive: Any) -> None:
        """Take a fragment; one that is no DIMSE message ends this association and nothing else."""
        try:
            super().receive_primitive(primitive)
        except Exception:
            self.assoc.refuse(self.assoc.who, "it sent a malformed DIMSE message", "")
            self.dul.event_queue.put("Evt19")  # PS3.8, 9.2.3: invalid PDU, so an abort


class _Dul(DULServiceProvider):  # type: ignore[misc]
    """The thread that reads and writes; it does not keep the process alive, and it never leaves a socket behind."""

    def __init__(self, association: DoorAssociation) -> None:
        super().__init__(association)
        self.daemon = True
        self._run_loop_delay = 0.0002  # waiting is done in `DoorSocket.ready`

    def run_reactor(self) -> None:
        """Run the state machine; whatever a peer made it stumble over ends this association only."""
        try:
            super().run_reactor()
        except Exception as error:
            self.assoc.refuse(self.assoc.who, f"it broke the protocol ({type(error).__name__})", "")
            if self.socket is not None and self.socket.socket is not None:
                _shut(self.socket.socket)


class DoorAssociation(Association):  # type: ignore[misc]
    """An association and what we know of its peer."""

    def __init__(self, ae: Any, peer: Peer, max_object_bytes: int, refuse: Refuse) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.peer = peer
        self.device_id = ""
        self.max_object_bytes = max_object_bytes
        self.refuse = refuse
        wake = threading.Event()
        self.dimse = _Dimse(self, wake)
        self.dul = _Dul(self)
        self.dul.to_user_queue = _Signalling(wake.set)
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout  # the new one's timers

    @property
    def who(self) -> str:
        """The device's id once it is known, its address before."""
        return self.device_id or self.peer.address


class DoorSocket(AssociationSocket):  # type: ignore[misc]
    """The association's socket: bounded reads, and waiting for network or local events in one place."""

    def __init__(self, association: DoorAssociation, client: socket.socket) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._bell)
        association.dul.event_queue = _Signalling(self._ring)
        association.dul.to_provider_queue = _Signalling(self._ring)
        super().__init__(association, client_socket=client)
        self.last_byte_ns = 0
        self._deadline = 0.0
        self._body = False  # whether the next read is the body of a PDU

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the counter is full: it rings already
            os.eventfd_write(self._bell, 1)

    @property
    def ready(self) -> bool:
        """Wait for data or for something to do; return whether there is data to read."""
        client = self.socket
        if client is None or not self._is_connected:
            return False
        dul = self._assoc.dul
        if dul.state_machine.current_state == "Sta13":  # all is said; what still arrives is not waited for
            self._drain(client)
            return False
        if dul.event_queue.queue:  # first things first: an invalid PDU must end it before more is read
            return False
        if isinstance(client, ssl.SSLSocket) and client.pending():
            return True
        try:
            poll = select.poll()
            poll.register(client, select.POLLIN)
            poll.register(self._bell, select.POLLIN)
            happened = {handle for handle, _ in poll.poll(0 if dul.to_provider_queue.queue else _WAIT_S * 1000)}
            readable = client.fileno() in happened
        except (OSError, ValueError):  # closed by the other thread
            self.event_queue.put("Evt17")
            return False
        if self._bell in happened:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        return readable

    def _drain(self, client: socket.socket) -> None:
        """Throw away what lies there: closing with unread data would reset the connection and lose our last word."""
        with contextlib.suppress(OSError, ValueError):
            client.settimeout(0)
            for _ in range(64):
                if not client.recv(_PIECE):
                    break

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly `nr_bytes`, or fewer if the peer closes.

        Raises
        ------
        OSError
            If the peer is too slow, or announced more than it may send.
        """
        client, now = self.socket, time.monotonic()
        if self._body:
            self._check_size(nr_bytes)
        else:
            self._deadline = now + _PDU_S
        self._body = not self._body
        data = bytearray(nr_bytes)
        view, done = memoryview(data), 0
        while done < nr_bytes:
            got = client.recv_into(view[done:], min(nr_bytes - done, _PIECE))
            if not got:
                break
            done += got
            if done < nr_bytes and time.monotonic() > self._deadline:
                self._assoc.refuse(self._assoc.who, "it sends too slowly", "look at the network between device and us")
                raise TimeoutError("a PDU took too long")
        view.release()
        del data[done:]
        self.last_byte_ns = time.time_ns()
        return data

    def _check_size(self, nr_bytes: int) -> None:
        association = self._assoc
        established = association.is_established
        if nr_bytes > (_P_DATA_LIMIT if established else _PDU_LIMIT):
            association.refuse(association.who, "it announced a PDU larger than agreed", "")
            raise OSError("PDU too large")
        message = association.dimse.message
        if message is None:
            return
        if message.data_set is not None and message.data_set.tell() + nr_bytes > association.max_object_bytes:
            association.refuse(
                association.who,
                f"an object is larger than {association.max_object_bytes >> 20} MB",
                "raise dicom.max_object_mb in the settings if such objects are expected",
            )
            raise OSError("object too large")
        if message.encoded_command_set.tell() > _COMMAND_LIMIT:
            association.refuse(association.who, "it sent a command without end", "")
            raise OSError("command too large")


class DoorServer(ThreadedAssociationServer):  # type: ignore[misc]
    """A listener for one door.

    Parameters
    ----------
    door
        Which door.
    tls
        The TLS context, None for the plain door.
    may_knock
        Whether an address may connect at all.
    refuse
        Called with peer, reason and what to do when a connection is not let in.
    max_object_bytes
        A peer that sends a larger object is cut off.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,
        door: Door,
        tls: ssl.SSLContext | None,
        may_knock: Callable[[Door, str], bool],
        refuse: Refuse,
        max_object_bytes: int,
        **kwargs: Any,
    ) -> None:
        kwargs["request_handler"] = _Handler
        super().__init__(*args, **kwargs)
        self.door, self.tls, self.may_knock, self.refuse = door, tls, may_knock, refuse
        self.max_object_bytes = max_object_bytes
        self._young: OrderedDict[int, socket.socket] = OrderedDict()
        self._young_lock = threading.Lock()
        self._served = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; nothing here waits for the peer."""
        client, address = self.socket.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return client, address

    def verify_request(self, request: socket.socket, client_address: Any) -> bool:
        """Close what comes from an address that has no business at this door; make room for what has."""
        if not self.may_knock(self.door, client_address[0]):
            self.refuse(
                client_address[0],
                f"it connected to the {self.door} port, which is open to listed devices only",
                "let the device use TLS 1.3 with its certificate, or list it under [[dicom.legacy]]",
            )
            return False
        oldest = None
        with self._young_lock:
            self._young[id(request)] = request
            if len(self._young) > _YOUNG:
                self._young = OrderedDict((key, one) for key, one in self._young.items() if one.fileno() >= 0)
            if len(self._young) > _YOUNG:
                _, oldest = self._young.popitem(last=False)
        if oldest is not None:
            self.refuse(client_address[0], "too many connections that ask for nothing; the oldest were closed", "")
            _shut(oldest)
        return True

    def grown(self, request: socket.socket) -> None:
        """Note that a connection has become an association, or is gone."""
        with self._young_lock:
            for key, young in list(self._young.items()):
                if young is request:
                    del self._young[key]

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:
        """Shake hands and start the association, in the connection's own thread."""
        key, client = id(request), request
        try:
            request.settimeout(_HANDSHAKE_S)
            if self.tls is not None:
                client = self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                with self._young_lock:
                    if key in self._young:
                        self._young[key] = client
                client.do_handshake()
            client.settimeout(_PDU_S)
            self._served += 1
            self.finish_request(client, client_address)
        except (OSError, ValueError) as error:
            self.grown(client)
            _shut(client)
            client.close()
            self.refuse(client_address[0], *_why(error))
        except Exception as error:
            _log.error("a connection could not be served: %s", type(error).__name__)
            self.grown(client)
            _shut(client)
            client.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        """Errors of a connection are told by `process_request_thread`; the base class would print a trace."""
        _log.warning("a connection could not be accepted")

    def service_actions(self) -> None:
        """Free ended associations: they are cycles with threads and sockets in them, and seldom collected otherwise."""
        if self._served >= 100:
            self._served = 0
            gc.collect()

    def stop(self) -> None:
        """Stop listening."""
        self.ae._servers.append(self)  # noqa: SLF001 - `shutdown` takes it off that list
        self.shutdown()


class _Handler(RequestHandler):  # type: ignore[misc]
    """Makes the association of a connection. Follows pynetdicom's ``RequestHandler._create_association``."""

    server: DoorServer

    def handle(self) -> None:
        association = self._create_association()
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()

    def _create_association(self) -> DoorAssociation:
        server, client = self.server, self.request
        peer = Peer(door=server.door, address=self.client_address[0])
        if isinstance(client, ssl.SSLSocket):
            der = client.getpeercert(binary_form=True) or b""
            peer = Peer(server.door, self.client_address[0], client.getpeercert() or None, der)
        association = DoorAssociation(self.ae, peer, server.max_object_bytes, server.refuse)
        association._server = server  # noqa: SLF001 - as pynetdicom's own handler does
        association.name = f"AcceptorThread@{datetime.now(UTC):%Y%m%d%H%M%S}"
        association.set_socket(DoorSocket(association, client))
        association.acceptor.maximum_length = self.ae.maximum_pdu_size
        association.acceptor.ae_title = server.ae_title
        association.acceptor.address_info = self.local
        association.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        association.acceptor.implementation_version_name = self.ae.implementation_version_name
        association.acceptor.supported_contexts = deepcopy(server.contexts)
        association.requestor.address_info = AddressInformation.from_tuple(self.client_address)
        for event, handlers in server._handlers.items():  # noqa: SLF001
            if event.is_intervention and handlers:
                association.bind(event, *handlers)
            elif isinstance(event, evt.NotificationEvent):
                for handler, arguments in handlers:
                    association.bind(event, handler, arguments)
        return association


def _shut(client: socket.socket) -> None:
    """Wake whoever waits on a socket, and tell the peer; closing is its owner's."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(client, socket.SHUT_RDWR)


_TLS_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("it has no certificate", "enrol the device and install its certificate"),
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not from this site, or has expired",
        "enrol the device and install the certificate of that enrolment",
    ),
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
    if isinstance(error, ssl.SSLError) and error.reason in _TLS_REASONS:
        return _TLS_REASONS[error.reason]
    if isinstance(error, ssl.SSLError) and error.reason and "UNEXPECTED_EOF" not in error.reason:
        return f"TLS failed: {error.reason.lower().replace('_', ' ')}", "look at the TLS settings of the device"
    return "it closed the connection during the handshake", "check that it trusts this site's authority (ca.pem)"
