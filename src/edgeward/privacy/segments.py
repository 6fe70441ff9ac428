"""The segments of a vault: files to which the compiled admission appends many objects, each with its record.

Responsible for their format, for making room ahead of whoever appends, for turning to a new one and forgetting the
records of the old one, for finding after a crash what was appended, and for erasing one object's bytes. Not responsible
for what a record means (``privacy.intake``) or for when a segment is turned (``gateway.reception``).

A file for each object costs more than all the rest of a small one's admission. Here an object is written once, where it
stays: its record stands in front of it until its row is in the journal, then the key of the segment's records is
overwritten. What the vault knows is in the object's id: the first 8 bytes are the segment's name, the next 4 the block
where the object begins. Of an object of more than a chunk only the record is here; its file was on the disk before.

Version 1: a block with ``EWSEGMT1``, a salt, and the key of the records, sealed with the site key, zeros once it is
retired; then records (``privacy.blockfile``) whose row takes one block. The content is a vault file of one chunk
(``privacy.vaultfile``). An erased object is a hole, its record with it. While a segment is not retired, an empty file
of its name lies in ``live``: a start need not look into the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeward import native
from edgeward.privacy import blockfile
from edgeward.privacy.blockfile import BLOCK, FIRST, HEAD, NONCE, SALT, TAG, BlockFile, Found, blocks, lengths_of
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.lane import Lane
from edgeward.privacy.vaultfile import MAGIC, OBJECT, SEGMENT, sync_directory

_log = logging.getLogger("edgeward.vault")

_LIVE = "live"
_MAGIC = b"EWSEGMT1"
_KEY = NONCE + 32 + TAG  # bytes of the sealed key
_NAME = 16  # digits of an object's id that name its segment
_PLACE = 8  # digits after them: where it begins, in blocks
CROWDED = 256 << 20  # bytes from which on nothing is appended any more
_FILLING = CROWDED // 4  # ... from which on it should be turned soon
_LEAST, _AHEAD = 256 << 10, 32 << 20  # bytes of room that are made ahead, at least and at most
_STEP = 8 << 20  # ... in one go: whoever makes it has other things to do
_TOGETHER = 8  # objects of those for whose room somebody waits
_DRAIN_S = 0.1

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate  # Linux
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_NO_HOLES = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class _Segment(BlockFile):
    """One that is appended to, or was until now."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.salt = b""


class Segments:
    """The segments of one vault. `appending` and what follows it: one thread at a time, but for `make_room`.

    Parameters
    ----------
    root
        The vault's directory, with its folders for the first two digits of an id.
    site_key
        Seals the keys of the records.
    """

    def __init__(self, root: Path, site_key: SiteKey) -> None:
        self._root, self._live, self._site_key = root, root / _LIVE, site_key
        self._lane: Lane | None = None
        self._check: Callable[[int], None] = lambda _: None
        self._active: _Segment | None = None
        self._old: list[_Segment] = []  # that are not appended to any more, and not retired yet
        self._used = 0  # bytes that were appended to the last one
        self._growing = threading.Lock()  # for whoever changes how long a segment is

    # ------------------------------------------------------------ where an object lies

    def path_of(self, object_id: str) -> Path:
        """Return the segment that an object would be in."""
        return self._root / object_id[:2] / f"{object_id[:_NAME]}{SEGMENT}"

    def file_of(self, object_id: str) -> Path:
        """Return the file of its own that an object would have."""
        return self._root / object_id[:2] / f"{object_id}{OBJECT}"

    def place_of(self, object_id: str, size: int) -> str | None:
        """Return where an object is, as `vaultfile.place_of` reads it; None: in no segment.

        Parameters
        ----------
        object_id, size
            The object, and the bytes of its plaintext.
        """
        path = self.path_of(object_id)
        if not path.exists():
            return None
        at = int(object_id[_NAME : _NAME + _PLACE], 16) * BLOCK
        return f"{path}@{at}+{len(MAGIC) + size + TAG}"

    def erase(self, object_id: str) -> bool:
        """Take the bytes of an object and of its record from the disk; return whether it would be in a segment.

        Durable on return. It is not an error if there is none.

        Raises
        ------
        OSError
            If the disk fails.
        """
        path, at = self.path_of(object_id), int(object_id[_NAME : _NAME + _PLACE], 16) * BLOCK
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            salt = os.pread(handle, len(_MAGIC) + SALT, 0)[len(_MAGIC) :]
            lengths = lengths_of(os.pread(handle, HEAD.size, at - BLOCK), salt) if at > BLOCK else None
            if lengths is not None:
                _punch(handle, at - BLOCK, BLOCK + blocks(lengths[1]))
            if self._is_retired(path) and _is_empty(handle):
                path.unlink(missing_ok=True)
                sync_directory(path.parent)
        finally:
            os.close(handle)
        return True

    def objects(self) -> Iterator[str]:
        """Yield the first 24 digits of the ids of all objects that are there."""
        for path in sorted(self._root.glob(f"??/*{SEGMENT}")):
            with path.open("rb") as source:
                salt = source.read(len(_MAGIC) + SALT)[len(_MAGIC) :]
                at, size = BLOCK, os.fstat(source.fileno()).st_size
                while at + BLOCK <= size:
                    source.seek(at)
                    lengths = lengths_of(source.read(HEAD.size), salt)
                    at += BLOCK
                    if lengths is not None and lengths[1]:
                        yield f"{path.stem}{at // BLOCK:0{_PLACE}x}"
                        at += blocks(lengths[1])

    # ------------------------------------------------------------ appending

    def open(self, lane: Lane, check: Callable[[int], None]) -> None:
        """Let objects be appended; the lane is closed still.

        Parameters
        ----------
        lane
            Who appends.
        check
            Called with the bytes that are to be taken from the disk; raises if they may not be.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        self._lane, self._check, lane.root = lane, check, self._root
        self._begin()

    @property
    def filling(self) -> bool:
        """Whether the segment should be turned before long."""
        active = self._active
        return active is not None and active.end > _FILLING

    def make_room(self, starved: int = 0) -> None:
        """Let the segment grow, by a few MB, before whoever appends finds no room.

        Parameters
        ----------
        starved
            Bytes for which somebody waits already.

        Raises
        ------
        OSError
            If the disk is full: whoever needs the room will be told.
        """
        active = self._active
        most = active.size + _STEP if active is not None else 0
        while active is not None and not active.failed:
            ahead = min(max(active.end, _LEAST, _TOGETHER * starved), _AHEAD)
            wanted = min(active.end + ahead, CROWDED + _AHEAD, most)
            with self._growing:
                if active is not self._active or active.size >= wanted:
                    return
                step = min(wanted - active.size, FIRST)
                self._check(step)
                active.grow(active.size + step)
            if self._lane is not None:
                self._lane.tell()

    def turn(self) -> bool:
        """Let new objects go to another segment, if there are some in this one; return whether there is one to retire.

        Raises
        ------
        OSError
            If there cannot be another one: nothing was changed.
        """
        active = self._active
        if active is not None and (active.end > BLOCK or active.failed):
            self._used = active.end
            self._begin()
        elif active is not None:
            self._used = 0
            with self._growing:
                self._shrink(active)
        return bool(self._old)

    def await_rows(self, drain: Callable[[], None]) -> None:
        """Wait until whoever appends to the old segments is done, and everybody was told of what came.

        Parameters
        ----------
        drain
            Takes note of what came.
        """
        for old in self._old:
            while self._lane is not None and not self._lane.idle(old.numbers, _DRAIN_S):
                drain()
            self._give_back(old)
        drain()  # also those that another thread gave back and is telling of

    def _give_back(self, old: _Segment) -> None:
        """Give back the room that was made ahead: on a full disk the journal may need it for the rows."""
        with self._growing:
            if old.handle >= 0 and not old.failed and old.size > old.end >= BLOCK:
                with contextlib.suppress(OSError):  # it is tried again when the segment is retired
                    os.ftruncate(old.handle, old.end)
                    old.size = old.end

    def retire(self) -> None:
        """Forget the records of the old segments for good: their rows are in the journal. The objects stay.

        Raises
        ------
        OSError
            If the disk fails: call it again.
        """
        while self._old:
            with self._growing:
                self._retire(self._old[0])
            self._old.pop(0)

    def close(self, drain: Callable[[], None]) -> None:
        """Append nothing any more. Nobody may be appending: the lane is closed. Then call `retire`."""
        active, self._active = self._active, None
        if active is not None:
            self._old.append(active)
        self.await_rows(drain)
        if self._lane is not None:
            self._lane.write_to(None)

    def _begin(self) -> None:
        name, salt, key = secrets.token_bytes(_NAME // 2), secrets.token_bytes(SALT), os.urandom(32)
        segment = _Segment(self.path_of(name.hex()))
        lane, size = self._lane, BLOCK + min(max(self._used, _LEAST), _AHEAD) // BLOCK * BLOCK
        assert lane is not None
        self._check(size)
        try:
            if not self._live.is_dir():
                self._live.mkdir(mode=0o700, exist_ok=True)
                sync_directory(self._root)
            (self._live / name.hex()).touch(mode=0o600, exist_ok=False)
            segment.open()
            segment.grow(size)
            segment.write_block(_MAGIC + salt + self._site_key.seal(key, _context(salt)))
            os.fsync(segment.handle)
            sync_directory(segment.path.parent)
            sync_directory(self._live)
            segment.shared = native.new_sync(lane.library)
        except BaseException:
            segment.close()
            segment.path.unlink(missing_ok=True)
            (self._live / name.hex()).unlink(missing_ok=True)
            raise
        segment.salt = salt
        numbers = segment.numbers
        numbers.sync, numbers.handle = ctypes.addressof(segment.shared), segment.handle
        numbers.salt[:], numbers.key[:], numbers.name[:] = salt, key, name
        numbers.failed, numbers.end, numbers.alone = 0, BLOCK, 0
        old, self._active = self._active, segment
        lane.write_to(numbers)
        if old is not None:
            self._old.append(old)

    def _shrink(self, active: _Segment) -> None:
        """Give room back that nobody needed."""
        least = BLOCK + _LEAST
        if active.size <= least or self._lane is None:
            return
        with self._lane:
            unused = active.end <= BLOCK
            if unused:
                active.size = least
        if unused:
            os.ftruncate(active.handle, least)

    def _retire(self, old: _Segment) -> None:
        if old.handle < 0:
            old.open()
        if old.end <= BLOCK:
            old.path.unlink(missing_ok=True)
        else:
            if old.numbers.alone:
                self._take_away(old)
            _forget(old, old.salt, old.end)
            if _is_empty(old.handle):
                old.path.unlink(missing_ok=True)
        sync_directory(old.path.parent)
        old.close()
        (self._live / old.path.stem).unlink(missing_ok=True)

    @staticmethod
    def _take_away(old: _Segment) -> None:
        """Give back the room of records that have no object beside them: it is in a file of its own."""
        at, begin = BLOCK, 0
        with old.path.open("rb", buffering=0) as source:
            while at < old.end:
                lengths = lengths_of(os.pread(source.fileno(), HEAD.size, at), old.salt)
                if lengths is not None and lengths[1]:
                    if begin:
                        _punch(old.handle, begin, at - begin)
                    begin = 0
                    at += blocks(lengths[1])
                else:
                    begin = begin or at
                at += BLOCK
        if begin:
            _punch(old.handle, begin, old.end - begin)

    def _is_retired(self, path: Path) -> bool:
        return not (self._live / path.stem).exists()

    # ------------------------------------------------------------ after a crash

    def give_room_back(self) -> None:
        """Give back what was made ahead of the objects. Call it at a start, before the journal is opened.

        A crash may have left the disk full, and the journal needs room for the rows of what was acknowledged.

        Raises
        ------
        WrongKey
            If something was sealed with another site key.
        OSError
            If the disk fails.
        """
        for path in self._unretired():
            salt, sealed = _head_of(path)
            if sealed:
                end = max((one.end for one in self._records(path)), default=BLOCK)
                if path.stat().st_size > end:
                    os.truncate(path, end)
            elif not salt:
                self._without_head(path)

    def found(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield what was appended and not retired: the first digits of its id, its row, and its content.

        The content may be incomplete; it is empty if the object is in a file of its own (`file_of`). Call it before
        anything is appended, then `keep`.

        Raises
        ------
        WrongKey
            If it was sealed with another site key.
        """
        for path in self._unretired():
            for one in self._records(path):
                yield _id_of(path, one), one.row, one.content

    def keep(self, whole: set[str]) -> None:
        """Retire what was found; only these objects stay.

        Parameters
        ----------
        whole
            First digits of their ids, as `found` told.

        Raises
        ------
        OSError
            If the disk fails.
        """
        for path in self._unretired():
            salt, sealed = _head_of(path)
            if sealed:
                places = [(one.at, one.end) for one in self._records(path) if _id_of(path, one) in whole]
                self._keep(path, salt, places)
            elif not salt:
                self._without_head(path)
            (self._live / path.stem).unlink(missing_ok=True)

    @staticmethod
    def _without_head(path: Path) -> None:
        """Remove what was not begun yet. Its head is on the disk before any record is: else the disk lost it."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            begun = not _is_zero(handle)
        finally:
            os.close(handle)
        if begun:
            _log.error("%s is damaged: what it kept last cannot be read; the rest stays", path.name)
        else:
            path.unlink()
            sync_directory(path.parent)

    @staticmethod
    def _keep(path: Path, salt: bytes, places: list[tuple[int, int]]) -> None:
        segment, end = BlockFile(path), BLOCK
        segment.open()
        try:
            for at, after in places:
                if at > end:  # what lies between them is of nobody
                    _punch(segment.handle, end, at - end)
                end = after
            _forget(segment, salt, end)
        finally:
            segment.close()
        if not places:
            path.unlink()
            sync_directory(path.parent)

    def _unretired(self) -> list[Path]:
        if not self._live.is_dir():
            return []
        return [self.path_of(marker.name) for marker in sorted(self._live.iterdir()) if len(marker.name) == _NAME]

    def _records(self, path: Path) -> Iterator[Found]:
        salt, sealed = _head_of(path)
        if sealed:
            key = self._site_key.open(sealed, _context(salt))
            with path.open("rb") as source:
                yield from blockfile.records(source, os.fstat(source.fileno()).st_size, salt, key)


def _head_of(path: Path) -> tuple[bytes, bytes]:
    """Return the salt and the sealed key of a segment: empty, if it is retired; both empty, if it was never begun."""
    try:
        with path.open("rb") as source:
            head = source.read(len(_MAGIC) + SALT + _KEY)
    except FileNotFoundError:
        return b"", b""
    if not head.startswith(_MAGIC) or len(head) < len(_MAGIC) + SALT + _KEY:
        return b"", b""
    salt, sealed = head[len(_MAGIC) :][:SALT], head[len(_MAGIC) + SALT :]
    return salt, sealed if any(sealed) else b""


def _id_of(path: Path, one: Found) -> str:
    return f"{path.stem}{one.at // BLOCK + 1:0{_PLACE}x}"


def _forget(segment: BlockFile, salt: bytes, end: int) -> None:
    """Overwrite the key of the records, and give back what lies behind `end`."""
    segment.write_block(_MAGIC + salt)
    os.ftruncate(segment.handle, end)
    os.fsync(segment.handle)


def _punch(handle: int, at: int, size: int) -> None:
    """Take bytes from the disk; where the file system has no holes, write zeros."""
    if _fallocate(handle, _PUNCH_HOLE | _KEEP_SIZE, at, size):
        error = ctypes.get_errno()
        if error not in _NO_HOLES:
            raise OSError(error, os.strerror(error))
        for start in range(at, at + size, len(blockfile.ZEROS)):
            os.pwrite(handle, blockfile.ZEROS[: at + size - start], start)
    os.fdatasync(handle)


def _is_empty(handle: int) -> bool:
    """Return whether nothing but holes lies behind the first block."""
    try:
        os.lseek(handle, BLOCK, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def _is_zero(handle: int) -> bool:
    """Return whether nothing but zeros and holes lies behind the first block."""
    at = BLOCK
    while data := os.pread(handle, FIRST, at):
        if any(data):
            return False
        at += len(data)
    return True


def _context(salt: bytes) -> bytes:
    return b"segment:" + salt
