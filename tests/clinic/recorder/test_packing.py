"""Packets come back byte for byte, whatever they hold."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.wearable import ecg

from edgeward import waveform
from edgeward.clinic.recorder import packing
from edgeward.waveform import Block, Channel, Kind, WaveformPacket, encode, encode_channels


def one_lead(number: int, samples: np.ndarray, rate: float = 250.0) -> bytes:
    return encode(
        WaveformPacket(
            samples=samples.astype(np.int16).reshape(1, -1), sequence=number, first_sample=number * 250, start_ns=number * 10**9 + 17,
            rate_hz=rate, gain_uv=1.0, leads=("II",), lead_off=(False,),
        )
    )  # fmt: skip


def channels(number: int, rng: np.random.Generator) -> bytes:
    lead = Channel(name="II", kind=Kind.ECG, rate_hz=250.0, gain=2.5)
    pleth = Channel(name="PLETH", kind=Kind.PLETH, rate_hz=62.5, gain=1.0, offset=3.0)
    return encode_channels(
        (
            Block(lead, number * 250, rng.integers(-500, 500, 250).astype(np.int16)),
            Block(pleth, number * 62, rng.integers(-32768, 32767, 63).astype(np.int16)),
        ),
        sequence=number,
        start_ns=number,
    )


def arrivals() -> list[packing.Arrival]:
    rng = np.random.default_rng(3)
    found: list[packing.Arrival] = []
    for number in range(4):
        found += [
            (f"bed-{bed:03d}", 10**18 + number * 10**9 + bed, one_lead(number, ecg(1, 60 + bed, seed=bed)))
            for bed in range(60)
        ]
        found.append(("extreme", number, one_lead(number, rng.choice([-32768, 32767, 0], 100), 100.0)))
        found.append(("monitor-1", 10**18 - number, channels(number, rng)))
        found.append(("one", 5, one_lead(number, np.array([-1]))))
    return found


def test_packets_come_back_byte_for_byte_and_in_order_per_source() -> None:
    sent = arrivals()
    packed = packing.blocks(sent)

    firsts = [first for first, _ in packed]
    assert len(packed) > 1
    assert firsts == sorted(set(firsts)), "a source lies in two blocks"
    back = [arrival for _, block in packed for arrival in packing.unpack(block)]
    assert len(back) == len(sent)
    for source in {arrival[0] for arrival in sent}:
        assert [a for a in back if a[0] == source] == [a for a in sent if a[0] == source]


def test_one_source_is_read_without_the_others() -> None:
    sent = arrivals()
    block = packing.pack(sent)

    assert packing.unpack(block, "extreme") == [a for a in sent if a[0] == "extreme"]
    assert packing.unpack(block, "nobody") == []


def test_an_ecg_takes_less_than_half_of_its_size() -> None:
    sent = [(f"bed-{bed}", 10**18, one_lead(9, ecg(1, 60 + bed, seed=bed))) for bed in range(100)]
    assert len(packing.pack(sent)) < 0.45 * sum(len(packet) for _, _, packet in sent)


@pytest.mark.parametrize("length", [0, 1, 4, 15, 47, 200])
def test_what_is_no_intact_packet_is_not_taken(length: int) -> None:
    whole = one_lead(1, ecg(1, 72))
    assert packing.samples_offset(whole) == 48
    assert packing.samples_offset(whole[:length]) == 0
    assert packing.samples_offset(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]) == 0
    assert packing.samples_offset(b"A" * length) == 0
    assert packing.samples_offset(whole + bytes(200_000)) == 0


def test_the_offset_of_samples_is_the_formats() -> None:
    packet = channels(1, np.random.default_rng(0))
    read = waveform.read(packet)
    offset = packing.samples_offset(packet)
    assert read.ecg is not None
    assert packet[offset : offset + 500] == read.ecg.samples.tobytes()


def test_a_damaged_block_is_an_error_and_nothing_else() -> None:
    block = packing.pack(arrivals()[:20])
    rng = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(block)
        for at in rng.integers(0, len(block), 3):
            data[at] ^= int(rng.integers(1, 256))
        if rng.random() < 0.3:
            data = data[: int(rng.integers(0, len(data)))]
        try:
            packing.unpack(bytes(data))
        except packing.PackingError:
            continue
