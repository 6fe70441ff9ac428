"""What decided a condition lies in the packet that told it, for every condition and however long packets are."""

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor import nights
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.patient import Condition

RATE = 250


class Story:
    """A stream to which one rhythm after the other is added."""

    def __init__(self) -> None:
        self.normal: list[float] = []
        self.wide: list[float] = []
        self.over: list[tuple[float, np.ndarray]] = []
        self.at = 0.6

    def goes_on(self, kinds, interval=0.8):
        """Add beats: N, or V for an early ventricular one; a V after a V follows soon."""
        for k, kind in enumerate(kinds):
            if kind == "N":
                self.normal.append(self.at)
                self.at += interval
            elif kinds[k - 1] == "V":
                self.wide.append(self.at)
                self.at += 0.4
            else:
                self.at -= 0.45 * interval
                self.wide.append(self.at)
                self.at += 0.4
            if kind == "V" and kinds[k + 1 : k + 2] != "V":
                self.at += interval - 0.1

    def lasts(self, seconds, signal=None):
        """Add a time without a beat."""
        self.over.append((self.at, np.zeros(1) if signal is None else signal))
        self.at += seconds

    def signal(self):
        seconds = int(self.at) + 2
        x = ecg.beats_at(self.normal, RATE, seconds) + ecg.wide_beats_at(self.wide, RATE, seconds)
        x += ecg.noise(RATE, seconds, 0.01, seed=4)
        for at, signal in self.over:
            x[int(at * RATE) : int(at * RATE) + len(signal)] += signal
        return x


def everything():
    """Return a stream in which all is told that the signal can tell, in mV, and from when to when its lead is off."""
    story, rng = Story(), np.random.default_rng(8)
    story.goes_on("N" * 15 + "VV" + "N" * 12 + "VVV" + "N" * 12 + "NV" * 12 + "N" * 12 + "NNV" * 10 + "N" * 30)
    story.goes_on("V" * 9 + "N" * 20)
    story.lasts(8.0, ecg.fibrillation(RATE, 8.0))
    story.goes_on("N" * 15)
    story.lasts(6.5)
    story.goes_on("N" * 10)
    story.goes_on("N" * 6, 2.2)
    story.goes_on("N" * 25, 0.33)
    story.goes_on("N" * 15)
    off = story.at
    story.lasts(4.0)
    story.goes_on("N" * 20)
    for interval in np.clip(rng.normal(0.7, 0.16, 110), 0.4, 1.3).tolist():
        story.goes_on("N", interval)
    story.goes_on("N" * 60)
    for strength, seconds in ((0.25, 12), (0.0, 12), (7.0, 20)):
        noise = strength * nights.movement(rng, "muscle", seconds * RATE)
        if strength > 1.0:
            story.lasts(seconds, noise)
        else:
            story.over.append((story.at, noise))
            story.goes_on("N" * int(seconds / 0.8))
    story.goes_on("N" * 50)
    return story.signal(), (off, off + 4.0)


@pytest.mark.parametrize("packet", [37, 700])
def test_what_decided_a_condition_lies_in_the_packet_that_told_it(packet):
    x, (off_s, on_s) = everything()
    codes = np.clip(np.rint(np.stack((x, 0.8 * x)) * 1e3), -32768, 32767).astype(np.int16)
    bank = MonitorBank()
    bank.enrol("d", rate_hz=float(RATE), leads=("II", "V1"), gain_uv=1.0)
    told = {}
    for number, first in enumerate(range(0, codes.shape[1], packet)):
        piece = np.ascontiguousarray(codes[:, first : first + packet])
        off = (off_s < first / RATE < on_s, off_s < first / RATE < 0.5 * (off_s + on_s))
        bank.push("d", piece, first_sample=first, sequence=number, received_ns=number, lead_off=off)
        for event in bank.process(number):
            told.setdefault((event.code, event.present), []).append((event.decisive_sample, first + piece.shape[1]))

    late = {what: times for what, times in told.items() if not all(end - packet < at <= end for at, end in times)}
    assert not late
    missing = {condition.name.lower() for condition in Condition} - {code for code, present in told if present}
    assert not missing
