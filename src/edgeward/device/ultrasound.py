"""A simulated ultrasound machine: sends by C-STORE over TLS 1.3 and repeats until it is told that the image is stored.

Responsible for the modality's queue: an image leaves it only on a Success (or warning) status; everything else is tried
again with the same SOP Instance UID. Not responsible for the images (`exposures`, `ultrasound_image`) or for what is
said about examinations (`ultrasound_workflow`).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import logging
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from edgeward.device import process
from edgeward.device.backoff import Backoff
from edgeward.device.enrolment import Enrolment, EnrolmentError, load
from edgeward.device.exposures import Exposure, ExposureError, built_in, from_folder
from edgeward.device.ultrasound_image import Session
from edgeward.device.ultrasound_workflow import Workflow, assigned_before
from edgeward.scu import steady

_RESPONSE_S = 20.0
_GIVE_UP_AFTER = 3  # refusals of one image that no repetition will change (PS3.4 B.2.3: A9xx, Cxxx)
_CHECK_S = 0.2

log = logging.getLogger("edgeward.device.ultrasound")  # also when run as __main__


@dataclass(slots=True)
class Summary:
    """What the machine did.

    Attributes
    ----------
    sent
        C-STORE requests that went out.
    acknowledged
        Different images the site said are stored.
    refused
        Different images given up because the site says it can never take them.
    retried
        Requests that repeated one without Success.
    repeated
        Requests that repeated one with Success, as machines do (``--repeat-every``).
    pending
        Images still waiting at the end.
    """

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    retried: int = 0
    repeated: int = 0
    pending: int = 0


@dataclass(slots=True)
class _Waiting:
    exposure: Exposure
    attempts: int = 0
    refusals: int = 0
    repeat: bool = False


@dataclass(slots=True)
class Machine:
    """The machine: takes images at a steady rate and works off its queue.

    Attributes
    ----------
    enrolment
        Who it is and where it sends.
    exposures
        What it images.
    rate
        Images a second.
    count
        Stop taking images after so many; ``None``: never.
    burst
        Send when so many are waiting, in one association.
    repeat_every
        Send each n-th acknowledged image once more; 0: never.
    state
        Where acknowledgements are written, JSON lines.
    done
        SOP Instance UIDs that were acknowledged in an earlier run: not sent again.
    workflow
        Talks about the examinations; ``None``: the machine only sends images.
    """

    enrolment: Enrolment
    exposures: Iterator[Exposure]
    rate: float
    count: int | None
    burst: int
    repeat_every: int
    state: TextIO | None
    done: set[str]
    workflow: Workflow | None = None
    summary: Summary = field(default_factory=Summary)
    _queue: deque[_Waiting] = field(default_factory=deque)
    _association: Association | None = None
    _copies: dict[str, Exposure] = field(default_factory=dict)  # of a machine with a workflow, until they are committed

    def run(self, stopping: threading.Event) -> None:
        """Image and send until `stopping` is set, or until all is taken and acknowledged or refused."""
        backoff = Backoff(first=0.5, most=5.0)
        began = time.monotonic()
        taken, more, not_before = 0, True, 0.0
        while not stopping.is_set():
            now = time.monotonic()
            while more and now >= began + taken / self.rate:
                exposure = next(self.exposures, None)
                more = exposure is not None and (self.count is None or taken + 1 < self.count)
                taken += 1
                if exposure is not None and exposure.uid not in self.done:
                    self._queue.append(_Waiting(exposure))
                    self._examine(exposure)
            if self.workflow is not None:
                if not more:
                    self.workflow.close_all()
                self.workflow.work_off()
            if not self._queue and not more and not (self.workflow and self.workflow.busy):
                break
            if self._queue and now >= not_before and (len(self._queue) >= self.burst or not more):
                # The library tells why a connection fails, with a traceback: once an outage is enough.
                logging.getLogger("pynetdicom").setLevel(logging.CRITICAL if backoff.failed else logging.ERROR)
                if self._work_off(stopping, first=not backoff.failed):
                    if backoff.failed:
                        log.info("the site takes images again")
                    backoff.reset()
                else:
                    not_before = time.monotonic() + backoff.delay()
                continue
            due = began + taken / self.rate if more else now + _CHECK_S
            if self._queue and not_before > now:
                due = min(due, not_before)
            stopping.wait(max(0.0, min(due - now, 1.0)))
        self.summary.pending = len(self._queue)

    def _examine(self, exposure: Exposure) -> None:
        if self.workflow is not None:
            self._copies[exposure.uid] = exposure
            self.workflow.taken(exposure.study, exposure.uid)

    def send_again(self, uid: str) -> None:
        """Send an image once more that was not committed."""
        if uid in self._copies:
            self._queue.append(_Waiting(self._copies[uid], repeat=True))

    def delete(self, uid: str) -> None:
        """Delete the machine's own copy: the site has committed to keep the image."""
        self._copies.pop(uid, None)

    def hang_up(self) -> None:
        """Break off what is going on, so that a stop takes no longer than a second."""
        association = self._association
        if association is not None and association.is_alive():
            association.abort()
            # The library's sender waits on this queue until its timeout; this is its own sign for a lost connection.
            association.dimse.msg_queue.put((None, None))

    def _work_off(self, stopping: threading.Event, *, first: bool) -> bool:
        """Send up to a burst of images in one association; return whether the site is well.

        What goes wrong is logged at the first attempt of an outage only.
        """
        batch = self._batch()
        if not batch:
            return True
        try:
            association = self._associate([dataset for _, dataset in batch])
        except OSError as error:  # a name that does not resolve
            if first:
                log.warning("no association with the site: %s", error)
            return False
        if not association.is_established:
            if association.rejected_contexts:  # we were let in, but none of these kinds of object is taken
                given_up = [self._refuse(waiting, "no presentation context") for waiting, _ in batch]
                return all(given_up)
            if first and association.is_rejected:
                log.warning("the site rejected the association: is this AE title enrolled?")
            elif first:
                log.warning("no association with the site; images wait and are sent when it is back")
            return False
        self._association = association
        try:
            for waiting, dataset in batch:
                if stopping.is_set() or not self._store(association, waiting, dataset):
                    return False
            return True
        finally:
            self._association = None
            if association.is_established:
                association.release()

    def _batch(self) -> list[tuple[_Waiting, Dataset]]:
        """Return the first images of the queue, built; what can no longer be read leaves the queue."""
        batch: list[tuple[_Waiting, Dataset]] = []
        for waiting in list(self._queue)[: self.burst]:
            try:
                batch.append((waiting, waiting.exposure.build()))
            except (OSError, ValueError, InvalidDicomError) as error:  # the file has changed or gone since
                log.warning("an image can no longer be read and is not sent: %s", type(error).__name__)
                self._queue.remove(waiting)
                self.summary.refused += 1
                self._given_up(waiting)
        return batch

    def _associate(self, datasets: list[Dataset]) -> Association:
        address = self.enrolment.require_dicom()
        entity = AE(ae_title=self.enrolment.ae_title)
        entity.connection_timeout = 5.0
        entity.acse_timeout = 10.0
        entity.dimse_timeout = _RESPONSE_S
        entity.network_timeout = _RESPONSE_S
        wanted = {}
        for dataset in datasets:
            syntax = dataset.file_meta.TransferSyntaxUID
            wanted[dataset.SOPClassUID, syntax] = [syntax]
            if syntax == ExplicitVRLittleEndian:
                wanted[dataset.SOPClassUID, ImplicitVRLittleEndian] = [ImplicitVRLittleEndian]
        return steady(
            entity.associate(
                address.host,
                address.port,
                contexts=[build_context(sop_class, syntaxes) for (sop_class, _), syntaxes in wanted.items()],
                ae_title=address.ae_title,
                tls_args=(self.enrolment.context(), address.host),
                evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
            )
        )

    def _store(self, association: Association, waiting: _Waiting, dataset: Dataset) -> bool:
        """Send one image (the first in the queue); return whether to go on with this association."""
        waiting.attempts += 1
        try:
            answer = association.send_c_store(dataset)
        except ValueError:
            # No accepted presentation context: the site does not take this kind of object.
            return self._refuse(waiting, "no presentation context")
        except RuntimeError:
            return False  # the association broke before the request
        self.summary.sent += 1
        if waiting.repeat:
            self.summary.repeated += 1
        elif waiting.attempts > 1:
            self.summary.retried += 1
        if "Status" not in answer:
            log.warning("no answer to a C-STORE: the image is sent again")
            return False
        status = int(answer.Status)
        if status == 0x0000 or status >> 12 == 0xB:
            self._acknowledge(waiting, status)
            if self.workflow is not None:
                self.workflow.stored(waiting.exposure.study, waiting.exposure.uid, str(dataset.SOPClassUID))
            return True
        if status >> 8 == 0xA7 or status in (0x0110, 0x0124):  # out of resources, processing failure, not authorised
            log.warning("the site answered %04x: the image is sent again", status)
            return False
        return self._refuse(waiting, f"{status:04x}")

    def _acknowledge(self, waiting: _Waiting, status: int) -> None:
        self._queue.popleft()
        if waiting.repeat:
            return
        self.done.add(waiting.exposure.uid)
        self.summary.acknowledged += 1
        if self.state is not None:
            row = {
                "uid": waiting.exposure.uid,
                "acknowledged_ns": time.time_ns(),
                "status": f"{status:04x}",
                "attempts": waiting.attempts,
            }
            self.state.write(json.dumps(row) + "\n")
            self.state.flush()
        if self.repeat_every and self.summary.acknowledged % self.repeat_every == 0:
            self._queue.append(_Waiting(waiting.exposure, repeat=True))

    def _refuse(self, waiting: _Waiting, reason: str) -> bool:
        waiting.refusals += 1
        if waiting.refusals < _GIVE_UP_AFTER:
            return False
        self._queue.remove(waiting)
        log.warning("the site does not take an image (%s): given up after %d attempts", reason, waiting.attempts)
        if not waiting.repeat:
            self.summary.refused += 1
        self._given_up(waiting)
        return True

    def _given_up(self, waiting: _Waiting) -> None:
        if self.workflow is not None:
            self.workflow.refused(waiting.exposure.study, waiting.exposure.uid)


def _no_delay(event: evt.Event) -> None:
    """Send small PDUs at once: with Nagle's algorithm each image would wait for a delayed acknowledgement."""
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None:
        wrapped.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def acknowledged_before(path: Path) -> set[str]:
    """Return the UIDs acknowledged according to a state file; a half-written last line is passed over."""
    if not path.exists():
        return set()
    found = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "acknowledged_ns" in row:
                found.add(str(row["uid"]))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeward device simulate ultrasound",
        description="Simulate an ultrasound machine: it images at a steady rate and sends each image by C-STORE over\n"
        "TLS 1.3 until the site says that it is stored, always with the same SOP Instance UID.",
        epilog="""\
examples:
  edgeward device enroll us-1 --kind ultrasound --ae-title US1 --out devices
  edgeward device simulate ultrasound --enrolment devices/us-1
  edgeward device simulate ultrasound --enrolment devices/us-1 --images ../shared/data/busi --rate 2 --count 100 --json

Without --images it shows breast phantoms with lesions of known contour, and every fifth time an ultrasound frame of
something else, which the site must refuse to interpret. Patients are invented: SIM^Ada, SIM-0001.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--enrolment", type=Path, required=True, metavar="DIR", help="the machine's enrolment folder")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="send the png and jpg pictures (as new objects, uncalibrated) and DICOM files (as they are) below DIR",
    )
    parser.add_argument("--rate", type=float, default=0.5, help="images a second (default 0.5)")
    parser.add_argument("--count", type=int, metavar="N", help="image N times, then stop when all are acknowledged")
    parser.add_argument("--burst", type=int, default=1, metavar="N", help="send N at a time (default 1)")
    parser.add_argument(
        "--repeat-every",
        type=int,
        default=0,
        metavar="N",
        help="send every N-th stored image once more, as machines do",
    )
    parser.add_argument(
        "--seed", type=int, help="the same seed gives the same images and identifiers; default: new ones"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="note each acknowledgement (JSON lines); with the same --seed a later run goes on from there",
    )
    parser.add_argument(
        "--workflow",
        action="store_true",
        help="work as a real machine does: take patients from the worklist if there are any, tell what is performed\n"
        "(MPPS), and delete an image only after the site has committed to keep it",
    )
    parser.add_argument("--json", action="store_true", help="print a summary as one JSON object at the end")
    process.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the machine. Returns 0, or 2 when the folder or the images cannot be used."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not 0.01 <= arguments.rate <= 1000:
        parser.error(f"--rate {arguments.rate:g}: allowed are 0.01 to 1000 images a second")
    if arguments.burst < 1 or arguments.repeat_every < 0 or (arguments.count is not None and arguments.count < 1):
        parser.error("--burst and --count must be at least 1, --repeat-every at least 0")
    process.begin(arguments, "ultrasound")
    seed = arguments.seed if arguments.seed is not None else secrets.randbits(48)
    try:
        enrolment = load(arguments.enrolment)
        enrolment.require_dicom()
        session = Session(seed, enrolment.device_id, dt.datetime.now().astimezone(), 1.0 / arguments.rate)
        exposures = built_in(session) if arguments.images is None else from_folder(arguments.images, session)
    except (EnrolmentError, ExposureError) as error:
        print(f"edgeward: {error}", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        done: set[str] = set()
        state = None
        if arguments.state is not None:
            done = acknowledged_before(arguments.state)
            state = stack.enter_context(arguments.state.open("a", encoding="utf-8"))
        machine = Machine(
            enrolment, exposures, arguments.rate, arguments.count, arguments.burst, arguments.repeat_every, state, done
        )
        if arguments.workflow:
            if arguments.state is not None:
                session.assigned.update(assigned_before(arguments.state))
            machine.workflow = Workflow(enrolment, session, machine.send_again, machine.delete, state)
        stopping = process.stop_on_signal(lambda: _hang_up_soon(machine))
        machine.run(stopping)
    if arguments.json:
        told = {"workflow": asdict(machine.workflow.counts)} if machine.workflow else {}
        print(json.dumps({**asdict(machine.summary), **told, "seed": seed}))
    return 0


def _hang_up_soon(machine: Machine) -> None:
    """Give the image on its way a second, then break off."""
    timer = threading.Timer(1.0, machine.hang_up)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    raise SystemExit(main())
