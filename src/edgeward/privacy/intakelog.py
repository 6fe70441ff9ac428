"""The intake log: where an admission becomes durable, with one sync that all associations share.

Responsible for records that are on the disk when `append` returns, for finding them again after a crash, and for
forgetting them. Not responsible for what a record means (``privacy.journal``) or for when its place is elsewhere
(``gateway.reception``).

Two files take turns: while the records of one are carried over to where they belong, new ones go to the other. A file
is written over again and again, in blocks that exist already, so that a sync has no file system to bring up to date.

Version 1: a block with ``EWINTAKE``, a salt and the file's key, sealed with the site key; then records
(``privacy.blockfile``). Whoever forgets the records of a file overwrites its key: what still lies there cannot be read
by anybody.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward import native
from edgeward.privacy import blockfile
from edgeward.privacy.blockfile import BLOCK, FIRST, HEAD, NONCE, SALT, TAG, ZEROS, BlockFile, blocks, bound
from edgeward.privacy.keys import SiteKey

CROWDED = 64 << 20  # bytes in one file from which on the records should be carried over at once
_LIMIT = blockfile.LIMIT
_MAGIC = b"EWINTAKE"
_STEP = 16 << 20  # a file grows by doubling, but by no more than this at once
_ROOM = 8 * BLOCK  # of a buffer for a row; larger ones get one of their own
_SPARE = 32
_AHEAD = 8 << 20  # bytes that `make_room` sees to


class LogFull(OSError):
    """Nobody carried the records over for too long."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was found."""

    row: bytes = field(repr=False)
    content: bytes = field(repr=False)


class _File(BlockFile):
    """One of the two files. `lock` guards its numbers, `syncing` its syncs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.salt, self.cipher = b"", AESGCM(bytes(32))
        self.written = self.synced = 0  # records
        self.busy = 0  # records that are being written
        self.contents = False  # whether one of its records has a content
        self.idle = threading.Condition()
        self.syncing = threading.Lock()  # where the compiled data path does not sync


class Entry:
    """A record that has its place in the log and is not on the disk yet.

    Whoever has one must get it there, with `IntakeLog.keep` or with the compiled data path from what `record` returns,
    and then call either `IntakeLog.kept` or `IntakeLog.lost`.
    """

    __slots__ = ("at", "blocks", "content", "file", "head")

    def __init__(self, file: _File, at: int, head: native.Pages, blocks: int, content: bytes | memoryview) -> None:
        self.file, self.at, self.head, self.blocks, self.content = file, at, head, blocks, content

    def record(self, content: native.Pages | None, path: str) -> native.Record:
        """Return the entry for the compiled data path.

        Parameters
        ----------
        content
            Where its content lies, from the start; with room up to a whole block.
        path
            Where the content is to be written too, after the answer; may be empty.
        """
        return native.Record(
            ctypes.addressof(self.file.shared),
            self.at,
            self.head.address,
            self.blocks,
            content.address if content is not None else 0,
            len(self.content),
            len(content.view) if content is not None else 0,
            path.encode() or None,
            self.file.handle,
        )


class IntakeLog:
    """The log of one journal. Thread-safe.

    Parameters
    ----------
    path
        Of the journal; the files lie beside it, and are made when the first record is written.
    site_key
        Seals the keys of the files.
    """

    def __init__(self, path: Path, site_key: SiteKey) -> None:
        self._site_key, self._library = site_key, native.library()
        self._files = [_File(path.with_name(f"{path.name}-intake{number}")) for number in (0, 1)]
        self._active = self._files[0]
        self._lock = threading.Lock()  # which file is active, and where the next record goes
        self._spare: list[native.Pages] = []

    @property
    def crowded(self) -> bool:
        """Whether the records should be carried over soon."""
        return self._active.end > CROWDED

    @property
    def filling(self) -> bool:
        """Whether they should be before long: nobody waits for it yet."""
        return self._active.end > CROWDED // 2

    @property
    def contents(self) -> bool:
        """Whether there are records with a content that were not forgotten."""
        return any(file.contents for file in self._files)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    # ------------------------------------------------------------ writing

    def append(self, row: bytes, content: bytes | memoryview, done: Callable[[], None]) -> None:
        """Write a record; it is on the disk on return.

        Parameters
        ----------
        row, content
            The record. A content in a `mmap`, from its start, is written without a copy.
        done
            Called once it is durable, before `turn` can take it for complete.

        Raises
        ------
        OSError
            If the disk is full or fails: there is no record then.
        """
        entry = self.enter(row, content)
        try:
            self.keep(entry)
        except BaseException:
            self.lost(entry)
            raise
        self.kept(entry, done)

    def enter(self, row: bytes, content: bytes | memoryview) -> Entry:
        """Give a record its place; see `Entry`.

        Raises
        ------
        OSError
            If the disk is full or fails: there is no record then.
        """
        first = blocks(HEAD.size + len(row) + TAG)
        head = self._take(first)
        file, at = self._reserve(first + blocks(len(content)), content=bool(len(content)))
        entry = Entry(file, at, head, first, content)
        try:
            nonce = os.urandom(NONCE)
            sealed = file.cipher.encrypt(nonce, row, bound(file.salt, at, content))
            HEAD.pack_into(head.view, 0, file.salt, len(sealed), len(content), nonce)
            head.view[HEAD.size : HEAD.size + len(sealed)] = sealed
        except BaseException:
            self._leave(entry)
            raise
        return entry

    def keep(self, entry: Entry) -> None:
        """Write an entry; it is on the disk on return.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        self._write(entry)
        self._sync(entry.file)

    def kept(self, entry: Entry, done: Callable[[], None]) -> None:
        """Say that an entry is on the disk; `done` is called before `turn` can take it for complete."""
        try:
            done()
        finally:
            self._leave(entry)

    def lost(self, entry: Entry) -> None:
        """Say that an entry could not be written."""
        entry.file.failed = True  # after a failed sync nobody knows what the next one would tell
        try:
            self._void(entry.file, entry.at)
        finally:
            self._leave(entry)

    def _leave(self, entry: Entry) -> None:
        self._give(entry.head)
        file = entry.file
        with file.idle:
            file.busy -= 1
            if not file.busy:
                file.idle.notify_all()

    def turn(self) -> int | None:
        """Let new records go to the other file, and wait until those of this one are complete.

        Returns
        -------
        int or None
            To be given to `forget` once they are elsewhere; None if there are none.

        Raises
        ------
        OSError
            If the other file cannot be prepared.
        """
        with self._lock:
            active = self._active
            other = self._files[1 - self._files.index(active)]
            if other.end:  # it was not forgotten when it should have been
                old = other
            elif active.end > BLOCK or active.failed:
                self._begin(other)
                old, self._active = active, other
            else:
                return None
        with old.idle:
            old.idle.wait_for(lambda: not old.busy)
        return self._files.index(old)

    def forget(self, which: int) -> None:
        """Forget the records of a file, for good.

        Raises
        ------
        OSError
            If the disk fails.
        """
        file = self._files[which]
        file.open()
        os.pwrite(file.handle, ZEROS[:BLOCK], 0)
        if file.size > CROWDED + _STEP:
            os.ftruncate(file.handle, CROWDED)
            file.size = CROWDED
        os.fdatasync(file.handle)
        file.numbers.end = 0
        file.failed = file.contents = False

    def _reserve(self, length: int, *, content: bool) -> tuple[_File, int]:
        """Return where a record of this length goes."""
        with self._lock:
            file = self._active
            if file.failed:
                raise OSError(errno.EIO, "the intake log failed before")
            if not file.end:
                self._begin(file)
            at = file.end
            if at + length > _LIMIT:
                raise LogFull(errno.ENOSPC, "the intake log is full")
            while at + length > file.size:
                self._grow(file)
            file.numbers.end = at + length
            file.contents |= content
            with file.idle:
                file.busy += 1
            return file, at

    def make_room(self) -> None:
        """Let the file grow before somebody has to wait for it.

        Raises
        ------
        OSError
            If the disk is full: whoever needs the room will be told.
        """
        file = self._active
        while file.end and not file.failed and file.end + _AHEAD > file.size and file.size < CROWDED:
            with self._lock:
                if file is not self._active:
                    return
                self._grow(file)

    def _begin(self, file: _File) -> None:
        """Give a file a new key: whatever was in it is gone."""
        file.open()
        if file.size <= BLOCK:
            self._grow(file)
        salt, key = secrets.token_bytes(SALT), AESGCM.generate_key(256)
        file.write_block(_MAGIC + salt + self._site_key.seal(key, _context(salt)))
        file.salt, file.cipher = salt, AESGCM(key)
        file.written = file.synced = 0
        file.shared = native.new_sync(self._library) if self._library is not None else None
        file.failed, file.numbers.end = False, BLOCK

    @staticmethod
    def _grow(file: _File) -> None:
        disk = os.fstatvfs(file.handle)
        most = disk.f_bavail * disk.f_frsize // 8  # what is kept free on a full disk is for the rows
        step = min(max(file.size, FIRST), _STEP, max(most, FIRST))
        file.grow(file.size + step // BLOCK * BLOCK if file.size > BLOCK else FIRST)

    def _write(self, entry: Entry) -> None:
        content = memoryview(entry.content)
        whole = len(content) // BLOCK * BLOCK if isinstance(content.obj, mmap.mmap) else 0  # others may lie anywhere
        tail = len(content) - whole
        rest = self._take(blocks(tail))
        try:
            rest.view[:tail] = content[whole:]
            parts = [entry.head.view[: entry.blocks], content[:whole], rest.view[: blocks(tail)]]
            parts = [part for part in parts if len(part)]
            if os.pwritev(entry.file.handle, parts, entry.at) != sum(map(len, parts)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            self._give(rest)

    def _sync(self, file: _File) -> None:
        """Return once what was written is on the disk: whoever comes first syncs for all who have written."""
        if file.shared is not None:
            error = self._library.ew_sync(file.shared, file.handle)
            if error:
                raise OSError(error, os.strerror(error))
            return
        with file.idle:
            file.written += 1
            mine = file.written
        with file.syncing:
            if file.synced >= mine:
                return
            if file.failed:
                raise OSError(errno.EIO, "the intake log failed before")
            upto = file.written
            try:
                os.fdatasync(file.handle)
            except OSError:
                file.failed = True
                raise
            file.synced = upto

    @staticmethod
    def _void(file: _File, at: int) -> None:
        """Make a record that failed no record, as far as the disk still does anything."""
        with contextlib.suppress(OSError):
            os.pwrite(file.handle, ZEROS[:BLOCK], at)
            os.fdatasync(file.handle)

    def _take(self, size: int) -> native.Pages:
        if size > _ROOM:
            return native.Pages(size)
        with contextlib.suppress(IndexError):
            return self._spare.pop()
        return native.Pages(_ROOM)

    def _give(self, head: native.Pages) -> None:
        if len(head.view) == _ROOM and len(self._spare) < _SPARE:
            self._spare.append(head)

    # ------------------------------------------------------------ after a crash

    def found(self) -> Iterator[Record]:
        """Yield what was appended before and not forgotten. Call it before anything is appended.

        A record that was being written when the machine stopped is not among it: nobody was told of it. Its content may
        be incomplete even so: whoever knows how must look.

        Raises
        ------
        WrongKey
            If it was sealed with another site key.
        """
        for file in self._files:
            if file.path.exists() and file.path.stat().st_size >= BLOCK:
                yield from self._scan(file)

    def forget_found(self) -> None:
        """Forget all of it."""
        for number, file in enumerate(self._files):
            if file.path.exists():
                self.forget(number)

    def _scan(self, file: _File) -> Iterator[Record]:
        size = file.path.stat().st_size
        with file.path.open("rb") as source:
            block = source.read(BLOCK)
            if not block.startswith(_MAGIC):
                return
            salt = block[len(_MAGIC) : len(_MAGIC) + SALT]
            sealed = block[len(_MAGIC) + SALT :][: NONCE + 32 + TAG]
            key = self._site_key.open(sealed, _context(salt))
            for found in blockfile.records(source, size, salt, key):
                yield Record(found.row, found.content)


def _context(salt: bytes) -> bytes:
    return b"intake:" + salt
