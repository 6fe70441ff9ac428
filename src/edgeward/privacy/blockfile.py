"""A file of records that are appended past the page cache, in blocks that exist already.

Responsible for such a file's blocks and for the form of a record in it, which the intake log and the segments of the
vault share: a sync has then no file system to bring up to date. Not responsible for keys or for what a record means.

A record begins at the start of a block: the salt of its file, two lengths, a nonce, the row (AES-256-GCM under the
file's key, bound to its place and to the end of its content), and from the next block on the content, which is
ciphertext of its own.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward import native

BLOCK = 4096
SALT, NONCE, TAG = 16, 12, 16
HEAD = struct.Struct(f"<{SALT}sLQ{NONCE}s")
LIMIT = 256 << 20  # bytes of one file
FIRST = 1 << 20  # bytes a new file has at first
ZEROS = memoryview(mmap.mmap(-1, 1 << 20))
_NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


class Found(NamedTuple):
    """A record that was found: where it begins, its row, its content, and where the next one may begin."""

    at: int
    row: bytes
    content: bytes
    end: int


class BlockFile:
    """One file.

    Parameters
    ----------
    path
        It is made when it is first opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = -1
        self.direct = True
        self.numbers = native.Log()  # the compiled data path's too
        self.shared: Any = None  # the compiled data path's account of its syncs

    @property
    def end(self) -> int:
        """Where the next record goes; 0: it has no key."""
        return int(self.numbers.end)

    @property
    def size(self) -> int:
        """Bytes of it that exist."""
        return int(self.numbers.size)

    @size.setter
    def size(self, size: int) -> None:
        self.numbers.size = size

    @property
    def failed(self) -> bool:
        """Whether nothing may be written to it any more."""
        return bool(self.numbers.failed)

    @failed.setter
    def failed(self, failed: bool) -> None:
        self.numbers.failed = failed

    def open(self) -> None:
        """Open it, past the page cache where the file system allows that.

        Raises
        ------
        OSError
            If the disk fails.
        """
        if self.handle >= 0:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        direct = getattr(os, "O_DIRECT", 0) if self.direct else 0
        try:
            self.handle = os.open(self.path, flags | direct, 0o600)
            self.size = os.fstat(self.handle).st_size // BLOCK * BLOCK
            if direct:
                self._try_direct()
        except OSError as error:
            if not direct or error.errno not in _NO_DIRECT:
                raise
            self._without_direct()

    def _try_direct(self) -> None:
        """Find out whether writing past the page cache works: some file systems tell only then."""
        if self.size:
            os.preadv(self.handle, [memoryview(mmap.mmap(-1, BLOCK))], 0)
        else:
            os.pwrite(self.handle, ZEROS[:BLOCK], 0)
            self.size = BLOCK

    def _without_direct(self) -> None:
        self.close()
        self.direct = False
        self.open()

    def close(self) -> None:
        """Close it."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)

    def grow(self, wanted: int) -> None:
        """Write zeros up to there: blocks that exist are synced without the file system's own journal.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        while self.size < wanted:
            count = os.pwrite(self.handle, ZEROS[: wanted - self.size], self.size)
            if not count or count % BLOCK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.size += count  # nobody but who is here changes it

    def write_block(self, data: bytes, at: int = 0) -> None:
        """Write one block that begins with `data`.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        block = memoryview(mmap.mmap(-1, BLOCK))
        block[: len(data)] = data
        if os.pwrite(self.handle, block, at) != BLOCK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def records(source: BinaryIO, size: int, salt: bytes, key: bytes) -> Iterator[Found]:
    """Yield the records of a file whose rows open; the contents may be incomplete even so."""
    cipher, at = AESGCM(key), BLOCK
    while at + BLOCK <= size:
        source.seek(at)
        lengths = lengths_of(source.read(HEAD.size), salt)
        end = at + BLOCK  # a record that was never written leaves a hole
        if lengths is not None:
            row_length, length, nonce = lengths
            start = at + blocks(HEAD.size + row_length)
            if start + length <= size:
                row = source.read(row_length)
                source.seek(start)
                content = source.read(length)
                with contextlib.suppress(InvalidTag):
                    plain = cipher.decrypt(nonce, row, bound(salt, at, content))
                    end = start + blocks(length)
                    yield Found(at, plain, content, end)
        at = end


def lengths_of(head: bytes, salt: bytes) -> tuple[int, int, bytes] | None:
    """Return the lengths of row and content and the nonce, if a record begins with this."""
    if len(head) < HEAD.size or not head.startswith(salt):
        return None
    _, row, content, nonce = HEAD.unpack(head)
    return (row, content, nonce) if row <= LIMIT and content <= LIMIT else None


def bound(salt: bytes, at: int, content: bytes | memoryview) -> bytes:
    """Return what a row is bound to."""
    return salt + struct.pack("<QQ", at, len(content)) + bytes(content[-TAG:])


def blocks(length: int) -> int:
    """Return a length in whole blocks."""
    return -(-length // BLOCK) * BLOCK
