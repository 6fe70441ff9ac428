"""The DICOM door: C-STORE and C-ECHO, over TLS 1.3 with client certificates; legacy listeners only when listed.

Responsible for associations (who, how many, until when) and for the status each C-STORE is answered with. An object is
answered with Success only after the vault and the journal have it durably. Not responsible for what happens to it then.

Ports: ``dicom.port`` TLS 1.3; ``dicom.legacy_port`` plain DICOM; ``dicom.legacy_port + 1`` TLS 1.2. Each of the last
two is opened only while the settings list a device with that transport.

Statuses (PS3.4, B.2.3): 0000 stored; A700 out of resources (disk full: the device should try again); A900 the data set
is not what the request says; C000 cannot be understood; 0124 not authorised (PS3.7, C.5: revoked meanwhile).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification

from edgeward.config import Settings
from edgeward.gateway.admission import LOCAL_LIMIT, Admission, Door, Refusal
from edgeward.gateway.dataset import CANNOT_UNDERSTAND, DOES_NOT_MATCH, IMPLEMENTATION_CLASS_UID, NotUnderstood
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Arrival, Reception
from edgeward.gateway.transport import MAX_PDU, DoorAssociation, DoorServer
from edgeward.home import Home
from edgeward.privacy.database import DatabaseError, DatabaseFull
from edgeward.privacy.identity import legacy_server_context, server_context
from edgeward.privacy.items import CONFLICT, Item
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import VaultError, VaultFull

_log = logging.getLogger("edgeward.gateway.dicom")

SUCCESS = 0x0000
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES = 0xA700
PROCESSING_FAILURE = 0x0110
_REFRESH_S = 0.5
_ACSE_S = 15.0  # a connection that asks for no association within this is closed

# Transfer syntaxes the engine can decode come first in a negotiation, in the order the device proposes them.
_DECODABLE = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"}
    | {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)}
)


class DicomDoor:
    """The listeners and their associations.

    Parameters
    ----------
    admitted
        Called in an association's thread for each item that is durably ours, with whether it is new.
    quarantine
        Takes what is refused.
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
    ) -> None:
        self._home, self._settings = home, settings.dicom
        self._reception, self._quarantine, self._admitted = reception, quarantine, admitted
        self._admission = Admission(settings.dicom, settings.site.name, registry)
        self._live: set[DoorAssociation] = set()
        self._lock = threading.Lock()
        self._servers: list[DoorServer] = []
        self.ports: dict[Door, int] = {}
        self.last_seen_ns: dict[str, int] = {}

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
        # Process-wide: nothing else in a gateway uses pynetdicom. Any storage SOP class is taken, retired and private
        # ones too; and no handler of theirs formats data sets for a log.
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        _config.LOG_HANDLER_LEVEL = "none"
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        ae = AE(ae_title=self._settings.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = "EDGEWARD_1"
        ae.add_supported_context(Verification)
        ae.maximum_pdu_size = MAX_PDU
        ae.maximum_associations = 1_000_000  # counted by us: theirs counts connections that asked for nothing yet
        ae.acse_timeout = _ACSE_S
        ae.network_timeout = self._settings.idle_timeout_s
        transports = {entry.transport for entry in self._settings.legacy}
        try:
            self._listen(ae, "tls", self._settings.port, server_context(self._home, "gateway"))
            if "plain" in transports:
                self._listen(ae, "plain", self._settings.legacy_port, None)
            if "tls1.2" in transports:
                port = self._settings.legacy_port + 1 if self._settings.legacy_port else 0
                self._listen(ae, "tls1.2", port, legacy_server_context(self._home, "gateway"))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening and abort what is still open."""
        for server in self._servers:
            server.stop()
        self._servers.clear()
        self._abort(self._snapshot())

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

    def _listen(self, ae: AE, door: Door, port: int, tls: Any) -> None:
        server = ae.make_server(
            (self._settings.host, port),
            server_class=DoorServer,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_ESTABLISHED, self._established),
                (evt.EVT_RELEASED, self._ended),
                (evt.EVT_ABORTED, self._ended),
                (evt.EVT_CONN_CLOSE, self._ended),
                (evt.EVT_C_STORE, self._store),
            ],
            door=door,
            tls=tls,
            may_knock=self._admission.may_knock,
            refuse=self._refuse,
            max_object_bytes=self._settings.max_object_mb << 20,
        )
        self._servers.append(server)
        self.ports[door] = server.server_address[1]
        name = f"dicom-{door}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.25}, name=name, daemon=True).start()

    # ------------------------------------------------------------ associations, in their own threads

    def _requested(self, event: evt.Event) -> None:
        association: DoorAssociation = event.assoc
        request = association.requestor.primitive
        try:
            device_id = self._admission.admit(association.peer, request.calling_ae_title, request.called_ae_title)
            association.device_id = device_id
            self._check_room(device_id)
        except Refusal as refusal:
            self._refuse(refusal.who, str(refusal), refusal.what_to_do)
            association.acse.send_reject(*refusal.rejection)
            evt.trigger(association, evt.EVT_REJECTED, {})
            association.kill()
            association._server.grown(association.dul.socket.socket)  # noqa: SLF001
            return
        self.last_seen_ns[device_id] = time.time_ns()
        for context in request.presentation_context_definition_list:
            # The first one is accepted: let it be one the engine can decode, if the device offers any.
            context.transfer_syntax = sorted(context.transfer_syntax, key=lambda uid: uid not in _DECODABLE)

    def _check_room(self, device_id: str) -> None:
        live = self._snapshot()
        own = sum(one.device_id == device_id for one in live)
        most = self._settings.max_associations
        if len(live) >= most or own >= max(4, most // 2):
            raise Refusal(
                LOCAL_LIMIT,
                device_id,
                "too many associations at once",
                "let the device close what it does not use, or raise dicom.max_associations",
            )

    def _established(self, event: evt.Event) -> None:
        association: DoorAssociation = event.assoc
        association._server.grown(association.dul.socket.socket)  # noqa: SLF001
        with self._lock:
            self._live.add(association)

    def _ended(self, event: evt.Event) -> None:
        with self._lock:
            self._live.discard(event.assoc)

    def _snapshot(self) -> list[DoorAssociation]:
        with self._lock:
            self._live = {one for one in self._live if one.is_alive()}
            return list(self._live)

    def _abort(self, associations: list[DoorAssociation]) -> None:
        threads = [threading.Thread(target=one.abort, daemon=True) for one in associations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=2.0)

    def _refuse(self, peer: str, reason: str, what_to_do: str) -> None:
        self._quarantine.note("dicom", peer, reason, what_to_do)

    # ------------------------------------------------------------ C-STORE

    def _store(self, event: evt.Event) -> int:
        association: DoorAssociation = event.assoc
        request, context = event.request, event.context
        device_id = association.device_id
        self.last_seen_ns[device_id] = time.time_ns()
        if not self._admission.in_force(device_id, association.peer):
            return NOT_AUTHORISED
        try:
            if request.DataSet is None:
                raise NotUnderstood(CANNOT_UNDERSTAND, "the request has no data set")
            if str(request.AffectedSOPClassUID) != str(context.abstract_syntax):
                raise NotUnderstood(DOES_NOT_MATCH, "the SOP class is not the one that was negotiated")
            item, is_new = self._reception.take(
                Arrival(
                    stream=request.DataSet,
                    received_ns=association.dul.socket.last_byte_ns,
                    device=device_id,
                    calling_ae_title=str(association.requestor.ae_title).strip(),
                    sop_class_uid=str(request.AffectedSOPClassUID),
                    sop_instance_uid=str(request.AffectedSOPInstanceUID),
                    transfer_syntax_uid=str(context.transfer_syntax),
                )
            )
        except NotUnderstood as error:
            self._refuse(device_id, str(error), "look at how the device is configured to send; nothing was kept")
            return error.status
        except (VaultFull, DatabaseFull):
            self._refuse(device_id, "the disk is full: images are refused", "free disk space; the device tries again")
            return OUT_OF_RESOURCES
        except (VaultError, DatabaseError) as error:
            _log.error("an object could not be stored: %s", error)
            self._refuse(device_id, "the disk fails: images are refused", "look at the log and at the disk")
            return OUT_OF_RESOURCES
        except Exception as error:
            # Only the type: the text of an unforeseen error may quote the data set.
            _log.error("a C-STORE failed: %s", type(error).__name__)
            self._refuse(device_id, f"an image could not be processed ({type(error).__name__})", "report this error")
            return PROCESSING_FAILURE
        if is_new and item.reason == CONFLICT:
            self._refuse(device_id, CONFLICT, "find out why the device uses a UID twice; see the item in the worklist")
        self._admitted(item, is_new)
        return SUCCESS
