"""The frames of an encoded object, as they are stored (PS3.5, 8 and A.4).

Responsible for finding the bytes of single frames in an object without reading the others. Not responsible for decoding
them: that is the engine's.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import dcmread, read_dataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

_PIXEL_DATA = frozenset({(0x7FE0, 0x0010), (0x7FE0, 0x0009), (0x7FE0, 0x0008)})  # integers, doubles, floats
_PIXELS = 0x7FE00008  # Float Pixel Data and whatever follows
_META = 132 + 12  # preamble, prefix and the group length of the file meta information (PS3.10, 7.1)
_UNDEFINED = 0xFFFFFFFF
_INFLATED = 256 << 20  # a deflated object is read whole: no more than this


class NoFrames(ValueError):
    """The frames cannot be given; the text says why, without a value of the object."""


@dataclass(frozen=True, slots=True)
class PixelStore:
    """Where the pixel data of an opened object is, and how it is divided."""

    file: Any  # of the data set, which is inflated if it was deflated
    header: Dataset
    transfer_syntax_uid: str
    start: int  # of the value of Pixel Data
    frames: int
    tag: int = 0x7FE00010

    @property
    def encapsulated(self) -> bool:
        """Whether frames are compressed, each by itself."""
        return bool(UID(self.transfer_syntax_uid).is_encapsulated)

    def frame(self, number: int) -> bytes:
        """Return a frame, counted from 0: compressed as it is, or in little-endian order.

        Raises
        ------
        NoFrames
            If there is no such frame, or it is not there in full.
        """
        if not 0 <= number < self.frames:
            raise NoFrames(f"the object has {self.frames} frames")
        if self.encapsulated:
            return self._compressed(number)
        bits = get_expected_length(self.header, "pixels") * int(self.header.BitsAllocated) // self.frames
        if self.header.BitsAllocated == 1:
            bits = get_expected_length(self.header, "pixels") // self.frames
            return self._bits(number * bits, bits)
        length = get_expected_length(self.header, "bytes") // self.frames
        return self._little(self._read(number * length, length))

    @property
    def length(self) -> int:
        """Bytes of uncompressed pixel data, without padding."""
        return int(get_expected_length(self.header, "bytes"))

    def native(self, offset: int, count: int) -> bytes:
        """Return so many bytes of uncompressed pixel data, in little-endian order; both a multiple of 8.

        Raises
        ------
        NoFrames
            If it is not there in full.
        """
        return self._little(self._read(offset, min(count, self.length - offset)))

    def _little(self, data: bytes) -> bytes:
        width = int(self.header.BitsAllocated) // 8
        if self.transfer_syntax_uid == ExplicitVRBigEndian and width > 1:
            return np.frombuffer(data, f">u{width}").astype(f"<u{width}").tobytes()
        return data

    def _compressed(self, number: int) -> bytes:
        offsets = None
        if "ExtendedOffsetTable" in self.header and "ExtendedOffsetTableLengths" in self.header:
            offsets = (self.header.ExtendedOffsetTable, self.header.ExtendedOffsetTableLengths)
        self.file.seek(self.start)
        try:
            return bytes(get_frame(self.file, number, extended_offsets=offsets, number_of_frames=self.frames))
        except (ValueError, EOFError, struct.error) as error:
            raise NoFrames(f"the compressed frames cannot be told apart ({type(error).__name__})") from None

    def _bits(self, start: int, count: int) -> bytes:
        first, last = start // 8, (start + count + 7) // 8
        packed = np.frombuffer(self._read(first, last - first), np.uint8)
        ones = np.unpackbits(packed, bitorder="little")[start - 8 * first :][:count]
        return np.packbits(ones, bitorder="little").tobytes()

    def _read(self, offset: int, length: int) -> bytes:
        self.file.seek(self.start + offset)
        data = bytes(self.file.read(length))
        if len(data) != length:
            raise NoFrames("the pixel data is truncated")
        return data


def pixel_store(file: Any) -> PixelStore:
    """Open the pixel data of an object.

    Parameters
    ----------
    file
        A DICOM file, seekable.

    Raises
    ------
    NoFrames
        If there is none, or what describes it does not make sense.
    """
    try:
        header = dcmread(file, stop_before_pixels=True)
        syntax = str(header.file_meta.TransferSyntaxUID)
        if syntax == DeflatedExplicitVRLittleEndian:
            header, file = _inflated(file, header)
        tag, start = value_of_pixel_data(file, syntax)
        frames = int(header.get("NumberOfFrames") or 1)
        int(header.Rows), int(header.Columns), int(header.BitsAllocated)
    except NoFrames:
        raise
    except Exception as error:  # a parser met bytes somebody else chose: any of its errors means the same
        raise NoFrames(f"the object has no pixels that can be read ({type(error).__name__})") from None
    if frames < 1:
        raise NoFrames("the object has no frames")
    return PixelStore(file, header, syntax, start, frames, tag)


def _inflated(file: Any, header: Dataset) -> tuple[Dataset, Any]:
    """Return the header and the file of a deflated data set (PS3.5, A.5), inflated."""
    file.seek(_META + int(header.file_meta.FileMetaInformationGroupLength))
    plain = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), _INFLATED))
    return read_dataset(plain, False, True, stop_when=lambda tag, _vr, _length: tag >= _PIXELS), plain


def value_of_pixel_data(file: Any, syntax: str) -> tuple[int, int]:
    """Return tag and start of the value of Pixel Data; the file stands before it, or before Float Pixel Data.

    Raises
    ------
    NoFrames
        If something else follows, or it is not encoded as the transfer syntax says.
    struct.error
        If nothing does.
    """
    uid = UID(syntax)
    order = "<" if syntax == DeflatedExplicitVRLittleEndian or uid.is_little_endian else ">"
    group, number = struct.unpack(f"{order}HH", file.read(4))
    if (group, number) not in _PIXEL_DATA:
        raise NoFrames("the object has no Pixel Data")
    if not uid.is_implicit_VR or syntax == DeflatedExplicitVRLittleEndian:
        file.read(4)  # VR and two reserved bytes
    (length,) = struct.unpack(f"{order}L", file.read(4))
    if (length == _UNDEFINED) != bool(uid.is_encapsulated):
        raise NoFrames("its Pixel Data is not encoded as its transfer syntax says")
    return group << 16 | number, int(file.tell())
