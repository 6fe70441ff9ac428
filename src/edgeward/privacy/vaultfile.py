"""The format of a vault file, and writing one while its bytes arrive.

Responsible for chunks, nonces and how bytes reach the disk. Not responsible for names, keys, room on the disk, or for
when an object counts as stored (``privacy.vault``).

Version 1: ``EWVAULT1``, then chunks. Each chunk is up to 1 MiB of plaintext under AES-256-GCM (NIST SP 800-38D)
followed by its 16-byte tag. The nonce is the chunk's index; every object has its own key, so no pair of key and nonce
is ever used twice. The index and a flag "this is the last one" are authenticated with each chunk, so a file that was
truncated, extended or re-ordered does not open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward.native import Pages

MAGIC = b"EWVAULT1"
OBJECT = ".ew"  # of a file that holds one object
SEGMENT = ".ews"  # ... and of one that holds many (``privacy.segments``)
CHUNK = 1 << 20
TAG = 16
HEADROOM = 4096  # before a first chunk that was received already, for what stands in front of it
_BLOCK = 4096  # what writing past the page cache must be a multiple of
_DIRECT_FROM = 192 << 10  # smaller objects go through the page cache: there is little to win
UNSYNCED_TO = 384 << 10  # larger objects are synced here in any case: a journal would take more time than the syncs
_SPARE = 8  # pairs of buffers kept for the next objects
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last one: a limit on file sizes (RLIMIT_FSIZE)
_NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


def nonce(index: int) -> bytes:
    """Return the nonce of a chunk."""
    return index.to_bytes(12, "big")


def bound(index: int, *, final: bool) -> bytes:
    """Return what is authenticated with a chunk besides its content."""
    return MAGIC + struct.pack(">Q?", index, final)


def is_full(error: OSError) -> bool:
    """Return whether an error says that there is no room."""
    return error.errno in _NO_SPACE


def intact(content: bytes, data_key: bytes) -> bool:
    """Return whether `content` is a whole vault file of one chunk under this key."""
    if not content.startswith(MAGIC) or len(content) < len(MAGIC) + TAG:
        return False
    try:
        AESGCM(data_key).decrypt(nonce(0), content[len(MAGIC) :], bound(0, final=True))
    except (InvalidTag, ValueError):
        return False
    return True


def intact_file(path: Path, data_key: bytes, size: int) -> bool:
    """Return whether a file is a whole vault file of so many bytes of plaintext under this key.

    Raises
    ------
    OSError
        If it is there, and the disk fails.
    """
    cipher, chunks = AESGCM(data_key), max(1, -(-size // CHUNK))
    length = len(MAGIC) + size + chunks * TAG
    try:
        with path.open("rb") as source:
            if source.read(len(MAGIC)) != MAGIC or os.fstat(source.fileno()).st_size != length:
                return False
            for index in range(chunks):
                cipher.decrypt(nonce(index), source.read(CHUNK + TAG), bound(index, final=index == chunks - 1))
    except (FileNotFoundError, InvalidTag, ValueError):
        return False
    return True


def sync_directory(directory: Path | str) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_NOTHING = memoryview(b"")


class Place(NamedTuple):
    """Where an object lies: a file of its own, or `length` bytes of a segment from `at` on."""

    file: str
    at: int
    length: int | None

    def found(self, handle: int) -> tuple[int, bytes]:
        """Return how long it is in its open file, and the first bytes of it, none if they were erased."""
        there = os.fstat(handle).st_size
        if self.length is None:
            return there, os.pread(handle, len(MAGIC), 0)
        # Who reads ahead in a segment that is written to would keep what is not there yet in the page cache.
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        first = os.pread(handle, len(MAGIC), self.at)
        return min(self.length, max(0, there - self.at)), first if any(first) else b""


def place_of(path: Path | str) -> Place:
    """Return the place that the path of an object (`messages.ObjectRef.path`) says."""
    text = str(path)
    file, mark, rest = text.rpartition("@")
    if mark and file.endswith(SEGMENT):
        at, _, length = rest.partition("+")
        if at.isdecimal() and length.isdecimal():
            return Place(file, int(at), int(length))
    return Place(text, 0, None)


class Buffers:
    """The two buffers of an object: its plaintext, after some headroom, and what is to be written."""

    __slots__ = ("out", "plain")

    def __init__(self) -> None:
        self.plain, self.out = Pages(HEADROOM + CHUNK), Pages(CHUNK + 2 * _BLOCK)


class _Pool:
    """Buffers kept for re-use: fresh ones cost a page fault per 4 KiB."""

    def __init__(self) -> None:
        self._spare: list[Buffers] = []
        self._lock = threading.Lock()

    def take(self) -> Buffers:
        """Return two buffers; give them back when they are not needed any more."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
        return Buffers()

    def give(self, buffers: Buffers) -> None:
        """Take two buffers back. Nobody may use them after that."""
        with self._lock:
            if len(self._spare) < _SPARE:
                self._spare.append(buffers)


pool = _Pool()


def seal_small(buffers: Buffers, start: int, size: int, data_key: bytes) -> memoryview:
    """Encrypt `size` bytes of plaintext at `start` of the plain buffer; return the whole vault file, in the other."""
    end = len(MAGIC) + size + TAG
    out = buffers.out.view
    out[: len(MAGIC)] = MAGIC
    plain = buffers.plain.view[start : start + size]
    AESGCM(data_key).encrypt_into(nonce(0), plain, bound(0, final=True), out[len(MAGIC) : end])
    return out[:end]


class VaultFileWriter:
    """Writes one vault file from plaintext in any pieces, in two buffers of about 1 MiB whatever its size.

    The file is made when the first chunk is full, or at the end: an object that is refused early never touches the
    disk. Large files are written past the page cache where the file system allows it, so that a flood of images
    neither evicts what others need nor leaves its writing to the final sync.

    One thread at a time may use it. End with `seal` or `discard`; any error of the disk is an `OSError`, after which
    only `discard` may be called. If `seal` returned a content, end with `release`.

    Parameters
    ----------
    path
        The file; it must not exist.
    data_key
        A fresh AES-256 key.
    received
        Buffers from the pool in whose plain one the first `size` bytes lie from `start` on; they are the writer's then.
    """

    def __init__(self, path: str, data_key: bytes, received: tuple[Buffers, int, int] | None = None) -> None:
        self._path, self._cipher = path, AESGCM(data_key)
        self._buffers, start, size = received or (pool.take(), HEADROOM, 0)
        self._plain, self._out = self._buffers.plain.view[start : start + CHUNK], self._buffers.out.view
        self.size = size  # of the plaintext
        self._filled = size  # bytes in the plain buffer
        self._index = 0
        self._pending = len(MAGIC)  # bytes at the start of the out buffer that are not written yet
        self._out[: len(MAGIC)] = MAGIC
        self._handle = -1
        self._direct = self._named = False
        self._written = 0
        self._reserving = True

    @property
    def full(self) -> bool:
        """Whether the next call of `room` writes a chunk."""
        return self._filled == CHUNK

    @property
    def held(self) -> memoryview:
        """The plaintext that is not encrypted yet."""
        return self._plain[: self._filled]

    def room(self) -> memoryview:
        """Return where the next bytes of plaintext go: at least one, at most a chunk. Then call `filled`."""
        if self.full:
            self._flush(final=False)
        return self._plain[self._filled :]

    def filled(self, count: int) -> None:
        """Say how many bytes were put at the start of `room`."""
        self._filled += count
        self.size += count

    def seal(self, *, sync: bool = True) -> memoryview:
        """Write the rest; the file and its name are durable on return.

        Parameters
        ----------
        sync
            If False, a file below `UNSYNCED_TO` is not synced; its content is returned for the caller to keep.

        Returns
        -------
        memoryview
            The whole file, if it was not synced: from the start of a `mmap`, until `release`.
        """
        if not sync and not self._index and self._filled < UNSYNCED_TO:
            self._encrypt(final=True)
            self._open(direct=False)
            self._write(self._out[: self._pending])
            self._close_file()
            return self._out[: self._pending]
        self._flush(final=True)
        os.fsync(self._handle)
        if not self._named:
            self._sync_name()
        self._close()
        return _NOTHING

    def release(self) -> None:
        """Say that what `seal` returned is not needed any more."""
        self._close()

    def discard(self) -> None:
        """Forget everything and remove the file."""
        made = self._handle >= 0
        self._close()
        if made:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108 - no Path on the way of every object

    def _encrypt(self, *, final: bool) -> None:
        end = self._pending + self._filled + TAG
        authenticated = bound(self._index, final=final)
        sealed = self._out[self._pending : end]
        self._cipher.encrypt_into(nonce(self._index), self._plain[: self._filled], authenticated, sealed)
        self._index += 1
        self._pending, self._filled = end, 0

    def _flush(self, *, final: bool) -> None:
        if self._handle < 0:
            self._open(direct=not final or self._filled >= _DIRECT_FROM)
            if not final:  # while the rest arrives: one wait less at the end
                self._sync_name()
        self._encrypt(final=final)
        if not self._direct:
            self._write(self._out[: self._pending])
            self._pending = 0
            return
        whole = self._pending // _BLOCK * _BLOCK
        rest = self._pending - whole
        length = self._written + self._pending
        if final and rest:
            whole += _BLOCK
            self._out[self._pending : whole] = bytes(whole - self._pending)
        self._reserve(self._written + whole)
        self._write(self._out[:whole])
        if final:
            os.ftruncate(self._handle, length)
        else:
            self._out[:rest] = self._out[whole : whole + rest]
        self._pending = rest

    def _open(self, *, direct: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        if direct and hasattr(os, "O_DIRECT"):
            try:
                self._handle = os.open(self._path, flags | os.O_DIRECT, 0o600)
                self._direct = True
                return
            except OSError as error:
                if error.errno not in _NO_DIRECT:
                    raise
                with contextlib.suppress(FileNotFoundError):  # some file systems make it before they refuse
                    os.unlink(self._path)  # noqa: PTH108
        self._handle = os.open(self._path, flags, 0o600)

    def _sync_name(self) -> None:
        sync_directory(self._path.rpartition("/")[0])
        self._named = True

    def _reserve(self, end: int) -> None:
        """Allocate room: a file that grows as it is written costs the file system more."""
        if not self._reserving:
            return
        try:
            os.posix_fallocate(self._handle, self._written, end - self._written)
        except OSError as error:
            if error.errno not in _NO_DIRECT:
                raise
            self._reserving = False  # this file system cannot: do not ask again

    def _write(self, data: memoryview) -> None:
        while data:
            count = os.write(self._handle, data)
            self._written += count
            data = data[count:]

    def _close(self) -> None:
        if self._plain:
            pool.give(self._buffers)
            self._plain = self._out = _NOTHING
        self._close_file()

    def _close_file(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
