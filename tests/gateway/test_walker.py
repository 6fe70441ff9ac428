"""Structure of data sets, met in pieces: the same findings however they are cut, and every missing end noticed."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from edgeward.gateway import walker
from edgeward.gateway.walker import Malformed, Walker

UNDEFINED = 0xFFFFFFFF
ID, ROWS = 0x00100020, 0x00280010
WANTED = {ID, ROWS}


def element(tag: int, vr: str, value: bytes, length: int | None = None, order: str = "<") -> bytes:
    length = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in ("OB", "OW", "SQ", "UN", "UT"):
        return head + struct.pack(order + "HL", 0, length) + value
    return head + struct.pack(order + "H", length) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(content: bytes, length: int | None = None, order: str = "<") -> bytes:
    return struct.pack(order + "HHL", 0xFFFE, 0xE000, len(content) if length is None else length) + content


ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)

FIRST = element(0x00080005, "CS", b"ISO_IR 100")
INNER = element(0x00081150, "UI", b"1.2.3\0") + element(ID, "LO", b"INNER ")
OPEN_ITEM = item(INNER, UNDEFINED) + ITEM_END
OPEN_SEQUENCE = element(0x00081140, "SQ", OPEN_ITEM + item(INNER) + SEQUENCE_END, UNDEFINED)
NESTED = element(0x00081140, "SQ", item(OPEN_SEQUENCE, UNDEFINED) + ITEM_END + SEQUENCE_END, UNDEFINED)
UNKNOWN = element(
    0x00091010, "UN", item(implicit(0x00081150, b"1.2\0") + implicit(ID, b"HIDE"), UNDEFINED) + ITEM_END + SEQUENCE_END,
    UNDEFINED,
)  # fmt: skip
NAMED = element(ID, "LO", b"PID-4711") + element(ROWS, "US", b"\x40\x01")
ENCAPSULATED = element(
    0x7FE00010, "OB", item(b"") + item(bytes(1000)) + item(bytes(501)[:500]) + SEQUENCE_END, UNDEFINED
)

WHOLE = {
    "plain": FIRST + NAMED + element(0x7FE00010, "OW", bytes(2000)),
    "open sequence": FIRST + OPEN_SEQUENCE + NAMED,
    "nested": FIRST + NESTED + UNKNOWN + NAMED + ENCAPSULATED,
    "nothing after the header": FIRST + NAMED,
}


def walk(data: bytes, pieces: int, syntax: str = ExplicitVRLittleEndian) -> Walker:
    one = Walker(syntax, WANTED)
    view = memoryview(data)
    for at in range(0, len(view), pieces):
        one.feed(view[at : at + pieces])
    one.finish()
    return one


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 11, 12, 13, 100, 10_000])
def test_the_same_is_found_however_it_is_cut(name: str, pieces: int) -> None:
    one = walk(WHOLE[name], pieces)

    assert one.values == {ID: b"PID-4711", ROWS: b"\x40\x01"}, "a value within a sequence is another object's"
    assert not one.lost
    assert one.size == len(WHOLE[name])


@pytest.mark.parametrize("name", ["plain", "open sequence", "nested"])
@pytest.mark.parametrize("pieces", [5, 10_000])
def test_every_missing_end_is_noticed_but_at_a_boundary(name: str, pieces: int) -> None:
    data = WHOLE[name]
    unnoticed = []
    for length in range(len(data)):
        try:
            walk(data[:length], pieces)
        except Malformed:
            continue
        unnoticed.append(length)

    # Where an element of the top level has just ended, or one byte (a padding) before; within encapsulated pixel data
    # where a fragment has.
    starts = {start for start in range(len(data)) if data[start : start + 4] in _heads(data)}
    allowed = {edge - back for edge in starts | {len(data)} for back in (0, 1)}
    zeros = {length for length in unnoticed if not data[:length][-1:].strip(b"\0")}
    assert set(unnoticed) <= allowed | zeros
    assert len(unnoticed) < 40


def _heads(data: bytes) -> set[bytes]:
    tags = [0x00080005, 0x00081140, 0x00091010, ID, ROWS, 0x7FE00010]
    return {struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in tags} | {
        struct.pack("<HH", 0xFFFE, number) for number in (0xE000, 0xE0DD)
    }


def test_big_endian_and_implicit_are_walked() -> None:
    big = element(0x00080005, "CS", b"ISO_IR 100", order=">") + element(ROWS, "US", b"\x01\x40", order=">")
    assert walk(big, 5, ExplicitVRBigEndian).values == {ROWS: b"\x01\x40"}

    sequence = implicit(0x00081140, item(implicit(ID, b"HIDE"), UNDEFINED) + ITEM_END + SEQUENCE_END, UNDEFINED)
    flat = implicit(0x00080005, b"ISO_IR 100") + sequence + implicit(ID, b"PID-1 ")
    assert walk(flat, 5, ImplicitVRLittleEndian).values == {ID: b"PID-1 "}


def test_a_private_syntax_is_taken_for_what_its_first_element_looks_like() -> None:
    assert walk(WHOLE["plain"], 100, "1.3.999.1").values[ID] == b"PID-4711"
    flat = implicit(0x00080005, b"ISO_IR 100") + implicit(ID, b"PID-1 ")
    assert walk(flat, 100, "1.3.999.1").values[ID] == b"PID-1 "


def deflated(data: bytes) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


@pytest.mark.parametrize("pieces", [1, 50, 10_000])
def test_a_deflated_data_set_is_walked_and_its_end_missed(pieces: int) -> None:
    data = deflated(WHOLE["nested"])
    assert walk(data, pieces, DeflatedExplicitVRLittleEndian).values[ID] == b"PID-4711"
    assert walk(data + b"\0", pieces, DeflatedExplicitVRLittleEndian).values[ID] == b"PID-4711"

    for length in range(1, len(data) - 1):
        with pytest.raises(Malformed):
            walk(data[:length], pieces, DeflatedExplicitVRLittleEndian)
    with pytest.raises(Malformed, match="not deflated"):
        walk(b"\xff" * 100, pieces, DeflatedExplicitVRLittleEndian)


def test_a_walk_that_would_never_end_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walker, "_ELEMENTS", 1000)
    one = Walker(ExplicitVRLittleEndian, WANTED)
    one.feed(memoryview(FIRST + NAMED + element(0x00091010, "UN", b"", UNDEFINED)))

    for _ in range(50):
        one.feed(memoryview(item(b"") * 100))

    assert one.lost
    one.finish()
    assert one.values[ID] == b"PID-4711"


def test_nesting_without_end_is_refused_in_bounded_memory() -> None:
    one = Walker(ExplicitVRLittleEndian, WANTED)
    one.feed(memoryview(FIRST))
    with pytest.raises(Malformed, match="nested"):
        for _ in range(1000):
            one.feed(memoryview(element(0x00081140, "SQ", item(b"", UNDEFINED), UNDEFINED)))


def test_a_long_value_is_kept_in_part() -> None:
    one = walk(FIRST + element(0x00081030, "UT", bytes(10)) + element(ID, "UT", b"x" * 100_000), 999)
    assert len(one.values[ID]) == walker.VALUE


@given(st.binary(max_size=400), st.integers(1, 50), st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_the_same_cut_or_whole(data: bytes, pieces: int, syntax: str) -> None:
    def outcome(step: int) -> object:
        try:
            one = walk(FIRST + data if syntax == ExplicitVRLittleEndian else data, step, syntax)
        except Malformed as error:
            return str(error).split(":")[0]
        return one.values, one.lost

    assert outcome(pieces) == outcome(10_000)


def findings(data: bytes, syntax: str, step: int) -> tuple[object, ...]:
    walk, error = Walker(syntax, WANTED), ""
    try:
        for at in range(0, len(data), step):
            walk.feed(memoryview(data)[at : at + step])
        walk.finish()
    except Malformed as malformed:
        error = str(malformed)
    return walk.values, walk.lost, walk._elements, error


@pytest.mark.parametrize("name", list(WHOLE))
def test_elements_passed_in_one_go_are_found_as_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way past plain elements says what the careful way says, also of damaged data."""
    rng = random.Random(name)
    plain = IMPLICIT if name == "plain" else WHOLE[name]
    for number in range(400):
        data = bytearray(WHOLE[name] if number % 2 else plain)
        for _ in range(rng.randrange(4)):
            data[rng.randrange(min(len(data), 300))] = rng.choice((0, 1, 2, 8, 0xFE, 0xFF, rng.randrange(256)))
        syntax = rng.choice((ExplicitVRLittleEndian, ImplicitVRLittleEndian, "1.2.3", ExplicitVRBigEndian))
        whole, step = bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]), rng.choice((1 << 20, 100, 13))
        quick = findings(whole, syntax, step)

        with monkeypatch.context() as patch:
            patch.setattr(Walker, "_plain_elements", lambda _self, _data, at, _end: at)
            careful = findings(whole, syntax, step)

        assert quick == careful


IMPLICIT = b"".join(
    (
        implicit(0x00080005, b"ISO_IR 100"),
        implicit(ID, b"PID-4711"),
        implicit(0x00081140, item(implicit(ID, b"INNER "), UNDEFINED) + ITEM_END + SEQUENCE_END, UNDEFINED),
        implicit(ROWS, b"\x40\x01"),
        implicit(0x7FE00010, bytes(500)),
    )
)
