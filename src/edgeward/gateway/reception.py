"""Taking an object in while it arrives: looked at, stored, journalled; and only then the duty for it is ours.

Responsible for the order of these steps and for leaving nothing half done. Knows no network protocol: whatever brings a
data set (C-STORE, DICOMweb) hands it in here, piece by piece, in bounded memory.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import secrets
import threading
import time

from edgeward.config import Budgets
from edgeward.gateway.dataset import DOES_NOT_MATCH, Examination, NotUnderstood, file_meta
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.items import Item, NewItem
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import Intake, Vault, VaultError
from edgeward.privacy.vaultfile import CHUNK

_log = logging.getLogger("edgeward.gateway")

_SMALL = 384 << 10  # bytes; a larger object is looked up before it is written
_SETTLE_S = 1.0

# Where the rest of an object goes that is refused already. Written by all, read by nobody.
NOWHERE = memoryview(mmap.mmap(-1, CHUNK))


class Reception:
    """Admits objects into vault and journal. Thread-safe."""

    def __init__(self, vault: Vault, journal: Journal, site_key: SiteKey, budgets: Budgets) -> None:
        self.vault, self.journal, self.site_key = vault, journal, site_key
        self.budget_ns = round(budgets.interactive_ms * 1e6)
        self._settling = threading.Lock()

    def begin(
        self, *, device: str, calling: str, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> Arrival:
        """Begin to take an object in; nothing of it is kept before `Arrival.finish`.

        Parameters
        ----------
        device
            Who sends it: an enrolled device's id, or a legacy device's name.
        calling
            Its AE title, if it has one.
        sop_class_uid, sop_instance_uid, transfer_syntax_uid
            What the sender says it is, and how the data set is encoded.
        """
        return Arrival(
            self,
            device=device,
            calling=calling,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        )

    def settle(self) -> None:
        """Let the vault take over what the journal keeps for it.

        Raises
        ------
        VaultError, DatabaseError
            If the disk fails: the journal keeps it.
        """
        with self._settling:
            account = self.journal.turn()
            if account is not None:
                self.vault.settle()
                self.journal.forget(account)

    def recover(self) -> None:
        """Put back what a power cut may have taken: call it at the start, before anything is received.

        Raises
        ------
        VaultError, DatabaseError
            If the disk fails.
        """
        waiting = self.journal.unsettled()
        for object_id in waiting:
            self.vault.restore(object_id, self.journal.unsettled_content(object_id))
        if waiting:
            self.journal.settled(waiting)

    def relieve(self) -> None:
        """Settle now if the journal keeps much: whoever brings more waits for it."""
        if self.journal.crowded:
            try:
                self.settle()
            except (VaultError, DatabaseError) as error:
                _log.warning("small objects stay in the journal for now: %s", error)

    async def keep_settling(self) -> None:
        """Settle every second until cancelled."""
        while True:
            await asyncio.sleep(_SETTLE_S)
            try:
                await asyncio.to_thread(self.settle)
            except (VaultError, DatabaseError) as error:
                _log.warning("small objects stay in the journal for now: %s", error)


class Arrival:
    """One object that is arriving. One thread at a time.

    Whatever is wrong with it, or with the disk, is told by `finish`: until then the rest may be handed in as ever, and
    goes nowhere (`failed` says so). End with `finish` or `abort`; `abort` may always be called.
    """

    def __init__(
        self,
        reception: Reception,
        *,
        device: str,
        calling: str,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> None:
        self._reception, self._device = reception, device
        self.sop_class_uid, self.sop_instance_uid = sop_class_uid, sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.study_instance_uid = ""  # if given, the only study that it may be of
        self.size = 0  # bytes of the data set so far
        self._error: Exception | None = None
        self._intake: Intake | None = None
        try:
            self._examination = Examination(
                sop_class_uid=sop_class_uid, sop_instance_uid=sop_instance_uid, transfer_syntax_uid=transfer_syntax_uid
            )
            self._mac = reception.site_key.content_mac(sop_instance_uid)
            meta = file_meta(
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                calling_ae_title=calling,
            )
            self._intake = reception.vault.begin()
            self._intake.write(meta)
            self._held = self._before = len(meta)  # bytes in the vault's chunk; those of them that are not digested
        except (NotUnderstood, VaultError) as error:
            self._fail(error)

    @property
    def failed(self) -> bool:
        """Whether it is refused already."""
        return self._error is not None

    def room(self) -> memoryview:
        """Return where the next bytes go, at least one; then call `filled`. Saves the copy that `write` makes."""
        if self._intake is not None:
            try:
                if self._held == CHUNK:
                    self._mac.update(self._intake.held[self._before :])
                    self._held = self._before = 0
                return self._intake.room()
            except VaultError as error:
                self._fail(error)
        return NOWHERE

    def filled(self, data: memoryview) -> None:
        """Say what was put at the start of `room`: pass that part of it."""
        self.size += len(data)
        if self._intake is None:
            return
        try:
            self._examination.feed(data)
        except NotUnderstood as error:
            self._fail(error)
            return
        self._held += len(data)
        self._intake.filled(len(data))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a copy of the next bytes of the data set, of any length."""
        view = memoryview(data).cast("B")
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.filled(room[:count])
            view = view[count:]

    def finish(self, received_ns: int) -> tuple[Item, bool]:
        """Admit the object; vault and journal have it durably on return.

        Parameters
        ----------
        received_ns
            When its last byte was received.

        Returns
        -------
        tuple
            The item, and whether it is new: the same instance with the same content is the item it was before.

        Raises
        ------
        NotUnderstood
            If it is not what it says it is; nothing was kept.
        VaultError, DatabaseError
            If it cannot be kept (`VaultFull`, `DatabaseFull`: the disk is full); nothing was.
        """
        try:
            if self._error is not None:
                raise self._error
            return self._admit(received_ns)
        finally:
            self.abort()

    def abort(self) -> None:
        """Leave nothing behind."""
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.abort()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.abort()

    def _admit(self, received_ns: int) -> tuple[Item, bool]:
        assert self._intake is not None
        vault, journal = self._reception.vault, self._reception.journal
        header = self._examination.finish()
        if self.study_instance_uid and header.study_instance_uid != self.study_instance_uid:
            raise NotUnderstood(DOES_NOT_MATCH, "the object is of another study than the request")
        digest = self._mac.finish(self._intake.held[self._before :])
        if self.size > _SMALL:  # of a small one the journal finds out in the same step
            known = journal.find(self.sop_instance_uid, digest)
            if known:
                return journal.item(known), False
        stored = self._intake.commit(journalled=True)
        new = NewItem(
            item_id=secrets.token_hex(12),
            received_ns=received_ns,
            deadline_ns=received_ns + self._reception.budget_ns,
            stored_ns=time.time_ns(),
            device=self._device,
            modality=header.modality,
            sop_class_uid=self.sop_class_uid,
            sop_instance_uid=self.sop_instance_uid,
            study_instance_uid=header.study_instance_uid,
            series_instance_uid=header.series_instance_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            rows=header.rows,
            columns=header.columns,
            frames=header.frames,
            digest=digest,
            stored=stored,
            identity=header.identity,
        )
        try:
            self._reception.relieve()
            item, is_new = journal.admit(new)
        except BaseException:
            vault.erase(stored.object_id)
            raise
        if not is_new:  # another association brought the same one in the same moment
            vault.erase(stored.object_id)
        return item, is_new
