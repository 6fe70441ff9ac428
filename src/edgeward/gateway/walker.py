"""Walking through an encoded data set while it arrives: values that are wanted, and whether its end is missing.

Responsible for the structure of a data set (PS3.5, 7 and A.4) in any number of pieces, with bounded memory: values are
skipped by their length, nothing is kept but the few that were asked for. Not responsible for what values mean
(``gateway.dataset``).

It is lenient where real writers are: a missing padding byte at the very end, a missing delimiter after encapsulated
pixel data, trailing zeros. Where the structure cannot be followed any more it stops looking (`lost`) rather than guess.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container
from functools import lru_cache

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

_JPIP_DEFLATE = "1.2.840.10008.1.2.4.95"
_JPIP_HTJ2K_DEFLATE = "1.2.840.10008.1.2.4.205"
_DEFLATED = frozenset({DeflatedExplicitVRLittleEndian, _JPIP_DEFLATE, _JPIP_HTJ2K_DEFLATE})
# GE's "implicit VR big endian" has little-endian headers (only its pixels are big-endian); Papyrus 3 is implicit too.
_IMPLICIT = frozenset({ImplicitVRLittleEndian, "1.2.840.113619.5.2", "1.2.840.10008.1.20"})

_LONG_VR = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
_SHORT_VR = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FL", "FD", "IS", "LO", "LT", "PN", "SH", "SL", "SS"),
    *("ST", "TM", "UI", "UL", "US"),
)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
VALUE = 1024  # bytes of a wanted value that are kept
_DEPTH = 128  # nesting of undefined lengths; real objects stay below 20
_ELEMENTS = 4_000_000  # headers that are looked at; seconds of work
_INFLATED = 256 << 20  # of a deflated data set, at most so much is looked at
_INFLATE_STEP = 1 << 18

# What the next header belongs to. Below `_ITEMS`: elements of a data set.
_EXPLICIT, _IMPLICIT_VR, _ITEMS, _ITEMS_IMPLICIT, _FRAGMENTS = range(5)


class Malformed(ValueError):
    """A data set is not encoded as it was said to be, or truncated; the text says how, without any value."""


def encoding(transfer_syntax_uid: str) -> str:
    """Return ``explicit`` or ``implicit`` if that, and little endian, is all there is to an encoding."""
    if transfer_syntax_uid == ImplicitVRLittleEndian:
        return "implicit"
    plain = transfer_syntax_uid not in _DEFLATED and transfer_syntax_uid != ExplicitVRBigEndian
    return "explicit" if plain and transfer_syntax_uid.startswith("1.2.840.10008.1.2") else ""


class Walker:
    """One walk through one data set.

    Parameters
    ----------
    transfer_syntax_uid
        How it is said to be encoded. A private syntax is taken for implicit or explicit VR by its first element.
    wanted
        Tags of top-level elements whose values are kept, the first `VALUE` bytes of each.

    Attributes
    ----------
    values : dict of int to bytes
        What was found of the wanted elements.
    lost : bool
        Whether it stopped looking before the end: the structure, or its size, is beyond what is followed here.
    """

    def __init__(self, transfer_syntax_uid: str, wanted: Container[int]) -> None:
        self.values: dict[int, bytes] = {}
        self.size = 0
        self.lost = False
        self.little = transfer_syntax_uid != ExplicitVRBigEndian
        self._wanted = wanted
        self._known = transfer_syntax_uid.startswith("1.2.840.10008.") or transfer_syntax_uid in _IMPLICIT
        self._mode = _IMPLICIT_VR if transfer_syntax_uid in _IMPLICIT else _EXPLICIT
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax_uid in _DEFLATED else None
        self._head, self._long = _STRUCTS[self.little]
        self._long_vr, self._short_vr = _codes(_LONG_VR, self.little), _codes(_SHORT_VR, self.little)
        self._sequences, (self._un,) = _codes(("SQ", "UN"), self.little), _codes(("UN",), self.little)
        self._binary = _codes(("OB", "OW"), self.little)
        self._stack: list[int] = []
        self._carry = b""  # the beginning of a header whose end has not arrived
        self._skip = 0  # bytes of a value still to come
        self._value: bytearray | None = None
        self._elements = 0
        self._began = False
        self._looks_explicit = 0  # the length of the first element, if implicit VR looks like explicit

    def passes(self, count: int) -> bool:
        """Take the next piece unseen, if all of it lies within a value that is not wanted; return whether it does."""
        if self._skip <= count or self._value is not None or self._inflate is not None:
            return False
        self._skip -= count
        self.size += count
        return True

    def feed(self, data: memoryview) -> None:
        """Take the next piece.

        Raises
        ------
        Malformed
            As soon as it is certain. Feed no more then.
        """
        if self.lost:
            return
        if self._inflate is None:
            self._walk(data)
            return
        rest: memoryview | bytes = data
        try:
            while rest and not self._inflate.eof and not self.lost:
                plain = self._inflate.decompress(rest, _INFLATE_STEP)
                rest = self._inflate.unconsumed_tail
                self._walk(memoryview(plain))
                self.lost |= self.size > _INFLATED
        except zlib.error:
            raise Malformed("the data set is not deflated, as its transfer syntax says") from None

    def finish(self) -> None:
        """Say that the last piece was fed.

        Raises
        ------
        Malformed
            If the data set is empty or its end is missing.
        """
        if self.lost:
            return
        if not self._began:
            raise Malformed("the data set is empty")
        if self._looks_explicit > self.size:
            raise Malformed("the data set is in explicit VR, its transfer syntax says implicit")
        if self._skip > 1:  # some writers leave out the padding byte of the last, odd value: that is not a loss
            raise Malformed(f"the data set is truncated: {self._skip} bytes are missing")
        if self._value is not None:
            self._keep()
        if self._carry.strip(b"\0"):
            raise Malformed("the data set is truncated: it ends within the header of an element")
        if self._inflate is not None and not self._inflate.eof:
            raise Malformed("the data set is truncated: its deflated stream has no end")
        open_ended = self._mode == _FRAGMENTS and len(self._stack) == 1
        if self._stack and not open_ended:
            raise Malformed("the data set is truncated: it ends within a sequence")

    # ------------------------------------------------------------ the walk

    def _walk(self, data: memoryview) -> None:
        at, end = 0, len(data)
        self.size += end
        while True:
            if self._skip:
                step = min(self._skip, end - at)
                if self._value is not None:
                    self._value += data[at : at + min(step, VALUE - len(self._value))]
                at += step
                self._skip -= step
                if self._skip:
                    return
            if self._value is not None:
                self._keep()
            if self._began and self._mode < _ITEMS and not self._carry:
                at = self._plain_elements(data, at, end)
            if at >= end or self.lost:
                return
            if self._carry:
                head = self._carry + bytes(data[at : at + 12])
                found = self._header(head, 0, len(head))
                if found is None:
                    self._carry = head
                    return
                at += found - len(self._carry)
                self._carry = b""
            else:
                found = self._header(data, at, end)
                if found is None:
                    self._carry = bytes(data[at:end])
                    return
                at += found

    def _plain_elements(self, data: memoryview, at: int, end: int) -> int:
        """Pass the elements that are all there and contain no others; return where the next one begins.

        Most of a data set is of this kind. Whatever is not is left to `_header`, which says the same of these.
        """
        explicit, wanted = self._mode == _EXPLICIT, () if self._stack else self._wanted
        unpack, unpack_long, values = self._head.unpack_from, self._long.unpack_from, self.values
        long_vr, short_vr = self._long_vr, self._short_vr
        left = _ELEMENTS - self._elements
        last = end - 12
        while at <= last and left > 0:
            group, number, vr, length = unpack(data, at)
            if group == 0xFFFE:
                break
            start = at + 8
            if not explicit:
                (length,) = unpack_long(data, at + 4)
            elif vr in long_vr:
                (length,) = unpack_long(data, start)
                start = at + 12
            elif vr not in short_vr:
                break
            following = start + length
            if following > end:  # also an undefined length
                break
            tag = group << 16 | number
            if tag in wanted and tag not in values:
                values[tag] = bytes(data[start : min(following, start + VALUE)])
            at = following
            left -= 1
        self._elements = _ELEMENTS - left
        return at

    def _header(self, data: memoryview | bytes, at: int, end: int) -> int | None:
        """Read the header at `at`, prepare for what follows it, and return its size; None if it is not all there."""
        if at + 8 > end:
            return None
        group, number, vr, length = self._head.unpack_from(data, at)
        tag, size, mode = group << 16 | number, 8, self._mode
        if not self._began:
            self._begin(group, vr, data, at)
            mode = self._mode
        if mode == _EXPLICIT and group != 0xFFFE:
            if vr in self._long_vr or (vr not in self._short_vr and not length and _letters(vr)):
                if at + 12 > end:
                    return None
                (length,) = self._long.unpack_from(data, at + 8)
                size = 12
        else:
            (length,) = self._long.unpack_from(data, at + 4)
        self._elements += 1
        if self._elements > _ELEMENTS:
            self.lost = True
        elif mode < _ITEMS:
            self._element(tag, vr, length, mode)
        else:
            self._item(tag, length, mode)
        return size

    def _element(self, tag: int, vr: int, length: int, mode: int) -> None:
        if tag == _ITEM_END:
            if self._stack:
                self._mode = self._stack.pop()
        elif length != _UNDEFINED:
            self._skip = length
            if not self._stack and tag in self._wanted:
                self._tag, self._value = tag, bytearray()
        elif tag in _PIXEL_TAGS and (mode == _IMPLICIT_VR or vr in self._binary or vr == self._un):
            self._enter(_FRAGMENTS)
        elif mode == _IMPLICIT_VR or vr == self._un:  # UN of undefined length is an implicit sequence (PS3.5, 6.2.2)
            self._enter(_ITEMS_IMPLICIT)
        elif vr in self._sequences:
            self._enter(_ITEMS)
        else:
            self.lost = True

    def _item(self, tag: int, length: int, mode: int) -> None:
        if tag == _SEQUENCE_END:
            self._mode = self._stack.pop()
        elif tag != _ITEM:
            self.lost = True
        elif length != _UNDEFINED:
            self._skip = length
        elif mode == _FRAGMENTS:
            self.lost = True
        else:
            self._enter(_EXPLICIT if mode == _ITEMS else _IMPLICIT_VR)

    def _enter(self, mode: int) -> None:
        if len(self._stack) >= _DEPTH:
            raise Malformed("its sequences are nested too deeply")
        self._stack.append(self._mode)
        self._mode = mode

    def _keep(self) -> None:
        assert self._value is not None
        self.values.setdefault(self._tag, bytes(self._value))
        self._value = None

    def _begin(self, group: int, vr: int, data: memoryview | bytes, at: int) -> None:
        """Check that the first element is encoded as the transfer syntax says: a guess is not what was negotiated."""
        self._began = True
        if group in (0x0000, 0x0002):
            raise Malformed("a file with preamble or meta information was sent, not a data set")
        if group >= 0x0100 and not group & 0xFF:
            raise Malformed("the data set has the other byte order than its transfer syntax says")
        known = vr in self._long_vr or vr in self._short_vr
        if not self._known:
            self._mode = _EXPLICIT if known else _IMPLICIT_VR
        elif self._mode == _EXPLICIT and not known:
            raise Malformed("the data set is not in the explicit VR that its transfer syntax says")
        elif self._mode == _IMPLICIT_VR and known:
            (self._looks_explicit,) = self._long.unpack_from(data, at + 4)


_STRUCTS = {
    little: (struct.Struct(f"{order}HHHH"), struct.Struct(f"{order}L")) for little, order in ((True, "<"), (False, ">"))
}


@lru_cache
def _codes(names: tuple[str, ...], little: bool) -> frozenset[int]:
    return frozenset(int.from_bytes(name.encode(), "little" if little else "big") for name in names)


def _letters(vr: int) -> bool:
    """Whether two bytes could be a VR of a later edition of the standard: those have long lengths (PS3.5, 6.2)."""
    return 0x41 <= vr & 0xFF <= 0x5A and 0x41 <= vr >> 8 <= 0x5A
