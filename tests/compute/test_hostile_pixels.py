"""Pixel data that lies, is cut, or is a bomb: refused with a reason, in bounded memory and time, without a crash.

The long campaign is in ``tests/faults/test_hostile_pixels.py``.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.objects import dataset, to_bytes
from tests.support.pixels import COLOUR, DEEP, GREY, LIMIT_S, Victim, compressed, damaged, deflated, made, seeds

from edgeward.compute.decode import DecodeError, ImageObject, decode_frame

MADE = made()
SEEDS = seeds()


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    child = Victim()
    yield child
    child.close()


@pytest.mark.parametrize("name", MADE)
def test_every_lossless_kind_gives_its_values(name: str) -> None:
    data, values = MADE[name]

    assert (ImageObject(data).stored(0).values == values).all()


# ---------------------------------------- offset tables and fragments

FRAMES = [np.full((48, 64), 10 * n, np.uint8) for n in range(6)]
STREAMS = [imagecodecs.jpegls_encode(frame) for frame in FRAMES]


def levels(data: bytes) -> list[int]:
    image = ImageObject(data)
    return [int(image.stored(n).values[0, 0]) for n in range(image.frames)]


def loop(table: list[int] | None, items: list[bytes], frames: int = 6, end: bool = True, **attributes: object) -> bytes:
    """A loop with this basic offset table and these fragments."""
    plain = compressed(".4.80", STREAMS[:1], GREY, NumberOfFrames=frames, **attributes)
    head = plain[: plain.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 12]
    basic = b"" if table is None else struct.pack(f"<{len(table)}I", *table)
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(i)) + i for i in (basic, *items))
    return head + body + (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if end else b"")


EVEN = [s + b"\0" * (len(s) % 2) for s in STREAMS]
OFFSETS = [sum(8 + len(s) for s in EVEN[:n]) for n in range(6)]
HALVES = [part for s in EVEN for part in (s[:20], s[20:])]
HALF_OFFSETS = [sum(16 + len(s) for s in EVEN[:n]) for n in range(6)]


@pytest.mark.parametrize(
    "data",
    [
        loop(OFFSETS, EVEN),
        loop(None, EVEN),
        loop(HALF_OFFSETS, HALVES),
        loop(None, HALVES),  # only the codestreams' beginnings tell where a frame begins
        loop([0] * 6, EVEN),
        loop([7, *OFFSETS[1:]], EVEN),
        loop([0, *(o + 1 for o in OFFSETS[1:])], EVEN),
        loop([0, *(0xFFFFFFF0 for _ in range(5))], EVEN),
        loop(OFFSETS[:4], EVEN),
        loop(OFFSETS[::-1], EVEN),
        loop(None, EVEN, end=False),
        loop(OFFSETS, EVEN, end=False),
        loop(None, EVEN, ExtendedOffsetTable=bytes(48), ExtendedOffsetTableLengths=bytes(48)),
        loop(None, EVEN, ExtendedOffsetTable=b"\xff" * 48, ExtendedOffsetTableLengths=b"\xff" * 48),
        loop(None, EVEN, ExtendedOffsetTable=bytes(8), ExtendedOffsetTableLengths=bytes(8)),
    ],
    ids=["table", "none", "halves", "halves, no table", "zeros", "not at 0", "between", "beyond", "short", "backwards",
         "no end", "no end, table", "extended zeros", "extended beyond", "extended short"],
)  # fmt: skip
def test_a_loop_is_read_whatever_its_offset_tables_say(data: bytes) -> None:
    assert levels(data) == [0, 10, 20, 30, 40, 50]


def test_an_extended_offset_table_is_used() -> None:
    data = compressed(".4.80", STREAMS, GREY, extended=True)

    assert levels(data) == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (loop(None, EVEN[:5]), "truncated"),
        (loop(None, [*EVEN, *EVEN]), "frames"),
        (loop(None, [*EVEN[:5], b""]), "empty"),
        (loop(None, EVEN)[:-40], "truncated"),
        (loop(None, [*EVEN, b"\0\0"]), ""),
        (loop(None, [b"\0\0", *EVEN]), ""),
    ],
    ids=["too few", "too many", "empty", "cut", "one more", "one before"],
)
def test_fragments_that_are_not_the_frames_are_refused_or_harmless(data: bytes, reason: str) -> None:
    if not reason:
        assert levels(data) == [0, 10, 20, 30, 40, 50]
        return
    with pytest.raises(DecodeError, match=reason):
        levels(data)


# ---------------------------------------- lies about sizes


def lying(syntax: str, stream: bytes, old: bytes, new: bytes, pixels: np.ndarray) -> bytes:
    assert old in stream
    return compressed(syntax, [stream.replace(old, new, 1)], pixels)


HUGE = struct.pack(">HH", 60000, 60000)
SIZE, WIDE = struct.pack(">HH", 48, 64), struct.pack(">II", 64, 48)


@pytest.mark.parametrize(
    "data",
    [
        lying(".4.50", imagecodecs.jpeg8_encode(GREY), SIZE, HUGE, GREY),
        lying(".4.70", imagecodecs.jpeg8_encode(GREY, lossless=True), SIZE, HUGE, GREY),
        lying(".4.80", imagecodecs.jpegls_encode(GREY), SIZE, HUGE, GREY),
        lying(
            ".4.90", imagecodecs.jpeg2k_encode(GREY, codecformat="J2K"), WIDE, struct.pack(">II", 60000, 60000), GREY
        ),
        lying(".4.201", imagecodecs.htj2k_encode(GREY), WIDE, struct.pack(">II", 60000, 60000), GREY),
        compressed(".4.110", [imagecodecs.jpegxl_encode(np.zeros((1000, 1000), np.uint8))], GREY),
        compressed(".8.1", [deflated(bytes(1 << 27))], GREY),
        compressed(".5", [b"\x01\0\0\0\x40\0\0\0" + bytes(56) + b"\x81\0" * 20], GREY, Rows=4000, Columns=4000),
        compressed(".5", [b"\x01\0\0\0\x40\0\0\0" + bytes(56) + b"\x81\0" * 200_000], GREY),
    ],
    ids=["JPEG", "lossless", "JPEG-LS", "JPEG 2000", "HTJ2K", "JPEG XL", "deflate", "RLE", "RLE runs"],
)
def test_a_codestream_that_promises_more_than_the_object_declares_costs_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode_frame(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * len(data) + (4 << 20)


@pytest.mark.parametrize("name", ["JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K", "HTJ2K lossy", "JPEG XL"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_codestream_that_is_cut_in_a_whole_fragment_is_refused(name: str, part: float) -> None:
    """The fragment's length is right, so that only the codestream tells: half a picture is not a picture."""
    rough = np.random.default_rng(4).integers(0, 20, (200, 300)) + np.add.outer(np.arange(200), np.arange(300))
    deep, flat = rough.astype(np.uint16), (rough >> 2).astype(np.uint8)
    syntax, encode, pixels = {
        "JPEG": (".4.50", lambda p: imagecodecs.jpeg8_encode(p, level=90), flat),
        "JPEG lossless": (".4.57", lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=16), deep),
        "JPEG-LS": (".4.80", imagecodecs.jpegls_encode, deep),
        "JPEG 2000": (".4.90", lambda p: imagecodecs.jpeg2k_encode(p, codecformat="J2K", reversible=True), deep),
        "HTJ2K": (".4.201", lambda p: imagecodecs.htj2k_encode(p, reversible=True), deep),
        "HTJ2K lossy": (".4.203", imagecodecs.htj2k_encode, deep),
        "JPEG XL": (".4.110", lambda p: imagecodecs.jpegxl_encode(p, lossless=True), deep),
    }[name]
    stream = encode(pixels)

    with pytest.raises(DecodeError):
        decode_frame(compressed(syntax, [stream[: int(len(stream) * part)]], pixels))


def test_tiles_beyond_counting_are_refused() -> None:
    stream = imagecodecs.jpeg2k_encode(GREY, codecformat="J2K")
    tiny = bytearray(stream)
    tiny[24:32] = struct.pack(">II", 1, 1)
    wide = np.zeros((1000, 1000), np.uint8)
    tiny[8:16] = struct.pack(">II", 1000, 1000)

    with pytest.raises(DecodeError, match="tiles"):
        decode_frame(compressed(".4.90", [bytes(tiny)], wide))


def test_a_progressive_jpeg_with_endless_scans_is_refused() -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(GREY).save(out, "JPEG", progressive=True)
    stream = out.getvalue()
    scan = stream[stream.rindex(b"\xff\xda") : -2]

    with pytest.raises(DecodeError, match="scans"):
        decode_frame(compressed(".4.55", [stream[:-2] + scan * 1000 + b"\xff\xd9"], GREY))


def test_a_deflated_frame_that_is_too_short_is_refused() -> None:
    with pytest.raises(DecodeError, match="truncated"):
        decode_frame(compressed(".8.1", [deflated(bytes(100))], GREY))


def test_a_deflated_object_that_is_cut_is_refused() -> None:
    plain = to_bytes(dataset(GREY))
    body = plain[plain.index(struct.pack("<HH", 8, 0x16)) :]
    uid = b"1.2.840.10008.1.2.1.99"
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    head = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(element)) + element
    pump = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = pump.compress(body) + pump.flush()

    assert (decode_frame(head + packed).pixels == GREY[:, :, None]).all()
    for cut in (1, 10, len(packed) // 2, len(packed) - 1):
        try:  # what is lost may be the end mark only
            pixels = decode_frame(head + packed[:-cut]).pixels
        except DecodeError:
            continue
        assert (pixels == GREY[:, :, None]).all()
        assert cut < 20


# ---------------------------------------- palettes


def palette(descriptor: list[int], data: bytes, **attributes: object) -> bytes:
    ds = dataset(GREY, PhotometricInterpretation="PALETTE COLOR", **attributes)
    segmented = attributes.pop("segmented", False)
    for name in ("Red", "Green", "Blue"):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", descriptor)
        setattr(ds, f"{'Segmented' if segmented else ''}{name}PaletteColorLookupTableData", data)
    return to_bytes(ds)


def segmented(*words: int, entries: int = 256) -> bytes:
    ds = dataset(GREY, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [entries, 0, 16])
        setattr(ds, f"Segmented{name}PaletteColorLookupTableData", struct.pack(f"<{len(words)}H", *words))
    return to_bytes(ds)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (palette([0, 0, 16], bytes(10)), "truncated"),  # 0 stands for 65536 entries
        (palette([65535, 0, 16], bytes(10)), "truncated"),
        (palette([256, 0, 99], bytes(512)), "bits"),
        (palette([256, 0, 0], bytes(512)), "bits"),
        (segmented(9, 1, 2, 3), "damaged"),
        (segmented(1, 5, 9), "damaged"),  # a line from nowhere
        (segmented(0, 2, 1, 2), "truncated"),
        (segmented(0, 1, 0, 2, 5, 0, 0), "damaged"),  # refers to a reference
        (segmented(2, 65535, 0, 0), "damaged"),  # refers to itself
    ],
)
def test_absurd_palettes_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_frame(data)


def test_a_segmented_palette_is_expanded_as_the_standard_says() -> None:
    """PS3.3 C.7.9.2: four values, a line up, and the line repeated from where it now stands."""
    data = segmented(0, 4, 0, 256, 512, 768, 1, 126, 65280, 0, 1, 0, 1, 125, 65280)

    red = decode_frame(data).pixels[..., 0]

    expected = np.zeros(256, int)
    expected[:4] = [0, 1, 2, 3]
    expected[4:130] = np.rint(np.linspace(768, 65280, 127)[1:]).astype(int) >> 8
    expected[131:] = np.rint(np.linspace(0, 65280, 126)[1:]).astype(int) >> 8
    assert (red == expected[GREY]).all()


def test_an_indirect_segment_repeats_earlier_ones() -> None:
    data = segmented(0, 2, 100 << 8, 200 << 8, 2, 1, 0, 0, 1, 252, 0)

    red = decode_frame(data).pixels[..., 0]

    assert red[GREY == 2].tolist() == [100] * int((GREY == 2).sum())
    assert red[GREY == 3].tolist() == [200] * int((GREY == 3).sum())


def test_indices_below_and_above_the_palette_take_its_ends() -> None:
    ds = dataset(GREY, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [10, 20, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", (np.arange(10, dtype="<u2") * 1000 + 5000).tobytes())

    red = decode_frame(to_bytes(ds)).pixels[..., 0]

    assert (red == (np.clip(GREY.astype(int) - 20, 0, 9) * 1000 + 5000) >> 8).all()


# ---------------------------------------- bits


def test_overlay_bits_above_the_stored_ones_are_not_pixels() -> None:
    stored = DEEP & 0xFFF
    overlay = (np.random.default_rng(1).integers(0, 16, DEEP.shape) << 12).astype(np.uint16)

    values = ImageObject(to_bytes(dataset(stored | overlay, BitsStored=12, HighBit=11))).stored(0).values

    assert (values == stored).all()


def test_a_high_bit_above_the_stored_ones_shifts() -> None:
    stored = DEEP & 0xFFF

    values = ImageObject(to_bytes(dataset((stored << 4) | 7, BitsStored=12, HighBit=15))).stored(0).values

    assert (values == stored).all()


def test_signed_values_of_odd_depth_keep_their_sign() -> None:
    signed = (DEEP.astype(np.int16) - 500) % 2048 - 1024
    junk = (np.random.default_rng(2).integers(0, 32, DEEP.shape) << 11).astype(np.uint16)
    raw = (signed.astype(np.uint16) & 0x7FF) | junk

    values = ImageObject(to_bytes(dataset(raw, BitsStored=11, HighBit=10, PixelRepresentation=1))).stored(0).values

    assert (values == signed).all()


def test_one_bit_frames_begin_in_the_middle_of_a_byte() -> None:
    bits = np.random.default_rng(3).integers(0, 2, (5, 49, 51), dtype=np.uint8)
    ds = dataset(bits, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    ds.PixelData = packed + b"\0" * (len(packed) % 2)
    image = ImageObject(to_bytes(ds))

    for n in range(5):
        assert (image.stored(n).values == bits[n]).all()
    assert set(np.unique(decode_frame(to_bytes(ds)).pixels)) == {0, 255}


def test_packed_twelve_bits_are_read() -> None:
    values = (DEEP & 0xFFF).astype(np.uint16)
    bits = ((values.reshape(-1, 1) >> np.arange(12)) & 1).astype(np.uint8)
    ds = dataset(values, BitsAllocated=12, BitsStored=12, HighBit=11)
    ds.PixelData = np.packbits(bits.reshape(-1), bitorder="little").tobytes()

    assert (ImageObject(to_bytes(ds)).stored(0).values == values).all()


def test_floating_point_pixels_are_shown() -> None:
    ds = dataset(GREY)
    del ds.PixelData
    floats = GREY.astype(np.float32) / 7
    floats[0, 0] = np.nan
    ds.FloatPixelData = floats.tobytes()
    del ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation

    frame = decode_frame(to_bytes(ds))

    assert (frame.pixels[1:, 1:, 0].min(), frame.pixels.max()) == (2, 255)  # of 1/7 to 110/7


@pytest.mark.parametrize("syntax", [".4.100", ".4.102", ".4.103.1", ".4.107", ".7.1"])
def test_video_is_told_as_such(syntax: str) -> None:
    with pytest.raises(DecodeError, match="video transfer syntax"):
        decode_frame(compressed(syntax, [b"\0\0\1\xb3" * 20], COLOUR))


# ---------------------------------------- anything


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.sampled_from(range(len(SEEDS))), number=st.integers(0, 2**32))
def test_whatever_is_damaged_is_decoded_or_refused_with_a_reason(victim: Victim, seed: int, number: int) -> None:
    answer, seconds = victim.decode(damaged(SEEDS[seed], random.Random(number)))

    assert not answer.startswith(("CRASHED", "HUNG", "RAISED")), answer
    assert seconds < LIMIT_S
