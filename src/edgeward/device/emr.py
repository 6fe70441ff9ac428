"""A simulated hospital information system: orders examinations, cancels some, and receives the results.

Responsible for sending orders (ORM^O01 over MLLP and TLS, each until it is acknowledged), and for listening for
results: ORU^R01 over MLLP and FHIR R4 over HTTP. It is a simulated peer for the demonstration and the tests, with
invented patients and without memory beyond its process. Not responsible for what becomes of a result (`emr_results`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import logging
import random
import secrets
import signal
import socket
import ssl
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import uvicorn
import uvloop

from edgeward.device import process
from edgeward.device.backoff import Backoff
from edgeward.device.emr_results import Record, application
from edgeward.device.enrolment import Enrolment, EnrolmentError, load
from edgeward.device.mllp_line import BROKEN, Line
from edgeward.hl7 import er7
from edgeward.hl7.frames import Deframer, TooLarge, frame

_FAMILIES = (
    "Amsel",
    "Berg",
    "Castro",
    "Dufour",
    "Eriksen",
    "Falk",
    "García",
    "Huang",
    "Ito",
    "Jansen",
    "Kowalski",
    "Lund",
)
_GIVEN = (
    "Ada",
    "Bela",
    "Chen",
    "Dina",
    "Émilie",
    "Faye",
    "Gita",
    "Hana",
    "Ines",
    "Jürgen",
    "Kira",
    "Lena",
    "Mei",
    "Nora",
)
_PROCEDURES = (
    ("USBL", "Breast ultrasound left"),
    ("USBR", "Breast ultrasound right"),
    ("USBB", "Breast ultrasound both"),
)
_LARGEST = 8 << 20
_STATE_S = 0.5

log = logging.getLogger("edgeward.device.emr")  # also when run as __main__


@dataclass(frozen=True, slots=True)
class Placed:
    """One order of this system."""

    number: str
    accession: str
    patient_id: str
    family: str
    given: str
    birth_date: str
    sex: str
    code: str
    procedure: str
    scheduled: str

    def message(self, control: str, at: dt.datetime) -> str:
        """Return the order as ORM^O01, after IHE RAD-2."""
        stamp = at.strftime("%Y%m%d%H%M%S.%f")[:-3] + at.strftime("%z")
        status = {"CA": "CA"}.get(control, "SC")
        obr: list[er7.Value] = ["1", self.number, "", (self.code, self.procedure, "L"), "", "", *([""] * 9)]
        obr += [("1001", "Referrer", "Rita", "", "", "Dr"), "", self.accession, *([""] * 5), "US"]
        return er7.join(
            [
                er7.segment(
                    "MSH", "SIMHIS", "SIMULATED", "EDGEWARD", "SITE", stamp, "", ("ORM", "O01", "ORM_O01"),
                    secrets.token_hex(8), "P", "2.5.1", *([""] * 5), "UNICODE UTF-8",
                ),
                er7.segment(
                    "PID", "1", "", (self.patient_id, "", "", "SIMHIS", "MR"), "",
                    (self.family, self.given, "", "", "", "", "L"), "", self.birth_date, self.sex,
                ),
                er7.segment("PV1", "1", "O"),
                er7.segment(
                    "ORC", control, self.number, "", "", status, "", ("", "", "", self.scheduled, "", "R"), "", stamp,
                    "", "", ("1001", "Referrer", "Rita", "", "", "Dr"),
                ),
                er7.segment("OBR", *obr),
            ]
        )  # fmt: skip


def invented(seed: int) -> Iterator[Placed]:
    """Yield orders for invented patients without end; the same seed gives the same ones."""
    rng, number = random.Random(seed), 0
    while True:
        number += 1
        family, given = rng.choice(_FAMILIES), rng.choice(_GIVEN)
        code, procedure = rng.choice(_PROCEDURES)
        yield Placed(
            number=f"O{seed % 10**6:06d}-{number}",
            accession=f"E{seed % 10**6:06d}{number:07d}",
            patient_id=f"SIMHIS-{rng.randrange(10**6):06d}",
            family=f"Sim{family}",
            given=given,
            birth_date=f"{rng.randrange(1935, 2000)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}",
            sex=rng.choice("FFFFFFM"),
            code=code,
            procedure=procedure,
            scheduled=(_now() + dt.timedelta(minutes=number % 60)).strftime("%Y%m%d%H%M%S"),
        )


class Placer:
    """Keeps the worklist filled: a new order now and then, and the oldest cancelled when too many have no result.

    Parameters
    ----------
    every_s
        Seconds between two orders.
    keep
        Orders without a result at one time.
    count
        Stop after so many orders; ``None``: never.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        record: Record,
        orders: Iterator[Placed],
        *,
        every_s: float,
        keep: int,
        count: int | None = None,
    ) -> None:
        self._record, self._orders = record, orders
        self._every_s, self._keep, self._count = every_s, keep, count
        self._open: OrderedDict[str, Placed] = OrderedDict()
        self._line = Line(enrolment)

    def resulted(self, order: str, accession: str) -> None:
        """A result has come for an order."""
        for number, placed in list(self._open.items()):
            if order == number or accession == placed.accession:
                del self._open[number]
        self._record.counts.open = len(self._open)

    async def run(self) -> None:
        """Place orders until cancelled, or until all are placed."""
        placed = 0
        try:
            while self._count is None or placed < self._count:
                order = next(self._orders)
                if await self._send(order.message("NW", _now())):
                    self._record.counts.orders += 1
                    self._open[order.number] = order
                placed += 1
                while len(self._open) > self._keep:
                    _, oldest = self._open.popitem(last=False)
                    if await self._send(oldest.message("CA", _now())):
                        self._record.counts.cancelled += 1
                self._record.counts.open = len(self._open)
                # The worklist is filled at once, and then kept filled.
                await asyncio.sleep(self._every_s if len(self._open) >= self._keep // 2 else min(0.05, self._every_s))
        finally:
            self._line.hang_up()

    async def _send(self, text: str) -> bool:
        """Send a message until it is answered; return whether it was accepted."""
        backoff = Backoff(first=0.5, most=10.0)
        while True:
            try:
                answer = await self._line.ask(text)
            except BROKEN as error:
                self._line.hang_up()
                if not backoff.failed:
                    log.warning("the site takes no orders (%s); they wait", type(error).__name__)
                await asyncio.sleep(backoff.delay())
                continue
            if backoff.failed:
                log.info("the site takes orders again")
            if answer in ("AA", "CA"):
                return True
            log.warning("the site answered %s to an order", answer or "without MSA")
            self._record.counts.orders_refused += 1
            return False


async def listen(
    record: Record, placer: Placer | None, host: str, port: int, tls: ssl.SSLContext | None
) -> asyncio.Server:
    """Listen for ORU^R01 and ORU^R40; every message is acknowledged."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        deframer = Deframer(_LARGEST)
        try:
            while data := await reader.read(1 << 16):
                for encoded in deframer.feed(data):
                    answer, result = record.hl7(encoded)
                    if result is not None and placer is not None:
                        placer.resulted(result.order, result.accession)
                    writer.write(frame(answer))
                    await writer.drain()
        except (OSError, TooLarge) as error:
            log.info("a connection with results ended: %s", type(error).__name__)
        finally:
            writer.close()

    return await asyncio.start_server(connected, host, port, ssl=tls)


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(arguments: argparse.Namespace, enrolment: Enrolment | None) -> None:
    """Run until a signal comes."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    record, tls = Record(), process.server_context(*arguments.tls) if arguments.tls else None
    placer = None
    if enrolment is not None:
        seed = arguments.seed if arguments.seed is not None else secrets.randbits(40)
        placer = Placer(
            enrolment,
            record,
            invented(seed),
            every_s=arguments.every,
            keep=arguments.keep,
            count=arguments.count,
        )
    results = await listen(record, placer, arguments.host, arguments.mllp_port, tls)
    listener = socket.create_server((arguments.host, arguments.http_port))
    config = uvicorn.Config(
        application(record), loop="none", lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    config.load()
    if tls is not None:
        config.ssl = tls
    http = _Http(config)
    tasks = [asyncio.create_task(http.serve([listener])), asyncio.create_task(_keep_state(record, arguments.json))]
    if placer is not None:
        tasks.append(asyncio.create_task(placer.run()))
    ports = {"mllp": results.sockets[0].getsockname()[1], "http": listener.getsockname()[1]}
    print(json.dumps({"host": arguments.host, **ports}), flush=True)
    await stopping.wait()
    results.close()
    http.should_exit = True
    for task in tasks[1:]:
        task.cancel()
    await asyncio.wait(tasks, timeout=2.0)
    _write_state(record, arguments.json)


async def _keep_state(record: Record, path: Path | None) -> None:
    while True:
        _write_state(record, path)
        await asyncio.sleep(_STATE_S)


def _write_state(record: Record, path: Path | None) -> None:
    if path is not None:
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(asdict(record.counts)), encoding="utf-8")
        temporary.replace(path)


def _now() -> dt.datetime:
    return dt.datetime.now().astimezone()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeward device simulate emr",
        description="A hospital information system for demonstrations: orders breast ultrasound for invented patients\n"
        "(HL7 v2 over TLS), and receives results: ORU^R01 over MLLP, FHIR R4 at http://HOST:PORT/fhir;\n"
        "and alarms: ORU^R40 over MLLP, notices to somebody on call at http://HOST:PORT/pager.\n"
        "It remembers nothing beyond its end; GET /counts and /results tell what it has.",
        epilog="""\
examples:
  edgeward device enroll his --kind emr --out devices
  edgeward device simulate emr --enrolment devices/his --every 6
  edgeward device simulate emr --mllp-port 0 --http-port 0 --json state.json     # results only, on free ports""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--enrolment", type=Path, metavar="DIR", help="its enrolment folder; without it, it orders nothing"
    )
    parser.add_argument("--every", type=float, default=6.0, metavar="SECONDS", help="between two orders (default 6)")
    parser.add_argument(
        "--keep",
        type=int,
        default=20,
        metavar="N",
        help="orders without a result; the oldest beyond that is cancelled (default 20)",
    )
    parser.add_argument("--count", type=int, metavar="N", help="stop ordering after N")
    parser.add_argument("--seed", type=int, help="the same seed gives the same orders; default: new ones")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--mllp-port", type=int, default=2577, help="for results by HL7 (default 2577; 0: a free one)")
    parser.add_argument("--http-port", type=int, default=8088, help="for results by FHIR (default 8088; 0: a free one)")
    parser.add_argument(
        "--tls",
        type=Path,
        nargs=3,
        metavar=("CERTIFICATE", "KEY", "AUTHORITY"),
        help="listen with TLS 1.3 and these PEM files, for clients whose certificate the authority issued",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the counts in FILE, as JSON")
    process.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the system until it is told to stop. Returns 0, or 2 when it cannot start."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    for name in ("mllp_port", "http_port"):
        if not 0 <= getattr(arguments, name) <= 65535:
            parser.error(f"--{name.replace('_', '-')} {getattr(arguments, name)}: allowed are 0 to 65535")
    if not 0.001 <= arguments.every <= 86_400 or arguments.keep < 1:
        parser.error("--every must be between 0.001 and 86400 seconds, --keep at least 1")
    process.begin(arguments, "emr")
    try:
        enrolment = load(arguments.enrolment) if arguments.enrolment else None
        if enrolment is not None:
            enrolment.require_mllp()
        uvloop.run(serve(arguments, enrolment))
    except (EnrolmentError, OSError) as error:
        print(f"edgeward: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
