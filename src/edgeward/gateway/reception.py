"""Taking an object in while it arrives: looked at, stored, journalled; and only then the duty for it is ours.

Responsible for the order of these steps and for leaving nothing half done. Knows no network protocol: whatever brings a
data set (C-STORE, DICOMweb) hands it in here, piece by piece, in bounded memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

from edgeward.config import Budgets
from edgeward.gateway.dataset import DOES_NOT_MATCH, Examination, NotUnderstood, file_meta
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.header import Header
from edgeward.privacy.intake import Admission, Fresh
from edgeward.privacy.items import Item, NewItem
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.lane import Lane, Reason
from edgeward.privacy.segments import CROWDED, Segments
from edgeward.privacy.vault import Intake, StoredObject, Vault, VaultError
from edgeward.privacy.vaultfile import CHUNK, HEADROOM, UNSYNCED_TO, Buffers, pool

_log = logging.getLogger("edgeward.gateway")

_SMALL = 384 << 10  # bytes; a larger object is looked up before it is written
SMALL = min(_SMALL, UNSYNCED_TO) - HEADROOM  # of a data set that the journal keeps until its file is durable
_SETTLE_S = 1.0
_GRANTED = 32 << 20  # bytes that the compiled admission takes before the disk is looked at again

Values = dict[int, bytes] | None  # what was found of the elements in `gateway.dataset.WANTED`

# Where the rest of an object goes that is refused already. Written by all, read by nobody.
NOWHERE = memoryview(mmap.mmap(-1, CHUNK))


class Reception:
    """Admits objects into vault and journal. Thread-safe."""

    def __init__(self, vault: Vault, journal: Journal, site_key: SiteKey, budgets: Budgets) -> None:
        self.vault, self.journal, self.site_key = vault, journal, site_key
        self.budget_ns = round(budgets.interactive_ms * 1e6)
        self._settling, self._owing_lock = threading.Lock(), threading.Lock()
        self._owed: list[tuple[str, bytes, Callable[[], None]]] = []
        self._in_vain: deque[str] = deque()  # objects that turned out to be here already
        self._told: Callable[[str, Item, bool], None] = _to_nobody
        self._hurry: Callable[[], object] | None = None  # lets `keep_settling` settle now
        self._collected_s = 0.0
        self.lane: Lane | None = None  # the compiled admission, if it is open

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
            segments, full = self.vault.segments, None
            if segments is not None:
                try:
                    segments.turn()
                except (OSError, VaultError) as error:
                    full = error  # no other one can be begun: they stay as they are
                segments.await_rows(self.journal.drain)
            account = self.journal.turn()
            self._put_back()
            self._erase_in_vain()
            if account is not None:
                self.vault.settle()
                self.journal.forget(account)
            if segments is not None:
                self._retire(segments)
            if full is not None:
                raise VaultError(f"objects cannot be appended any more: {full}") from full

    def _erase_in_vain(self) -> None:
        while self._in_vain:
            object_id = self._in_vain.popleft()  # at once: others may be added meanwhile
            try:
                self.vault.erase(object_id)
            except BaseException:
                self._in_vain.append(object_id)
                raise

    @staticmethod
    def _retire(segments: Segments) -> None:
        try:
            segments.retire()
        except OSError as error:
            raise VaultError(f"the records of a segment cannot be forgotten yet: {error.strerror}") from error

    def owe(self, object_id: str, content: bytes, paid: Callable[[], None]) -> None:
        """Let the next `settle` that can write an object's file, which could not be written when it was admitted.

        Until then the journal keeps it. `paid` is called once the file is there.
        """
        with self._owing_lock:
            self._owed.append((object_id, content, paid))
            if self.lane is not None:
                self.lane.forbid(Reason.OWING)

    @property
    def owing(self) -> bool:
        """Whether there are such objects: no more are taken then."""
        return bool(self._owed)

    def _put_back(self) -> None:
        while True:
            with self._owing_lock:
                if not self._owed:
                    return
                object_id, content, paid = self._owed[0]
            self.vault.restore(object_id, content)
            with self._owing_lock:
                self._owed.pop(0)
                if self.lane is not None and not self._owed:
                    self.lane.allow(Reason.OWING)
            paid()

    # ------------------------------------------------------------ what is admitted without Python

    def open_lane(self, told: Callable[[str, Item, bool], None]) -> bool:
        """Let objects be admitted by the compiled data path; return whether they can be.

        Parameters
        ----------
        told
            Called for each that was: the device, the item, and whether it is new.
        """
        self._told = told
        segments, lane = self.vault.segments, self.journal.lane
        if segments is None or lane is None:
            return False
        try:
            segments.open(lane, self.vault.check_room)
        except (OSError, VaultError) as error:
            _log.warning("objects are not admitted by the compiled data path: %s", error)
            return False
        self.journal.open_lane(self.budget_ns, CROWDED, self._came)
        self.lane = lane
        with contextlib.suppress(VaultError):  # it is looked at again for the first object
            self.grant()
        return True

    def close_lane(self) -> None:
        """Admit nothing there any more; of all that was, people are told on return."""
        lane, self.lane = self.lane, None
        segments = self.vault.segments
        if lane is None or segments is None:
            return
        lane.close()
        with self._settling:
            segments.close(self.journal.drain)
        self.relieve_now()

    def collect(self, *, enough: int, seconds: float, stream_s: float, alone_s: float) -> None:
        """Wait for what the compiled admission takes, and take note of it; let it take more.

        Parameters
        ----------
        enough
            Objects that are taken note of together, if they come soon enough.
        seconds
            To wait for the first one at most.
        stream_s, alone_s
            To wait for more: when others came just before, and else.
        """
        lane = self.lane
        came = lane.wait(1, seconds, 0) if lane is not None else 0
        if lane is None or not came:
            return
        more_s = stream_s if time.monotonic() - self._collected_s < 2 * stream_s else alone_s
        if came > 0:
            lane.wait(enough, 0, more_s)
        self._collected_s = time.monotonic()
        if starved := lane.starved:
            self._see_to_room(lane, starved)
        self.journal.drain()
        if not starved:
            self._see_to_room(lane, 0)

    def _see_to_room(self, lane: Lane, starved: int) -> None:
        segments = self.vault.segments
        assert segments is not None
        try:
            segments.make_room(starved)
            self.grant()
        except (OSError, VaultError) as error:
            lane.grant(-1)
            _log.debug("the next objects are looked at one by one: %s", error)
        if segments.filling and self._hurry is not None:
            self._hurry()

    def grant(self) -> None:
        """Let the compiled admission go on if there is room on the disk.

        Raises
        ------
        VaultFull, VaultError
            If there is not.
        """
        if self.lane is not None:
            self.vault.grant(_GRANTED)
            self.lane.grant(_GRANTED)

    def _came(self, one: Fresh) -> None:
        """Take note of what became of an object that was admitted there."""
        item = one.item or self.journal.item(one.item_id)
        if not one.is_new:
            self._in_vain.append(one.object_id)
        self._told(one.device, item, one.is_new)

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
        segments = self.vault.segments
        if segments is not None:
            try:
                segments.keep(self.journal.take_over(segments.found(), segments.file_of))
            except OSError as error:
                raise VaultError(f"what was appended before cannot be taken over: {error.strerror}") from error

    def relieve(self) -> None:
        """Settle now if the journal keeps much: whoever brings more waits for it."""
        if self.journal.crowded:
            self.relieve_now()

    def relieve_now(self) -> None:
        """Settle now, as far as the disk lets us."""
        try:
            self.settle()
        except (VaultError, DatabaseError) as error:
            _log.warning("small objects stay in the journal for now: %s", error)

    async def keep_settling(self) -> None:
        """Settle every second until cancelled, and before the log is so full that whoever brings more must wait."""
        loop, soon = asyncio.get_running_loop(), asyncio.Event()
        self._hurry = lambda: loop.call_soon_threadsafe(soon.set)
        try:
            await self._settle_at(soon)
        finally:
            self._hurry = None

    async def _settle_at(self, soon: asyncio.Event) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_S):
                    await soon.wait()
            soon.clear()
            try:
                await asyncio.to_thread(self.settle)
            except (VaultError, DatabaseError) as error:
                _log.warning("small objects stay in the journal for now: %s", error)


def _to_nobody(_device: str, _item: Item, _is_new: bool) -> None:
    """Nobody is told."""


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
            self._meta = file_meta(
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                calling_ae_title=calling,
            )
            self._held = self._before = len(self._meta)  # bytes in the vault's chunk; those of them not digested
        except NotUnderstood as error:
            self._fail(error)

    @property
    def failed(self) -> bool:
        """Whether it is refused already."""
        return self._error is not None

    def room(self) -> memoryview:
        """Return where the next bytes go, at least one; then call `filled`. Saves the copy that `write` makes."""
        if self._error is None:
            try:
                if self._intake is None:
                    self._intake = self._reception.vault.begin()
                    self._intake.write(self._meta)
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

    def adopt(self, buffers: Buffers, count: int) -> None:
        """Take the first bytes of the data set, which lie in the plain buffer already, after the headroom.

        Parameters
        ----------
        buffers
            From the vault's pool; they are the arrival's then.
        count
            How many, a chunk less the headroom at most.
        """
        if self._error is not None:
            self.size += count
            pool.give(buffers)
            return
        start = self._put_meta(buffers)
        try:
            self._intake = self._reception.vault.begin((buffers, start, len(self._meta) + count))
        except VaultError as error:
            self._fail(error)
            return
        self.size += count
        self._held += count
        try:
            self._examination.feed(buffers.plain.view[HEADROOM : HEADROOM + count])
        except NotUnderstood as error:
            self._fail(error)

    def prepare(self, buffers: Buffers, count: int, found: Values, received_ns: int) -> Prepared:
        """Prepare to admit a small data set that is there already, all of it, as `adopt` says.

        Instead of `finish`. The buffers remain the caller's and must be left alone until what is returned was dealt
        with.

        Parameters
        ----------
        buffers, count
            Where it is. At most `SMALL`.
        found
            What was found in it, if it is whole beyond doubt: see `Examination.walked`. None: not known.
        received_ns
            When its last byte was received.

        Raises
        ------
        NotUnderstood, VaultError, DatabaseError
            As `finish`.
        """
        if self._error is not None:
            raise self._error
        self.size = count
        data = buffers.plain.view[HEADROOM : HEADROOM + count]
        if found is None:
            self._examination.feed(data)
        else:
            self._examination.walked(found)
        header = self._examination.finish()
        digest = self._mac.finish(data)
        reception, start = self._reception, self._put_meta(buffers)
        if reception.owing:
            raise VaultError("the files of earlier objects could not be written yet")
        if reception.lane is not None and reception.lane.short:
            with contextlib.suppress(VaultError):  # the room that one needs may be there
                reception.grant()
        stored = reception.vault.sealed(buffers, start, len(self._meta) + count)
        reception.relieve()
        begun = reception.journal.begin(self._new(header, digest, stored, received_ns))
        return Prepared(reception, begun, stored, buffers)

    def _put_meta(self, buffers: Buffers) -> int:
        start = HEADROOM - len(self._meta)
        buffers.plain.view[start:HEADROOM] = self._meta
        return start

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
        if self._intake is None:  # nothing came
            self.room()
            if self._error is not None:
                raise self._error
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
        new = self._new(header, digest, stored, received_ns)
        try:
            self._reception.relieve()
            item, is_new = journal.admit(new)
        except BaseException:
            vault.erase(stored.object_id)
            raise
        if not is_new:  # another association brought the same one in the same moment
            vault.erase(stored.object_id)
        return item, is_new

    def _new(self, header: Header, digest: bytes, stored: StoredObject, received_ns: int) -> NewItem:
        return NewItem(
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


class Prepared:
    """A small object that was decided on: its record is still to be written, if it is new.

    Attributes
    ----------
    item, is_new
        As of `Arrival.finish`.
    record
        For the compiled data path, which writes the record and, after the answer, the object's file; None if nothing is
        to be written. Then call `kept` or `failed`.
    """

    __slots__ = ("_admission", "_reception", "_stored", "is_new", "item", "record")

    def __init__(self, reception: Reception, found: Admission | Item, stored: StoredObject, buffers: Buffers) -> None:
        self._reception, self._stored = reception, stored
        self._admission = found if isinstance(found, Admission) else None
        self.is_new = self._admission is not None
        self.item: Item = found.item if isinstance(found, Admission) else found
        self.record = self._admission.entry.record(buffers.out, str(stored.path)) if self._admission else None

    def kept(self, admitted: Callable[[], None]) -> None:
        """Say that the record is on the disk; `admitted` is called once the object can be read from its file."""
        if self._admission is None or self.record is None:
            admitted()
            return
        if self.record.file_error:
            reason = os.strerror(self.record.file_error)
            _log.warning("the file of an object could not be written (%s): it is tried again", reason)
            self._reception.owe(self._stored.object_id, bytes(self._stored.content), admitted)
        self._admission.kept()
        if not self.record.file_error:
            admitted()

    def failed(self, error: OSError) -> BaseException:
        """Say that the record could not be written: there is no item. Return the error."""
        return self._admission.failed(error) if self._admission is not None else error
