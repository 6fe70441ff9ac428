"""The compiled admission (``native/admission.c``) as the journal sees it: where objects may go, and which came.

Responsible for the memory that both share and for its lock. Not responsible for the segment that objects are appended
to (``privacy.segments``) or for what becomes of an object that came (``privacy.intake``).

An object is admitted there while the lane is open: it has a segment to append to with enough room, fewer than `SLOTS`
objects wait for their row, and nobody gave a reason against it. Otherwise it takes the way that Python is.
"""

from __future__ import annotations

import ctypes
import hmac
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path
from typing import Any

from edgeward import native
from edgeward.privacy.keys import ContentMac


class Reason(IntFlag):
    """Why nothing may be admitted there."""

    NOT_OPEN = 1  # nobody takes note of what comes
    BEHIND = 2  # the rows of earlier objects could not be written
    OWING = 4  # the files of earlier objects could not be written


@dataclass(frozen=True, slots=True)
class Arrived:
    """An object that is on the disk, and answered."""

    slot: int
    row: bytes = field(repr=False)


class Lane:
    """The compiled admission of one journal. Thread-safe.

    Parameters
    ----------
    library
        The compiled data path; it must be able to admit.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        self.root: Path | None = None  # where large objects get files of their own
        self._memory = ctypes.create_string_buffer(library.ew_layout(6))
        self.address = ctypes.addressof(self._memory)
        self._store = native.Store.from_buffer(self._memory)
        self._slots, self._slot_size = self.address + library.ew_layout(8), library.ew_layout(5)
        self._out = (ctypes.c_uint16 * native.SLOTS)()
        self._store.closed = Reason.NOT_OPEN
        error = library.ew_store_begin(self.address)
        if error:
            raise OSError(error, "the compiled admission has no lock")

    # ------------------------------------------------------------ whether

    def open(self, *, content_key: bytes, budget_ns: int, crowded: int) -> None:
        """Let objects be admitted from now on.

        Parameters
        ----------
        content_key
            What the digests of contents are made with: ``SiteKey.content_key``.
        budget_ns
            From an object's reception to its deadline.
        crowded
            Bytes in a segment from which on nothing more is appended to it.
        """
        with self:
            self._store.content_key[:] = content_key
            self._store.budget_ns, self._store.crowded = budget_ns, crowded
            self._store.closed &= ~Reason.NOT_OPEN

    def content_mac(self, sop_instance_uid: str) -> ContentMac:
        """Return the digest of an object's content, as ``SiteKey.content_mac`` makes it."""
        return ContentMac(hmac.digest(bytes(self._store.content_key), sop_instance_uid.encode(), "sha256"))

    def close(self) -> None:
        """Admit nothing any more. What came before can still be taken."""
        self.forbid(Reason.NOT_OPEN)

    def forbid(self, reason: Reason) -> None:
        """Admit nothing until `allow`."""
        with self:
            self._store.closed |= reason

    def allow(self, reason: Reason) -> None:
        """Take a reason back."""
        with self:
            self._store.closed &= ~reason

    @property
    def short(self) -> bool:
        """Whether the disk must be looked at again before more can be admitted: then call `grant`."""
        return int(self._store.room) <= 0

    @property
    def starved(self) -> int:
        """How many bytes of room somebody waits for; 0: nobody does."""
        return int(self._store.starved)

    def grant(self, size: int) -> None:
        """Let so many bytes be admitted before the disk is looked at again; below 0: nobody need wait for room."""
        with self:
            self._store.room, self._store.starved = size, 0

    def tell(self) -> None:
        """Say that there is more room: somebody may wait for it."""
        with self:
            pass

    # ------------------------------------------------------------ where

    def __enter__(self) -> None:
        self.library.ew_lock(self.address)

    def __exit__(self, *_: object) -> None:
        self.library.ew_unlock(self.address)

    def write_to(self, log: native.Log | None) -> None:
        """Let new records go there; None: nowhere."""
        with self:
            self._store.active = ctypes.addressof(log) if log is not None else None

    def idle(self, log: native.Log, seconds: float) -> bool:
        """Wait until no record there waits for its row, or something came; return whether none waits."""
        return not self.library.ew_idle(self.address, ctypes.addressof(log), int(seconds * 1000))

    # ------------------------------------------------------------ what came

    @property
    def waiting(self) -> bool:
        """Whether something came that was not given back."""
        return bool(self._store.pending)

    def wait(self, enough: int, seconds: float, later_s: float) -> int:
        """Wait for the first object, and then until `enough` came, but no longer than `later_s`; return how many.

        Does not wait once it is closed, nor while somebody waits for room; -1: nothing came, and somebody does.
        """
        return int(self.library.ew_wait(self.address, enough, int(seconds * 1000), int(later_s * 1000)))

    def take(self) -> list[Arrived]:
        """Return what came, in that order. One thread at a time; then call `give`."""
        count = self.library.ew_drain(self.address, self._out, len(self._out))
        return [self._arrived(number) for number in self._out[:count]]

    def give(self, arrived: list[Arrived]) -> None:
        """Say that the rows of these are where every reader looks."""
        numbers = (ctypes.c_uint16 * len(arrived))(*(one.slot for one in arrived))
        self.library.ew_give(self.address, numbers, len(arrived))

    def _arrived(self, number: int) -> Arrived:
        at = self._slots + number * self._slot_size
        slot = native.Slot.from_address(at)
        return Arrived(number, ctypes.string_at(at + ctypes.sizeof(native.Slot), slot.size))
