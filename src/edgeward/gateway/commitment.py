"""Storage Commitment Push Model SCP: N-ACTION, and the result by N-EVENT-REPORT (PS3.4, annex J).

Responsible for the promise: an instance is committed only if the journal has it, no other content came under its UID,
and every byte of its vault object was read back and found intact just now. Responsible for telling the result until the
modality has answered: on the association it asked on, else on one of our own to the address in ``[[dicom.modality]]``,
again and again for a day, also after a restart. Not responsible for associations that devices open.

A modality may delete its copy after this, so there is no cheaper check.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_role

from edgeward.config import Dicom, Modality
from edgeward.gateway.dimse import DimseRequest, DimseService, EventReport, Operation, Reply
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.quarantine import Quarantine
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.identity import device_of, uri_of
from edgeward.privacy.items import CONFLICT_TO_DO
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import WrongKey
from edgeward.privacy.reading import open_object
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import Vault, VaultDamaged, VaultError
from edgeward.scu import steady

_log = logging.getLogger("edgeward.gateway.commitment")

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"

SUCCESS, PROCESSING_FAILURE, NO_SUCH_INSTANCE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0112, 0x0115
CLASS_INSTANCE_CONFLICT, NO_SUCH_ACTION, DUPLICATE_TRANSACTION = 0x0119, 0x0123, 0x0131
UNRECOGNISED_OPERATION, RESOURCES = 0x0211, 0x0213
ALL_COMMITTED, SOME_FAILED = 1, 2  # Event Type ID (PS3.4, J.3.3.1.1)

_GIVE_UP_NS = 24 * 3600 * 10**9
_BACKOFF_S = (2.0, 600.0)
_LOOK_S = 1.0
_AT_ONCE = 8  # modalities that are called at one time
_MOST = 50_000  # instances of one transaction
_PIECE = 1 << 20
_UID = re.compile(r"^(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))*$")


class Commitment(DimseService):
    """Commits what is safely here, and tells the modality.

    Parameters
    ----------
    tls
        Our client certificate, for modalities that listen with TLS.
    site
        Name of the site, part of every certificate's identity.
    """

    sop_classes = (STORAGE_COMMITMENT,)

    def __init__(
        self,
        book: OrderBook,
        journal: Journal,
        vault: Vault,
        *,
        settings: Dicom,
        registry: Registry,
        quarantine: Quarantine,
        tls: Callable[[], ssl.SSLContext],
        site: str,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._book, self._journal, self._vault, self._clock = book, journal, vault, clock
        self._settings, self._registry, self._quarantine = settings, registry, quarantine
        self._tls, self._site = tls, site
        self._on_their_association: set[tuple[str, str]] = set()
        self._not_before: dict[tuple[str, str], float] = {}

    # ------------------------------------------------------------ the request

    def serve(self, request: DimseRequest) -> Iterator[Reply]:
        """See `DimseService.serve`."""
        try:
            yield self._commit(request)
        except DatabaseError as error:
            _log.error("a storage commitment could not be kept: %s", error)
            yield Reply(status=RESOURCES, comment="it could not be kept; ask again later")

    def _commit(self, request: DimseRequest) -> Reply:
        if request.operation is not Operation.N_ACTION:
            return Reply(status=UNRECOGNISED_OPERATION, comment="storage commitment takes N-ACTION")
        if request.sop_instance_uid != WELL_KNOWN_INSTANCE:
            return Reply(status=NO_SUCH_INSTANCE, comment="the instance is 1.2.840.10008.1.20.1.1")
        if request.action_type != 1:
            return Reply(status=NO_SUCH_ACTION, comment="the only action is 1, request storage commitment")
        try:
            transaction, wanted = _read(request.dataset)
        except ValueError as error:
            return Reply(status=INVALID_ARGUMENT, comment=str(error)[:64])
        if len(wanted) > _MOST:
            return Reply(status=RESOURCES, comment=f"at most {_MOST} instances at once")
        key = (request.device_id, transaction)
        if self._known(key):
            return Reply(status=DUPLICATE_TRANSACTION, comment="this Transaction UID was used before")
        event_type, result = self._result(transaction, wanted)
        differing = self._differing(result)
        self._on_their_association.add(key)
        kept = False
        try:
            kept = self._keep(key, request.calling_ae_title, event_type, result)
        finally:
            if not kept:
                self._on_their_association.discard(key)
        if not kept:
            return Reply(status=DUPLICATE_TRANSACTION, comment="this Transaction UID was used before")
        if event_type == SOME_FAILED:
            self._tell_people(request.device_id, len(result.FailedSOPSequence), differing)
        event = EventReport(
            sop_class_uid=STORAGE_COMMITMENT,
            sop_instance_uid=WELL_KNOWN_INSTANCE,
            event_type=event_type,
            dataset=result,
            answered=partial(self._answered, key),
        )
        return Reply(status=SUCCESS, event=event)

    def _result(self, transaction: str, wanted: list[tuple[str, str]]) -> tuple[int, Dataset]:
        good, bad = [], []
        for sop_class, instance in wanted:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
            if reason := self.failure(sop_class, instance):
                item.FailureReason = reason
                bad.append(item)
            else:
                good.append(item)
        result = Dataset()
        result.TransactionUID = transaction
        if good:
            result.ReferencedSOPSequence = Sequence(good)
        if bad:
            result.FailedSOPSequence = Sequence(bad)
        return (SOME_FAILED if bad else ALL_COMMITTED), result

    def _differing(self, result: Dataset) -> list[str]:
        """Return, of each instance that failed and of which there are copies that differ, the item that came last."""
        failed = [str(item.ReferencedSOPInstanceUID) for item in result.get("FailedSOPSequence", ())]
        copies = [self._journal.catalogue.copies(instance) for instance in failed]
        return [held[-1].item_id for held in copies if len(held) > 1]

    def _tell_people(self, device: str, failed: int, differing: list[str]) -> None:
        """Say that instances were not committed: they are not here whole, or copies of them differ."""
        if differing:
            self._quarantine.note(
                "dicom",
                device,
                "storage commitment was asked for an object of which copies with different content are here",
                CONFLICT_TO_DO,
                differing[0],
            )
        if len(differing) < failed:
            self._quarantine.note(
                "dicom",
                device,
                "storage commitment was asked for objects that are not all here",
                "the device must send them again before it deletes them",
            )

    def failure(self, sop_class: str, instance: str) -> int:
        """Return why an instance is not committed (Failure Reason, PS3.3 C.14.1.1), or 0 if it is safe here."""
        copies = self._journal.catalogue.copies(instance)
        if not copies:
            return NO_SUCH_INSTANCE
        if all(copy.sop_class_uid != sop_class for copy in copies):
            return CLASS_INSTANCE_CONFLICT
        if len(copies) > 1:
            # The same UID with other content: all are kept, but only one is analysed and listed, perhaps not the one
            # that is right. Until a person has decided, the device must not delete what may be the only copy known to
            # be right. None of the other reasons of C.14.1.1 says so: it is the general one.
            return PROCESSING_FAILURE
        for copy in copies:
            try:
                reference = self._vault.reference(copy.object_id, copy.wrapped_key, copy.size)
                with open_object(reference.path, reference.data_key) as file:
                    size = 0
                    while piece := file.read(_PIECE):
                        size += len(piece)
                if size != copy.size:
                    raise VaultDamaged("its size is not the one that was stored")
            except (VaultError, VaultDamaged, WrongKey, OSError) as error:
                _log.error("an object is not intact and is not committed: %s", type(error).__name__)
                return PROCESSING_FAILURE
        return 0

    # ------------------------------------------------------------ telling the result

    async def keep_telling(self) -> None:
        """Tell, until cancelled, the results that no modality has answered yet; each modality in a thread of its own.

        The threads do not hold up the end of the process: what they are at is told again after the next start.
        """
        under_way: dict[str, threading.Thread] = {}
        while True:
            await asyncio.sleep(_LOOK_S)
            under_way = {ae_title: thread for ae_title, thread in under_way.items() if thread.is_alive()}
            try:
                waiting = await asyncio.to_thread(self._waiting)
            except DatabaseError as error:
                _log.warning("telling storage commitments is set back: %s", error)
                continue
            for ae_title in sorted(waiting - under_way.keys())[: _AT_ONCE - len(under_way)]:
                under_way[ae_title] = thread = threading.Thread(target=self._call, args=(ae_title,), daemon=True)
                thread.start()

    def _call(self, ae_title: str) -> None:
        try:
            self.tell_once(ae_title)
        except Exception as error:  # the order book is closed under it when the gateway stops
            _log.info("calling a modality ended: %s", type(error).__name__)

    def tell_once(self, ae_title: str = "") -> int:
        """Try once to tell each result that is due, of one modality or of all; return how many were answered."""
        told = 0
        for device, transaction, modality, created_ns, attempts in self._book.db.all(
            "SELECT device, transaction_uid, ae_title, created_ns, attempts FROM commitments WHERE state = 'pending' "
            "AND ? IN ('', ae_title) ORDER BY created_ns LIMIT 1000",
            (ae_title,),
        ):
            key = (str(device), str(transaction))
            if key in self._on_their_association:
                continue
            try:
                if self._clock() - created_ns > _GIVE_UP_NS:
                    self._give_up(key, str(modality))
                elif time.monotonic() >= self._not_before.get(key, 0.0):
                    told += self._tell(key, str(modality), int(attempts))
            except DatabaseError as error:
                _log.warning("telling a storage commitment is set back: %s", error)
        return told

    def _waiting(self) -> set[str]:
        """Return the AE titles of modalities for which a result waits that is due."""
        now = time.monotonic()
        rows = self._book.db.all("SELECT device, transaction_uid, ae_title FROM commitments WHERE state = 'pending'")
        keys = ((str(device), str(transaction), str(ae_title)) for device, transaction, ae_title in rows)
        return {
            ae_title
            for *key, ae_title in keys
            if tuple(key) not in self._on_their_association and now >= self._not_before.get((key[0], key[1]), 0.0)
        }

    def _tell(self, key: tuple[str, str], ae_title: str, attempts: int) -> bool:
        modality = next((one for one in self._settings.modality if one.ae_title.strip() == ae_title), None)
        first, most = _BACKOFF_S
        self._not_before[key] = time.monotonic() + min(most, first * 2 ** min(attempts, 20)) * random.uniform(0.7, 1.0)
        if modality is None:
            if not attempts:
                self._quarantine.note(
                    "dicom",
                    key[0],
                    "it did not wait for the result of its storage commitment, and where it listens is not known",
                    "list it under [[dicom.modality]] with ae_title, host and port",
                )
            self._attempted(key)
            return False
        row = self._book.db.one(
            "SELECT event_type, result FROM commitments WHERE device = ? AND transaction_uid = ?", key
        )
        if row is None:
            return False
        try:
            status = self._report(key[0], modality, int(row[0]), _decoded(bytes(row[1])))
        except Exception as error:  # whatever the library makes of what a modality says: it is told again later
            _log.info("a storage commitment result could not be told yet: %s", type(error).__name__)
            status = None
        if status == SUCCESS:
            self._finish(key, "answered")
            return True
        self._attempted(key)
        return False

    def _report(self, device: str, modality: Modality, event_type: int, result: Dataset) -> int | None:
        entity = AE(ae_title=self._settings.ae_title)
        entity.connection_timeout, entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = 5, 10, 30, 30
        entity.add_requested_context(STORAGE_COMMITMENT)
        context = None
        if modality.tls:
            context = self._tls()
            context.check_hostname = False  # a device's certificate names the device, not its address: see below
        association = steady(
            entity.associate(
                modality.host,
                modality.port,
                ae_title=modality.ae_title,
                ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)],
                tls_args=(context, modality.host) if context else None,
            )
        )
        if not association.is_established:
            return None
        try:
            if context and not self._is(device, association):
                return None
            for accepted in association.accepted_contexts:
                accepted._as_scp = True  # noqa: SLF001 - many modalities take the role without saying so
            answer, _ = association.send_n_event_report(result, event_type, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE)
            return int(answer.Status) if "Status" in answer else None
        finally:
            association.release()

    def _is(self, device: str, association: Association) -> bool:
        """Whether the other end of an association over TLS is that device, by its certificate."""
        certificate = association.dul.socket.socket.getpeercert()
        self._registry.refresh()
        known = self._registry.by_id(device)
        if known is not None and not known.revoked and device_of(self._site, uri_of(certificate)) == device:
            return True
        self._quarantine.note(
            "dicom",
            device,
            "where it should listen, somebody else answers",
            "look at the address under [[dicom.modality]]",
        )
        return False

    def _answered(self, key: tuple[str, str], status: int | None) -> None:
        """Take the answer on the modality's own association; called once, from its thread."""
        try:
            if status == SUCCESS:
                self._finish(key, "answered")
            else:
                self._not_before[key] = time.monotonic() + _BACKOFF_S[0]
        finally:
            self._on_their_association.discard(key)

    def _give_up(self, key: tuple[str, str], ae_title: str) -> None:
        self._finish(key, "given up")
        self._quarantine.note(
            "dicom",
            key[0],
            "the result of a storage commitment could not be told for a day: given up",
            f"let {ae_title} ask again; check its address under [[dicom.modality]]",
        )

    # ------------------------------------------------------------ rows

    def _known(self, key: tuple[str, str]) -> bool:
        query = "SELECT 1 FROM commitments WHERE device = ? AND transaction_uid = ?"
        return key in self._on_their_association or self._book.db.one(query, key) is not None

    def _keep(self, key: tuple[str, str], ae_title: str, event_type: int, result: Dataset) -> bool:
        row = (*key, ae_title.strip(), event_type, _encoded(result), self._clock())

        def work(db: sqlite3.Connection) -> bool:
            statement = (
                "INSERT OR IGNORE INTO commitments (device, transaction_uid, ae_title, state, event_type, result, "
                "created_ns) VALUES (?, ?, ?, 'pending', ?, ?, ?)"
            )
            return db.execute(statement, row).rowcount == 1

        return self._book.db.write(work)

    def _attempted(self, key: tuple[str, str]) -> None:
        statement = "UPDATE commitments SET attempts = attempts + 1 WHERE device = ? AND transaction_uid = ?"
        self._book.db.write(lambda db: db.execute(statement, key))

    def _finish(self, key: tuple[str, str], state: str) -> None:
        statement = "UPDATE commitments SET state = ? WHERE device = ? AND transaction_uid = ?"
        self._book.db.write(lambda db: db.execute(statement, (state, *key)))
        self._not_before.pop(key, None)


def _read(dataset: Dataset | None) -> tuple[str, list[tuple[str, str]]]:
    """Return the transaction and the (class, instance) pairs of a request."""
    try:
        transaction = str((dataset or Dataset()).get("TransactionUID") or "")
        items = list((dataset or Dataset()).get("ReferencedSOPSequence") or ())
        pairs = [
            (str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or ""))
            for item in items
        ]
    except Exception as error:  # whatever a broken value leads to; its text may quote it
        raise ValueError(f"the request cannot be read ({type(error).__name__})") from None
    if not _UID.match(transaction):
        raise ValueError("TransactionUID is missing or not a UID")
    if not pairs or not all(_UID.match(one) for pair in pairs for one in pair):
        raise ValueError("ReferencedSOPSequence is missing, empty or names no UIDs")
    return transaction, pairs


def _encoded(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def _decoded(data: bytes) -> Dataset:
    return read_dataset(BytesIO(data), is_implicit_VR=False, is_little_endian=True)
