"""What a compressed codestream declares for itself.

Responsible for reading size, components, precision and colour from the header of JPEG, JPEG-LS and JPEG 2000 without
decoding, so that a small file cannot make a codec allocate a huge picture. Not responsible for decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

_SOI, _SOC = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Start-of-frame markers (ITU-T T.81 table B.1) and JPEG-LS (ITU-T T.87): C4, C8 and CC are something else.
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_JPEG_LS = 0xF7
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF, _JPEG_LS})
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MAX_TILES = 65_535  # ITU-T T.800 A.4.2: Isot has 16 bits
_MAX_SCANS = 256  # each scan of a progressive JPEG goes over the whole picture: few bytes could cost hours


class DecodeError(ValueError):
    """The object cannot be turned into a frame; the text says why and contains no identity and no pixel."""


class CodestreamError(DecodeError):
    """The compressed frame is truncated or malformed."""


@dataclass(frozen=True)
class Header:
    """The header of one compressed frame.

    Attributes
    ----------
    kind : "jpeg", "jpeg-ls" or "jpeg2000"
    rows, columns, components, precision : of the picture; precision in bits per sample
    signed : samples are signed (JPEG 2000 only)
    lossless : the process is a lossless one (JPEG, JPEG-LS)
    subsampled : at least two components differ in resolution
    colour : "rgb" or "ybr" if markers or component names say so, else empty. Of JPEG 2000 "rgb" if the codestream has a
        multiple-component transform, which the codec undoes
    start : where the codestream begins (after a JP2 box around it)
    """

    kind: str
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    lossless: bool = False
    subsampled: bool = False
    colour: str = ""
    start: int = 0


def read_header(stream: bytes | memoryview) -> Header | None:
    """Return the header, or None for a stream of another kind (RLE, JPEG XL, raw).

    Raises
    ------
    CodestreamError
        If the stream starts like one of the known formats but its header is damaged or hostile.
    """
    view = bytes(stream[:12])
    if view[:2] == _SOI:
        return _jpeg(bytes(stream))
    start = 0
    if view[4:8] == b"jP  ":  # JP2 container around the codestream, a common mistake of senders
        start = bytes(stream).find(_SOC)
        if start < 0:
            raise CodestreamError("the JPEG 2000 frame has no codestream")
    if bytes(stream[start : start + 4]) == _SOC:
        return _jpeg2000(bytes(stream[start : start + (1 << 16)]), start)
    return None


def _jpeg(stream: bytes) -> Header:
    position, colour = 2, ""
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:
            raise CodestreamError("the JPEG frame has a damaged header")
        marker = stream[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            position += 2
            continue
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        body = stream[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME:
            return _frame_header(stream, marker, body, colour)
        if length < 2:
            raise CodestreamError("the JPEG frame has a damaged header")
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:  # APP14; its last byte is the transform
            colour = "ybr" if body[11] == 1 else "rgb"
        elif marker == 0xE0 and body[:5] == b"JFIF\0" and not colour:  # JFIF is YCbCr by definition
            colour = "ybr"
        position += 2 + length
    raise CodestreamError("the JPEG frame is truncated before its size")


def _frame_header(stream: bytes, marker: int, body: bytes, colour: str) -> Header:
    """Read the start-of-frame segment (ITU-T T.81 B.2.2)."""
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise CodestreamError("the JPEG frame is truncated before its size")
    if marker in _PROGRESSIVE and stream.count(b"\xff\xda") > _MAX_SCANS:
        raise CodestreamError(f"the JPEG frame has more than {_MAX_SCANS} scans")
    names = bytes(body[6 + 3 * i] for i in range(body[5]))
    sampling = {body[7 + 3 * i] for i in range(body[5])}
    if names == b"RGB" and not colour:
        colour = "rgb"
    if len(sampling) > 1:  # nobody subsamples red
        colour = "ybr"
    return Header(
        kind="jpeg-ls" if marker == _JPEG_LS else "jpeg",
        rows=int.from_bytes(body[1:3], "big"),
        columns=int.from_bytes(body[3:5], "big"),
        components=body[5],
        precision=body[0],
        lossless=marker in _LOSSLESS,
        subsampled=len(sampling) > 1,
        colour=colour if body[5] == 3 else "",
    )


def _jpeg2000(stream: bytes, start: int) -> Header:
    """Read the SIZ segment (ITU-T T.800 A.5.1), which comes first."""
    if len(stream) < 42:
        raise CodestreamError("the JPEG 2000 frame is truncated before its size")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0 = (
        int.from_bytes(stream[8 + 4 * i : 12 + 4 * i], "big") for i in range(8)
    )
    components = int.from_bytes(stream[40:42], "big")
    if x1 <= x0 or y1 <= y0 or components < 1:
        raise CodestreamError("the JPEG 2000 frame declares an empty image")
    if not tile_x or not tile_y or tile_x0 > x0 or tile_y0 > y0:
        raise CodestreamError("the JPEG 2000 frame declares impossible tiles")
    if -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y) > _MAX_TILES:
        raise CodestreamError(f"the JPEG 2000 frame declares more than {_MAX_TILES} tiles")
    table = stream[42 : 42 + 3 * components]
    if len(table) < 3 * components:
        raise CodestreamError("the JPEG 2000 frame is truncated before its size")
    depths, steps = set(table[::3]), {*table[1::3], *table[2::3]}
    if len(depths) > 1:
        raise CodestreamError("the components of the JPEG 2000 frame differ in depth")
    depth = depths.pop()
    return Header(
        kind="jpeg2000",
        rows=y1 - y0,
        columns=x1 - x0,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        subsampled=steps != {1},
        colour="rgb" if components == 3 and _transformed(stream) else "",
        start=start,
    )


def _transformed(stream: bytes) -> bool:
    """Whether the main header asks for a multiple-component transform (COD, ITU-T T.800 A.6.1)."""
    position = 2
    while position + 4 <= len(stream) and stream[position] == 0xFF and stream[position + 1] != 0x90:  # SOT: tiles
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        if stream[position + 1] == 0x52:
            return stream[position + 8 : position + 9] == b"\x01"
        if length < 2:
            return False
        position += 2 + length
    return False
