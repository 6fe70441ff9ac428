"""The vault: raw objects at rest, each under its own data key.

Responsible for durable, encrypted, all-or-nothing storage of bytes. Not responsible for who may read what, for how long
an object is kept, or for the wrapped keys: whoever puts an object keeps its wrapped key (the journal does), so that
forgetting the key erases the object everywhere at once.

The format of the files is ``privacy.vaultfile``'s.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward.messages import ObjectRef
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.segments import Segments
from edgeward.privacy.vaultfile import (
    CHUNK,
    MAGIC,
    OBJECT,
    TAG,
    Buffers,
    VaultFileWriter,
    bound,
    is_full,
    nonce,
    place_of,
    seal_small,
    sync_directory,
)

_log = logging.getLogger("edgeward.vault")

_syncfs = ctypes.CDLL(None, use_errno=True).syncfs  # Linux; waits, and tells errors of writing back
_syncfs.argtypes, _syncfs.restype = [ctypes.c_int], ctypes.c_int

_UNCHECKED = 4 << 20  # bytes of small objects for which the room on the disk is looked at once
_TEMPORARY = ".part"


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
    path: Path | str
    wrapped_key: bytes = field(repr=False)
    size: int
    content: bytes | memoryview = field(default=b"", repr=False)
    """Of an object committed as journalled: its encrypted bytes, to be kept until `Vault.settle`. They lie in a buffer
    of the intake's: take them before its `abort`."""


class Intake(ABC):
    """An object on its way into the vault: its bytes come in any pieces, in memory of about 2 MiB.

    End with `commit` or `abort`; after either, or after any error, nothing but `abort` may be called. `abort` may
    always be called: after `commit` it only gives buffers back, and must be called if that was journalled. One thread
    at a time.
    """

    @abstractmethod
    def room(self) -> memoryview:
        """Return where the next bytes go, at least one and at most a chunk; then call `filled`.

        Raises
        ------
        VaultFull, VaultError
            As `Vault.put`.
        """

    @abstractmethod
    def filled(self, count: int) -> None:
        """Say how many bytes were put at the start of what `room` returned."""

    @property
    @abstractmethod
    def held(self) -> memoryview:
        """The last bytes that were put, up to a chunk: all since `room` last began a new one."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a copy of `data`, of any length."""
        view = memoryview(data).cast("B")
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.filled(count)
            view = view[count:]

    @abstractmethod
    def commit(self, *, journalled: bool = False) -> StoredObject:
        """Make the object durable and return it.

        Parameters
        ----------
        journalled
            The caller commits to a journal of its own anyway: a small object is then made durable there and not here,
            which saves its syncs. Its file can be read, but it may be gone after a power cut. The caller must commit
            `StoredObject.content`, unless it is empty, before it tells anybody that the object is stored, give it to
            `Vault.restore` at the next start, and may forget it after `Vault.settle`.

        Raises
        ------
        VaultFull, VaultError
            As `Vault.put`. Nothing remains.
        """

    @abstractmethod
    def abort(self) -> None:
        """Leave nothing behind."""


class Vault(ABC):
    """Where raw objects lie.

    Every implementation MUST hold to this, and passes the contract test in ``tests/privacy/test_vault.py``:

    - ``put`` and ``Intake.commit`` return only after the object is durable, and either store all of it or nothing that
      remains visible;
    - two puts of the same bytes give two objects under different keys;
    - no plaintext reaches the disk;
    - whatever opens is exactly what was put: any change to the stored bytes raises `VaultDamaged`;
    - ``erase`` is idempotent, and durable on return.
    """

    segments: Segments | None = None
    """Where others may append objects themselves (``native/admission.c``). None: nowhere."""

    @abstractmethod
    def begin(self, received: tuple[Buffers, int, int] | None = None) -> Intake:
        """Begin to store an object whose bytes are still to come.

        Parameters
        ----------
        received
            Buffers in whose plain one its first bytes lie already: from where, and how many, a chunk at most. They are
            the intake's from then on, whatever happens.

        Raises
        ------
        VaultFull, VaultError
            As `put`.
        """

    @abstractmethod
    def sealed(self, buffers: Buffers, start: int, size: int) -> StoredObject:
        """Encrypt a small object that is there already, and write nothing.

        The caller commits its `content` to a journal of its own, as for `Intake.commit`, and then writes it to its
        `path`; where that fails, `restore` does it. The content lies in `buffers`, which remain the caller's.

        Raises
        ------
        VaultFull, VaultError
            As `put`.
        """

    def put(self, *parts: bytes | bytearray | memoryview) -> StoredObject:
        """Store the concatenation of `parts` durably.

        Raises
        ------
        VaultFull
            If the disk is full, or would fall below the room that must stay free.
        VaultError
            If the disk fails.
        """
        intake = self.begin()
        try:
            for part in parts:
                intake.write(part)
            return intake.commit()
        except BaseException:
            intake.abort()
            raise

    @abstractmethod
    def grant(self, size: int) -> None:
        """Let others write so many bytes before they ask again.

        Raises
        ------
        VaultFull, VaultError
            As `put`: they may not.
        """

    @abstractmethod
    def check_room(self, size: int) -> None:
        """Raise `VaultFull` if `size` more bytes would take the room that must stay free."""

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
    def settle(self) -> None:
        """Make every object durable that was committed as journalled before.

        Raises
        ------
        VaultError
            If the disk fails: it is not known which objects are durable.
        """

    @abstractmethod
    def restore(self, object_id: str, content: bytes) -> None:
        """Put an object back that was committed as journalled; durable on return.

        Raises
        ------
        VaultFull, VaultError
            As `put`.
        """

    @abstractmethod
    def sweep(self, is_known: Callable[[str], bool]) -> tuple[int, int]:
        """Remove what a crash left behind: unfinished objects, and objects that `is_known` does not know.

        Call it only while nobody puts. Returns the number of unfinished and of unknown objects removed.
        """


class FileVault(Vault):
    """A vault in a directory, sharded by the first two digits of the object's id.

    An object has a file of its own, or lies in one of the `segments` with others.

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
        self.root = root
        self.site_key = site_key
        self._reserve = min_free_mb << 20
        self.segments: Segments = Segments(root, site_key)
        self._small = 0  # bytes of small objects until the room on the disk is looked at again
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(256):  # all at once: a sync for each would fall to the first objects
            (root / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        sync_directory(root)

    def begin(self, received: tuple[Buffers, int, int] | None = None) -> Intake:
        """See `Vault.begin`."""
        return _FileIntake(self, received)

    def sealed(self, buffers: Buffers, start: int, size: int) -> StoredObject:
        """See `Vault.sealed`."""
        if self._small <= 0:
            self.grant(_UNCHECKED)
            self._small = _UNCHECKED
        self._small -= size
        fresh = os.urandom(48)
        object_id, data_key = fresh[:16].hex(), fresh[16:]
        return StoredObject(
            object_id=object_id,
            path=f"{self.root}/{object_id[:2]}/{object_id}{OBJECT}",
            wrapped_key=self.site_key.wrap(data_key, object_id.encode()),
            size=size,
            content=seal_small(buffers, start, size, data_key),
        )

    def grant(self, size: int) -> None:
        """See `Vault.grant`."""
        try:
            self.check_room(CHUNK + size)
        except OSError as error:
            raise self.told(error) from error

    def give_room_back(self) -> None:
        """Give back the room that was made ahead of objects to come. At a start, before the journal is opened.

        Raises
        ------
        WrongKey
            If something was sealed with another site key.
        VaultError
            If the disk fails.
        """
        try:
            self.segments.give_room_back()
        except OSError as error:
            raise VaultError(f"the vault at {self.root} cannot be read: {error.strerror}") from error

    def reference(self, object_id: str, wrapped_key: bytes, size: int) -> ObjectRef:
        """See `Vault.reference`."""
        data_key = self.site_key.unwrap(wrapped_key, object_id.encode())
        path = self.path_of(object_id)
        return ObjectRef(
            object_id=object_id, path=self.segments.place_of(object_id, size) or str(path), data_key=data_key, size=size
        )

    def erase(self, object_id: str) -> None:
        """See `Vault.erase`."""
        path = self.path_of(object_id)
        try:
            if self.segments.erase(object_id):
                return
            path.unlink()
        except FileNotFoundError:
            return
        sync_directory(path.parent)

    def settle(self) -> None:
        """See `Vault.settle`. One sync of the whole file system: cheaper than one each."""
        handle = os.open(self.root, os.O_RDONLY)
        try:
            if _syncfs(handle):
                code = ctypes.get_errno()
                raise VaultError(f"the vault at {self.root} cannot be synced: {os.strerror(code)}")
        finally:
            os.close(handle)

    def restore(self, object_id: str, content: bytes) -> None:
        """See `Vault.restore`."""
        path = self.path_of(object_id)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            sync_directory(path.parent)
        except OSError as error:
            raise self.told(error) from error

    def sweep(self, is_known: Callable[[str], bool]) -> tuple[int, int]:
        """See `Vault.sweep`."""
        unfinished = unknown = 0
        for shard in self.root.iterdir():
            if not shard.is_dir():
                continue
            removed = 0
            for path in shard.iterdir():
                if path.suffix == _TEMPORARY:
                    unfinished += 1
                elif path.suffix == OBJECT and not is_known(path.stem):
                    unknown += 1
                else:
                    continue
                path.unlink()
                removed += 1
            if removed:
                sync_directory(shard)
        if unfinished or unknown:
            _log.warning("swept %d unfinished and %d unacknowledged objects", unfinished, unknown)
        return unfinished, unknown

    def count(self) -> int:
        """Return how many objects are there. It looks at all of them."""
        return sum(1 for _ in self.root.glob(f"??/*{OBJECT}")) + sum(1 for _ in self.segments.objects())

    def path_of(self, object_id: str) -> Path:
        """Return where an object lies that has a file of its own."""
        if len(object_id) != 32 or not all(digit in "0123456789abcdef" for digit in object_id):
            raise VaultError("not the id of a vault object")
        return self.root / object_id[:2] / f"{object_id}{OBJECT}"

    def check_room(self, size: int) -> None:
        """Raise `VaultFull` if `size` more bytes would take the room that must stay free."""
        if not self._reserve:
            return
        disk = os.statvfs(self.root)
        if disk.f_bavail * disk.f_frsize - size < self._reserve:
            raise VaultFull(f"less than {self._reserve >> 20} MB would be left free on the disk of {self.root}")

    def told(self, error: OSError) -> VaultError:
        """Return an error of the disk as the vault's."""
        if is_full(error):
            return VaultFull(f"the disk of {self.root} is full")
        return VaultError(f"the vault at {self.root} cannot be written: {error.strerror}")


class _FileIntake(Intake):
    """An object on its way into a `FileVault`.

    It has its final name from the beginning: what the journal does not know does not exist, and `sweep` removes it. So
    the sync of the file carries its name too where the file system logs both at once, and that of the directory, which
    is what guarantees it, finds nothing left to do.
    """

    def __init__(self, vault: FileVault, received: tuple[Buffers, int, int] | None) -> None:
        self._vault = vault
        self._object_id, self._data_key = secrets.token_hex(16), os.urandom(32)
        self._path = f"{vault.root}/{self._object_id[:2]}/{self._object_id}{OBJECT}"
        self._content = memoryview(b"")
        self._sealed: VaultFileWriter | None = None
        self._writer: VaultFileWriter | None = VaultFileWriter(self._path, self._data_key, received)
        try:
            vault.check_room(CHUNK)
        except (OSError, VaultFull) as error:
            self.abort()
            if isinstance(error, OSError):
                raise vault.told(error) from error
            raise

    def room(self) -> memoryview:
        writer = self._open
        try:
            if writer.full:
                self._vault.check_room(CHUNK)
            return writer.room()
        except OSError as error:
            raise self._vault.told(error) from error

    def filled(self, count: int) -> None:
        self._open.filled(count)

    @property
    def held(self) -> memoryview:
        return self._open.held

    def commit(self, *, journalled: bool = False) -> StoredObject:
        writer = self._open
        try:
            content = writer.seal(sync=not journalled)
        except OSError as error:
            raise self._vault.told(error) from error
        self._writer = None
        if content:
            self._sealed, self._content = writer, content
        return StoredObject(
            object_id=self._object_id,
            path=Path(self._path),
            wrapped_key=self._vault.site_key.wrap(self._data_key, self._object_id.encode()),
            size=writer.size,
            content=content,
        )

    def abort(self) -> None:
        sealed, self._sealed = self._sealed, None
        if sealed is not None:
            self._content.release()
            sealed.release()
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.discard()
        except OSError as error:
            _log.warning("an unfinished vault object stays until the next start: %s", error.strerror)

    @property
    def _open(self) -> VaultFileWriter:
        if self._writer is None:
            raise VaultError("this object was committed or aborted")
        return self._writer


def read(path: Path | str, data_key: bytes) -> bytes:
    """Return the plaintext of a vault file. Needs no site key: whoever was given the data key may read.

    Raises
    ------
    VaultDamaged
        If the file is missing, altered, truncated, or not encrypted with `data_key`.
    """
    name = Path(path).name
    try:
        place = place_of(path)
        with Path(place.file).open("rb", buffering=0) as file:
            length, first = place.found(file.fileno())
            if not first and place.length is not None:
                raise FileNotFoundError
            length -= len(MAGIC)
            if first != MAGIC or length < TAG:
                raise VaultDamaged(f"{name} is not a vault object, or it was truncated")
            last = (length - 1) // (CHUNK + TAG)
            plain = bytearray(length - (last + 1) * TAG)
            cipher, view = AESGCM(data_key), memoryview(plain)
            end = place.at + len(MAGIC) + length
            for index in range(last + 1):
                at, start = place.at + len(MAGIC) + index * (CHUNK + TAG), index * CHUNK
                chunk = os.pread(file.fileno(), min(CHUNK + TAG, end - at), at)
                authenticated = bound(index, final=index == last)
                cipher.decrypt_into(nonce(index), chunk, authenticated, view[start : start + len(chunk) - TAG])
    except FileNotFoundError as error:
        raise VaultDamaged(f"{name} is not in the vault (any more)") from error
    except InvalidTag as error:
        raise VaultDamaged(f"{name} was altered or truncated, or the key is not its key") from error
    except ValueError as error:
        raise VaultDamaged(f"{name} is not a vault object, or it was truncated") from error
    except OSError as error:
        raise VaultDamaged(f"{name} cannot be read: {error.strerror}") from error
    return bytes(plain)
