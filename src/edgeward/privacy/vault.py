"""The vault: raw objects at rest, each under its own data key.

Responsible for durable, encrypted, all-or-nothing storage of bytes. Not responsible for who may read what, for how long
an object is kept, or for the wrapped keys: whoever puts an object keeps its wrapped key (the journal does), so that
forgetting the key erases the object everywhere at once.

File format, version 1: ``EWVAULT1``, then chunks. Each chunk is up to 1 MiB of plaintext under AES-256-GCM (NIST SP
800-38D) followed by its 16-byte tag. The nonce is the chunk's index; every object has its own key, so no pair of key
and nonce is ever used twice. The index and a flag "this is the last one" are authenticated with each chunk, so a file
that was truncated, extended or re-ordered does not open.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward.messages import ObjectRef
from edgeward.privacy.keys import SiteKey

_log = logging.getLogger("edgeward.vault")

MAGIC = b"EWVAULT1"
CHUNK = 1 << 20
TAG = 16
_SUFFIX = ".ew"
_TEMPORARY = ".part"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class VaultError(RuntimeError):
    """The vault cannot do what was asked."""


class VaultFull(VaultError):
    """There is no room: nothing was stored, nothing is half there."""


class VaultDamaged(VaultError):
    """An object is missing, altered, truncated, or the key is not its key."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is durably in the vault.

    `wrapped_key` is its data key, wrapped by the site key for this object id; keep it, or the object is gone.
    """

    object_id: str
    path: Path
    wrapped_key: bytes = field(repr=False)
    size: int


class Vault(ABC):
    """Where raw objects lie.

    Every implementation MUST hold to this, and passes the contract test in ``tests/privacy/test_vault.py``:

    - ``put`` returns only after the object is durable, and either stores all of it or nothing that remains visible;
    - two puts of the same bytes give two objects under different keys;
    - no plaintext reaches the disk;
    - whatever opens is exactly what was put: any change to the stored bytes raises `VaultDamaged`;
    - ``erase`` is idempotent, and durable on return.
    """

    @abstractmethod
    def put(self, *parts: bytes | bytearray | memoryview) -> StoredObject:
        """Store the concatenation of `parts` durably.

        Raises
        ------
        VaultFull
            If the disk is full, or would fall below the room that must stay free.
        VaultError
            If the disk fails.
        """

    @abstractmethod
    def reference(self, object_id: str, wrapped_key: bytes, size: int) -> ObjectRef:
        """Return the right to read one object, to be sent to the role that needs it.

        Raises
        ------
        WrongKey
            If `wrapped_key` does not belong to this object and site.
        """

    @abstractmethod
    def erase(self, object_id: str) -> None:
        """Remove an object. It is not an error if there is none."""

    @abstractmethod
    def sweep(self, is_known: Callable[[str], bool]) -> tuple[int, int]:
        """Remove what a crash left behind: unfinished objects, and objects that `is_known` does not know.

        Call it only while nobody puts. Returns the number of unfinished and of unknown objects removed.
        """


class FileVault(Vault):
    """A vault in a directory, sharded by the first two digits of the object's id.

    Parameters
    ----------
    root
        The directory; made if missing.
    site_key
        Wraps the data keys.
    min_free_mb
        Room on the file system that must stay free, in MB (2**20 bytes): the journal needs some when the disk fills.
    """

    def __init__(self, root: Path, site_key: SiteKey, min_free_mb: int = 0) -> None:
        self._root = root
        self._site_key = site_key
        self._reserve = min_free_mb << 20
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, *parts: bytes | bytearray | memoryview) -> StoredObject:
        """See `Vault.put`. Writes under a temporary name, syncs, renames, and syncs the directory."""
        size = sum(len(part) for part in parts)
        object_id, data_key = secrets.token_hex(16), AESGCM.generate_key(256)
        final = self._path(object_id)
        temporary = final.with_suffix(_TEMPORARY)
        try:
            self._check_room(size)
            self._make_shard(final.parent)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _encrypt(handle, data_key, _chunks(parts, size))
                os.fsync(handle)
            finally:
                os.close(handle)
            temporary.rename(final)
            _sync(final.parent)
        except OSError as error:
            self._discard(temporary, final)
            if error.errno in _NO_SPACE:
                raise VaultFull(f"the disk of {self._root} is full") from error
            raise VaultError(f"the vault at {self._root} cannot be written: {error.strerror}") from error
        except BaseException:
            self._discard(temporary, final)
            raise
        wrapped = self._site_key.wrap(data_key, object_id.encode())
        return StoredObject(object_id=object_id, path=final, wrapped_key=wrapped, size=size)

    def reference(self, object_id: str, wrapped_key: bytes, size: int) -> ObjectRef:
        """See `Vault.reference`."""
        data_key = self._site_key.unwrap(wrapped_key, object_id.encode())
        return ObjectRef(object_id=object_id, path=str(self._path(object_id)), data_key=data_key, size=size)

    def erase(self, object_id: str) -> None:
        """See `Vault.erase`."""
        path = self._path(object_id)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync(path.parent)

    def sweep(self, is_known: Callable[[str], bool]) -> tuple[int, int]:
        """See `Vault.sweep`."""
        unfinished = unknown = 0
        for shard in self._root.iterdir():
            if not shard.is_dir():
                continue
            removed = 0
            for path in shard.iterdir():
                if path.suffix == _TEMPORARY:
                    unfinished += 1
                elif path.suffix == _SUFFIX and not is_known(path.stem):
                    unknown += 1
                else:
                    continue
                path.unlink()
                removed += 1
            if removed:
                _sync(shard)
        if unfinished or unknown:
            _log.warning("swept %d unfinished and %d unacknowledged objects", unfinished, unknown)
        return unfinished, unknown

    def _path(self, object_id: str) -> Path:
        if len(object_id) != 32 or not all(digit in "0123456789abcdef" for digit in object_id):
            raise VaultError("not the id of a vault object")
        return self._root / object_id[:2] / f"{object_id}{_SUFFIX}"

    def _check_room(self, size: int) -> None:
        if not self._reserve:
            return
        disk = os.statvfs(self._root)
        if disk.f_bavail * disk.f_frsize - size < self._reserve:
            raise VaultFull(f"less than {self._reserve >> 20} MB would be left free on the disk of {self._root}")

    def _make_shard(self, shard: Path) -> None:
        if shard.is_dir():
            return
        shard.mkdir(mode=0o700, exist_ok=True)
        _sync(self._root)

    def _discard(self, *paths: Path) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("an unfinished vault object stays until the next start: %s", error.strerror)


def read(path: Path | str, data_key: bytes) -> bytes:
    """Return the plaintext of a vault file. Needs no site key: whoever was given the data key may read.

    Raises
    ------
    VaultDamaged
        If the file is missing, altered, truncated, or not encrypted with `data_key`.
    """
    name = Path(path).name
    try:
        with Path(path).open("rb") as file:
            length = os.fstat(file.fileno()).st_size - len(MAGIC)
            if file.read(len(MAGIC)) != MAGIC or length < TAG:
                raise VaultDamaged(f"{name} is not a vault object, or it was truncated")
            last = (length - 1) // (CHUNK + TAG)
            plain = bytearray(length - (last + 1) * TAG)
            cipher, view = AESGCM(data_key), memoryview(plain)
            for index in range(last + 1):
                chunk = file.read(CHUNK + TAG)
                start = index * CHUNK
                nonce, bound = _nonce(index), _bound(index, final=index == last)
                cipher.decrypt_into(nonce, chunk, bound, view[start : start + len(chunk) - TAG])
    except FileNotFoundError as error:
        raise VaultDamaged(f"{name} is not in the vault (any more)") from error
    except InvalidTag as error:
        raise VaultDamaged(f"{name} was altered or truncated, or the key is not its key") from error
    except ValueError as error:
        raise VaultDamaged(f"{name} is not a vault object, or it was truncated") from error
    except OSError as error:
        raise VaultDamaged(f"{name} cannot be read: {error.strerror}") from error
    return bytes(plain)


def _encrypt(handle: int, data_key: bytes, chunks: Iterator[tuple[memoryview, bool]]) -> None:
    cipher, buffer = AESGCM(data_key), bytearray(len(MAGIC) + CHUNK + TAG)
    view = memoryview(buffer)
    view[: len(MAGIC)] = MAGIC
    start = len(MAGIC)  # the first write carries the magic too
    for index, (chunk, final) in enumerate(chunks):
        end = start + len(chunk) + TAG
        cipher.encrypt_into(_nonce(index), chunk, _bound(index, final=final), view[start:end])
        _write(handle, view[:end])
        start = 0


def _chunks(parts: tuple[bytes | bytearray | memoryview, ...], size: int) -> Iterator[tuple[memoryview, bool]]:
    """Yield `parts` as chunks of `CHUNK` bytes (the last may be shorter, or empty) and whether each is the last."""
    queue = [memoryview(part).cast("B") for part in parts]
    done = 0
    while True:
        length = min(CHUNK, size - done)
        if queue and len(queue[0]) >= length:  # the usual case: no copy
            chunk, queue[0] = queue[0][:length], queue[0][length:]
        else:
            joined = bytearray()
            while len(joined) < length:
                take = min(length - len(joined), len(queue[0]))
                joined += queue[0][:take]
                queue[0] = queue[0][take:]
                if not queue[0]:
                    queue.pop(0)
            chunk = memoryview(joined)
        done += length
        yield chunk, done == size
        if done == size:
            return


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


def _bound(index: int, *, final: bool) -> bytes:
    return MAGIC + struct.pack(">Q?", index, final)


def _write(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
