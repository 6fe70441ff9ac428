"""Version 2 of the waveform packet: channels of any kind and rate in one packet, and nothing else is let in."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeward import waveform
from edgeward.waveform import (
    FLAG_LAST,
    MAX_BYTES_CHANNELS,
    MAX_CHANNELS,
    MAX_SAMPLES,
    STATE_CALIBRATING,
    STATE_OFF,
    UNITS,
    Block,
    Channel,
    Kind,
    PacketError,
    WaveformPacket,
    encode,
    encode_channels,
    read,
)

START_NS = 10**18


def channel(name="Pleth", kind=Kind.PLETH, rate=125.0, gain=0.5, offset=0.0) -> Channel:
    return Channel(name=name, kind=kind, rate_hz=rate, gain=gain, offset=offset)


def block(of=None, first=1250, count=125, state=0, **changes) -> Block:
    return Block(of or channel(**changes), first, np.arange(count, dtype=np.int16), state)


def ecg(name="II", **changes) -> Block:
    return block(channel(name, Kind.ECG, 250.0, 2.5), 2500, 250, **changes)


def everything() -> tuple[Block, ...]:
    """A bedside monitor: two leads, pleth, respiration, two pressures, CO2, each at its own rate."""
    return (
        ecg("II"),
        ecg("V5", state=STATE_OFF),
        block(),
        block(channel("Resp", Kind.RESPIRATION, 62.5, 0.001, 250.0), 625, 62),
        block(channel("ART", Kind.ABP, 125.0, 0.1, -50.0), 1250, 125),
        block(channel("CVP", Kind.CVP, 125.0, 0.1), 1250, 125, STATE_CALIBRATING),
        block(channel("CO2", Kind.CO2, 20.0, 0.125), 200, 20),
    )


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def encoded(*blocks: Block) -> bytes:
    return encode_channels(blocks or everything(), sequence=9, start_ns=START_NS, flags=FLAG_LAST)


def test_the_ecg_comes_out_as_before_and_the_others_apart_from_it():
    packet = read(encoded())

    assert packet.ecg is not None
    assert (packet.sequence, packet.start_ns, packet.flags) == (9, START_NS, FLAG_LAST)
    assert packet.ecg.leads == ("II", "V5")
    assert packet.ecg.lead_off == (False, True)
    assert packet.ecg.samples.shape == (2, 250)
    assert np.array_equal(packet.ecg.samples[1], np.arange(250))
    assert (packet.ecg.rate_hz, packet.ecg.gain_uv, packet.ecg.first_sample) == (250.0, 2.5, 2500)
    assert (packet.ecg.sequence, packet.ecg.start_ns, packet.ecg.flags) == (9, START_NS, FLAG_LAST)
    assert [b.channel.name for b in packet.others] == ["Pleth", "Resp", "ART", "CVP", "CO2"]
    assert [b.channel.rate_hz for b in packet.others] == [125.0, 62.5, 125.0, 125.0, 20.0]
    assert [b.first_sample for b in packet.others] == [1250, 625, 1250, 1250, 200]
    assert [b.samples.size for b in packet.others] == [125, 62, 125, 125, 20]
    assert all(np.array_equal(b.samples, np.arange(b.samples.size)) for b in packet.others)
    assert packet.others[2].channel.offset == -50.0
    assert packet.others[2].channel.unit == "mm[Hg]"
    assert packet.others[3].state == STATE_CALIBRATING


def test_a_packet_without_ecg_has_none():
    packet = read(encoded(block()))

    assert packet.ecg is None
    assert len(packet.others) == 1


def test_version_1_is_read_as_ecg_alone():
    old = WaveformPacket(
        samples=np.arange(500, dtype=np.int16).reshape(2, 250), sequence=9, first_sample=2250, start_ns=START_NS,
        rate_hz=250.0, gain_uv=2.5, leads=("I", "II"), lead_off=(False, True), flags=FLAG_LAST,
    )  # fmt: skip

    packet = read(encode(old))

    assert packet.ecg is not None
    assert np.array_equal(packet.ecg.samples, old.samples)
    assert (packet.ecg.leads, packet.ecg.lead_off, packet.flags) == (old.leads, old.lead_off, old.flags)
    assert packet.others == ()


def test_version_1_keeps_its_bytes():
    text = Path(waveform.__file__).parents[2].joinpath("docs/protocols/waveform.md").read_text()
    dump = re.findall(r"```hex(?:dump)?\n(.*?)```", text, re.DOTALL)

    first = read(bytes.fromhex(dump[0])).ecg
    second = read(bytes.fromhex(dump[1]))

    assert first is not None
    assert first.samples[0].tolist() == [0, -40, 200, -60]
    assert (first.leads, first.rate_hz, first.gain_uv) == (("MLII",), 360.0, 5.0)
    assert second.ecg is None
    assert [(b.channel.name, b.channel.kind, b.samples.tolist()) for b in second.others] == [
        ("ART", Kind.ABP, [800, 900, 1200, -32768])
    ]
    assert encode_channels(second.others, sequence=second.sequence, start_ns=second.start_ns) == bytes.fromhex(dump[1])


def test_every_kind_has_a_unit():
    assert set(UNITS) == set(Kind)


@st.composite
def signals(draw: st.DrawFn) -> tuple[Block, ...]:
    count = draw(st.integers(1, 6))
    names = draw(
        st.lists(
            st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8),
            min_size=count, max_size=count, unique=True,
        )
    )  # fmt: skip
    return tuple(
        Block(
            Channel(
                name=name,
                kind=draw(st.sampled_from([kind for kind in Kind if kind != Kind.ECG])),
                rate_hz=draw(st.floats(1, 2000, width=32)),
                gain=draw(st.floats(0.0009765625, 10_000, width=32)),
                offset=draw(st.floats(-1e6, 1e6, width=32)),
            ),
            draw(st.integers(0, 2**62)),
            draw(arrays(np.int16, draw(st.integers(1, 40)))),
            draw(st.integers(0, 7)),
        )
        for name in names
    )


@given(signals(), st.integers(0, 2**33), st.integers(-(2**62), 2**62))
def test_what_is_encoded_is_read(blocks, sequence, start_ns):
    got = read(encode_channels(blocks, sequence=sequence, start_ns=start_ns))

    assert (got.sequence, got.start_ns) == (sequence % 2**32, start_ns)
    for one, other in zip(got.others, blocks, strict=True):
        assert one.channel == other.channel
        assert (one.first_sample, one.state) == (other.first_sample, other.state)
        assert np.array_equal(one.samples, other.samples)


def test_the_largest_packet_fits_and_one_byte_more_does_not():
    blocks = tuple(block(channel(f"P{i}", Kind.PAP), count=MAX_SAMPLES) for i in range(MAX_CHANNELS))

    largest = encoded(*blocks)

    assert len(largest) == MAX_BYTES_CHANNELS
    assert len(read(largest).others) == MAX_CHANNELS
    with pytest.raises(PacketError, match="largest"):
        read(largest + b"\0")


def test_every_truncation_is_refused():
    data = encoded(ecg(), block(count=9))

    for size in range(len(data)):
        with pytest.raises(PacketError):
            read(data[:size])


@given(st.data())
def test_every_damaged_byte_is_noticed(data):
    raw = bytearray(encoded(ecg(), block(count=9)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(PacketError):
        read(bytes(raw))


@given(st.binary(max_size=400))
def test_noise_gives_a_packet_error_and_nothing_else(noise):
    for data in (noise, b"EWW1\x02" + noise, sealed(b"EWW1\x02" + noise)):
        with pytest.raises(PacketError):
            read(data)


@given(st.binary(min_size=40, max_size=40), st.integers(0, 30), st.integers(0, 4))
def test_a_hostile_description_with_a_right_checksum_never_raises_anything_else(description, count, extra):
    head = bytearray(encoded(block())[:24])
    head[6] = count
    with contextlib.suppress(PacketError):
        read(sealed(bytes(head) + description * max(1, count) + bytes(2 * extra)))


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (4, "B", 3, "version 3"),
        (6, "B", 0, "0 channels"),
        (6, "B", 25, "25 channels"),
        (6, "B", 3, "."),
        (7, "B", 1, "reserved"),
        (12, "I", 1, "reserved"),
        (24, "B", 0, "channel name"),
        (24, "B", 0xFF, "channel name"),
        (32, "B", 0, "kind 0"),
        (32, "B", 11, "kind 11"),
        (33, "B", 1, "reserved"),
        (36, "f", 0.5, "sampling rate"),
        (36, "f", 2001.0, "sampling rate"),
        (36, "f", float("nan"), "sampling rate"),
        (40, "f", 0.0, "gain"),
        (40, "f", float("nan"), "gain"),
        (40, "f", 1e9, "gain"),
        (44, "f", float("inf"), "offset"),
        (44, "f", 2e9, "offset"),
        (48, "Q", 2**63, "sample index"),
        (56, "H", 0, "0 samples"),
        (56, "H", 4097, "4097 samples"),
        (56, "H", 124, "bytes, but 1 channels of 124"),
        (56, "H", 126, "bytes, but 1 channels of 126"),
        (58, "B", 8, "reserved bit"),
        (59, "B", 1, "reserved bit"),
    ],
)
def test_each_field_outside_its_range_is_refused_by_name(offset, form, value, reason):
    body = bytearray(encoded(block())[:-4])
    struct.pack_into("<" + form, body, offset, value)

    with pytest.raises(PacketError, match=reason):
        read(sealed(bytes(body)))


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ((), "0 channels"),
        ((block(), block()), "same name"),
        ((block(), ecg()), "come first"),
        ((ecg(), block(channel("V5", Kind.ECG, 500.0, 2.5), 2500, 250)), "same rate"),
        ((ecg(), block(channel("V5", Kind.ECG, 250.0, 5.0), 2500, 250)), "same rate"),
        ((ecg(), block(channel("V5", Kind.ECG, 250.0, 2.5), 2501, 250)), "same rate"),
        ((ecg(), block(channel("V5", Kind.ECG, 250.0, 2.5), 2500, 249)), "same rate"),
        (tuple(ecg(f"V{i}") for i in range(13)), "13 ECG"),
        ((block(channel("II", Kind.ECG, 10.0)),), "sampling rate"),
        ((block(channel("II", Kind.ECG, 250.0, 2.5, 1.0)),), "offset"),
        ((block(name=""),), "name"),
        ((block(name="nine char"),), "name"),
        ((block(name="a b"),), "name"),
        ((block(name="脈波"),), "name"),
        ((block(first=-1),), "fit"),
        ((block(first=2**63),), "sample index"),
        ((block(state=256),), "fit"),
        ((block(gain=-1.0),), "gain"),
        ((block(rate=1e300),), "fit"),
        ((Block(channel(), 0, np.zeros((1, 5), dtype=np.int16)),), "one row"),
        ((Block(channel(), 0, np.zeros(5)),), "one row"),
        ((Block(channel(), 0, np.zeros(0, dtype=np.int16)),), "0 samples|too short"),
    ],
)
def test_a_device_cannot_encode_what_the_site_would_refuse(blocks, reason):
    with pytest.raises(PacketError, match=reason):
        encode_channels(blocks, sequence=0, start_ns=0)


def test_a_device_that_changes_its_names_all_the_time_does_not_fill_the_memory():
    for number in range(2 * waveform._KNOWN_MOST):
        encode_channels((block(channel(f"{number}"), count=1),), sequence=0, start_ns=0)

    assert len(waveform._CHANNELS) <= waveform._KNOWN_MOST
