"""One segment of the recording: a key file and a data file, both gone when its time has come.

Responsible for the bytes of both files, for repairing a tail that was being written when the power failed, and for
erasing. Not responsible for when a segment begins or ends (``recorder.archive``) nor for what its blocks mean.

The key file holds the segment's own random AES-256 key, wrapped by the site key, and what the segment's age is
reckoned from. It is written once, never copied, and overwritten in place before it is deleted: without it the data
file is noise.

The data file is a sequence of frames, about one a second. Each frame is a header in the clear, a directory and blocks.
A block holds several sources; the directory says which, so that a strip of one source reads one block per frame.
Directory and blocks are sealed with AES-256-GCM (NIST SP 800-38D). What is authenticated besides: the segment, the
frame's place in the file, its header, and the block's number. A frame that was moved, altered or taken from another
segment does not open. The nonce is 8 random bytes chosen each time a process opens the segment, and a counter: a frame
that is written again after a crash never meets a nonce that was used before.

Header, little-endian, 64 bytes::

    offset size
    0      4    magic "EWRF"
    4      1    kind: 1 waveforms, 2 newest trends, 3 trends put in order, 4 numerics
    5      1    version, 1
    6      2    number of blocks
    8      4    number of the frame in the segment
    12     8    random part of the nonces
    20     4    first counter: the directory's; the blocks have the ones after it
    24     8    when it was written, ns since the boot
    32     8    the same by the wall clock, ns since the epoch
    40     8    the earliest arrival in it, wall clock
    48     4    size of the sealed directory
    52     8    size of the sealed blocks together
    60     4    CRC-32 of the 60 bytes before
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward.clinic.recorder.clock import Stamp
from edgeward.home import write_private
from edgeward.messages import decoder
from edgeward.privacy.keys import KEY_BYTES, SiteKey, WrongKey
from edgeward.privacy.vaultfile import sync_directory

WAVEFORMS, NEWEST, TRENDS, OBSERVED = 1, 2, 3, 4
KEY_FILE_BYTES = 4096  # one block of the disk, overwritten whole
_KEY_MAGIC = b"EWRKEY01"
_MAGIC = b"EWRF"
_HEADER = struct.Struct("<4sBBHI8sIqqqIQI")
_TAG = 16
_MOST = 1 << 30  # bytes of one frame: more is no frame


class SegmentError(RuntimeError):
    """A segment cannot be read; the text says which and why."""


class _Kept(msgspec.Struct, array_like=True):
    number: int
    boot_id: str
    boot_ns: int
    wall_ns: int
    wrapped: bytes


_kept = decoder(_Kept)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame lies, and its header."""

    offset: int
    kind: int
    number: int
    blocks: int
    boot_ns: int
    wall_ns: int
    from_wall_ns: int
    header: bytes
    directory: int
    body: int

    @property
    def end(self) -> int:
        """Offset of what follows."""
        return self.offset + _HEADER.size + self.directory + self.body


def data_path(folder: Path, number: int) -> Path:
    """Return the path of a segment's data."""
    return folder / f"{number:08d}.rec"


def key_path(folder: Path, number: int) -> Path:
    """Return the path of a segment's wrapped key."""
    return folder / f"{number:08d}.key"


def _context(number: int, opened: Stamp) -> bytes:
    return f"recorder:{number}:{opened.boot_id}:{opened.boot_ns}:{opened.wall_ns}".encode()


class Segment:
    """A segment; one thread appends, others may read meanwhile."""

    def __init__(self, folder: Path, number: int, opened: Stamp, key: bytes | None) -> None:
        self.folder, self.number, self.opened = folder, number, opened
        self._cipher = AESGCM(key) if key is not None else None
        self._bound = _context(number, opened)
        self._frames: list[Frame] | None = None
        self._handle = -1
        self._end = 0
        self._run, self._counter = os.urandom(8), 0

    # ---------------------------------------- life

    @classmethod
    def create(cls, folder: Path, number: int, opened: Stamp, site_key: SiteKey) -> Segment:
        """Make a new segment: its key is on the disk before anything is sealed with it.

        Raises
        ------
        OSError
            If the disk does not take it.
        """
        key = os.urandom(KEY_BYTES)
        kept = _Kept(
            number, opened.boot_id, opened.boot_ns, opened.wall_ns, site_key.wrap(key, _context(number, opened))
        )
        body = msgspec.msgpack.encode(kept)
        text = _KEY_MAGIC + struct.pack("<I", len(body)) + body
        write_private(key_path(folder, number), text.ljust(KEY_FILE_BYTES, b"\0"))
        segment = cls(folder, number, opened, key)
        segment._frames = []
        return segment

    @classmethod
    def load(cls, folder: Path, number: int, site_key: SiteKey) -> Segment | None:
        """Take up a segment that is there; None if its key has been overwritten.

        A key that this site key does not unwrap leaves a segment that cannot be read, but has its age.
        """
        text = key_path(folder, number).read_bytes()
        if not text.startswith(_KEY_MAGIC):
            return None
        (size,) = struct.unpack_from("<I", text, len(_KEY_MAGIC))
        start = len(_KEY_MAGIC) + 4
        try:
            kept = _kept.decode(text[start : start + size])
        except msgspec.MsgspecError:
            return None
        opened = Stamp(kept.boot_id, kept.boot_ns, kept.wall_ns)
        try:
            key: bytes | None = site_key.unwrap(kept.wrapped, _context(number, opened))
        except WrongKey:
            key = None
        return cls(folder, number, opened, key)

    @property
    def readable(self) -> bool:
        """Whether its key opened."""
        return self._cipher is not None

    @property
    def size(self) -> int:
        """Bytes of its data on the disk."""
        if self._handle >= 0:
            return self._end
        with contextlib.suppress(FileNotFoundError):
            return data_path(self.folder, self.number).stat().st_size
        return 0

    def close(self) -> None:
        """Append no more."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def erase(self) -> None:
        """Destroy the key, then delete the data. May be repeated after a crash at any point.

        Raises
        ------
        OSError
            If the disk does not do it.
        """
        self.close()
        self._cipher, self._frames = None, []
        erase(self.folder, self.number)

    # ---------------------------------------- writing

    def open_to_append(self) -> int:
        """Open the data file behind its last good frame; what lies after it is cut off. Return the bytes cut off.

        Raises
        ------
        OSError
            If the disk does not do it.
        """
        path = data_path(self.folder, self.number)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._run, self._counter = os.urandom(8), 0
        frames = list(self._scan(self._handle))
        while frames and not self._opens(frames[-1]):
            frames.pop()
        self._frames = frames
        self._end = frames[-1].end if frames else 0
        cut = os.fstat(self._handle).st_size - self._end
        if cut:
            os.ftruncate(self._handle, self._end)
            os.fsync(self._handle)
        sync_directory(self.folder)
        return cut

    def append(self, kind: int, blocks: list[tuple[str, bytes]], from_wall_ns: int, at: Stamp) -> Frame:
        """Write a frame and wait until it has reached the disk.

        Parameters
        ----------
        blocks
            The first source of each block, in order, and the block.
        from_wall_ns
            The earliest arrival in it.
        at
            Now.

        Raises
        ------
        OSError
            If the disk does not take it. The file is then as before.
        """
        assert self._cipher is not None
        assert self._frames is not None
        number = self._frames[-1].number + 1 if self._frames else 0
        directory = msgspec.msgpack.encode([(key, len(block) + _TAG) for key, block in blocks])
        body = sum(len(block) + _TAG for _, block in blocks)
        sizes = (len(directory) + _TAG, body)
        plain = _HEADER.pack(
            _MAGIC, kind, 1, len(blocks), number, self._run, self._counter,
            at.boot_ns, at.wall_ns, from_wall_ns, *sizes, 0,
        )[:-4]  # fmt: skip
        header = plain + struct.pack("<I", zlib.crc32(plain))
        pieces = [header]
        for index, piece in enumerate((directory, *(block for _, block in blocks))):
            pieces.append(self._cipher.encrypt(self._nonce(self._run, self._counter), piece, self._aad(header, index)))
            self._counter += 1
        data = memoryview(b"".join(pieces))
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._handle, data[written:], self._end + written)
            os.fdatasync(self._handle)
        except OSError:
            os.ftruncate(self._handle, self._end)
            raise
        frame = _frame(self._end, header)
        self._frames.append(frame)
        self._end = frame.end
        return frame

    # ---------------------------------------- reading

    def frames(self, handle: int) -> list[Frame]:
        """Return all frames, as far as they are complete; the list must not be changed."""
        if self._frames is None:
            self._frames = list(self._scan(handle))
        return self._frames

    @contextlib.contextmanager
    def reading(self) -> Iterator[int]:
        """Open the data for reading.

        Raises
        ------
        SegmentError
            If it cannot be read: its key did not open, or it has been erased.
        """
        if self._cipher is None:
            raise SegmentError(f"segment {self.number} cannot be opened with this site's key, or is erased")
        try:
            handle = os.open(data_path(self.folder, self.number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SegmentError(f"segment {self.number} is erased") from error
        try:
            yield handle
        finally:
            os.close(handle)

    def blocks(self, handle: int, frame: Frame, key: str | None = None) -> list[bytes]:
        """Return the block that may hold the source `key`, or all blocks.

        Raises
        ------
        SegmentError
            If the frame was altered or damaged.
        """
        directory = self._directory(handle, frame)
        wanted = range(len(directory))
        if key is not None:
            at = bisect_right(directory, key, key=lambda entry: entry[0]) - 1
            wanted = range(at, at + 1) if at >= 0 else range(0)
        offset = frame.offset + _HEADER.size + frame.directory
        found: list[bytes] = []
        for index, (_, size) in enumerate(directory):
            if index in wanted:
                found.append(self._open(frame, index + 1, os.pread(handle, size, offset)))
            offset += size
        return found

    def _directory(self, handle: int, frame: Frame) -> list[tuple[str, int]]:
        sealed = os.pread(handle, frame.directory, frame.offset + _HEADER.size)
        return msgspec.msgpack.decode(self._open(frame, 0, sealed), type=list[tuple[str, int]])

    def _open(self, frame: Frame, index: int, sealed: bytes) -> bytes:
        cipher = self._cipher
        if cipher is None:
            raise SegmentError(f"segment {self.number} is erased")
        _, _, _, _, _, run, counter, *_ = _HEADER.unpack(frame.header)
        try:
            return cipher.decrypt(self._nonce(run, counter + index), sealed, self._aad_at(frame, index))
        except (InvalidTag, ValueError) as error:
            raise SegmentError(f"segment {self.number}, frame {frame.number}: damaged or altered") from error

    def _opens(self, frame: Frame) -> bool:
        try:
            self.blocks(self._handle, frame)
        except SegmentError:
            return False
        return True

    def _scan(self, handle: int) -> Iterator[Frame]:
        size, offset = os.fstat(handle).st_size, 0
        while offset + _HEADER.size <= size:
            header = os.pread(handle, _HEADER.size, offset)
            if not header.startswith(_MAGIC) or zlib.crc32(header[:-4]) != int.from_bytes(header[-4:], "little"):
                return
            frame = _frame(offset, header)
            if frame.end > size or frame.end - offset > _MOST:
                return
            yield frame
            offset = frame.end

    # ---------------------------------------- sealing

    @staticmethod
    def _nonce(run: bytes, counter: int) -> bytes:
        return run + counter.to_bytes(4, "big")

    def _aad(self, header: bytes, index: int) -> bytes:
        return self._bound + struct.pack("<QI", self._end, index) + header

    def _aad_at(self, frame: Frame, index: int) -> bytes:
        return self._bound + struct.pack("<QI", frame.offset, index) + frame.header


def _frame(offset: int, header: bytes) -> Frame:
    _, kind, _, blocks, number, _, _, boot_ns, wall_ns, from_wall_ns, directory, body, _ = _HEADER.unpack(header)
    return Frame(offset, kind, number, blocks, boot_ns, wall_ns, from_wall_ns, header, directory, body)


def erase(folder: Path, number: int) -> None:
    """Overwrite and delete the key of a segment, then delete its data."""
    key = key_path(folder, number)
    with contextlib.suppress(FileNotFoundError):
        shred(key)
        sync_directory(folder)
    data_path(folder, number).unlink(missing_ok=True)
    sync_directory(folder)


def shred(path: Path) -> None:
    """Overwrite a small file in place, wait until that has reached the disk, and delete it."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(handle, os.urandom(max(KEY_FILE_BYTES, os.fstat(handle).st_size)), 0)
        os.fsync(handle)
    finally:
        os.close(handle)
    path.unlink()
