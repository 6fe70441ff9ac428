"""Numerics as HL7 v2 says them: ORU^R01 by IHE PCD-01 (Communicate PCD Data), and monitors that come close to it.

Responsible for reading such a message into `Numerics` and for its answer. Not responsible for the connection
(``mllp``), for what is a value (``measurement``), or for handing over (``handover``).

Reference: IHE PCD (now DEV) TF-2, 3.1 and appendices A and B; HL7 v2.6, chapter 7. Where things are looked for:

============ =================================================================================================
parameter     OBX-3 by MDC number or reference identifier, else LOINC, in the code or its alternate
value         OBX-5 of type NM, SN, ST or CWE (also CE, CNE, TX, IS, or no type)
unit          OBX-6: MDC, UCUM, or a spelling that is known
time          OBX-14, else OBR-7, else MSH-7; a time without a zone has MSH-7's, else the site's; one that is
              known to the day or hour only counts as its end
place         PV1-3 (unit, room, bed, facility): each place is a source of its own
patient       PID-3, of which only a keyed digest goes further
============ =================================================================================================

No value is: a status (OBX-11) of X, D, W, N, I or O, a flag (OBX-8) of INV, NAV or CAL, a type that carries no number,
and what ``measurement`` says. A later C, D or W of the same code, place and time stands for what was said before.
DEMO and TEST stay marked. Waveforms (type NA) are read by ``pcd01_waves`` and go the way of a wearable's packets; one
that cannot be used is an error, after the numerics were taken. A code that we have no parameter or channel for is no
error, because a monitor sends hundreds of settings and statuses.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from edgeward import codes
from edgeward import units as known_units
from edgeward.bedside import Numerics, Vital
from edgeward.gateway.handover import Handover, NotTaken, source_id
from edgeward.gateway.mllp import Handler, Sender
from edgeward.gateway.pcd01_waves import ARRAY, Array, Arrays, Streams, Unusable, channel_of
from edgeward.hl7 import values
from edgeward.hl7.acknowledgement import ACCEPTED, Answer, Code, Outcome
from edgeward.hl7.er7 import Message, Segment
from edgeward.measurement import SCALES, Bound, Validity, comparator, measured

EVENT = "ORU^R01"
_TYPES = ("NM", "SN", "ST", "CWE", "CE", "CNE", "TX", "IS", "")
_OTHER_WAVEFORMS = ("MA",)
WAVES = "ORU^W01"
_WITHDRAWN = {"D": "deleted", "W": "wrong"}  # table 0085
_CORRECTS = ("C", *_WITHDRAWN)
_NO_RESULT = {"X": "not_obtained", "N": "not_asked", "I": "pending", "O": "order_only"}
# IHE PCD TF-2, appendix B, OBX-8: the measurement status of IEEE 11073-10201.
_NOT_A_VALUE = {"INV": "invalid", "NAV": "no_value", "CAL": "calibration"}
_MARKS: dict[str, Validity] = {
    "DEMO": "demo",
    "TEST": "test",
    "QUES": "questionable",
    "<": "questionable",  # table 0078: beyond what the instrument can measure
    ">": "questionable",
}
_MINUTES = re.compile(r"^\d{12}")  # a day is no time of a measurement
_ZONE = re.compile(r"[+-]\d{4}$")
_COARSE = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?([+-]\d{4})?", re.ASCII)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d(?::\d\d)?)(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)?", re.ASCII)
_MOST_PLACES = 500
_LARGE = 200  # segments that are read beside the loop


class Misread(ValueError):
    """A message cannot be used."""

    def __init__(self, code: Code, where: str, text: str) -> None:
        super().__init__(text)
        self.code, self.where = code, where


@dataclass(slots=True)
class _Group:
    """What is said of one place so far, and what holds for the observations that follow."""

    source_id: str
    label: str = ""
    patient: str = ""
    #: Parameter and time -> what was measured of it, by code and containment (OBX-4): how good it is, and the value.
    vitals: dict[tuple[str, int], dict[tuple[str, str], tuple[tuple[bool, int], Vital]]] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=Arrays)

    def take(self, obx: Segment, rank: int, vital: Vital) -> None:
        """Take one measurement.

        Of several of one time the best one counts: a value before none, then by the code's rank, then the first. What
        corrects or withdraws a measurement stands for it, as it does where it comes in a message of its own.
        """
        found = self.vitals.setdefault((vital.parameter, vital.at_ns), {})
        of, judged = (vital.code, obx.text(4)), ((vital.value is None, rank), vital)
        if obx.text(11).upper() in _CORRECTS:
            same = [one for one in found if one == of or (one[0] == of[0] and not of[1])]
            found.update(dict.fromkeys(same or [of], judged))
        elif of not in found or judged[0] < found[of][0]:
            found[of] = judged

    def best(self) -> list[Vital]:
        """Return what counts, one measurement per parameter and time."""
        return [min(found.values(), key=lambda judged: judged[0])[1] for found in self.vitals.values()]


@dataclass(slots=True)
class Reading:
    """A message, read. `unusable`: why a waveform of it cannot be used."""

    numerics: list[Numerics]
    counts: Counter[str]
    waves: dict[str, list[Array]] = field(default_factory=dict)
    unusable: Unusable | None = None


def read(message: Message, device_id: str, received_ns: int, pseudonym: Callable[[str], str]) -> Reading:
    """Return what a message measures.

    Parameters
    ----------
    device_id
        The enrolled device that sent it.
    pseudonym
        Returns the opaque digest of a patient identifier.

    Raises
    ------
    Misread
        If it holds no observation, or it cannot be told which bed is which.
    """
    zone = _ZONE.search(message.header.text(7))
    reader = _Reader(device_id, received_ns, pseudonym, zone.group() if zone else "", _time(message.header, 7))
    if message.header.text(11).upper() in ("T", "D"):  # table 0103: training, debugging
        reader.validity = "test"
    for segment in message.segments[1:]:
        if segment.name == "PID":
            reader.patient(segment)
        elif segment.name == "PV1":
            reader.visit(segment)
        elif segment.name == "OBR":
            reader.request(segment)
        elif segment.name == "OBX":
            reader.observe(segment)
    if not reader.observed:
        raise Misread(Code.SEGMENT_SEQUENCE, "OBX", "the message has no OBX segment")
    return Reading(reader.numerics(), reader.counts, reader.waves(), reader.unusable)


class _Reader:
    """Walks the segments of one message: each PID begins a patient, each PV1 says where, each OBR says when."""

    def __init__(
        self, device_id: str, received_ns: int, pseudonym: Callable[[str], str], zone: str, sent_ns: int
    ) -> None:
        self._device_id, self._received_ns, self._pseudonym = device_id, received_ns, pseudonym
        self._zone, self._sent_ns = zone, sent_ns
        self._groups: dict[str, _Group] = {}
        self._patient = ""
        self._patients = 0  # PID segments so far
        self._placed = True  # the present patient has a place, or is the only one
        self._named = False  # a PID came since the last observation
        self._ahead: Segment | None = None  # a PV1 that came before its PID
        self._nowhere = False  # an observation was taken for the device's own bed
        self._now: _Group | None = None
        self._at_ns = sent_ns
        self.validity: Validity = "valid"
        self._about = ""  # OBR-4
        self.unusable: Unusable | None = None
        self.counts: Counter[str] = Counter()
        self.observed = 0

    def patient(self, pid: Segment) -> None:
        self._patients += 1
        self._patient = self._digest(pid)
        self._now, self._at_ns = None, self._sent_ns
        self._placed = self._patients == 1
        self._named = True
        if self._ahead is not None:  # some write them the other way round: it says where this patient is
            self.visit(self._ahead)

    def visit(self, pv1: Segment) -> None:
        unit, room, bed = (_either(pv1, component) for component in (1, 2, 3))
        facility, building, floor = (_either(pv1, component) for component in (4, 7, 8))
        self._ahead = None if self._named else pv1
        if any((unit, room, bed)):
            if self._nowhere:
                raise Misread(Code.SEGMENT_SEQUENCE, "PV1", "observations stand before the PV1 that says where")
            self._placed = True
            key = source_id(self._device_id, unit, room, bed, facility, building, floor)
            self._now = self._group(key, " ".join(part for part in (unit, room, bed) if part))

    def request(self, obr: Segment) -> None:
        self._at_ns = self._when(obr, 7, self._sent_ns)
        self._about = f"{obr.text(4, 1)} {obr.text(4, 2)}"

    def observe(self, obx: Segment) -> None:
        self.observed += 1
        self._named, self._ahead = False, None
        kind = obx.text(2).upper()
        if kind == ARRAY:
            self._wave(obx)
            return
        if kind in _OTHER_WAVEFORMS:
            self.counts["hl7_waveforms_passed_over"] += 1
            return
        if self._now is not None and self._now.arrays.found and self._now.arrays.attribute(obx):
            return
        meaning, code = _meaning(obx)
        if meaning is None:
            if obx.present(5):  # a device, a channel and the like have no value
                self.counts["hl7_codes_unknown"] += 1
            return
        if kind not in _TYPES:
            self.counts["hl7_types_unknown"] += 1
        vital = _vital(obx, kind, meaning, code, self._when(obx, 14, self._at_ns), self.validity)
        if vital.value is None:
            self.counts["hl7_no_value"] += 1
        self._place().take(obx, meaning.rank, vital)

    def _place(self) -> _Group:
        """Return whose the observations are that follow."""
        if not self._placed:
            raise Misread(
                Code.FIELD_MISSING, "PV1-3", "the message is about several patients and does not say which bed is whose"
            )
        if self._now is None:
            self._now = self._group(self._device_id, "")
            self._nowhere = True
        return self._now

    def _wave(self, obx: Segment) -> None:
        if channel_of(obx) is None:
            self.counts["hl7_waveforms_unknown"] += 1
            return
        flags = {obx.text(8, 1, row).upper() for row in range(1, min(obx.repetitions(8), 20) + 1)}
        status = obx.text(11).upper()
        unwanted = flags & {"DEMO", "TEST", *_NOT_A_VALUE} or status in _WITHDRAWN or status in _NO_RESULT
        if unwanted or self.validity == "test":
            self.counts["hl7_waveforms_no_value"] += 1  # no patient's: alarms must not come of it
            return
        try:
            self._place().arrays.take(obx, self._when(obx, 14, self._at_ns), self._about)
            self.counts["hl7_waveforms"] += 1
        except Unusable as error:
            self.unusable = self.unusable or error

    def _when(self, segment: Segment, number: int, otherwise_ns: int) -> int:
        """Return when it was; `otherwise_ns` where the field does not say.

        A result that is dated only (yesterday's, last year's) is not of now: it is taken for as late as it can be.
        """
        if at_ns := _time(segment, number, self._zone):
            return at_ns
        text = segment.text(number)
        if not text:
            return otherwise_ns
        if latest_ns := _latest(text, self._zone):
            return min(latest_ns, otherwise_ns) if otherwise_ns else latest_ns
        self.counts["hl7_times_unreadable"] += 1
        return otherwise_ns

    def waves(self) -> dict[str, list[Array]]:
        """Return the waveforms of each place."""
        return {group.source_id: group.arrays.found for group in self._groups.values() if group.arrays.found}

    def numerics(self) -> list[Numerics]:
        """Return what was read, one per place."""
        return [
            Numerics(
                source_id=group.source_id,
                device_id=self._device_id,
                protocol="pcd01",
                received_ns=self._received_ns,
                vitals=group.best(),
                sent_ns=self._sent_ns,
                label=group.label,
                patient=group.patient,
                # Without MSH-7 nothing says how late it is: to learn a clock from when it was measured
                # would make what is old a thing of now.
                clock="device" if self._sent_ns else "site",
            )
            for group in self._groups.values()
            if group.vitals or group.arrays.found  # the monitor learns whose waveforms come
        ]

    def _group(self, key: str, label: str) -> _Group:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _MOST_PLACES:
                raise Misread(Code.SEGMENT_SEQUENCE, "PV1", f"the message is about more than {_MOST_PLACES} places")
            group = self._groups[key] = _Group(key, values.clean(label))
        if (group.vitals or group.arrays.found) and group.patient != self._patient:
            raise Misread(Code.DUPLICATE_KEY, "PV1-3", "two patients are said to be at one place")
        group.patient = self._patient
        return group

    def _digest(self, pid: Segment) -> str:
        """Return the digest of the identifier that tells patients apart: the medical record number, else the first."""
        rows = range(1, min(pid.repetitions(3), 50) + 1)
        for wanted in ("MR", "PI", "PT", None):
            for row in rows:
                number = pid.text(3, 1, row)
                if number and wanted in (None, pid.text(3, 5, row).upper()):
                    return self._pseudonym(f"{pid.text(3, 4, row)}\0{number}")
        number = pid.text(2)
        return self._pseudonym(f"\0{number}") if number else ""


def _either(segment: Segment, component: int) -> str:
    """Return a component of PV1-3, or its first subcomponent that holds something (some write ``^^&24``)."""
    return next((text for sub in (1, 2, 3) if (text := segment.text(3, component, 1, sub))), "")


def _meaning(obx: Segment) -> tuple[codes.Meaning | None, str]:
    """Return what OBX-3 stands for and the code by which that was found."""
    meanings: list[tuple[codes.Meaning, str]] = []
    for first in (1, 4):
        code, text, system = (obx.text(3, first + place) for place in range(3))
        name = system.upper()
        if name in ("LN", "LOINC"):
            found = codes.BY_LOINC.get(code)
        elif name in ("MDC", "MDIL", "ISO/IEEE 11073", "11073", "ISO11073"):
            found = codes.mdc(code, text)
        else:  # a private table, or none: only what cannot be mistaken
            found = codes.BY_REFERENCE.get(text.upper()) or codes.BY_REFERENCE.get(code.upper())
            found = found or (codes.BY_LOINC.get(code) or codes.BY_NUMBER.get(code) if not system else None)
        if found is not None:
            meanings.append((found, text if text.upper() in codes.BY_REFERENCE else code))
    return codes.one_of(meanings) or (None, "")


def _vital(  # noqa: PLR0917 - one observation and what holds for it
    obx: Segment, kind: str, meaning: codes.Meaning, code: str, at_ns: int, validity: Validity
) -> Vital:
    status = obx.text(11).upper()
    why = _WITHDRAWN.get(status, "") or _NO_RESULT.get(status, "")
    bound: Bound = ""
    for row in range(1, min(obx.repetitions(8), 20) + 1):
        flag = obx.text(8, 1, row).upper()
        why = why or _NOT_A_VALUE.get(flag, "")
        validity = _MARKS.get(flag, validity)
        bound = bound or comparator(flag)  # table 0078: "<" below, ">" above the instrument's scale
    if kind not in _TYPES and obx.present(5):
        why = why or "not_a_number"  # a time, a picture, formatted text: whoever looks after the monitor is told
    value = obx.text(5)
    if meaning.parameter.name not in SCALES:
        bound = ""  # the number itself is there, marked as questionable
    if kind == "SN":
        sign, value, separator = (obx.text(5, component) for component in (1, 2, 3))
        if sign not in ("", "="):
            bound = comparator(sign)
            why = why or ("" if bound else "comparator")
        elif separator:
            why = why or "not_a_number"  # a range or a ratio
    elif kind in ("CWE", "CE", "CNE") and meaning.parameter.name == "consciousness":
        value = codes.LEVELS.get(value) or obx.text(5, 2) or value
    return measured(
        meaning.parameter, value, _unit(obx), at_ns=at_ns, code=code, validity=validity, why=why, bound=bound
    )


def _unit(obx: Segment) -> str:
    """Return the first part of OBX-6 that is a unit we know, else whatever is there; two units are none."""
    parts = [obx.text(6, component) for component in (2, 1, 5, 4)]
    if known_units.differ(parts):
        return "?"
    return next(
        (part for part in parts if part and known_units.known(part)), next((part for part in parts if part), "")
    )


def _time(segment: Segment, number: int, zone: str = "") -> int:
    """Return a time as nanoseconds, or 0 if it is not one, or not known to the minute."""
    text = segment.text(number).replace(" ", "")
    if iso := _ISO.fullmatch(text):  # some write it so, and it can mean nothing else
        day, hour, fraction, its_zone = iso.groups(default="")
        its_zone = "+0000" if its_zone == "Z" else its_zone.replace(":", "")
        text = day.replace("-", "") + hour.replace(":", "") + fraction + its_zone
    if not _MINUTES.match(text):
        return 0
    if zone and not _ZONE.search(text):
        text += zone
    at = values.time(text)
    if at is None or not dt.datetime(1970, 1, 2, tzinfo=dt.UTC) < at < dt.datetime(2200, 1, 1, tzinfo=dt.UTC):
        return 0
    return values.nanoseconds(at)


def _latest(text: str, zone: str) -> int:
    """Return the end of a year, month, day or hour as nanoseconds, or 0 if it is none."""
    found = _COARSE.fullmatch(text)
    if found is None:
        return 0
    year, month, day, hour, own_zone = found.groups(default="")
    start = values.time(year + month + day + hour + (own_zone or zone))
    if start is None:
        return 0
    if hour or day:
        end = start + dt.timedelta(**{"hours" if hour else "days": 1})
    else:
        months = int(year) * 12 + (int(month) if month else 12)
        end = start.replace(year=months // 12, month=months % 12 + 1)
    return values.nanoseconds(end) - 1 if end.year > 1970 else 0


class Pcd01:
    """Answers ORU^R01 and ORU^W01: accepted once the numerics are on the monitor's disk and waveforms on the bus.

    Parameters
    ----------
    publish
        Sends a waveform packet of a source on its way. It raises `NotTaken` where that is not possible.
    """

    def __init__(
        self, handover: Handover, pseudonym: Callable[[str], str], publish: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        self._handover, self._pseudonym, self._publish = handover, pseudonym, publish
        self._streams = Streams()

    async def take(self, message: Message, sender: Sender, received_ns: int) -> Answer:
        """Take one message.

        The same message again (all of it: some monitors count their control ids from 1 at every start) is accepted and
        not handed over a second time.
        """
        self._handover.count("hl7_observations")
        try:
            if len(message.segments) > _LARGE or any(segment.text(2) == ARRAY for segment in message.segments[1:]):
                reading = await asyncio.to_thread(read, message, sender.device_id, received_ns, self._pseudonym)
            else:
                reading = read(message, sender.device_id, received_ns, self._pseudonym)
        except Misread as error:
            return Answer(Outcome.ERROR, str(error), error.code, error.where)
        whole = "\r".join("|".join(segment.raw) for segment in message.segments)

        async def give() -> None:
            await self._handover.give(reading.numerics)
            await self._waves(reading)
            if reading.unusable is not None:  # not remembered as done: sent again it is answered as this time
                raise reading.unusable

        try:
            if await self._handover.once(f"{sender.device_id}\0{whole}".encode(errors="replace"), give):
                for name, count in reading.counts.items():
                    self._handover.count(name, count)
        except NotTaken as error:
            return Answer(Outcome.ERROR, f"{error}; send it again later", Code.INTERNAL)
        except Unusable as error:
            self._handover.count("hl7_waveforms_refused")
            text = f"{error}; everything else of the message was taken"
            return Answer(Outcome.ERROR, text, error.code, error.where, partly=True)
        return ACCEPTED

    async def _waves(self, reading: Reading) -> None:
        for source, arrays in reading.waves.items():
            # Several pieces of one channel, each with its time, may stand in one message.
            for at_ns in sorted({array.at_ns for array in arrays}):
                together = [array for array in arrays if array.at_ns == at_ns]
                try:
                    packets, repeated = self._streams.packets(source, together)
                except Unusable as error:
                    reading.unusable = reading.unusable or error
                    continue
                if repeated:
                    self._handover.count("hl7_samples_repeated", repeated)
                for packet in packets:
                    await self._publish(source, packet)


def handled(pcd01: Pcd01) -> dict[str, Handler]:
    """Return the handlers for ``MllpDoor``."""
    return {EVENT: pcd01.take, WAVES: pcd01.take}
