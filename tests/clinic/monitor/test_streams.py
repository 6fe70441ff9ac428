"""Packets taken many at a time: the same as one by one, whatever is among them."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from tests.support.monitoring import SECOND, Hands
from tests.support.wearable import RATE, ecg

from edgeward.clinic.monitor import streams
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.waveform import (
    FLAG_CLOCK_UNSYNCHRONISED,
    FLAG_LAST,
    Block,
    Channel,
    Kind,
    WaveformPacket,
    encode,
    encode_channels,
)

SENT_NS = 1_800_000_000 * SECOND


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 547, 4099])
def test_the_checksum_is_the_one_of_the_standard(size):
    data = np.random.default_rng(size).integers(0, 256, size + 3, dtype=np.uint8)
    assert streams.crc32(data, 3, size + 3, streams.crc_tables()) == zlib.crc32(data[3:].tobytes())


class Bed:
    """One device's packets."""

    def __init__(self, seed: int, leads: int = 1) -> None:
        self.line = np.concatenate([ecg(20, 60 + 7 * seed, seed=seed), ecg(8, 0, seed=seed), ecg(12, 150, seed=seed)])
        self.leads = tuple(("I", "II", "V1")[:leads])
        self.clock_ns = SENT_NS + seed * 37_000_000

    def packet(self, number: int, *, step: int = 250, **changes) -> bytes:
        part = self.line[number * step : (number + 1) * step]
        fields = {
            "samples": np.stack([part] * len(self.leads)), "sequence": number, "first_sample": number * step,
            "start_ns": self.clock_ns + number * step * SECOND // 250, "rate_hz": RATE, "gain_uv": 1.0,
            "leads": self.leads, "lead_off": (False,) * len(self.leads), "flags": 0,
        }  # fmt: skip
        return encode(WaveformPacket(**{**fields, **changes}))


def mixed(seed: int) -> list[tuple[float, str, bytes]]:
    """When, from whom, what: mostly usual packets of some devices, and everything that can be the matter with one."""
    rng = np.random.default_rng(seed)
    sent: list[tuple[float, str, bytes]] = []
    for number in range(12):
        bed = Bed(number, leads=1 + number % 3)
        steps = list(range(40))
        if number % 4 == 1:
            steps = [k for k in steps if k not in (9, 17, 18, 30)]
        if number % 4 == 2:
            steps[5], steps[6] = steps[6], steps[5]
            steps.insert(12, 12)
            steps[25:25] = list(range(3, 8))
        if number % 4 == 3:
            steps = steps[:20] + steps[:20]  # switched off and on
        for place, k in enumerate(steps):
            data = bed.packet(k)
            odd = int(rng.integers(0, 60))
            if odd == 0:
                data = data[: int(rng.integers(0, len(data)))]
            elif odd == 1:
                at = int(rng.integers(0, len(data)))
                data = data[:at] + bytes([data[at] ^ 1 << int(rng.integers(0, 8))]) + data[at + 1 :]
            elif odd == 2:
                data = bed.packet(k, flags=FLAG_CLOCK_UNSYNCHRONISED)
            elif odd == 3:
                data = bed.packet(k, flags=FLAG_LAST)
            elif odd == 4:
                data = bed.packet(k, gain_uv=2.0)
            elif odd == 5:
                data = bed.packet(k, lead_off=(True,) * len(bed.leads))
            elif odd == 6:
                data = bed.packet(k, start_ns=bed.clock_ns - 50 * SECOND)
            elif odd == 7:
                data = b""
            elif odd == 8:
                data = bed.packet(k, first_sample=k * 250 + 40)
            elif odd == 9 and number == 5:
                lead = Channel(name="II", kind=Kind.ECG, rate_hz=RATE, gain=1.0)
                pleth = Channel(name="PLETH", kind=Kind.PLETH, rate_hz=50.0, gain=1.0)
                blocks = (
                    Block(lead, k * 250, bed.line[k * 250 : k * 250 + 250]),
                    Block(pleth, k * 50, np.zeros(50, np.int16)),
                )
                data = encode_channels(blocks, sequence=k, start_ns=bed.clock_ns + k * SECOND)
            sent.append((place + number * 0.07 + float(rng.uniform(0, 0.2)), f"w{number}", data))
    return sorted(sent, key=lambda one: one[0])


class Ward:
    """An intake, and everything that it says."""

    def __init__(self) -> None:
        self.hands = Hands()
        self.intake = Intake(self.hands.clock(), Limits(), lambda *_: None)
        self.told: list[object] = []

    def one(self, source: str, data: bytes) -> None:
        try:
            self.intake.wave(source, data, self.intake._clock.now_ns())
        except ValueError as error:
            self.told.append((source, str(error)))

    def many(self, packets: list[tuple[str, bytes]]) -> int:
        return self.intake.waves(packets, self.intake._clock.now_ns(), self.one)

    def look(self) -> None:
        self.told += self.intake.process()
        self.told += self.intake.tick()

    def state(self) -> object:
        seats = self.intake.bank.seats
        fields = [name for name in streams.STREAM.names if name not in ("calm", "passed", "device_ns")]
        clocks = self.intake.clocks
        return (
            [seats.book[: len(seats.by_row)][name].tobytes() for name in fields if name not in _KEPT_BY_LOOKS],
            [seats.rows[: len(seats.by_row)].tobytes(), seats.traces.tobytes()],
            [(one, clocks.shown(one, 60 * SECOND), clocks._clocks[one].steps) for one in clocks._clocks],
            {
                one: sorted((k, v.value, v.at) for k, v in self.intake.watch.values(one).items())
                for one in seats.patients
            },
        )


#: Written when a clock is looked at: by the one-by-one way each time.
_KEPT_BY_LOOKS = ("base_ns", "base_seen", "slope", "slack", "bucket_end", "bucket_best")


@pytest.mark.parametrize("seed", range(3))
def test_packets_taken_together_give_what_they_give_one_by_one(seed):
    rng = np.random.default_rng(100 + seed)
    single, together = Ward(), Ward()
    sent, usual = mixed(seed), 0
    at = 0
    while at < len(sent):
        size = int(rng.integers(1, 40))
        group = sent[at : at + size]
        passed = group[-1][0] - (sent[at - 1][0] if at else 0.0)
        for ward in (single, together):
            ward.hands.pass_s(passed)
        for _, source, data in group:
            single.one(source, data)
        usual += together.many([(source, data) for _, source, data in group])
        for ward in (single, together):
            ward.look()
        at += size
    assert together.told == single.told
    assert together.state() == single.state()
    assert usual > 0.5 * len(sent)
    codes = {one.code for one in single.told if hasattr(one, "code")}
    assert {"asystole", "packets_missing"} <= codes


def test_a_damaged_packet_among_many_is_refused_with_its_reason_and_the_others_are_taken():
    ward = Ward()
    beds = [Bed(k) for k in range(20)]
    for number in range(2):
        ward.hands.pass_s(1)
        ward.many([(f"w{k}", bed.packet(number)) for k, bed in enumerate(beds)])
    packets = [(f"w{k}", bed.packet(2)) for k, bed in enumerate(beds)]
    broken = bytearray(packets[7][1])
    broken[100] ^= 4
    packets[7] = ("w7", bytes(broken))
    assert ward.many(packets) == 19
    assert ward.told == [("w7", "the checksum does not match: the packet was damaged on its way")]
    assert [int(n) for n in ward.intake.bank.seats.book["packets"][:20]] == [3] * 7 + [2] + [3] * 12


def test_a_stream_that_comes_usually_costs_no_look_at_its_clock():
    ward, bed = Ward(), Bed(1)
    for number in range(40):
        ward.hands.pass_s(1)
        ward.many([("w", bed.packet(number))])
    clock = ward.intake.clocks.get("w")
    assert clock is not None
    assert clock.frame() is not None
    stream = ward.intake.bank.seats.book[0]
    assert int(stream["device_ns"]) == bed.clock_ns + 40 * SECOND
