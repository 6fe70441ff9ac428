"""Monitoring that cannot keep up: it says so, looks at the newest, and is well again when the load falls."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.monitoring import SECOND, Hands
from tests.support.wearable import RATE, ecg

from edgeward.bus.reading import FULL_BYTES, WINDOW_S, Reading
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.waveform import Block, Channel, Kind, WaveformPacket, encode, encode_channels

LEAD = Channel(name="II", kind=Kind.ECG, rate_hz=RATE, gain=1.0)
PLETH = Channel(name="PLETH", kind=Kind.PLETH, rate_hz=50.0, gain=1.0)


class Ward:
    """Devices whose packets all wait for the same time before they are taken."""

    def __init__(self, devices: int = 12, *, channels: bool = False) -> None:
        self.hands, self.channels = Hands(), channels
        self.intake = Intake(self.hands.clock(), Limits(), lambda *_: None)
        self.line = np.concatenate([ecg(60, 72)] * 3)
        self.names = [f"w{number}" for number in range(devices)]
        self.codes: list[tuple[str, bool]] = []

    def packet(self, second: int) -> bytes:
        part = self.line[second * 250 : (second + 1) * 250]
        if self.channels:
            blocks = (Block(LEAD, second * 250, part), Block(PLETH, second * 50, np.arange(50, dtype=np.int16)))
            return encode_channels(blocks, sequence=second, start_ns=1)
        return encode(
            WaveformPacket(
                samples=part[None], sequence=second, first_sample=second * 250, start_ns=0, rate_hz=RATE, gain_uv=1.0,
                leads=("II",), lead_off=(False,),
            )
        )  # fmt: skip

    def take(self, second: int, names: list[str] | None = None) -> None:
        now, data = self.intake._clock.now_ns(), self.packet(second)
        packets = [(name, data) for name in (self.names if names is None else names)]
        self.intake.waves(packets, now, lambda source, one: self.intake.wave(source, one, now))

    def look(self, *, full: bool = False) -> None:
        self.intake.look_behind(full=full)
        self.codes += [(one.code, one.present) for one in [*self.intake.process(), *self.intake.tick()]]

    def run(self, first: int, seconds: int, *, pace: float = 1.0, full: bool = False) -> None:
        """Take a second of signal each `pace` seconds."""
        for second in range(first, first + seconds):
            self.hands.pass_s(pace)
            self.take(second)
            self.look(full=full)

    @property
    def left_out(self) -> int:
        return self.intake.bank.statistics()["left_out"]


def test_a_ward_that_is_in_time_is_not_behind_and_leaves_nothing_out():
    ward = Ward()
    ward.run(0, 40, full=True)
    assert ward.intake.keep_up.behind_s < 0.01
    assert not ward.intake.keep_up.told
    assert ward.left_out == 0


@pytest.mark.parametrize("channels", [False, True])
def test_behind_is_said_and_the_newest_are_taken_until_it_is_over(channels):
    ward = Ward(channels=channels)
    keep_up = ward.intake.keep_up
    ward.run(0, 10)
    ward.run(10, 11, pace=1.3, full=True)  # each second takes 1.3
    assert keep_up.told
    assert keep_up.behind_s > 2.0
    assert keep_up.leaving
    before = ward.left_out
    ward.run(21, 5, pace=0.1, full=True)  # what waited is left out: that takes little
    assert ward.left_out > before
    ward.run(26, 20, pace=1.0)
    assert keep_up.behind_s < 0.5
    assert not keep_up.leaving
    ward.run(46, 10, pace=1.0)
    assert not keep_up.told
    after = ward.left_out
    ward.run(56, 10)
    assert ward.left_out == after
    assert ("packets_missing", True) not in ward.codes, "the site is told once, not each bed"
    assert ("signal_lost", True) not in ward.codes


def test_a_device_that_sends_what_it_kept_is_taken_whole():
    ward = Ward()
    ward.run(0, 10)
    late = ward.names[0]
    for second in range(10, 30):
        ward.hands.pass_s(1)
        ward.take(second, ward.names[1:])
        ward.look(full=True)
    for second in range(10, 30):
        ward.take(second, [late])
        ward.look(full=True)
    assert not ward.intake.keep_up.told
    assert ward.left_out == 0
    assert ward.intake.bank.numerics(late, 0).packets == 30


def test_a_backlog_that_the_monitor_can_take_is_taken_whole():
    ward = Ward()
    ward.run(0, 10)
    ward.hands.pass_s(20)  # the network was away
    for second in range(10, 30):
        ward.take(second)
        ward.look(full=False)
    assert ward.left_out == 0


@pytest.mark.parametrize("pace", [0.1, 0.5])
def test_what_lies_there_after_the_machine_stood_still_is_taken_whole_though_the_connection_is_full(pace):
    ward = Ward()
    ward.run(0, 20)
    ward.hands.pass_s(5)  # devices went on sending
    ward.run(20, 11, pace=pace, full=True)
    assert not ward.intake.keep_up.leaving
    ward.run(31, 10)
    assert ward.left_out == 0


class Loop:
    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


def test_a_connection_is_full_when_nearly_every_read_brings_all_it_can():
    loop = Loop()
    reading = Reading(object(), loop)  # type: ignore[arg-type]
    for _ in range(20):
        reading.took(FULL_BYTES)
    loop.now = WINDOW_S
    assert reading.full
    for _ in range(20):
        reading.took(9000)
    reading.took(FULL_BYTES)
    loop.now = 2 * WINDOW_S
    assert not reading.full


def test_silence_counts_from_the_last_packet_also_of_those_left_out():
    ward = Ward()
    ward.run(0, 10)
    ward.run(10, 10, pace=1.4, full=True)
    assert ward.left_out
    ward.hands.pass_s(5)
    ward.look()
    assert ward.codes.count(("signal_lost", True)) == len(ward.names)
    assert int(ward.intake.bank.seats.book["received_ns"][0]) <= ward.intake._clock.now_ns() - 5 * SECOND
