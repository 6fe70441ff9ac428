"""Reading a vault object like a file: anywhere in it, in bounded memory.

Responsible for random access to the plaintext of one object (format in ``vault.py``), so that one frame of a long loop
costs one frame. Not responsible for writing, for keys, or for who may read.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward.privacy.vault import VaultDamaged
from edgeward.privacy.vaultfile import CHUNK, MAGIC, TAG, bound, nonce, place_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CACHED_CHUNKS = 4  # 4 MiB: a header and the places of a few frames
_BUFFER = 1 << 16  # of the buffered reader: many small reads while a header is parsed


class VaultFile(io.RawIOBase):
    """A vault object as a seekable, read-only binary file.

    Opening authenticates the last chunk, with its place and the mark that it is the last: an object that was
    truncated or extended does not open. Every other chunk is authenticated when it is read, so any altered byte
    raises instead of being delivered. At most `CACHED_CHUNKS` chunks of plaintext are kept; ``close`` forgets them.

    One thread at a time may use it. For many small reads wrap it: see `open_object`.

    Parameters
    ----------
    path : where it is: `messages.ObjectRef.path`
    data_key : the object's own AES-256 key

    Raises
    ------
    VaultDamaged
        If the object is missing, altered, truncated, or `data_key` is not its key; also from any read.
    """

    def __init__(self, path: Path | str, data_key: bytes) -> None:
        super().__init__()
        self._name = Path(path).name
        self._position = 0
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._handle = -1
        try:
            self._cipher = AESGCM(data_key)
            place = place_of(path)
            self._handle, self._at = os.open(place.file, os.O_RDONLY | os.O_CLOEXEC), place.at
            length, first = place.found(self._handle)
            if not first and place.length is not None:
                raise FileNotFoundError
            length -= len(MAGIC)
            if length < TAG or first != MAGIC:
                raise VaultDamaged(f"{self._name} is not a vault object, or it was truncated")
            self._last = (length - 1) // (CHUNK + TAG)
            self._size = length - (self._last + 1) * TAG
            if self._size < self._last * CHUNK:  # the last chunk is shorter than its tag
                raise VaultDamaged(f"{self._name} was truncated")
            self._chunk(self._last)
        except FileNotFoundError as error:
            self.close()
            raise VaultDamaged(f"{self._name} is not in the vault (any more)") from error
        except ValueError as error:
            self.close()
            raise VaultDamaged(f"{self._name} cannot be opened with this key") from error
        except OSError as error:
            self.close()
            raise VaultDamaged(f"{self._name} cannot be read: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of plaintext."""
        return self._size

    @property
    def name(self) -> str:
        """Name of the file, as every file object has one."""
        return self._name

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the plaintext."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, also beyond the end, where reads are empty; see `io.IOBase.seek`."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}.get(whence)
        if base is None:
            raise ValueError(f"whence {whence} is not supported")
        if base + offset < 0:
            raise ValueError(f"position {base + offset} lies before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` as far as the object reaches and return the number of bytes."""
        self._check_open()
        target = memoryview(buffer).cast("B")
        done, wanted = 0, max(0, min(len(target), self._size - self._position))
        while done < wanted:
            index, start = divmod(self._position + done, CHUNK)
            length = min(wanted - done, CHUNK - start)
            if start == 0 and length == CHUNK and index not in self._cache:
                self._decrypt(index, target[done : done + length])  # a whole chunk needs no copy
            else:
                target[done : done + length] = memoryview(self._chunk(index))[start : start + length]
            done += length
        self._position += done
        return done

    def readall(self) -> bytes:
        """Return everything from the position to the end."""
        rest = bytearray(max(0, self._size - self._position))
        self.readinto(rest)
        return bytes(rest)

    def close(self) -> None:
        """Close the file and forget the plaintext. Idempotent."""
        if not self.closed:
            self._cache.clear()
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the vault object is closed")

    def _chunk(self, index: int) -> bytes:
        """Return the plaintext of one chunk, the latest used ones from memory."""
        found = self._cache.get(index)
        if found is None:
            plain = bytearray(self._size - index * CHUNK if index == self._last else CHUNK)
            self._decrypt(index, memoryview(plain))
            found = self._cache[index] = bytes(plain)
            if len(self._cache) > CACHED_CHUNKS:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(index)
        return found

    def _decrypt(self, index: int, target: memoryview) -> None:
        place = self._at + len(MAGIC) + index * (CHUNK + TAG)
        try:
            sealed = os.pread(self._handle, len(target) + TAG, place)
            if len(sealed) != len(target) + TAG:
                raise VaultDamaged(f"{self._name} was truncated while it was open")
            self._cipher.decrypt_into(nonce(index), sealed, bound(index, final=index == self._last), target)
        except InvalidTag as error:
            raise VaultDamaged(f"{self._name} was altered or truncated, or the key is not its key") from error
        except OSError as error:
            raise VaultDamaged(f"{self._name} cannot be read: {error.strerror}") from error


def open_object(path: Path | str, data_key: bytes) -> io.BufferedReader:
    """Open a vault object for reading with a small buffer; closing it closes the object.

    Raises
    ------
    VaultDamaged
        As `VaultFile`.
    """
    return io.BufferedReader(VaultFile(path, data_key), _BUFFER)


def is_held(path: Path | str) -> bool:
    """Return whether the vault still has the object at this path (`messages.ObjectRef.path`), alone or in a segment.

    Where the disk fails it is taken to be there: nothing is to be forgotten for that.
    """
    place = place_of(path)
    try:
        handle = os.open(place.file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        length, first = place.found(handle)
        return bool(length and first)
    except OSError:
        return True
    finally:
        os.close(handle)
