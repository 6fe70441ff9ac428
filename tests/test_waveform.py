"""The waveform packet: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeward.waveform import FLAG_LAST, MAX_BYTES, MAX_LEADS, MAX_SAMPLES, PacketError, WaveformPacket, decode, encode

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)


@st.composite
def packets(draw: st.DrawFn) -> WaveformPacket:
    leads = draw(st.integers(1, MAX_LEADS))
    count = draw(st.integers(1, 64))
    return WaveformPacket(
        samples=draw(arrays(np.int16, (leads, count))),
        sequence=draw(st.integers(0, 2**32 - 1)),
        first_sample=draw(st.integers(0, 2**62)),
        start_ns=draw(st.integers(-(2**62), 2**62)),
        rate_hz=draw(st.floats(20, 2000, width=32)),
        gain_uv=draw(st.floats(0.0009765625, 10_000, width=32)),
        leads=tuple(draw(st.lists(names, min_size=leads, max_size=leads))),
        lead_off=tuple(draw(st.lists(st.booleans(), min_size=leads, max_size=leads))),
        flags=draw(st.integers(0, 3)),
    )


def example(**changes) -> WaveformPacket:
    packet = WaveformPacket(
        samples=np.arange(500, dtype=np.int16).reshape(2, 250), sequence=9, first_sample=2250, start_ns=10**18,
        rate_hz=250.0, gain_uv=2.5, leads=("I", "II"), lead_off=(False, True), flags=FLAG_LAST,
    )  # fmt: skip
    return replace(packet, **changes)


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def with_field(offset: int, form: str, value: float) -> bytes:
    """A packet with one header field overwritten and a right checksum: only the field is wrong."""
    body = bytearray(encode(example())[:-4])
    struct.pack_into(form, body, offset, value)
    return sealed(bytes(body))


@given(packets())
def test_what_is_encoded_is_decoded(packet):
    got = decode(encode(packet))

    assert np.array_equal(got.samples, packet.samples)
    assert got.samples.dtype == np.int16
    for name in ("sequence", "first_sample", "start_ns", "rate_hz", "gain_uv", "leads", "lead_off", "flags"):
        assert getattr(got, name) == getattr(packet, name), name


def test_the_largest_packet_fits_and_one_byte_more_does_not():
    largest = encode(
        example(
            samples=np.zeros((MAX_LEADS, MAX_SAMPLES), dtype=np.int16),
            leads=tuple(f"V{i}" for i in range(MAX_LEADS)),
            lead_off=(True,) * MAX_LEADS,
        )
    )

    assert len(largest) == MAX_BYTES
    assert decode(largest).lead_off == (True,) * MAX_LEADS
    with pytest.raises(PacketError, match="largest"):
        decode(largest + b"\0")


def test_the_sequence_number_wraps():
    assert decode(encode(example(sequence=2**32 + 5))).sequence == 5


def test_every_truncation_is_refused():
    data = encode(example())

    for size in range(len(data)):
        with pytest.raises(PacketError):
            decode(data[:size])


@given(st.data())
def test_every_damaged_byte_is_noticed(data):
    raw = bytearray(encode(example()))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(PacketError):
        decode(bytes(raw))


@given(st.binary(max_size=600))
def test_noise_gives_a_packet_error_and_nothing_else(noise):
    for data in (noise, b"EWW1\x01" + noise, sealed(b"EWW1\x01" + noise)):
        with pytest.raises(PacketError):
            decode(data)


@given(st.binary(min_size=36, max_size=36), st.integers(0, 3))
def test_a_hostile_header_with_a_right_checksum_never_raises_anything_else(header, extra):
    body = b"EWW1" + header + bytes(8 * (header[2] % 13) + 2 * extra)
    with contextlib.suppress(PacketError):
        decode(sealed(body))


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (4, "B", 2, "version 2"),
        (6, "B", 0, "0 leads"),
        (6, "B", 13, "13 leads"),
        (6, "B", 3, "bytes, but 3 leads"),
        (10, "H", 0, "0 samples"),
        (10, "H", 4097, "4097 samples"),
        (10, "H", 249, "bytes, but 2 leads of 249"),
        (32, "f", 19.9, "sampling rate"),
        (32, "f", 2001.0, "sampling rate"),
        (32, "f", float("nan"), "sampling rate"),
        (32, "f", float("inf"), "sampling rate"),
        (36, "f", 0.0, "gain"),
        (36, "f", -1.0, "gain"),
        (36, "f", float("nan"), "gain"),
        (36, "f", 1e9, "gain"),
        (16, "Q", 2**63, "sample index"),
        (40, "B", 0, "lead name"),
        (40, "B", 0xFF, "lead name"),
    ],
)
def test_each_field_outside_its_range_is_refused_by_name(offset, form, value, reason):
    with pytest.raises(PacketError, match=reason):
        decode(with_field(offset, "<" + form, value))


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": np.zeros(5, dtype=np.int16)},
        {"samples": np.zeros((2, 0), dtype=np.int16)},
        {"samples": np.zeros((2, MAX_SAMPLES + 1), dtype=np.int16)},
        {"samples": np.zeros((13, 5), dtype=np.int16)},
        {"leads": ("I",)},
        {"lead_off": (True,)},
        {"leads": ("I", "a name too long")},
        {"leads": ("I", "")},
        {"leads": ("I", "ECG 1")},
        {"leads": ("I", "導聯")},
        {"rate_hz": 10.0},
        {"rate_hz": float("nan")},
        {"gain_uv": 0.0},
        {"gain_uv": float("inf")},
        {"first_sample": -1},
        {"first_sample": 2**63},
        {"start_ns": 2**63},
        {"flags": 256},
    ],
)
def test_a_device_cannot_encode_what_the_site_would_refuse(changes):
    with pytest.raises(PacketError):
        encode(example(**changes))
