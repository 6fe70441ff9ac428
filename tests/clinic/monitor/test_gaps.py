"""What is looked at across a gap, what is not, and that a gap ends nothing. The sweep is ``tests/faults/test_torn``."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from tests.support.torn import RATE, episode

from edgeward.clinic.monitor.bank import MonitorBank

VF = "ventricular_fibrillation"
Told = list[tuple[bool, float]]


def send(
    bank: MonitorBank, line: NDArray[np.int16], *, lost: Collection[int] = (), off: Collection[int] = (), first: int = 0
) -> Told:
    """Send a line in packets of a second; return when fibrillation was told to begin and end, s."""
    told: Told = []
    for number in range(line.size // RATE):
        if number in lost:
            continue
        at = (number - first) * RATE
        bank.push("p", line[number * RATE : (number + 1) * RATE].reshape(1, -1), first_sample=at,
                  sequence=number - first, received_ns=number, lead_off=(number in off,))  # fmt: skip
        told += [(e.present, number + 1.0) for e in bank.process(0) if e.code == VF]
    return told


def patient() -> MonitorBank:
    bank = MonitorBank()
    bank.enrol("p", rate_hz=float(RATE), leads=("II",), gain_uv=1.0)
    return bank


def fibrillation(seconds: int, after_s: float = 0.0) -> NDArray[np.int16]:
    """Return 8 s of sinus rhythm, then fibrillation."""
    one = episode(VF, 1, 8.0)
    start = int(one.start_s * RATE)
    wave = one.line[start : start + 10 * RATE]
    parts = [one.line[:start], np.tile(wave, 1 + seconds // 10)[: seconds * RATE]]
    return np.concatenate([*parts, one.line[: int(after_s * RATE)]])


def test_what_is_seen_on_both_sides_of_a_lost_packet_belongs_together() -> None:
    assert send(patient(), fibrillation(7), lost={11}) == [(True, 14.0)]  # without the loss at 12


def test_what_is_seen_before_and_after_an_electrode_was_off_does_not() -> None:
    assert send(patient(), fibrillation(7), off={11}) == []


def test_a_long_gap_does_not_end_what_goes_on() -> None:
    assert [present for present, _ in send(patient(), fibrillation(30), lost=range(16, 24))] == [True]


def test_what_is_over_after_a_long_gap_ends_once_that_is_seen() -> None:
    told = send(patient(), fibrillation(12, after_s=8.0), lost=range(16, 20))
    assert [present for present, _ in told] == [True, False]
    assert 24.0 < told[1][1] <= 28.0


def test_a_device_that_begins_anew_does_not_end_what_goes_on() -> None:
    bank = patient()
    line = fibrillation(20)
    assert [present for present, _ in send(bank, line[: 16 * RATE])] == [True]
    assert send(bank, line, lost=range(16), first=16) == []


def test_what_held_before_a_restart_is_not_ended_by_its_beginning() -> None:
    bank = patient()
    bank.assume("p", {VF})
    assert send(bank, fibrillation(20)[9 * RATE :]) == []
