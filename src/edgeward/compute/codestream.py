"""The frame size that a compressed codestream declares for itself.

Responsible for reading it from the header of JPEG, JPEG-LS and JPEG 2000 without decoding, so that a small file
cannot make a codec allocate a huge picture. Not responsible for decoding.
"""

from __future__ import annotations

_SOI, _SOC = b"\xff\xd8", b"\xff\x4f\xff\x51"
# Start-of-frame markers (ITU-T T.81 table B.1) and JPEG-LS (ITU-T T.87): C4, C8 and CC are something else.
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


class CodestreamError(ValueError):
    """The compressed frame is truncated or malformed."""


def frame_size(stream: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) as declared by the codestream, or None for one that carries no size (RLE).

    Raises
    ------
    CodestreamError
        If the stream starts like one of the known formats but its header is damaged.
    """
    if stream[:2] == _SOI:
        return _jpeg(stream)
    start = 0
    if stream[4:8] == b"jP  ":  # JP2 container around the codestream, a common mistake of senders
        start = stream.find(_SOC)
        if start < 0:
            raise CodestreamError("the JPEG 2000 frame has no codestream")
    if stream[start : start + 4] == _SOC:
        return _jpeg2000(stream[start:])
    return None


def _jpeg(stream: bytes) -> tuple[int, int]:
    position = 2
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
        if marker in _START_OF_FRAME:
            if position + 9 > len(stream):
                break
            return (
                int.from_bytes(stream[position + 5 : position + 7], "big"),
                int.from_bytes(stream[position + 7 : position + 9], "big"),
            )
        if length < 2:
            raise CodestreamError("the JPEG frame has a damaged header")
        position += 2 + length
    raise CodestreamError("the JPEG frame is truncated before its size")


def _jpeg2000(stream: bytes) -> tuple[int, int]:
    if len(stream) < 24:
        raise CodestreamError("the JPEG 2000 frame is truncated before its size")
    x1, y1, x0, y0 = (int.from_bytes(stream[8 + 4 * i : 12 + 4 * i], "big") for i in range(4))
    if x1 <= x0 or y1 <= y0:
        raise CodestreamError("the JPEG 2000 frame declares an empty image")
    return y1 - y0, x1 - x0
