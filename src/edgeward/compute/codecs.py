"""Which codec decodes which transfer syntax, and how.

Responsible for turning the compressed bytes of one frame into its samples: chosen explicitly per transfer syntax as
the fastest right one (measured in ``benchmarks/decode.py``), with the codestream's own header checked before anything
is allocated. Not responsible for finding the bytes (``encapsulated.py``) or for what the samples mean (``image.py``).

All codecs come with imagecodecs (BSD-3): libjpeg-turbo 3 for every JPEG of 8 to 16 bits, lossy or lossless; CharLS;
OpenJPEG; libjxl.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.compute.codestream import CodestreamError, DecodeError, Header, read_header


@dataclass(frozen=True)
class Expected:
    """What the object declares of each of its frames."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    photometric: str

    @property
    def size(self) -> int:
        """Bytes of one uncompressed frame."""
        return (self.rows * self.columns * self.samples * self.bits_allocated + 7) // 8


@dataclass(frozen=True)
class Decoded:
    """What a codec gave.

    Attributes
    ----------
    samples : (rows, columns) or (rows, columns, 3), as the codec delivers
    colour : "rgb" or "ybr" if the codec's work decides it, empty if the object's attributes do
    precision : bits per sample of the codestream; 0 if it has none of its own
    signed : the codestream itself is signed
    """

    samples: NDArray[Any]
    colour: str = ""
    precision: int = 0
    signed: bool = False


_MOST_OF_A_BYTE = 64  # a run of PackBits: two bytes stand for 128
Decoder = Callable[[bytes, Expected], Decoded]


@dataclass(frozen=True)
class Codec:
    """One row of the table: `name` as people know the transfer syntax, `with_` what decodes it."""

    name: str
    with_: str
    decode: Decoder


def _jpeg(stream: bytes, expected: Expected) -> Decoded:
    """JPEG with DCT or lossless (ITU-T T.81), 8 to 16 bits, with libjpeg-turbo."""
    import imagecodecs

    header = _header(stream, expected, "jpeg")
    if stream.rfind(b"\xff\xd9") < stream.rfind(b"\xff\xda"):  # libjpeg paints what is missing grey, without an error
        raise DecodeError("truncated: the JPEG frame has no end")
    if header.components == 1:
        return Decoded(_run(imagecodecs.jpeg8_decode, stream), precision=header.precision)
    if header.lossless:  # no colour transform exists in these processes
        return Decoded(_raw_jpeg(stream), header.colour if header.colour == "rgb" else "", header.precision)
    # Markers inside the stream come before the object's attribute: they are what its encoder did. Without any, the
    # attribute decides (PS3.5 8.2.1).
    ybr = header.colour == "ybr" or (not header.colour and expected.photometric != "RGB")
    if not ybr:
        return Decoded(_raw_jpeg(stream), "rgb", header.precision)
    samples = _run(imagecodecs.jpeg8_decode, stream, colorspace="YCBCR", outcolorspace="RGB")
    return Decoded(samples, "rgb", header.precision)


def _raw_jpeg(stream: bytes) -> NDArray[Any]:
    import imagecodecs

    return _run(imagecodecs.jpeg8_decode, stream, colorspace="RGB", outcolorspace="RGB")


def _jpeg_ls(stream: bytes, expected: Expected) -> Decoded:
    """JPEG-LS (ITU-T T.87), lossless and near-lossless, with CharLS."""
    import imagecodecs

    header = _header(stream, expected, "jpeg-ls")
    return Decoded(_run(imagecodecs.jpegls_decode, stream), precision=header.precision)


def _jpeg2000(stream: bytes, expected: Expected) -> Decoded:
    """JPEG 2000 (ITU-T T.800), high-throughput too (T.814), with OpenJPEG.

    A multiple-component transform is undone by the codec, so that YBR_RCT and YBR_ICT come out as RGB, and so does what
    has the transform and a tag that says YBR_FULL: a common mistake of senders. OpenJPH would
    be almost three times as fast for high throughput, but its binding returns what it could read of a cut or damaged
    stream without an error.
    """
    import imagecodecs

    header = _header(stream, expected, "jpeg2000")
    if header.subsampled:
        raise DecodeError("a JPEG 2000 frame with components of different resolution is not supported")
    code = stream[header.start :] if header.start else stream
    samples = _run(imagecodecs.jpeg2k_decode, code)
    return Decoded(samples, header.colour, precision=header.precision, signed=header.signed)


def _jpeg_xl(stream: bytes, expected: Expected) -> Decoded:
    """JPEG XL (ISO/IEC 18181) with libjxl, which delivers RGB or grey."""
    import imagecodecs

    if expected.bits_allocated not in (8, 16):
        raise DecodeError("JPEG XL of other than 8 or 16 bits is not supported")
    # Its header is packed bit by bit; the codec compares it with `out` before it allocates anything.
    shape = (expected.rows, expected.columns) + ((3,) if expected.samples == 3 else ())
    plain = np.empty(shape, f"u{expected.bits_allocated // 8}")
    samples = _run(imagecodecs.jpegxl_decode, stream, index=0, out=plain)
    return Decoded(samples, "rgb" if expected.samples == 3 else "")


def _rle(stream: bytes, expected: Expected) -> Decoded:
    """RLE (PS3.5 annex G): PackBits, one segment per byte of a sample, most significant first."""
    import imagecodecs

    width = expected.bits_allocated // 8
    wanted = expected.samples * width
    if expected.bits_allocated % 8 or len(stream) < 64:
        raise DecodeError("the RLE frame has no header, or samples that are not whole bytes")
    head = np.frombuffer(stream, "<u4", 16).tolist()
    if head[0] != wanted:
        raise DecodeError(f"the RLE frame has {head[0]} segments, the object declares {wanted}")
    edges = [*head[1 : 1 + wanted], len(stream)]
    if edges[0] != 64 or any(b <= a for a, b in itertools.pairwise(edges)):
        raise DecodeError("the RLE frame has impossible segment offsets")
    count = expected.rows * expected.columns
    if any((b - a) * _MOST_OF_A_BYTE < count for a, b in itertools.pairwise(edges)):
        raise DecodeError(f"truncated: a segment of the RLE frame is too short for {count} bytes")
    out = np.empty((count, expected.samples, width), np.uint8)
    plain = np.empty(count + 256, np.uint8)  # a run may reach a little beyond; more is refused by the codec
    for number in range(wanted):
        part = _run(imagecodecs.packbits_decode, stream[edges[number] : edges[number + 1]], out=plain)
        if len(part) < count:
            raise DecodeError(f"truncated: {len(part)} of {count} bytes in a segment of the RLE frame")
        sample, byte = divmod(number, width)
        out[:, sample, width - 1 - byte] = part[:count]
    samples = out.reshape(-1).view(f"<u{width}")
    shape = (expected.rows, expected.columns, expected.samples)
    return Decoded(samples.reshape(shape[:2] if expected.samples == 1 else shape))


def _deflated(stream: bytes, expected: Expected) -> Decoded:
    """Deflated Image Frame Compression (PS3.5 A.4.13): each frame is one raw deflate stream."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(stream, expected.size + 2)
    except zlib.error as error:
        raise CodestreamError("the deflated frame is damaged") from error
    if len(plain) > expected.size + 1:
        raise DecodeError(f"the deflated frame inflates to more than the {expected.size} bytes of a frame")
    return _plain(plain, expected)


def _plain(stream: bytes, expected: Expected) -> Decoded:
    """Encapsulated Uncompressed (PS3.5 A.4.11): the fragment is the little-endian frame."""
    if len(stream) < expected.size:
        raise DecodeError(f"truncated: {len(stream)} of {expected.size} bytes of the frame")
    if expected.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(stream, np.uint8, expected.size), bitorder="little")
        return Decoded(bits[: expected.rows * expected.columns].reshape(expected.rows, expected.columns))
    samples = np.frombuffer(
        stream, f"<u{expected.bits_allocated // 8}", expected.rows * expected.columns * expected.samples
    )
    if expected.samples == 1:
        return Decoded(samples.reshape(expected.rows, expected.columns))
    return Decoded(samples.reshape(expected.rows, expected.columns, expected.samples))


def _header(stream: bytes, expected: Expected, kind: str) -> Header:
    """Read the codestream's header and refuse one that contradicts the object: no codec allocates what it claims."""
    header = read_header(stream)
    if header is None or header.kind != kind:
        raise DecodeError(f"the compressed frame is not {kind}, which the transfer syntax says")
    if (header.rows, header.columns) != (expected.rows, expected.columns):
        raise DecodeError(
            f"the compressed frame is {header.rows}x{header.columns} pixels, "
            f"the object declares {expected.rows}x{expected.columns}"
        )
    if header.components != expected.samples:
        raise DecodeError(
            f"the compressed frame has {header.components} components, the object declares {expected.samples}"
        )
    if not 1 <= header.precision <= 16:
        raise DecodeError(f"a compressed frame of {header.precision} bits per sample is not supported")
    return header


def _run(codec: Callable[..., Any], stream: bytes, **options: Any) -> NDArray[Any]:
    try:
        return np.asarray(codec(stream, **options))
    except MemoryError:
        raise
    except Exception as error:  # each codec has its own kinds; none of their texts is needed to know what to do
        raise DecodeError("the compressed frame is damaged, or in a variant that its codec does not read") from error


_J = "libjpeg-turbo"
CODECS: dict[str, Codec] = {
    "1.2.840.10008.1.2.4.50": Codec("JPEG Baseline", _J, _jpeg),
    "1.2.840.10008.1.2.4.51": Codec("JPEG Extended, 8 and 12 bit", _J, _jpeg),
    "1.2.840.10008.1.2.4.53": Codec("JPEG Spectral Selection (retired)", _J, _jpeg),
    "1.2.840.10008.1.2.4.55": Codec("JPEG Full Progression (retired)", _J, _jpeg),
    "1.2.840.10008.1.2.4.57": Codec("JPEG Lossless, process 14", _J, _jpeg),
    "1.2.840.10008.1.2.4.70": Codec("JPEG Lossless, first-order prediction", _J, _jpeg),
    "1.2.840.10008.1.2.4.80": Codec("JPEG-LS Lossless", "CharLS", _jpeg_ls),
    "1.2.840.10008.1.2.4.81": Codec("JPEG-LS Near-lossless", "CharLS", _jpeg_ls),
    "1.2.840.10008.1.2.4.90": Codec("JPEG 2000 Lossless", "OpenJPEG", _jpeg2000),
    "1.2.840.10008.1.2.4.91": Codec("JPEG 2000", "OpenJPEG", _jpeg2000),
    "1.2.840.10008.1.2.4.92": Codec("JPEG 2000 Multi-component Lossless", "OpenJPEG", _jpeg2000),
    "1.2.840.10008.1.2.4.93": Codec("JPEG 2000 Multi-component", "OpenJPEG", _jpeg2000),
    "1.2.840.10008.1.2.4.201": Codec("HTJ2K Lossless", "OpenJPEG", _jpeg2000),
    "1.2.840.10008.1.2.4.202": Codec("HTJ2K Lossless RPCL", "OpenJPEG", _jpeg2000),
    "1.2.840.10008.1.2.4.203": Codec("HTJ2K", "OpenJPEG", _jpeg2000),
    "1.2.840.10008.1.2.4.110": Codec("JPEG XL Lossless", "libjxl", _jpeg_xl),
    "1.2.840.10008.1.2.4.111": Codec("JPEG XL JPEG Recompression", "libjxl", _jpeg_xl),
    "1.2.840.10008.1.2.4.112": Codec("JPEG XL", "libjxl", _jpeg_xl),
    "1.2.840.10008.1.2.5": Codec("RLE Lossless", "PackBits of imagecodecs", _rle),
    "1.2.840.10008.1.2.1.98": Codec("Encapsulated Uncompressed", "none", _plain),
    "1.2.840.10008.1.2.8.1": Codec("Deflated Image Frame", "zlib", _deflated),
}
VIDEO: dict[str, str] = {
    **dict.fromkeys(("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101"), "MPEG-2"),
    **{f"1.2.840.10008.1.2.4.{n}": "H.264" for n in range(102, 107)},
    **dict.fromkeys(("1.2.840.10008.1.2.4.107", "1.2.840.10008.1.2.4.108"), "HEVC"),
    **{f"1.2.840.10008.1.2.7.{n}": "SMPTE ST 2110" for n in range(1, 4)},
}
REFERENCED = frozenset(  # JPIP: the pixels are on another server
    {
        "1.2.840.10008.1.2.4.94",
        "1.2.840.10008.1.2.4.95",
        "1.2.840.10008.1.2.4.204",
        "1.2.840.10008.1.2.4.205",
    }
)


def codec_for(syntax: str) -> Codec:
    """Return the codec of a transfer syntax that compresses.

    Raises
    ------
    DecodeError
        If nothing here decodes it; the text says why.
    """
    codec = CODECS.get(syntax)
    if codec is not None:
        return codec
    video = VIDEO.get(syntax) or VIDEO.get(syntax.rpartition(".")[0])  # the fragmentable ones end in .1
    if video:
        raise DecodeError(f"not analysed: video transfer syntax ({video})")
    if syntax in REFERENCED:
        raise DecodeError("the object only refers to its pixels (JPIP), it does not contain them")
    raise DecodeError(f"transfer syntax {syntax[:64]} is not supported")
