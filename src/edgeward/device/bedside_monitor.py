"""Simulated bedside monitors: numerics by SenML over MQTT, and by HL7 v2 (PCD-01) over MLLP, both with TLS.

Responsible for sending at their pace, for what a device keeps while it cannot send, and for the command line. Not
responsible for the numbers (`vital_signs`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import signal
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiomqtt
import uvloop

from edgeward.device import process, recordings
from edgeward.device.backoff import Backoff
from edgeward.device.enrolment import Enrolment, EnrolmentError, load, load_all
from edgeward.device.hl7_waves import Waves
from edgeward.device.mllp_line import BROKEN, Line
from edgeward.device.vital_signs import Patient, Place, pcd01, senml

KINDS = ("wearable", "monitor")
# A wearable sends its ECG beside this: the rate is counted there.
_BESIDE_ECG = frozenset({"heart_rate"})
# A monitor sends its waves beside this, and these are read from them.
_BESIDE_WAVES = frozenset({"heart_rate", "respiratory_rate"})
_KEEP = 60  # packs or messages that wait; older ones are dropped
_FAMILIES = ("Abend", "Bruyn", "Costa", "Dahl", "Engel", "Fabre", "Gallo", "Holm", "Ivers", "Jonas")

log = logging.getLogger("edgeward.device.bedside_monitor")  # also when run as __main__


@dataclass(slots=True)
class Count:
    """What was sent."""

    packs: int = 0
    messages: int = 0
    refused: int = 0
    dropped: int = 0


@dataclass(slots=True)
class Sensor:
    """One enrolled device that publishes SenML packs.

    Attributes
    ----------
    every_s
        Between two packs.
    """

    enrolment: Enrolment
    patient: Patient
    count: Count
    every_s: float = 1.0
    _waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=_KEEP))
    _fresh: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Measure and publish until cancelled; after a broken connection again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure())
            group.create_task(self._publish())

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        due, number = loop.time(), 0
        while True:
            now_s = time.time()
            self.count.dropped += len(self._waiting) == _KEEP
            self._waiting.append(senml(self.patient.measure(now_s), now_s, f"urn:dev:sim:{self.patient.seed}:", number))
            self._fresh.set()
            number += 1
            due += self.every_s
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _publish(self) -> None:
        address, context, name = self.enrolment.require_mqtt(), self.enrolment.context(), self.enrolment.device_id
        backoff = Backoff()
        while True:
            try:
                async with aiomqtt.Client(
                    address.host,
                    address.port,
                    identifier=f"{name}-vitals",  # its own connection: another of this name would take it over
                    tls_context=context,
                    keepalive=10,
                    timeout=5,
                ) as client:
                    backoff.reset()
                    while True:
                        while self._waiting:
                            await client.publish(f"raw/vital/{name}", self._waiting[0], qos=1)
                            self._waiting.popleft()
                            self.count.packs += 1
                        self._fresh.clear()
                        await self._fresh.wait()
            except (aiomqtt.MqttError, OSError) as error:
                if not backoff.failed:
                    log.warning("%s: no connection to the site: %s", name, error)
                await asyncio.sleep(backoff.delay())


@dataclass(slots=True)
class Gateway:
    """A system of monitors that speaks HL7 for several beds; each message is repeated until it is accepted."""

    enrolment: Enrolment
    beds: list[tuple[Place, Patient]]
    count: Count
    every_s: float = 5.0
    waves: dict[int, Waves] = field(default_factory=dict)  # by the number of the bed
    _number: int = 0
    _line: Line = field(init=False)

    def __post_init__(self) -> None:
        self._line = Line(self.enrolment)

    async def run(self) -> None:
        """Send until cancelled: numerics on one connection, the waves of each bed on their own."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._numerics())
            for number, waves in self.waves.items():
                group.create_task(self._waves(self.beds[number][0], waves))

    async def _waves(self, place: Place, waves: Waves) -> None:
        line = Line(self.enrolment)
        waves.begin(time.time())
        try:
            while True:
                await asyncio.sleep(max(0.0, waves.due_s() - time.time()))
                self._number += 1
                await self._send(line, waves.message(time.time(), place, str(self._number)))
        finally:
            line.hang_up()

    async def _numerics(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                for place, patient in self.beds:
                    now_s = time.time()
                    self._number += 1
                    await self._send(self._line, pcd01(patient.measure(now_s), now_s, place, str(self._number)))
                due = max(due + self.every_s, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            self._line.hang_up()

    async def _send(self, line: Line, text: str) -> None:
        backoff = Backoff(most=5.0)
        while True:
            try:
                answer = await line.ask(text)
            except BROKEN as error:
                line.hang_up()
                if not backoff.failed:
                    log.warning("the site takes no numerics (%s); they wait", type(error).__name__)
                await asyncio.sleep(backoff.delay())
                continue
            if answer in ("AA", "CA"):
                self.count.messages += 1
                return
            self.count.refused += 1
            if answer in ("AR", "CR", ""):
                log.warning("the site rejected a message")
                return
            await asyncio.sleep(backoff.delay())  # it has not taken it: the duty is still ours


def invented(number: int, seed: int, unit: str) -> tuple[Place, Patient]:
    """Return the `number`-th bed of a unit and its patient."""
    family = f"Sim{_FAMILIES[number % len(_FAMILIES)]}"
    place = Place(unit, str(1 + number // 2), str(1 + number % 2), f"SIMBED-{seed % 10**5:05d}-{number}", family, "Kim")
    return place, Patient(seed * 1000 + number)


async def run(
    sensors: list[Sensor], gateway: Gateway | None, stopping: asyncio.Event, *, desaturate_every_s: float = 0.0
) -> None:
    """Let all of them send until `stopping` is set."""
    tasks = [asyncio.create_task(sensor.run()) for sensor in sensors]
    if gateway is not None:
        tasks.append(asyncio.create_task(gateway.run()))
    patients = [sensor.patient for sensor in sensors] + [patient for _, patient in (gateway.beds if gateway else ())]
    if desaturate_every_s and patients:
        tasks.append(asyncio.create_task(_desaturate(patients, desaturate_every_s)))
    await stopping.wait()
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)


async def _desaturate(patients: list[Patient], every_s: float) -> None:
    rng = random.Random(1)
    while True:
        await asyncio.sleep(every_s)
        rng.choice(patients).desaturate(time.time(), 45.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeward device simulate bedside",
        description="Bedside monitors with invented patients: oxygen saturation, perfusion, breathing, cuff pressure,\n"
        "temperature, level of consciousness. Devices of --devices publish SenML packs by MQTT over TLS, beside what\n"
        "they may send otherwise; the system of --enrolment sends ORU^R01 (IHE PCD-01) by MLLP over TLS, for --beds\n"
        "beds.",
        epilog="""\
examples:
  edgeward device enroll monitor-1 --kind monitor --out devices
  edgeward device simulate bedside --devices devices
  edgeward device enroll icu-gateway --kind monitor --out systems
  edgeward device simulate bedside --enrolment systems/icu-gateway --beds 4 --unit ICU""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=Path, metavar="DIR", help="folder of enrolment folders: one bed each")
    parser.add_argument("--count", type=int, metavar="N", help="use only the first N devices")
    parser.add_argument(
        "--last", type=int, default=0, metavar="N", help="use the last N devices too, which send waves of their sensors"
    )
    parser.add_argument("--enrolment", type=Path, metavar="DIR", help="enrolment folder of a system that speaks HL7")
    parser.add_argument("--beds", type=int, default=2, metavar="N", help="beds of that system (default 2)")
    parser.add_argument(
        "--hl7-waves",
        type=int,
        default=0,
        metavar="N",
        help="the first N of these beds send waves too (default 0)",
    )
    parser.add_argument("--unit", default="ICU", help="what it calls their unit (default ICU)")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="between two packs (default 1)")
    parser.add_argument("--hl7-every", type=float, default=5.0, metavar="S", help="between two rounds (default 5)")
    parser.add_argument(
        "--desaturate-every",
        type=float,
        default=0.0,
        metavar="S",
        help="let somebody's saturation fall (default: never)",
    )
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same patients (default 1)")
    parser.add_argument("--for", dest="for_s", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--json", action="store_true", help="print what was sent as one JSON object at the end")
    process.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run them until told to stop. Returns 0, or 2 when they cannot start."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not (0.05 <= arguments.every <= 3600 and 0.05 <= arguments.hl7_every <= 3600):
        parser.error("--every and --hl7-every must be between 0.05 and 3600 seconds")
    if not 1 <= arguments.beds <= 200:
        parser.error(f"--beds {arguments.beds}: allowed are 1 to 200")
    if arguments.devices is None and arguments.enrolment is None:
        parser.error("name --devices, --enrolment or both")
    process.begin(arguments, "bedside_monitor")
    count = Count()
    try:
        sensors = []
        if arguments.devices is not None:
            every = load_all(arguments.devices, KINDS)
            first = len(every) if arguments.count is None else arguments.count
            for place, enrolment in enumerate(every):
                waves = place >= len(every) - arguments.last
                if place >= first and not waves:
                    continue
                enrolment.require_mqtt()
                patient = Patient(arguments.seed * 7919 + place, _BESIDE_WAVES if waves else _BESIDE_ECG)
                sensors.append(Sensor(enrolment, patient, count, arguments.every))
        gateway = None
        if arguments.enrolment is not None:
            enrolment = load(arguments.enrolment)
            enrolment.require_mllp()
            beds = [invented(number, arguments.seed, arguments.unit) for number in range(arguments.beds)]
            waves = {}
            if arguments.hl7_waves:
                heart = recordings.toy()
                for number in range(min(arguments.hl7_waves, len(beds))):
                    offset = round((0.3 + 0.41 * number) % 1.0 * heart.samples.shape[1])
                    waves[number] = Waves(heart, offset, arguments.seed * 104729 + number)
                    beds[number][1].leave_out = _BESIDE_WAVES
            gateway = Gateway(enrolment, beds, count, arguments.hl7_every, waves)
    except (EnrolmentError, recordings.RecordingError) as error:
        print(f"edgeward: {error}", file=sys.stderr)
        return 2

    async def live() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        if arguments.for_s is not None:
            loop.call_later(arguments.for_s, stopping.set)
        log.info("%d devices and %d beds begin", len(sensors), len(gateway.beds) if gateway else 0)
        await run(sensors, gateway, stopping, desaturate_every_s=arguments.desaturate_every)

    uvloop.run(live())
    if arguments.json:
        print(json.dumps(asdict(count)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
