"""Numerics as SenML packs (RFC 8428), in JSON and CBOR, as devices publish them by MQTT.

Responsible for resolving a pack (base values, relative times, units of the registries) into `Numerics`. Not responsible
for what a value is (``measurement``) or which is the present one (``vitals``).

The last part of a record's resolved name (after ``/ : ;`` or a dot) names the parameter: by our name, an MDC reference
identifier or number, or a LOINC code. ``<parameter>/quality`` (a ratio, or percent) is the quality of the measurement
of the same time, and ``sequence`` numbers the message.

A time below 2^28 is relative to now (4.5.3): such a pack is as good as the site's own clock. Without a unit, the
parameter's own is meant. A pack in which one record is wrong is refused as a whole: it was made by a program that is
wrong, and which of its numbers to believe is not ours to guess. A record that we know no parameter for is passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import msgspec

from edgeward import codes
from edgeward.bedside import Numerics, Vital
from edgeward.clinic.monitor import cbor
from edgeward.measurement import measured

MAX_BYTES = 1 << 16
MAX_RECORDS = 512
_VERSION = 10  # 4.4
_RELATIVE = 2.0**28
_LATEST_S = 2.0**33  # the year 2242
_FUTURE_S = 3600.0  # of a relative time: a prediction is no measurement
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]{0,254}", re.ASCII)
_PARTS = re.compile(r"[/:;.]")

# RFC 8428, table 4.
_LABELS: dict[int, str] = {
    -1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
_KNOWN = frozenset(_LABELS.values())
_NUMBERS = ("bver", "bt", "bv", "bs", "v", "s", "t", "ut")
_TEXTS = ("bn", "bu", "n", "u", "vs")
_VALUES = ("v", "vs", "vb", "vd")


class SenmlError(ValueError):
    """A pack cannot be used; the text says why and never quotes it."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack, resolved.

    Attributes
    ----------
    numerics
        What it measures; None if nothing of it is a parameter of ours.
    unknown
        How many records are about something else.
    """

    numerics: Numerics | None
    unknown: int


@dataclass(frozen=True, slots=True)
class _Record:
    name: str
    unit: str
    time_s: float
    value: float | str | bool | None


def decode(data: bytes, device_id: str, received_ns: int) -> Pack:
    """Return what a device published.

    Parameters
    ----------
    data
        JSON (``application/senml+json``) or CBOR (``application/senml+cbor``); which, is seen by the first byte.
    device_id
        Who published it; also the source.
    received_ns
        When it arrived: relative times count from here.

    Raises
    ------
    SenmlError
        If it is neither, too large, or breaks a rule of RFC 8428.
    """
    if len(data) > MAX_BYTES:
        raise SenmlError(f"it is larger than {MAX_BYTES} bytes")
    records = list(_resolve(_rows(data)))
    # Of one pack all times are of one kind, or some would be corrected for a clock that others do not have.
    kinds = {record.time_s >= _RELATIVE for record in records}
    if len(kinds) > 1:
        raise SenmlError("absolute and relative times are mixed")
    absolute = kinds == {True}
    vitals: list[Vital] = []
    qualities: dict[tuple[str, int], float] = {}
    sequence, unknown = -1, 0
    taken: dict[tuple[str, int], tuple[tuple[bool, int], int]] = {}  # best so far and its place
    for record in records:
        at_ns = round(record.time_s * 1e9) + (0 if absolute else received_ns)
        word, attribute = _word(record.name)
        if word == "sequence" and _is_number(record.value) and 0 <= record.value < 2**53:
            sequence = int(record.value)
            continue
        meaning = codes.find(word)
        if meaning is None:
            unknown += 1
            continue
        key = (meaning.parameter.name, at_ns)
        if attribute == "quality":
            if (quality := _ratio(record)) is not None:
                qualities[key] = quality
            continue
        # Our own name says the unit; another's code does not say whether glucose is by mass or by substance.
        unit = record.unit or (meaning.parameter.unit if word == meaning.parameter.name else "")
        vital = measured(meaning.parameter, record.value, unit, at_ns=at_ns, code=word)
        rank = (vital.value is None, meaning.rank)
        if key not in taken:
            taken[key] = (rank, len(vitals))
            vitals.append(vital)
        elif rank < taken[key][0]:
            taken[key] = (rank, taken[key][1])
            vitals[taken[key][1]] = vital
    if qualities:
        vitals = [
            msgspec.structs.replace(vital, quality=qualities.get((vital.parameter, vital.at_ns))) for vital in vitals
        ]
    if not vitals:
        return Pack(None, unknown)
    clock: Literal["device", "site"] = "device" if absolute else "site"
    numerics = Numerics(
        source_id=device_id,
        device_id=device_id,
        protocol="senml",
        received_ns=received_ns,
        vitals=vitals,
        sequence=sequence,
        clock=clock,
    )
    return Pack(numerics, unknown)


def _word(name: str) -> tuple[str, str]:
    """Return the part of a name that says what is measured, and what of it ("" or ``quality``)."""
    parts = [part for part in _PARTS.split(name) if part]
    if name.startswith("urn:dev:") and "_" in parts[-1] and codes.find(parts[-1]) is None:
        parts += parts.pop().split("_", 1)  # RFC 9039, 3.2: what of a device is meant follows an underscore
    if len(parts) > 1 and parts[-1] == "quality":
        return parts[-2], "quality"
    return (parts[-1] if parts else ""), ""


def _is_number(value: float | str | bool | None) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ratio(record: _Record) -> float | None:
    if not _is_number(record.value) or not math.isfinite(record.value):
        return None
    ratio = record.value / 100.0 if record.unit == "%" else record.value
    return ratio if 0.0 <= ratio <= 1.0 else None


# ---------------------------------------- the pack


def _rows(data: bytes) -> list[dict[str, Any]]:
    data = data.removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xd9\xd9\xf7")  # byte order mark; self-described CBOR
    start = data.lstrip(b" \t\r\n")[:1]
    if start == b"[":
        try:
            rows = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise SenmlError("it is not JSON") from None
    elif data and data[0] >> 5 == 4:
        try:
            rows = cbor.decode(data)
        except cbor.CborError as error:
            raise SenmlError(f"it is not CBOR as SenML has it: {error}") from None
    else:
        raise SenmlError("it is neither a JSON nor a CBOR array")
    if not isinstance(rows, list) or not rows:
        raise SenmlError("it is no array of records")
    if len(rows) > MAX_RECORDS:
        raise SenmlError(f"it has more than {MAX_RECORDS} records")
    return [_labelled(row) for row in rows]


def _labelled(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SenmlError("a record is no map")
    named: dict[Any, Any] = {
        _LABELS.get(label, label) if isinstance(label, int) else label: value for label, value in row.items()
    }
    if len(named) != len(row):
        raise SenmlError("a record has a label twice")
    for label, value in named.items():
        if not isinstance(label, str) or label.endswith("_"):
            raise SenmlError("a record has a label that must be understood and is not")  # 4.4
        if label in _NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
            if label == "v" and value is None:
                continue  # no number at all, as some encoders write "no value"
            raise SenmlError(f"the label {label} is not a number")
        if label == "vb" and not isinstance(value, bool):
            raise SenmlError("the label vb is not true or false")
        if label in _TEXTS and not isinstance(value, str):
            raise SenmlError(f"the label {label} is not text")
    return named


def _resolve(rows: list[dict[str, Any]]) -> Iterator[_Record]:
    """Yield the resolved records (4.6): base values hold from their record on."""
    base = {"bn": "", "bt": 0.0, "bu": "", "bv": 0.0}
    version: Any = None
    for row in rows:
        stated = row.get("bver")
        if stated is not None:
            if version is not None and stated != version:
                raise SenmlError("two versions in one pack")
            version = stated
            if not 1 <= stated <= _VERSION or stated != int(stated):
                raise SenmlError(f"its version is not one up to {_VERSION}")
        for label in base:
            if label in row:
                base[label] = row[label]
        values = [label for label in _VALUES if label in row]
        if len(values) > 1:
            raise SenmlError("a record has two values")
        if not values:
            if "s" in row or "bs" in row:
                continue  # a sum over time is none of ours
            if not {"n", "t", "u"} & set(row):
                continue  # a record of base values only
            raise SenmlError("a record has no value")
        yield _record(row, base, values[0])


def _record(row: dict[str, Any], base: dict[str, Any], kind: str) -> _Record:
    name = base["bn"] + row.get("n", "")
    if not _NAME.fullmatch(name):
        raise SenmlError("the name of a record is missing or not allowed (4.5.1)")
    time_s = _float(base["bt"]) + _float(row.get("t", 0.0))
    if not math.isfinite(time_s) or not -_RELATIVE < time_s < _LATEST_S:
        raise SenmlError("a time is not one")
    if _FUTURE_S < time_s < _RELATIVE:
        raise SenmlError("a relative time is in the future")
    value: float | str | bool | None = None
    if kind == "v":
        number = row["v"]
        value = None if number is None else _float(number) + _float(base["bv"])
    elif kind == "vs":
        value = row["vs"]
    elif kind == "vb":
        value = row["vb"]
    return _Record(name, row.get("u", base["bu"]), time_s, value)


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
