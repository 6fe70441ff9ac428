"""A DICOM image object, opened: its header, and any one frame's stored values.

Responsible for reading an object that anyone may have sent, from memory or from a file of which only the looked-at
frames are read, and for the values as they were stored: byte order, bit depth, sign, planes (PS3.5 section 8, PS3.3
C.7.6.3). Not responsible for compressed bytes (``codecs.py``, ``encapsulated.py``) or for colour and grey scale
(``colour.py``, ``greyscale.py``). Whatever is wrong ends as a `DecodeError` with a reason, in bounded memory.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from edgeward.compute.codecs import Decoded, Expected, codec_for
from edgeward.compute.codestream import DecodeError
from edgeward.compute.encapsulated import Encapsulated
from edgeward.privacy.vault import VaultDamaged

MAX_FRAME_PIXELS = 64 * 1024 * 1024  # 8192 x 8192; the largest diagnostic frame in use is a mammogram of 30 million
MAX_FRAMES = 100_000
MAX_SAMPLES = 3
_MAX_INFLATED = 1024 * 1024 * 1024
_MAX_ELEMENT = 16 * 1024 * 1024  # no element that is read here, the pixels apart, is nearly as large
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_NATIVE = frozenset({_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _DEFLATED})
_FLOAT, _DOUBLE, _PIXELS = 0x7FE00008, 0x7FE00009, 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_LONG_VR = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN"})
_HALF_CHROMA = ("YBR_FULL_422", "YBR_PARTIAL_422")
# Only these are read; everything else, names above all, is skipped.
_KEYWORDS = (
    "SpecificCharacterSet SOPClassUID SOPInstanceUID Modality BodyPartExamined "
    "SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit "
    "PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing PixelAspectRatio SequenceOfUltrasoundRegions "
    "ImageOrientationPatient ImagePositionPatient FrameOfReferenceUID "
    "FrameTime FrameTimeVector CineRate RecommendedDisplayFrameRate FrameIncrementPointer "
    "WindowCenter WindowWidth VOILUTFunction VOILUTSequence RescaleSlope RescaleIntercept ModalityLUTSequence "
    "RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor "
    "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData "
    "SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData "
    "SegmentedBluePaletteColorLookupTableData "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
    "ExtendedOffsetTable ExtendedOffsetTableLengths"
)
_TAGS = [tag for tag in map(tag_for_keyword, _KEYWORDS.split()) if tag is not None]


@dataclass(frozen=True)
class Stored:
    """The values of one frame.

    Attributes
    ----------
    values : (rows, columns) or (rows, columns, 3); integers with the object's sign, or floating point
    photometric : how they are to be read; differs from the object's where a codec has already converted
    bits : bits per sample that the values use
    """

    values: NDArray[Any]
    photometric: str
    bits: int


class ImageObject:
    """An opened image object. One thread at a time may use it; it does not close the file it was given.

    Parameters
    ----------
    source : a DICOM file (PS3.10), or a bare data set; as bytes, or as a seekable binary file

    Attributes
    ----------
    dataset : the header, without pixels and without anything that is not needed to show them
    syntax : transfer syntax UID
    rows, columns, samples, frames, bits_allocated, bits_stored : as declared
    signed : the values are two's complement
    photometric : PhotometricInterpretation

    Raises
    ------
    DecodeError
        If the source is no image object, is damaged, or declares an absurd size.
    """

    def __init__(self, source: bytes | bytearray | memoryview | BinaryIO) -> None:
        file = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
        with told():
            self.syntax, file, start, end = _open(file)
            self.dataset, self._little, self._implicit = _read_header(file, self.syntax, start)
            self._file, self._end = file, end
            self._pixels = self._find_pixels()
            self._declared()
            self._encapsulated: Encapsulated | None = None
            if self._pixels.encapsulated:
                self._codec = codec_for(self.syntax)
                self._encapsulated = Encapsulated(file, self._pixels.start, end, self.frames, self._offset_tables())
            else:
                self._check_native()

    def text(self, keyword: str) -> str:
        """Return an attribute as text without padding; empty if absent."""
        value = self.dataset.get(keyword)
        return "" if value is None else str(value).strip()

    def stored(self, index: int) -> Stored:
        """Return one frame's values; of a long object only this frame is read.

        Raises
        ------
        DecodeError
            If there is no such frame, or it is damaged, truncated, or not what the object declares.
        """
        if not 0 <= index < self.frames:
            raise DecodeError(f"there is no frame {index} among {self.frames}")
        with told():
            decoded = self._native(index) if self._encapsulated is None else self._decompressed(index)
            return self._corrected(decoded)

    # ------------------------------------------------------------ opening

    def _find_pixels(self) -> _Pixels:
        place = self._file.tell()
        order = "<" if self._little else ">"
        head = self._file.read(12)
        if len(head) < 8:
            raise DecodeError("the object contains no pixel data")
        group, element = struct.unpack(f"{order}HH", head[:4])
        tag = group << 16 | element
        if tag not in (_PIXELS, _FLOAT, _DOUBLE):
            raise DecodeError("the object contains no pixel data")
        if not self._implicit and head[4:6] in _LONG_VR and len(head) == 12:
            vr, length, start = head[4:6], struct.unpack(f"{order}I", head[8:12])[0], place + 12
        else:
            vr, length, start = b"OW", struct.unpack(f"{order}I", head[4:8])[0], place + 8
        native = self.syntax in _NATIVE
        if length == _UNDEFINED:
            if native:
                raise DecodeError("the pixel data has fragments, which the uncompressed transfer syntax excludes")
            return _Pixels(tag, start, self._end - start, encapsulated=True, words=False)
        if not native:
            codec_for(self.syntax)  # a syntax that nothing reads is the better reason
            raise DecodeError("the pixel data has no fragments, which the compressed transfer syntax demands")
        return _Pixels(tag, start, length, encapsulated=False, words=vr == b"OW")

    def _declared(self) -> None:
        """Take over the declared sizes, and refuse absurd ones before anything is allocated."""
        self.rows, self.columns = self._number("Rows"), self._number("Columns")
        self.samples, self.frames = self._number("SamplesPerPixel", 1), max(1, self._number("NumberOfFrames", 1))
        floats = {_FLOAT: 32, _DOUBLE: 64}.get(self._pixels.tag, 0)
        self.bits_allocated = floats or self._number("BitsAllocated")
        self.bits_stored = floats or self._number("BitsStored", self.bits_allocated)
        self._high_bit = self._number("HighBit", self.bits_stored - 1)
        self.signed = self._number("PixelRepresentation", 0) == 1
        self.photometric = self.text("PhotometricInterpretation").upper()
        if self.rows < 1 or self.columns < 1 or self.rows * self.columns > MAX_FRAME_PIXELS:
            raise DecodeError(f"a frame of {self.rows}x{self.columns} pixels is outside 1..{MAX_FRAME_PIXELS}")
        if self.samples not in (1, MAX_SAMPLES):
            raise DecodeError(f"{self.samples} samples per pixel are not supported")
        if self.frames > MAX_FRAMES:
            raise DecodeError(f"{self.frames} frames are more than {MAX_FRAMES}")
        allowed = (32, 64) if floats else (1, 8, 12, 16, 32)
        if self.bits_allocated not in allowed or (self.samples > 1 and self.bits_allocated not in (8, 16, 32)):
            raise DecodeError(f"{self.bits_allocated} bits per sample are not supported")
        if not 1 <= self.bits_stored <= self.bits_allocated:
            raise DecodeError(f"{self.bits_stored} of {self.bits_allocated} bits cannot be stored")
        if not self.bits_stored - 1 <= self._high_bit < self.bits_allocated:
            self._high_bit = self.bits_stored - 1  # impossible, seen in the wild; everything else is consistent
        if self.photometric in ("ARGB", "HSV", "CMYK"):
            raise DecodeError(f"photometric interpretation {self.photometric} is retired and not supported")
        if floats and self.samples != 1:
            raise DecodeError("floating-point pixel data has one sample per pixel")

    def _number(self, keyword: str, default: int | None = None) -> int:
        value = self.dataset.get(keyword)
        if value is None or value == "":
            value = default
        try:
            return int(value)
        except (TypeError, ValueError) as error:
            raise DecodeError(f"{keyword} is missing or not a number") from error

    def _offset_tables(self) -> tuple[list[int], list[int]]:
        """Read the extended offset table and its lengths (7FE0,0001 and 0002), empty if absent."""
        tables: list[list[int]] = []
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            value = self.dataset.get(keyword)
            if not isinstance(value, bytes) or len(value) != 8 * self.frames:
                return [], []
            tables.append(list(struct.unpack(f"<{self.frames}Q", value)))
        return tables[0], tables[1]

    # ------------------------------------------------------------ native pixels (PS3.5 8.1)

    @property
    def _frame_bits(self) -> int:
        half = self.photometric in _HALF_CHROMA and self.samples == MAX_SAMPLES and self.bits_allocated == 8
        return self.rows * self.columns * self.bits_allocated * (2 if half else self.samples)

    def _check_native(self) -> None:
        wanted = (self._frame_bits * self.frames + 7) // 8
        have = max(0, min(self._pixels.length, self._end - self._pixels.start))
        if have < wanted:
            raise DecodeError(f"truncated: {have} of {wanted} bytes of pixel data")

    def _native(self, index: int) -> Decoded:
        first = index * self._frame_bits
        last = first + self._frame_bits
        swap = not self._little and self._pixels.words and self.bits_allocated <= 12
        begin, end = first // 8, (last + 7) // 8
        if swap:  # bytes of 16-bit words change places, also over the edge of a frame
            begin, end = begin & ~1, end + 1 & ~1
        self._file.seek(self._pixels.start + begin)
        data = self._file.read(end - begin)
        if swap:
            data = np.frombuffer(data[: len(data) & ~1], np.uint16).byteswap().tobytes() + data[len(data) & ~1 :]
        data = data[first // 8 - begin :]
        if len(data) < (last + 7) // 8 - first // 8:
            raise DecodeError("truncated: the object became shorter while it was read")
        if self._pixels.tag != _PIXELS:
            kind = "f" if self._pixels.tag == _FLOAT else "d"
            values = np.frombuffer(data, f"{'<' if self._little else '>'}{kind}", self.rows * self.columns)
            return Decoded(values.reshape(self.rows, self.columns))
        if self.bits_allocated in (1, 12):
            return Decoded(self._packed(data, first % 8))
        order = "<" if self._little else ">"
        values = np.frombuffer(data, f"{order}u{self.bits_allocated // 8}", self._frame_bits // self.bits_allocated)
        if self.samples == 1:
            return Decoded(values.reshape(self.rows, self.columns))
        if self._frame_bits != self.rows * self.columns * self.bits_allocated * self.samples:
            return Decoded(_repeat_chroma(values, self.rows, self.columns))
        if self._number("PlanarConfiguration", 0) == 1:
            return Decoded(np.moveaxis(values.reshape(self.samples, self.rows, self.columns), 0, 2))
        return Decoded(values.reshape(self.rows, self.columns, self.samples))

    def _packed(self, data: bytes, skip: int) -> NDArray[Any]:
        """Values that share bytes, first pixel in the lowest bits: 1 bit, or 12 (retired); `skip` bits come before."""
        count = self.rows * self.columns
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[
            skip : skip + count * self.bits_allocated
        ]
        if self.bits_allocated == 1:
            return bits.reshape(self.rows, self.columns)
        weights = (1 << np.arange(self.bits_allocated)).astype(np.uint16)
        values = bits.reshape(count, self.bits_allocated) @ weights
        return np.asarray(values, np.uint16).reshape(self.rows, self.columns)

    # ------------------------------------------------------------ compressed pixels

    def _decompressed(self, index: int) -> Decoded:
        if self._encapsulated is None:
            raise DecodeError("the object is not compressed")
        stream = self._encapsulated.frame(index)
        expected = Expected(self.rows, self.columns, self.samples, self.bits_allocated, self.photometric)
        decoded = self._codec.decode(stream, expected)
        shape = (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)
        if decoded.samples.shape != shape:
            raise DecodeError(f"decoded {'x'.join(map(str, decoded.samples.shape))} values, the object declares others")
        return decoded

    # ------------------------------------------------------------ what the bits mean (PS3.5 8.1.1)

    def _corrected(self, decoded: Decoded) -> Stored:
        values, photometric = decoded.samples, self.photometric
        if decoded.colour == "rgb":
            photometric = "RGB"
        elif decoded.colour == "ybr" or (photometric in _HALF_CHROMA and values.ndim == 3):
            photometric = "YBR_PARTIAL" if "PARTIAL" in photometric else "YBR_FULL"
        if values.dtype.kind == "f":
            return Stored(values, photometric, 64 if values.dtype.itemsize == 8 else 32)
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        bits = self.bits_stored
        if decoded.signed or (decoded.precision and self.signed and self.syntax.startswith("1.2.840.10008.1.2.4.9")):
            # JPEG 2000 knows depth and sign itself, and right where the object's attributes may be wrong.
            bits = decoded.precision
        elif decoded.precision and decoded.precision < self.bits_stored:
            bits = max(decoded.precision, 1)
        width = 8 * values.dtype.itemsize
        if decoded.precision == 0 or decoded.precision > self.bits_stored:
            shift = self._high_bit + 1 - self.bits_stored
            if shift and bits == self.bits_stored:
                values = values >> shift  # as unsigned: what lies above is masked next
        if self.signed:
            if bits < width or values.dtype.kind == "u":
                values = _signed(values, bits, width)
        elif values.dtype.kind == "i" or bits < width:
            mask = (1 << bits) - 1
            unsigned = (
                values.view(f"u{values.dtype.itemsize}")
                if values.flags.c_contiguous
                else values.astype(f"u{values.dtype.itemsize}")
            )
            values = unsigned & unsigned.dtype.type(mask)
        return Stored(values, photometric, bits)


@dataclass(frozen=True)
class _Pixels:
    """Where the pixel element lies."""

    tag: int
    start: int
    length: int
    encapsulated: bool
    words: bool  # 16-bit words: bytes change places in big endian


def _signed(values: NDArray[Any], bits: int, width: int) -> NDArray[Any]:
    """Extend the sign of the lowest `bits` bits; what lies above them may be anything (overlays)."""
    signed = np.ascontiguousarray(values).view(f"i{width // 8}")
    return signed if bits >= width else (signed << (width - bits)) >> (width - bits)


def _repeat_chroma(values: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Y Y Cb Cr for every two pixels (PS3.3 C.7.6.3.1.2) to one triple per pixel."""
    if columns % 2:
        raise DecodeError(f"YBR 4:2:2 needs an even number of columns, not {columns}")
    pairs = values.reshape(rows, columns // 2, 4)
    out = np.empty((rows, columns, 3), values.dtype)
    out[:, 0::2, 0], out[:, 1::2, 0] = pairs[..., 0], pairs[..., 1]
    for half in (0, 1):
        out[:, half::2, 1:] = pairs[..., 2:]
    return out


# ---------------------------------------- the file around the data set


def _open(file: BinaryIO) -> tuple[str, BinaryIO, int, int]:
    """Return the transfer syntax, the file that holds the data set (inflated if need be), its start and end."""
    end = file.seek(0, os.SEEK_END)
    if end < 132:
        raise DecodeError(f"{end} bytes are too few for a DICOM object")
    file.seek(0)
    head = file.read(132)
    start = 132 if head[128:] == b"DICM" else 0
    file.seek(start)
    syntax, start = _file_meta(file, start)
    if syntax == _DEFLATED:
        inflated = _inflate(file, start)
        return syntax, inflated, 0, inflated.getbuffer().nbytes
    return syntax or _guess(file, start), file, start, end


def _file_meta(file: BinaryIO, start: int) -> tuple[str, int]:
    """Read the file meta group (PS3.10 7.1), always explicit little endian; return the syntax and where it ends."""
    syntax, place = "", start
    for _ in range(64):
        file.seek(place)
        head = file.read(12)
        if len(head) < 12 or head[:2] != b"\x02\x00":
            break
        long = head[4:6] in (b"OB", b"OW", b"UN", b"UT", b"SQ", b"OF")
        length = int.from_bytes(head[8:12] if long else head[6:8], "little")
        value = place + (12 if long else 8)
        if head[2:4] == b"\x10\x00" and length <= 64:
            file.seek(value)
            syntax = file.read(length).rstrip(b"\0 ").decode("ascii", "replace")
        if length == _UNDEFINED:
            raise DecodeError("the file's meta information is damaged")
        place = value + length
    return syntax, place


def _guess(file: BinaryIO, start: int) -> str:
    """Tell the encoding of a data set that came without meta information from its first element."""
    file.seek(start)
    head = file.read(8)
    if head[4:6].isalpha() and head[4:6].isupper():
        return _EXPLICIT if head[1] == 0 else _BIG_ENDIAN
    group = int.from_bytes(head[:2], "little")
    if not (group <= 0x0028 and int.from_bytes(head[4:8], "little") < 0x10000):
        raise DecodeError("not a DICOM object")
    return _IMPLICIT


def _inflate(file: BinaryIO, start: int) -> io.BytesIO:
    """Inflate a deflated data set (PS3.5 A.5), refusing one that would grow without bound."""
    file.seek(start)
    inflater, out = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    try:
        while not inflater.eof and (block := inflater.unconsumed_tail or file.read(1 << 20)):
            out.write(inflater.decompress(block, 1 << 22))
            if out.tell() > _MAX_INFLATED:
                raise DecodeError(f"deflated object inflates to more than {_MAX_INFLATED} bytes")
    except zlib.error as error:
        raise DecodeError("the deflated data set is damaged") from error
    return out


def _read_header(file: BinaryIO, syntax: str, start: int) -> tuple[Dataset, bool, bool]:
    """Read up to the pixels; return the header, whether it is little endian, and whether it is implicit."""
    little = syntax != _BIG_ENDIAN
    file.seek(start)
    head = file.read(6)
    implicit = not (head[4:6].isalpha() and head[4:6].isupper())
    file.seek(start)
    pixels = (_FLOAT, _DOUBLE, _PIXELS)

    def stop(tag: int, _vr: str | None, length: int) -> bool:
        if tag in pixels:
            return True
        if length != _UNDEFINED and length > _MAX_ELEMENT and tag in _TAGS:
            raise DecodeError(f"an element of {length} bytes in the header is absurd")
        return False

    dataset: Dataset = read_dataset(
        file, implicit, little, stop_when=stop, specific_tags=list(_TAGS), defer_size=_MAX_ELEMENT
    )
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise DecodeError("not a DICOM object")
    return dataset, little, implicit


@contextmanager
def told() -> Iterator[None]:
    """Turn whatever a parser or a codec raises into a `DecodeError`.

    Their texts may quote values, so only the kind is told.
    """
    try:
        yield
    except (DecodeError, VaultDamaged):
        raise
    except MemoryError as error:
        raise DecodeError("the object needs more memory than there is") from error
    except RecursionError as error:
        raise DecodeError("the data set is nested too deeply") from error
    except Exception as error:
        raise DecodeError(f"the object cannot be read ({type(error).__name__})") from error
