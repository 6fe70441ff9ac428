"""A result as HL7 v2.5.1: one ORU^R01 per revision (chapter 7), the same however often it is sent.

Responsible for segments, codes and result status. Not responsible for sending (``hl7``) or for what a verdict means
(``standing``).

A later revision repeats every observation with its new status; the receiver finds the earlier ones by filler order
number, OBX-3 and OBX-4. OBX-4 begins with a token of the image, because a study has many images and one order.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo

from edgeward.clinic.imaging import codes
from edgeward.clinic.imaging.codes import Code
from edgeward.clinic.imaging.header import local_time
from edgeward.clinic.imaging.source import Assigner, Source, derived_uid
from edgeward.clinic.imaging.standing import Judged, Standing, judge, model_name, statement
from edgeward.hl7 import er7
from edgeward.messages import DeliverRequest, Lesion

_TEXT = Code("59776-5", "LN", "Procedure findings")
_STUDY = Code("113014", "DCM", "DICOM Study")  # IHE RAD TF-2 table 4.7-7 sends the Study Instance UID so
_RESULT = {  # OBR-25, HL7 table 0123; it has no word for a withdrawn result
    Standing.PRELIMINARY: "P",
    Standing.FINAL: "F",
    Standing.AMENDED: "C",
    Standing.WITHDRAWN: "C",
}
_WRONG = "W"  # OBX-11, HL7 table 0085: "post original as wrong"
_NOT_OBTAINED = "X"
_NO_RESULT = "O"  # "order detail description only": the reference to the study


@dataclass(frozen=True, slots=True)
class Parties:
    """MSH-3 to MSH-6."""

    sending_facility: str
    receiving_application: str
    receiving_facility: str
    sending_application: str = "EDGEWARD"


def control_id(request: DeliverRequest) -> str:
    """Return MSH-10 of a revision, 20 characters: a receiver recognises a repeat by it."""
    return _token("control", request.item_id, str(request.revision))[:20]


def build_oru(request: DeliverRequest, source: Source, zone: tzinfo, parties: Parties) -> bytes:
    """Return the message for one revision of a result, without MLLP framing.

    Parameters
    ----------
    request
        Finding, revision and verdicts.
    source
        The image it is about.
    zone
        Of the times, unless the image states its own.
    parties
        Who sends and who is meant.

    Returns
    -------
    bytes
        UTF-8 (MSH-18 says so); segments end with a carriage return.
    """
    writer = _Writer(request, source, zone)
    segments = [writer.header(parties), writer.patient(), writer.visit(), *writer.order(), *writer.observations()]
    return er7.join(segments).encode("utf-8", "replace")


class _Writer:
    """Writes the segments of one revision."""

    def __init__(self, request: DeliverRequest, source: Source, zone: tzinfo) -> None:
        self.request, self.finding, self.source = request, request.finding, source
        self.judged: Judged = judge(request)
        offset = str(source.common.get("TimezoneOffsetFromUTC", ""))
        self.at = _time_stamp(local_time(self.judged.at_ns, offset, zone))
        self.made = _time_stamp(local_time(self.finding.created_ns, offset, zone))
        self.acquired = source.acquired
        self.image = _token("image", request.item_id)[:10]
        self.status = _RESULT[self.judged.standing]
        self.count = 0

    # ------------------------------------ who and which

    def header(self, parties: Parties) -> str:
        return er7.segment(
            "MSH",
            parties.sending_application,
            parties.sending_facility,
            parties.receiving_application,
            parties.receiving_facility,
            self.at,
            "",
            ("ORU", "R01", "ORU_R01"),
            control_id(self.request),
            "P",
            "2.5.1",
            "", "", "", "", "",
            "UNICODE UTF-8",
        )  # fmt: skip

    def patient(self) -> str:
        common = self.source.common
        issuer = str(common.get("IssuerOfPatientID", ""))
        number = _line(str(common.get("PatientID", "")))
        return er7.segment(
            "PID",
            "1",
            "",
            (number, "", "", _line(issuer), "MR") if number else "",
            "",
            _names(str(common.get("PatientName", ""))),
            "",
            str(common.get("PatientBirthDate", "")),
            str(common.get("PatientSex", "")) or "U",
        )

    def visit(self) -> str:
        """Return PV1: we do not know the visit (class U), only who referred."""
        return er7.segment("PV1", "1", "U", "", "", "", "", "", self._referrer())

    def order(self) -> Iterator[str]:
        common = self.source.common
        accession = _line(str(common.get("AccessionNumber", "")))
        placer = _entity(self.source.placer_order, self.source.placer)
        filler = _entity(self.source.filler_order, self.source.filler) or accession or self.image
        procedure = self.source.procedure or (
            codes.BREAST_ULTRASOUND.value,
            codes.BREAST_ULTRASOUND.meaning,
            codes.BREAST_ULTRASOUND.scheme,
        )
        if self.source.procedure is not None:
            code, scheme, meaning = self.source.procedure
            procedure = (_line(code), _line(meaning), _line(scheme))
        progress = "IP" if self.judged.standing is Standing.PRELIMINARY else "CM"  # table 0038
        yield er7.segment("ORC", "RE", placer, filler, "", progress, "", "", "", "", "", "", self._referrer())
        fields: list[er7.Value] = [""] * 32
        known: dict[int, er7.Value] = {
            1: "1",
            2: placer,
            3: filler,
            4: procedure,
            7: self.acquired or self.made,
            16: self._referrer(),
            18: accession,  # where IHE has it
            22: self.at,
            24: "RUS",  # table 0074: radiology ultrasound
            25: self.status,
            32: self._clinician(),
        }
        for number, value in known.items():
            fields[number - 1] = value
        yield er7.segment("OBR", *fields)

    # ------------------------------------ what was found

    def observations(self) -> Iterator[str]:
        finding, judged = self.finding, self.judged
        yield self._observation("ST", _STUDY, "", self.source.study_instance_uid, _NO_RESULT)
        label = codes.LABELS.get(judged.label)
        if finding.status != "analysed" and not judged.overruled:
            yield self._observation("CE", codes.IMPRESSION, "", "", self._unless_wrong(_NOT_OBTAINED))
        else:
            value = _coded(label) if label else ("", judged.label or "not classified")
            yield self._observation("CE", codes.IMPRESSION, "", value, self._status(changed=judged.label_changed))
        if finding.status == "analysed":
            yield from self._measurements()
        # One observation, its lines as repetitions: a later revision replaces them all, however many they are.
        yield self._observation("TX", _TEXT, "text", [_line(line) for line in self._text()], self.status)

    def _measurements(self) -> Iterator[str]:
        finding = self.finding
        if finding.malignancy is not None and math.isfinite(finding.malignancy):
            yield self._number(
                codes.PROBABILITY_OF_CANCER,
                "",
                (100.0 * finding.malignancy, codes.PERCENT, 1),
                self._status(stands=not self.judged.overruled, changed=self.judged.probability_back),
                flag="A" if finding.suspicious else "",
            )
        for number, lesion in enumerate(finding.lesions, start=1):
            yield from self._lesion(number, lesion)

    def _lesion(self, number: int, lesion: Lesion) -> Iterator[str]:
        status = self._status(stands=self.judged.lesions_stand, changed=self.judged.lesions_back)
        length, square = (codes.MM, codes.MM2) if lesion.unit == "mm" else (codes.PIXELS, codes.PIXELS)
        for code, value, unit, digits in (
            (codes.LONG_AXIS, lesion.long_axis, length, 2),
            (codes.SHORT_AXIS, lesion.short_axis, length, 2),
            (codes.AREA, lesion.area, square, 2),
            (codes.CERTAINTY, 100.0 * lesion.probability, codes.PERCENT, 1),
        ):
            if math.isfinite(value):
                yield self._number(code, f"lesion-{number}", (value, unit, digits), status)

    def _text(self) -> Iterator[str]:
        yield from statement(self.request, self.judged)
        series = self.source.series_number
        frame = f", frame {self.finding.frame + 1}" if self.source.frames > 1 else ""
        where = f"series {series}, " if series is not None else ""
        yield f"Image: {where}image {self.source.instance_number}{frame}; SOP instance {self.source.sop_instance_uid}"
        if self.finding.status == "analysed" and self.finding.lesions and self.finding.spacing_mm is None:
            yield "Sizes are in pixels: the image states no usable spacing."

    def _status(self, *, stands: bool = True, changed: bool = False) -> str:
        """Return OBX-11 of one observation."""
        if not stands or self.judged.standing is Standing.WITHDRAWN:
            return _WRONG
        if self.judged.standing is Standing.AMENDED and not changed:
            return "F"  # looked at, and left as it was
        return self.status

    def _unless_wrong(self, status: str) -> str:
        return _WRONG if self.judged.standing is Standing.WITHDRAWN else status

    def _number(self, code: Code, part: str, measured: tuple[float, Code, int], status: str, flag: str = "") -> str:
        value, unit, digits = measured
        return self._observation(
            "NM", code, part, f"{value:.{digits}f}", status, unit=(unit.value, unit.meaning, unit.scheme), flag=flag
        )

    def _observation(
        self,
        kind: str,
        code: Code,
        part: str,
        value: er7.Value,
        status: str,
        *,
        unit: er7.Value = "",
        flag: str = "",
    ) -> str:  # fmt: skip
        self.count += 1
        return er7.segment(
            "OBX",
            str(self.count),
            kind,
            _coded(code),
            f"{self.image}.{part}".rstrip("."),
            value,
            unit,
            "",
            flag,
            "",
            "",
            status,
            "", "",
            self.acquired or self.made,
            "",
            self._clinician(),
            "",
            (_line(model_name(self.finding)), "EDGEWARD"),
        )  # fmt: skip

    # ------------------------------------ people

    def _clinician(self) -> er7.Value:
        return _line(self.judged.verdict.by) if self.judged.verdict else ""

    def _referrer(self) -> er7.Value:
        """Return the referring physician as XCN: a name without a number."""
        name = _person(str(self.source.common.get("ReferringPhysicianName", "")).split("=")[0])
        return ("", *name) if any(name) else ""


def _person(group: str) -> tuple[str, ...]:
    """Return one group of a DICOM PN as HL7 has it: the suffix goes before the prefix (PS3.5 6.2.1, HL7 2.A.88)."""
    family, given, middle, prefix, suffix = (*(_line(part) for part in group.split("^")), "", "", "", "", "")[:5]
    return family, given, middle, suffix, prefix


def _names(name: str) -> er7.Value:
    """Return PID-5, which is required: alphabetic, ideographic and phonetic representation as repetitions.

    A name that is not known is one of type U (unspecified, table 0200).
    """
    groups = zip(name.split("="), "AIP", strict=False)
    known: list[str | tuple[str, ...]] = [
        (*_person(group), "", "L", representation) for group, representation in groups if group.strip("^ ")
    ]
    return known or [("", "", "", "", "", "", "U")]


def _coded(code: Code) -> tuple[str, str, str]:
    return code.value, code.meaning, code.scheme


def _line(text: str) -> str:
    """Return `text` as one line: a line break is no part of a string (2.A.75)."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _entity(number: str, assigner: Assigner) -> er7.Value:
    """Return a number with who gave it (data type EI, 2.A.28); a number without one stays alone."""
    parts = tuple(_line(part) for part in (number, *assigner))
    return parts if parts[0] and any(parts[1:]) else parts[0]


def _time_stamp(at: datetime) -> str:
    return at.strftime("%Y%m%d%H%M%S%z")


def _token(*parts: str) -> str:
    return uuid.UUID(int=int(derived_uid("hl7", *parts).removeprefix("2.25."))).hex.upper()
