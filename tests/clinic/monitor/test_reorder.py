"""Packets that overtake one another: nothing is lost, nothing waits for long, and nothing waits while all is well."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.monitoring import SECOND, Hands
from tests.support.wearable import RATE, ecg

from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.reorder import HELD_MOST, MISSING_MOST, READ_NS
from edgeward.waveform import Block, Channel, Kind, WaveformPacket, encode, encode_channels

PLETH = Channel(name="PLETH", kind=Kind.PLETH, rate_hz=50.0, gain=1.0)


class Way:
    """A source, and the way its packets come."""

    def __init__(self, line: np.ndarray, *, step: int = 50, first: int = 0, reorder_ms: float = 150.0) -> None:
        self.hands = Hands()
        self.intake = Intake(self.hands.clock(), Limits(), lambda *_: None, reorder_ms=reorder_ms)
        self.line, self.step, self.first = line, step, first
        self.codes: list[tuple[str, bool]] = []

    def packet(self, number: int) -> bytes:
        at = number * self.step
        return encode(
            WaveformPacket(
                samples=self.line[None, at : at + self.step], sequence=(self.first + number) % 2**32, first_sample=at,
                start_ns=0, rate_hz=RATE, gain_uv=1.0, leads=("II",), lead_off=(False,),
            )
        )  # fmt: skip

    def send(self, *numbers: int, after_s: float = 0.0) -> None:
        self.hands.pass_s(after_s)
        now = self.intake._clock.now_ns()
        for number in numbers:
            self.intake.waves([("w", self.packet(number))], now, lambda s, data: self.intake.wave(s, data, now))

    def look(self, after_s: float = 0.0) -> None:
        self.hands.pass_s(after_s)
        self.codes += [(one.code, one.present) for one in self.intake.process()]
        self.codes += [(one.code, one.present) for one in self.intake.tick()]

    @property
    def counts(self) -> dict[str, int]:
        return self.intake.bank.statistics()


@pytest.mark.parametrize("first", [0, 2**32 - 25])
def test_packets_in_another_order_lose_nothing_and_raise_what_they_would(first):
    line = np.concatenate([ecg(15, 72), ecg(8, 0, seed=1), ecg(7, 72)])
    straight, crooked = Way(line, first=first), Way(line, first=first)
    order = list(range(150))
    for k in range(3, 145, 5):
        order[k], order[k + 1] = order[k + 1], order[k]
    for k in range(10, 140, 20):
        order[k : k + 3] = order[k : k + 3][::-1]
    for number, other in zip(range(150), order, strict=True):
        straight.send(number, after_s=0.02)
        crooked.send(other, after_s=0.02)
        straight.look()
        crooked.look()
    assert crooked.counts["missing"] == 0
    assert crooked.counts["refused"] == 0
    assert crooked.intake.reorder.saved > 20
    assert crooked.codes == straight.codes
    assert ("asystole", True) in crooked.codes
    rows = [way.intake.bank.seats.rows[:1].tobytes() for way in (straight, crooked)]
    assert rows[0] == rows[1], "the signal was seen as it was sent"


def test_nothing_waits_while_nothing_is_missing():
    way = Way(ecg(10, 72))
    for number in range(40):
        way.send(number, after_s=0.2)
        assert way.intake.reorder.due_ns is None
        assert int(way.intake.bank.seats.book[0]["sequence"]) == number


def test_a_packet_that_never_comes_is_missing_when_the_time_is_over():
    way = Way(ecg(10, 72))
    way.send(0, 1, 2, 4)
    way.look(after_s=0.1)
    assert way.counts["missing"] == 0
    assert way.intake.reorder.due_ns == way.intake._clock.now_ns() + 50_000_000
    way.look(after_s=0.051)
    assert way.counts["missing"] == 0, "what lies unread is read first"
    assert way.intake.reorder.due_ns == way.intake._clock.now_ns() + READ_NS
    way.look(after_s=READ_NS / 1e9)
    assert way.counts["missing"] == 1
    assert way.codes == [], "one lost packet is nobody's business"
    way.send(3)
    assert way.counts["missing"] == 1
    assert way.counts["refused"] == 1, "too late: its time is over"
    way.send(5)
    assert way.intake.reorder.due_ns is None


def test_what_came_while_the_monitor_stood_still_is_read_before_a_packet_is_given_up():
    way = Way(ecg(10, 72))
    way.send(0, 1, 2, 4)
    way.look(after_s=5.0)  # 3 lies in the socket all the time; timers come first
    way.send(3, 5, after_s=0.01)
    way.look(after_s=1.0)
    assert way.counts["missing"] == 0
    assert way.counts["refused"] == 0
    assert int(way.intake.bank.seats.book[0]["sequence"]) == 5
    assert way.intake.reorder.due_ns is None


def test_copies_of_packets_that_wait_are_counted_and_not_used_twice():
    way = Way(ecg(10, 72))
    way.send(0, 2, 2, 2, 1, 1, 2)
    assert int(way.intake.bank.seats.book[0]["sequence"]) == 2
    assert way.intake.counts["packets_repeated"] == 2
    assert way.counts["refused"] == 2
    assert way.counts["missing"] == 0


def test_a_long_gap_is_not_waited_for():
    way = Way(ecg(60, 72))
    way.send(0, 1, 2 + MISSING_MOST + 1)
    assert way.intake.reorder.due_ns is None
    assert way.counts["missing"] == MISSING_MOST + 1


@pytest.mark.parametrize("between", range(1, 8))
def test_a_packet_that_was_overtaken_is_waited_for_though_another_was_lost_before(between):
    way = Way(ecg(30, 72))
    way.send(*range(10))  # 10 is lost; all that follows is read at once, as after a restart
    overtaken = 11 + between
    way.send(*range(11, overtaken), overtaken + 1, overtaken, *range(overtaken + 2, overtaken + 8))
    way.look(after_s=1.0)
    way.look(after_s=1.0)
    assert way.counts["missing"] == 1
    assert way.counts["refused"] == 0
    assert way.intake.reorder.due_ns is None


def test_packets_lost_and_overtaken_at_random_lose_nothing_else_when_all_is_read_at_once():
    line = ecg(60, 72)
    rng = np.random.default_rng(7)
    for _ in range(60):
        way, order, lost, held = Way(line), [], 0, None
        for number in range(100):
            lost = number > 0 and rng.random() < 0.1
            if number > 0 and not lost and held is None and rng.random() < 0.15:
                held = number
                continue
            if not lost:
                order.append(number)
            if held is not None:
                order.append(held)
                held = None
        gaps = np.diff(sorted(order))
        way.send(*order)
        way.look(after_s=1.0)
        way.look(after_s=1.0)
        if gaps.max() <= MISSING_MOST:  # longer ones are not waited for
            assert way.counts["missing"] == int((gaps - 1).sum())
            assert way.counts["refused"] == 0


def test_a_device_that_skips_for_ever_fills_no_memory():
    way = Way(ecg(60, 72))
    way.send(0)
    for number in range(2, 250, 2):
        way.send(number, after_s=0.01)
        assert len(way.intake.reorder._held.get("w", ())) <= HELD_MOST
        way.look()
    assert way.counts["missing"] > 100


def test_a_device_that_begins_anew_while_a_packet_waits_is_followed():
    way = Way(ecg(30, 72))
    way.send(*range(70))
    way.send(71)
    way.send(0, 1, 2)
    assert way.intake.reorder.due_ns is None
    assert int(way.intake.bank.seats.book[0]["sequence"]) == 2


def test_without_patience_nothing_is_held():
    way = Way(ecg(10, 72), reorder_ms=0.0)
    way.send(0, 2)
    assert way.counts["missing"] == 1
    assert way.intake.reorder.due_ns is None


def test_a_source_without_ecg_is_put_in_order_too():
    hands = Hands()
    intake = Intake(hands.clock(), Limits(), lambda *_: None)
    for number in (0, 1, 3, 2, 4):
        hands.pass_s(0.1)
        block = Block(PLETH, number * 50, np.arange(50, dtype=np.int16))
        intake.wave("p", encode_channels((block,), sequence=number, start_ns=1), intake._clock.now_ns())
    assert intake.signals.sequence("p") == 4
    assert intake.signals.statistics()["refused"] == 0
    assert intake.reorder.saved == 1


def test_a_source_that_is_removed_leaves_nothing_held():
    way = Way(ecg(10, 72))
    way.send(0, 1, 3)
    way.intake.remove("w")
    assert way.intake.reorder.due_ns is None
    way.look(after_s=SECOND / 1e9)
