"""A PACS as a destination: C-STORE (PS3.4 annex B) over pynetdicom, plain or TLS.

Responsible for the association and for what a status means. Each PACS has its own thread, so that one that hangs delays
no other. An association is kept while there is something to send and released when there is not, because an idle one
costs CPU (pynetdicom polls).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, _config, evt

from edgeward.clinic.imaging.sink import Interrupted, NotTaken, Receipt, Rejected, Result, Sink, Unreachable
from edgeward.config import Pacs

_log = logging.getLogger("edgeward.deliver.pacs")

CONNECT_S = 5.0  # TCP and TLS
ASSOCIATE_S = 10.0
ANSWER_S = 30.0  # C-STORE response: a busy archive may take many seconds and still be well
PROBE_S = 2.0

_CLASSES = {
    "sr": (ComprehensiveSRStorage,),
    "seg": (SegmentationStorage,),
    "gsps": (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage),
    "capture": (SecondaryCaptureImageStorage,),
}
_DUPLICATE = 0x0111  # PS3.7 C.5.5 "Duplicate SOP Instance": it is there already, which is what we want

# pynetdicom's own handlers format every message for a log that nobody reads, at a third of the cost of sending.
_config.LOG_HANDLER_LEVEL = "none"


class _Thread:
    """One daemon thread that makes calls in order. A call that hangs holds up neither other sinks nor the exit."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if future.done():  # the caller was cancelled
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        def work() -> None:
            value, failure = None, None
            try:
                value = function(*arguments)
            except BaseException as error:  # belongs to the caller, whatever it is
                failure = error
            try:
                loop.call_soon_threadsafe(settle, value, failure)
            except RuntimeError:
                _log.debug("the loop closed before a call ended")

        self._calls.put(work)
        return await future

    def end(self) -> None:
        """End after the calls made so far."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class PacsSink(Sink):
    """One PACS.

    Parameters
    ----------
    pacs
        Address, AE title and what it takes.
    calling_ae_title
        Our own.
    tls
        The context to connect with, or None for plain DICOM.
    associate_s, answer_s
        Time limits, seconds.
    """

    def __init__(
        self,
        pacs: Pacs,
        calling_ae_title: str,
        tls: ssl.SSLContext | None = None,
        *,
        associate_s: float = ASSOCIATE_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.name = pacs.name
        self.takes = frozenset(pacs.takes)
        self._pacs = pacs
        self._tls = tls
        self._answer_s = answer_s
        self._association: Any = None
        self._entity = AE(calling_ae_title)
        self._entity.connection_timeout = CONNECT_S
        self._entity.acse_timeout = associate_s
        self._entity.dimse_timeout = answer_s
        self._entity.network_timeout = None  # we release; pynetdicom's idle timer would abort
        for kind in sorted(self.takes):
            for sop_class in _CLASSES[kind]:
                self._entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        self._thread = _Thread(f"pacs-{pacs.name}")

    async def open(self) -> bool:
        """See `Sink.open`."""
        return bool(await self._thread.call(self._open))

    async def send(self, result: Result) -> Receipt:
        """See `Sink.send`."""
        receipt: Receipt = await self._thread.call(self._send, result)
        return receipt

    async def answers(self) -> bool:
        """See `Sink.answers`: whether the port takes a TCP connection."""
        return await self._thread.call(self._probe) is None

    async def rest(self) -> None:
        """See `Sink.rest`."""
        await self._thread.call(self._release)

    async def close(self) -> None:
        """See `Sink.close`. An association that does not end by itself ends with the process."""
        try:
            await asyncio.wait_for(self._thread.call(self._release), 1.0)
        except TimeoutError:
            _log.info("the association with %s was still busy at the end", self.name)
        self._thread.end()

    # ------------------------------------ in the sink's thread

    def _open(self) -> bool:
        if self._association is not None and self._association.is_established:
            return False
        self._association = None
        connected = False

        def opened(event: Any) -> None:
            nonlocal connected
            connected = True
            _tune(event.assoc, self._answer_s)

        try:
            association = self._entity.associate(
                self._pacs.host,
                self._pacs.port,
                ae_title=self._pacs.ae_title,
                max_pdu=0,
                tls_args=(self._tls, self._pacs.host) if self._tls is not None else None,
                evt_handlers=[(evt.EVT_CONN_OPEN, opened)],
            )
        except OSError as error:
            raise Unreachable(f"{self._where()}: {error.strerror or type(error).__name__}", connected=False) from error
        if association.is_established:
            self._association = association
            return True
        if association.is_rejected:
            answer = association.acceptor.primitive
            raise Unreachable(f"it refuses the association: {answer.reason_str}", connected=True)
        if connected:
            raise Unreachable("it took the connection but did not answer the association request", connected=True)
        problem = self._probe()
        if problem is not None:
            raise Unreachable(f"{self._where()}: {problem}", connected=False)
        raise Unreachable(f"{self._where()}: the port answers, but no {self._transport()} connection", connected=True)

    def _send(self, result: Result) -> Receipt:
        fresh = self._open()
        started = time.monotonic()
        try:
            return self._store(result)
        except Interrupted:
            # An association may have been closed at the other end since its last use. That is no failure of the result.
            if fresh or time.monotonic() - started >= self._answer_s:
                raise
        self._open()
        return self._store(result)

    def _store(self, result: Result) -> Receipt:
        association = self._association
        if result.dataset is None:
            raise Rejected(f"a PACS takes no {result.kind}")
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        if result.dataset.SOPClassUID not in accepted:
            raise NotTaken(f"it does not accept {result.dataset.SOPClassUID.name}")
        try:
            answer = association.send_c_store(result.dataset)
        except RuntimeError as error:
            self._abandon()
            raise Interrupted("the association was closed") from error
        except (ValueError, AttributeError) as error:
            raise Rejected(f"the {result.kind} cannot be encoded ({type(error).__name__})") from error
        stored_ns = time.time_ns()
        if "Status" not in answer:
            self._abandon()
            raise Interrupted(f"it hung up, or did not answer within {self._answer_s:g} s")
        return _judge(int(answer.Status), stored_ns)

    def _release(self) -> None:
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.release()

    def _abandon(self) -> None:
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.abort()

    def _probe(self) -> str | None:
        """Return why nothing answers at the address, or None if something does."""
        try:
            socket.create_connection((self._pacs.host, self._pacs.port), PROBE_S).close()
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return error.strerror or type(error).__name__
        return None

    def _where(self) -> str:
        return f"cannot connect to {self._pacs.host}:{self._pacs.port}"

    def _transport(self) -> str:
        return "TLS" if self._tls is not None else "DICOM"


def _tune(association: Any, stall_s: float) -> None:
    """Set up a new connection for latency, and so that a peer that stops reading cannot hold our thread for ever.

    Archives built on DCMTK answer in two small writes under Nagle's algorithm: the second waits for our acknowledgement
    of the first, and ours waits 40 ms for company (delayed ACK) unless told not to before each read (tcp(7)).
    """
    wrapper = association.dul.socket
    raw = wrapper.socket
    raw.settimeout(stall_s)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    quick = getattr(socket, "TCP_QUICKACK", None)  # Linux
    if quick is None:
        return
    read = wrapper.recv

    def read_at_once(count: int) -> Any:
        if wrapper.socket is not None:
            wrapper.socket.setsockopt(socket.IPPROTO_TCP, quick, 1)
        return read(count)

    wrapper.recv = read_at_once


def _judge(status: int, stored_ns: int) -> Receipt:
    """Return the receipt that a C-STORE status stands for (PS3.4 B.2.3, PS3.7 annex C).

    Raises
    ------
    Rejected
        If the archive says that it cannot take this object: 0xA9xx, 0xCxxx, and SOP class not supported.
    Interrupted
        Any other failure, such as 0xA7xx "out of resources".
    """
    if status == 0x0000:
        return Receipt(stored_ns)
    if status == _DUPLICATE:
        return Receipt(stored_ns, "it had it already")
    if status in (0x0001, 0x0107, 0x0116) or 0xB000 <= status <= 0xBFFF:
        return Receipt(stored_ns, f"stored with warning 0x{status:04X}")
    if status == 0x0122 or 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF:
        raise Rejected(f"it refuses the object with status 0x{status:04X}")
    raise Interrupted(f"it failed to store with status 0x{status:04X}")
