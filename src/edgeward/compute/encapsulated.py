"""Finding one frame in encapsulated pixel data (PS3.5 A.4) without reading the others.

Responsible for the offset tables, and for walking the item headers where the tables are missing or wrong. Not
responsible for decoding what it finds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import BinaryIO

from edgeward.compute.codestream import DecodeError

_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE  # (FFFE,E000) and (FFFE,E0DD) as one little-endian number
_MAX_FRAGMENTS = 400_000
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")  # JPEG and JPEG-LS, JPEG 2000, JP2


class Encapsulated:
    """The fragments of one Pixel Data element.

    Parameters
    ----------
    file : positioned anywhere; it is only read
    start : position of the first item, the basic offset table
    end : the file's size
    frames : number of frames declared
    extended : extended offset table and lengths (7FE0,0001 and 0002), empty if absent

    Raises
    ------
    DecodeError
        If there is no sequence of items.
    """

    def __init__(
        self, file: BinaryIO, start: int, end: int, frames: int, extended: tuple[Sequence[int], Sequence[int]]
    ) -> None:
        self._file, self._end, self._frames = file, end, frames
        self._extended_offsets, self._extended_lengths = extended
        tag, length = self._header(start)
        if tag != _ITEM:
            raise DecodeError("the compressed pixel data is no sequence of fragments")
        self._first = start + 8 + length
        self._basic: tuple[int, ...] = ()
        if length == 4 * frames and length > 4:  # of a single frame the table says nothing new
            table = self._read(start + 8, length)
            offsets = struct.unpack(f"<{frames}I", table)
            if offsets[0] == 0 and all(a < b for a, b in pairwise(offsets)):
                self._basic = offsets
        self._groups: list[list[tuple[int, int]]] | None = None

    def frame(self, index: int) -> bytes:
        """Return the compressed bytes of one frame, counted from zero.

        Raises
        ------
        DecodeError
            If the frame is missing, truncated, or cannot be told from its neighbours.
        """
        found = self._by_extended_table(index)
        if found is None:
            found = self._by_basic_table(index)
        if found is None:
            if self._groups is None:
                self._groups = self._scan()
            found = self._groups[index]
        data = b"".join(self._read(place, length) for place, length in found)
        if not data:
            raise DecodeError("the compressed frame is empty")
        return data

    def _by_extended_table(self, index: int) -> list[tuple[int, int]] | None:
        """One fragment per frame, by definition of the extended table (PS3.3 C.7.6.3.1.8)."""
        if len(self._extended_offsets) != self._frames or len(self._extended_lengths) != self._frames:
            return None
        place, length = self._first + self._extended_offsets[index], self._extended_lengths[index]
        tag, whole = self._header(place)
        if tag != _ITEM or not 0 < length <= whole:
            return None
        return [(place + 8, length)]

    def _by_basic_table(self, index: int) -> list[tuple[int, int]] | None:
        """Return the frame's fragments, or None if the table contradicts the items."""
        if not self._basic:
            return None
        place = self._first + self._basic[index]
        last = index + 1 == self._frames
        stop = self._end if last else self._first + self._basic[index + 1]
        found = []
        while place < stop:
            tag, length = self._header(place)
            if last and (tag == _END or (tag == 0 and place + 8 > self._end)):
                break
            if tag != _ITEM:
                return None
            found.append((place + 8, length))
            if len(found) > _MAX_FRAGMENTS:
                return None
            place += 8 + length
        if not found or (not last and place != stop):
            return None
        return found

    def _scan(self) -> list[list[tuple[int, int]]]:
        """Walk all item headers and assign the fragments to frames."""
        place, fragments = self._first, []
        while place + 8 <= self._end:
            tag, length = self._header(place)
            if tag != _ITEM:  # the sequence delimiter, or what follows a lost one
                break
            fragments.append((place + 8, length))
            if len(fragments) > _MAX_FRAGMENTS:
                raise DecodeError(f"the compressed pixel data has more than {_MAX_FRAGMENTS} fragments")
            place += 8 + length
        if len(fragments) == self._frames:
            return [[fragment] for fragment in fragments]
        if len(fragments) < self._frames:
            raise DecodeError(f"truncated: {len(fragments)} fragments for {self._frames} compressed frames")
        if self._frames == 1:
            return [fragments]
        groups: list[list[tuple[int, int]]] = []
        for fragment in fragments:
            if self._read(fragment[0], min(fragment[1], 8)).startswith(_STARTS):
                groups.append([])
            if groups:
                groups[-1].append(fragment)
        if len(groups) != self._frames:
            raise DecodeError(f"{len(fragments)} fragments cannot be assigned to {self._frames} frames")
        return groups

    def _header(self, place: int) -> tuple[int, int]:
        """Tag and length of the item at `place`; zeros beyond the end."""
        if place + 8 > self._end:
            return 0, 0
        self._file.seek(place)
        head = self._file.read(8)
        if len(head) < 8:
            return 0, 0
        tag, length = struct.unpack("<II", head)
        return tag, length

    def _read(self, place: int, length: int) -> bytes:
        # A file that ends just before the padding byte of its last fragment has lost nothing.
        if place + length > self._end + 1:
            raise DecodeError(
                f"truncated: a fragment of {length} bytes, of which {max(0, self._end - place)} are there"
            )
        self._file.seek(place)
        data = self._file.read(length)
        if len(data) < length - 1:
            raise DecodeError("truncated: the object became shorter while it was read")
        return data
