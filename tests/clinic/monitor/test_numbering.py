"""What the numbers of packets say."""

from __future__ import annotations

import numpy as np
import pytest

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.numbering import GAP_MOST_S, RESTART_BEHIND, SEQUENCE, began_anew, steps_ahead
from edgeward.clinic.monitor.signals import SignalBank
from edgeward.waveform import Block, Channel, Kind, SignalPacket

RATE = 125


def anew(ahead: int, first_sample: int, *, sequence: int = 7, expected: int = 100 * RATE) -> bool:
    return began_anew(ahead, first_sample, RATE, sequence=sequence, expected=expected, rate_hz=float(RATE))


def test_steps_are_counted_across_the_wrap():
    assert steps_ahead(1, SEQUENCE - 1) == 2
    assert steps_ahead(SEQUENCE - 1, 1) == -2
    assert steps_ahead(5, 5) == 0


def test_the_next_packet_a_loss_and_a_late_one_are_of_the_same_stream():
    assert not anew(1, 100 * RATE)
    assert not anew(30, 129 * RATE)
    assert not anew(-3, 96 * RATE)
    assert not anew(0, 99 * RATE)


def test_what_cannot_follow_is_a_new_stream():
    assert anew(-RESTART_BEHIND, 36 * RATE)
    assert anew(1, 99 * RATE)  # a new number, and samples that were there
    assert anew(1, 100 * RATE + int((GAP_MOST_S + 1) * RATE))
    assert anew(-7, 0, sequence=0)  # it counts from nought again
    assert not anew(0, 0, sequence=0, expected=RATE)  # the first packet once more


@pytest.mark.parametrize(
    ("sequence", "first"), [(10, 10 * RATE), (4, 0), (0, 0), (4, 10**7), (12, 3 * RATE), (9, 9 * RATE)]
)
def test_both_banks_say_the_same_of_a_packet_that_comes_after_the_tenth(sequence, first):
    """An ECG and a pleth of one packet begin anew together, or not at all."""
    heart, signals = MonitorBank(), SignalBank()
    heart.enrol("s", rate_hz=RATE, leads=("II",), gain_uv=1.0)
    still = np.zeros(RATE, dtype=np.int16)

    def push(number: int, at: int) -> None:
        now = 1_000_000_000 * (number + 1)
        block = Block(Channel(name="Pleth", kind=Kind.PLETH, rate_hz=float(RATE), gain=1.0), at, still)
        heart.push("s", still[np.newaxis], first_sample=at, sequence=number, received_ns=now)
        signals.push(
            "s", SignalPacket(sequence=number, start_ns=0, flags=0, ecg=None, others=(block,)), received_ns=now
        )

    for number in range(10):
        push(number, number * RATE)
    push(sequence, first)

    assert int(heart.seats.book[heart.row("s")]["sequence"]) == signals.sequence("s")
