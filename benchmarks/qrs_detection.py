"""What QRS detection costs: samples per second and core, of the front end alone and of all that finds beats.

    python benchmarks/qrs_detection.py                                  # a generated ECG
    python benchmarks/qrs_detection.py ../shared/data/mitdb --minutes 10

One lead, packets of one second, CPU time, best of several runs. With a folder of WFDB recordings every one counts alike (first lead), resampled linearly where
its rate is not the one measured. What follows a beat (its kind, the rhythm, alarms) is not in it: `benchmarks/monitor_cpu.py` has that.
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.candidate import SHIPPED
from edgeward.clinic.monitor.compiled import bare
from edgeward.clinic.monitor.detector import BEAT_FIELDS, detect
from edgeward.clinic.monitor.front_end import front_end, restart
from edgeward.clinic.monitor.generated import beats_at
from edgeward.clinic.monitor.records import read_recording
from edgeward.clinic.monitor.state import MAX_STEP, RING, new_channel


@bare
def search(
    channels: Any,
    traces: NDArray[np.float32],
    bands: NDArray[np.float32],
    raws: NDArray[np.int16],
    packet: int,
    whole: bool,
    codes: NDArray[np.int16],
    phases: NDArray[np.float32],
    work: NDArray[np.float64],
    beats: NDArray[np.float64],
    net: Any,
) -> int:
    """Take every lead through its samples; return how many beats were found."""
    found = 0
    for k in range(channels.size):
        c = channels[k]
        restart(c, 0)
        for first in range(0, raws.shape[1] - packet + 1, packet):
            made = front_end(c, raws[k, first : first + packet], codes, phases, work)
            at = 0 if whole else made
            while at < made:
                at, more = detect(c, codes[1], traces[k], bands[k], work, at, made, work[4], beats, net)
                found += more
    return found


def generated(minutes: float) -> list[tuple[float, NDArray[np.int16]]]:
    """Return one generated lead, 72 beats a minute with a little noise, in microvolts at 360 Hz."""
    rate, seconds = 360.0, 60.0 * minutes
    rng = np.random.default_rng(1)
    x = beats_at(np.arange(0.5, seconds - 0.5, 60 / 72), rate, seconds)
    return [(rate, np.rint(1e3 * x + rng.normal(0, 15, len(x))).astype(np.int16))]


def recorded(folder: Path, minutes: float) -> list[tuple[float, NDArray[np.int16]]]:
    """Return the first lead of every recording in `folder`, in microvolts."""
    found = [read_recording(header) for header in sorted(folder.glob("*.hea"))]
    if not found:
        raise SystemExit(f"no WFDB recordings in {folder}")
    return [(each.rate_hz, each.samples[0, : int(60 * minutes * each.rate_hz)]) for each in found]


def at_rate(leads: list[tuple[float, NDArray[np.int16]]], rate: float) -> NDArray[np.int16]:
    """Return all leads at one rate, as long as the shortest, shape (leads, samples)."""
    rows = []
    for own, x in leads:
        places = np.arange(0.0, len(x) - 1, own / rate)
        rows.append(x if own == rate else np.rint(np.interp(places, np.arange(len(x)), x)).astype(np.int16))
    size = min(len(row) for row in rows)
    return np.ascontiguousarray(np.stack([row[:size] for row in rows]))


def measure(raws: NDArray[np.int16], rate: float, rounds: int) -> dict[str, float]:
    """Return what one rate costs: million samples a second and microseconds a packet, for the front end and the whole."""
    rings = [np.zeros((len(raws), RING), np.float32) for _ in range(2)]
    room = (
        np.zeros((2, 2048), np.int16),
        np.zeros((MAX_STEP + 1, 2048), np.float32),
        np.zeros((6, 2048)),
        np.zeros((64, BEAT_FIELDS)),
    )
    told: dict[str, float] = {}
    for name, whole in (("front_end", False), ("detection", True)):
        best, found = float("inf"), 0
        for _ in range(rounds + 1):  # the first one compiles
            channels = np.concatenate([new_channel(rate, 1.0) for _ in raws])
            began = time.process_time()
            found = search(channels, *rings, raws, int(rate), whole, *room, SHIPPED)
            best = min(best, time.process_time() - began)
        told[f"{name}_million_samples_per_s"] = round(raws.size / best / 1e6, 1)
        told[f"{name}_us_per_packet"] = round(1e6 * best * rate / raws.size, 2)
        if whole:
            told["beats"] = found
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="WFDB recordings; a generated ECG without")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each recording (default 10)")
    parser.add_argument("--rates", type=float, nargs="+", default=[250.0, 360.0])
    parser.add_argument("--rounds", type=int, default=9, help="the best of so many is told (default 9)")
    arguments = parser.parse_args()
    leads = recorded(arguments.folder, arguments.minutes) if arguments.folder else generated(arguments.minutes)
    told = {f"{rate:g} Hz": measure(at_rate(leads, rate), rate, arguments.rounds) for rate in arguments.rates}
    print(json.dumps({"leads": len(leads), **told}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
