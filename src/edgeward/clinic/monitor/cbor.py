"""The part of CBOR (RFC 8949) that a SenML pack may use, decoded with bounded work.

Responsible for integers, floats, text and byte strings, arrays, maps, true/false/null, and decimal fractions (tag 4),
definite and indefinite lengths. Any other tag is refused: what a general decoder makes of tags (regular expressions,
cyclic references, powers of two of any size) is nothing that a sensor has to say. Not responsible for SenML.
"""

from __future__ import annotations

import struct
from typing import Any

_DEPTH = 4
_DECIMAL_FRACTION = 4
_BREAK = object()


class CborError(ValueError):
    """It is not CBOR, or nothing that is decoded here; the text never quotes it."""


def decode(data: bytes) -> Any:
    """Return the one data item that `data` is.

    Raises
    ------
    CborError
        If it is truncated, followed by something, nested deeper than four levels, or uses other parts of CBOR.
    """
    try:
        value, end = _item(data, 0, 0)
    except (IndexError, struct.error):
        raise CborError("it is truncated") from None
    except UnicodeDecodeError:
        raise CborError("a text string is not UTF-8") from None
    if value is _BREAK:
        raise CborError("it begins with a break")
    if end != len(data):
        raise CborError("something follows it")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    first = data[at]
    major, low = first >> 5, first & 0x1F
    at += 1
    if depth > _DEPTH:
        raise CborError("it is nested too deeply")
    if major == 7:
        return _simple(data, at, low)
    count: int | None
    if low < 24:
        count = low
    elif low < 28:
        size = 1 << (low - 24)
        if at + size > len(data):
            raise CborError("it is truncated")
        count, at = int.from_bytes(data[at : at + size], "big"), at + size
    elif low == 31 and major in (2, 3, 4, 5):
        count = None
    else:
        raise CborError("a length is not well-formed")
    if major == 0 and count is not None:
        return count, at
    if major == 1 and count is not None:
        return -1 - count, at
    if major in (2, 3):
        return _string(data, at, count, major)
    if major == 6 and count is not None:
        return _tagged(data, at, count, depth)
    return _container(data, at, count, major, depth)


def _string(data: bytes, at: int, count: int | None, major: int) -> tuple[Any, int]:
    if count is None:
        parts = []
        while data[at] != 0xFF:
            part, at = _chunk(data, at, major)
            parts.append(part)
        raw, at = b"".join(parts), at + 1
    else:
        if at + count > len(data):
            raise CborError("it is truncated")
        raw, at = data[at : at + count], at + count
    return (raw.decode() if major == 3 else raw), at


def _chunk(data: bytes, at: int, major: int) -> tuple[bytes, int]:
    if data[at] >> 5 != major or data[at] & 0x1F >= 28:
        raise CborError("a string of chunks holds something else")
    value, end = _item(data, at, 0)
    return (value.encode() if isinstance(value, str) else value), end


def _container(data: bytes, at: int, count: int | None, major: int, depth: int) -> tuple[Any, int]:
    if count is not None and count > len(data) - at:
        raise CborError("it is truncated")  # each item takes at least a byte
    values: list[Any] = []
    wanted = None if count is None else count * (2 if major == 5 else 1)
    while wanted is None or len(values) < wanted:
        value, at = _item(data, at, depth + 1)
        if value is _BREAK:
            if wanted is not None:
                raise CborError("a break where there can be none")
            break
        values.append(value)
    if major == 4:
        return values, at
    if len(values) % 2:
        raise CborError("a map has a label without a value")
    labels = values[::2]
    if not all(isinstance(label, (int, str)) and not isinstance(label, bool) for label in labels):
        raise CborError("a map has a label that is neither text nor a number")
    if len(set(labels)) != len(labels):
        raise CborError("a map has a label twice")
    return dict(zip(labels, values[1::2], strict=True)), at


def _tagged(data: bytes, at: int, tag: int, depth: int) -> tuple[Any, int]:
    if tag != _DECIMAL_FRACTION:
        raise CborError("it holds a tag that has no place in it")
    value, at = _item(data, at, depth + 1)
    if not (isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)):
        raise CborError("a decimal fraction is not one")
    exponent, mantissa = value
    if not -400 <= exponent <= 400:
        raise CborError("a decimal fraction is out of range")
    return float(f"{mantissa}e{exponent}"), at


def _simple(data: bytes, at: int, low: int) -> tuple[Any, int]:
    if low in (20, 21):
        return low == 21, at
    if low in (22, 23):
        return None, at
    if low in (25, 26, 27):
        form, size = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}[low]
        return struct.unpack_from(form, data, at)[0], at + size
    if low == 31:
        return _BREAK, at
    raise CborError("it holds a simple value that has no place in it")
