"""The DICOM door: images in, over TLS 1.3 with client certificates; legacy listeners only when listed.

Responsible for associations (who, how many, until when) and for the status each C-STORE is answered with. An object is
answered with Success only after the vault and the journal have it durably. Other requests go to services
(``gateway.dimse``). Not responsible for the protocol (``gateway.association``) or for what happens to an object then.

Ports: ``dicom.port`` TLS 1.3; ``dicom.legacy_port`` plain DICOM; ``dicom.legacy_port + 1`` TLS 1.2. Each of the last
two is opened only while the settings list a device with that transport.

Statuses (PS3.4, B.2.3): 0000 stored; A700 out of resources (disk full: the device should try again); A900 the data set
is not what the request says; C000 cannot be understood; 0124 not authorised (PS3.7, C.5: revoked meanwhile).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from enum import IntEnum

from edgeward import native
from edgeward.config import Settings
from edgeward.gateway.admission import LOCAL_LIMIT, Admission, Door, Peer, Refusal
from edgeward.gateway.association import Association
from edgeward.gateway.command import NOT_AUTHORISED, PROCESSING_FAILURE, SUCCESS, Command
from edgeward.gateway.dataset import DOES_NOT_MATCH, NotUnderstood
from edgeward.gateway.dimse import DimseService
from edgeward.gateway.negotiation import Context
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Arrival, Prepared, Reception, Values
from edgeward.gateway.transport import Listener
from edgeward.gateway.wire import Wire
from edgeward.home import Home
from edgeward.privacy.database import DatabaseError, DatabaseFull
from edgeward.privacy.identity import legacy_server_context, server_context
from edgeward.privacy.items import CONFLICT, CONFLICT_TO_DO, Item
from edgeward.privacy.lane import Lane
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import VaultError, VaultFull
from edgeward.privacy.vaultfile import Buffers

_log = logging.getLogger("edgeward.gateway.dicom")

OUT_OF_RESOURCES = 0xA700
_REFRESH_S = 0.5
_ABORT_S = 2.0  # for the threads of aborted associations to end
# Small objects whose rows are made at once, if they come within this time: many in a stream of them, at once if alone.
_TOGETHER, _STREAM_S, _ALONE_S = 16, 0.01, 0.001
_LOOK_S = 10.0


class Receives(IntEnum):
    """How plain connections are received. Over TLS it is always Python."""

    PYTHON = 0
    COMPILED = 1  # without a libcrypto
    COMPILED_AND_ADMITTED = 2  # small objects are admitted there too


class DicomDoor:
    """The listeners and their associations.

    Parameters
    ----------
    admitted
        Called in an association's thread for each item that is durably ours, with whether it is new.
    quarantine
        Takes what is refused.
    services
        Answer the requests that are neither C-STORE nor C-ECHO; their SOP classes are offered.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        *,
        reception: Reception,
        registry: Registry,
        quarantine: Quarantine,
        admitted: Callable[[Item, bool], None],
        services: Sequence[DimseService] = (),
    ) -> None:
        self._home, self._settings = home, settings.dicom
        self._reception, self._quarantine, self._admitted = reception, quarantine, admitted
        self._admission = Admission(settings.dicom, settings.site.name, registry)
        self.services = tuple(services)
        self.max_object_bytes = settings.dicom.max_object_mb << 20
        self.idle_timeout_s, self.pdu_timeout_s = settings.dicom.idle_timeout_s, settings.dicom.pdu_timeout_s
        self.library = native.library()
        self._collector: threading.Thread | None = None
        self._closed = threading.Event()
        self._live: set[Association] = set()
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self.ports: dict[Door, int] = {}
        self.last_seen_ns: dict[str, int] = {}

    @property
    def lane(self) -> Lane | None:
        """The compiled admission of small objects, if it is open."""
        return self._reception.lane

    @property
    def receives(self) -> Receives:
        """How plain connections are received."""
        if self.library is None:
            return Receives.PYTHON
        return Receives.COMPILED_AND_ADMITTED if self.library.admits else Receives.COMPILED

    @property
    def associations(self) -> int:
        """Number of associations now."""
        return len(self._snapshot())

    def open(self) -> None:
        """Start to listen.

        Raises
        ------
        OSError
            If a port is taken.
        IdentityError
            If our certificate is missing.
        """
        # Its codecs log what a peer sent, with a trace, for every request that is not as it should be.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        transports = {entry.transport for entry in self._settings.legacy}
        if self.library is None:
            _log.info("plain DICOM is received without the compiled data path: slower, otherwise the same")
        try:
            self._listen("tls", self._settings.port, server_context(self._home, "gateway"))
            if "plain" in transports:
                self._open_lane()
                self._listen("plain", self._settings.legacy_port, None)
            if "tls1.2" in transports:
                port = self._settings.legacy_port + 1 if self._settings.legacy_port else 0
                self._listen("tls1.2", port, legacy_server_context(self._home, "gateway"))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening and abort what is still open."""
        for listener in self._listeners:
            listener.stop()
        self._listeners.clear()
        self._abort(self._snapshot())
        self._closed.set()
        self._reception.close_lane()
        collector, self._collector = self._collector, None
        if collector is not None:
            collector.join()

    def enforce(self) -> None:
        """Abort the associations of devices that are not in force any more. Waits for them to end."""
        gone = [one for one in self._snapshot() if not self._admission.in_force(one.device_id, one.peer)]
        for association in gone:
            _log.warning("device %s is revoked: its association is aborted", association.device_id)
        self._abort(gone)

    async def keep_enforcing(self) -> None:
        """Look for revocations twice a second until cancelled."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            await asyncio.to_thread(self.enforce)

    def warnings(self) -> list[str]:
        """Return what people should know about how open the door is."""
        where = {"plain": "without encryption", "tls1.2": "over TLS 1.2"}
        return [
            f"legacy device {entry.name} may send {where[entry.transport]} from {entry.address}"
            for entry in self._settings.legacy
        ]

    def _open_lane(self) -> None:
        if self.library is None or not self._reception.open_lane(self._came):
            return
        self._collector = threading.Thread(target=self._keep_collecting, name="dicom-collector", daemon=True)
        self._collector.start()

    def _keep_collecting(self) -> None:
        while self._reception.lane is not None:
            try:
                self._reception.collect(enough=_TOGETHER, seconds=_LOOK_S, stream_s=_STREAM_S, alone_s=_ALONE_S)
            except Exception as error:
                # Only the type: the text of an unforeseen error may quote a data set.
                _log.error("what was received could not be taken note of yet: %s", type(error).__name__)
                self._closed.wait(_REFRESH_S)  # between two tries; whoever closes the door need not wait for it

    def _came(self, device_id: str, item: Item, is_new: bool) -> None:
        """Take note of an object that was admitted by the compiled data path."""
        self.last_seen_ns[device_id] = time.time_ns()
        self._admit(device_id, item, is_new)

    def _listen(self, door: Door, port: int, tls: ssl.SSLContext | None) -> None:
        listener = Listener(
            (self._settings.host, port),
            door=door,
            tls=tls,
            may_knock=self._admission.may_knock,
            refuse=self.refuse,
            serve=self._serve,
        )
        self._listeners.append(listener)
        self.ports[door] = listener.port

    def _serve(self, wire: Wire, peer: Peer, grown: Callable[[], None]) -> None:
        Association(wire, peer, self, grown).run()

    def _snapshot(self) -> list[Association]:
        with self._lock:
            return list(self._live)

    def _abort(self, associations: list[Association]) -> None:
        for association in associations:
            association.abort()
        end = time.monotonic() + _ABORT_S
        for association in associations:
            association.over.wait(max(0.0, end - time.monotonic()))

    # ------------------------------------------------------------ the host of associations, in their threads

    def requested(self, association: Association, calling: str, called: str) -> None:
        """See `Host.requested`."""
        association.device_id = self._admission.admit(association.peer, calling, called)
        with self._lock:
            own = sum(one.device_id == association.device_id for one in self._live)
            full = len(self._live) >= self._settings.max_associations or own >= self._most_per_device
            if not full:
                self._live.add(association)
        if full:
            raise Refusal(
                LOCAL_LIMIT,
                association.device_id,
                "too many associations at once",
                "let the device close what it does not use, or raise dicom.max_associations",
            )

    @property
    def _most_per_device(self) -> int:
        return self._settings.max_associations_per_device or max(4, self._settings.max_associations // 2)

    def established(self, association: Association) -> None:
        """See `Host.established`."""
        self.last_seen_ns[association.device_id] = time.time_ns()

    def ended(self, association: Association) -> None:
        """See `Host.ended`."""
        with self._lock:
            self._live.discard(association)

    def in_force(self, association: Association) -> bool:
        """See `Host.in_force`."""
        return self._admission.in_force(association.device_id, association.peer)

    def refuse(self, peer: str, reason: str, what_to_do: str) -> None:
        """See `Host.refuse`."""
        self._quarantine.note("dicom", peer, reason, what_to_do)

    def begin_store(self, association: Association, request: Command, context: Context) -> Arrival | int:
        """See `Host.begin_store`."""
        self.last_seen_ns[association.device_id] = time.time_ns()
        if not self.in_force(association):
            return NOT_AUTHORISED
        if request.sop_class_uid != context.abstract_syntax:
            self._refuse_object(association, "the SOP class is not the one that was negotiated")
            return DOES_NOT_MATCH
        return self._reception.begin(
            device=association.device_id,
            calling=association.calling,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            transfer_syntax_uid=context.transfer_syntax,
        )

    def finish_store(self, association: Association, arrival: Arrival, received_ns: int) -> int:
        """See `Host.finish_store`."""
        try:
            item, is_new = arrival.finish(received_ns)
        except Exception as error:
            return self._refusal(association, error)
        self._admit(association.device_id, item, is_new)
        return SUCCESS

    def prepare_store(
        self,
        association: Association,
        arrival: Arrival,
        *,
        buffers: Buffers,
        count: int,
        found: Values,
        received_ns: int,
    ) -> Prepared | int:
        """See `Host.prepare_store`."""
        try:
            return arrival.prepare(buffers, count, found, received_ns)
        except Exception as error:
            return self._refusal(association, error)

    def stored(self, association: Association, prepared: Prepared) -> None:
        """See `Host.stored`."""
        prepared.kept(lambda: self._admit(association.device_id, prepared.item, prepared.is_new))

    def not_stored(self, association: Association, prepared: Prepared, error: OSError) -> int:
        """See `Host.not_stored`."""
        return self._refusal(association, prepared.failed(error))

    def collect(self) -> None:
        """See `Host.collect`."""
        self._reception.journal.drain()

    def _admit(self, device_id: str, item: Item, is_new: bool) -> None:
        if is_new and item.reason == CONFLICT:
            self._quarantine.note("dicom", device_id, CONFLICT, CONFLICT_TO_DO, item_id=item.item_id)
        self._admitted(item, is_new)

    def _refusal(self, association: Association, error: BaseException) -> int:
        """Tell people why an object is refused, and return the status to answer with."""
        device_id = association.device_id
        if isinstance(error, NotUnderstood):
            self._refuse_object(association, str(error))
            return error.status
        if isinstance(error, VaultFull | DatabaseFull):
            self.refuse(device_id, "the disk is full: images are refused", "free disk space; the device tries again")
            return OUT_OF_RESOURCES
        if isinstance(error, VaultError | DatabaseError):
            _log.error("an object could not be stored: %s", error)
            self.refuse(device_id, "the disk fails: images are refused", "look at the log and at the disk")
            return OUT_OF_RESOURCES
        # Only the type: the text of an unforeseen error may quote the data set.
        _log.error("a C-STORE failed: %s", type(error).__name__)
        self.refuse(device_id, f"an image could not be processed ({type(error).__name__})", "report this error")
        return PROCESSING_FAILURE

    def _refuse_object(self, association: Association, reason: str) -> None:
        what_to_do = "look at how the device is configured to send; nothing was kept"
        self.refuse(association.device_id, reason, what_to_do)
