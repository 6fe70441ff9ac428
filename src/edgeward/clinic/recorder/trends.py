"""Trends: lowest, mean and highest value of each parameter of each bed, per ten seconds.

Responsible for gathering values from the beds as the monitor publishes them, for their form on the disk, and for
answering over any time with as few intervals as were asked for. Not responsible for files.

What ended is written every ten seconds (*newest*), all beds in one frame. Every five minutes the same values are
written once more, each bed's together (*trends*), and stand for the frames before: 24 h of one bed are then 300 reads,
not 9,000.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import imagecodecs
import msgspec
import numpy as np

from edgeward.bedside import Observation, TrendSeries
from edgeward.clinic.recorder.clock import SECOND
from edgeward.messages import Message, decoder
from edgeward.parameters import PARAMETERS

INTERVAL_S = 10
_INTERVAL_NS = INTERVAL_S * SECOND
LATE_S = 300  # a value that was measured earlier counts as of now
BLOCK_BYTES = 64 << 10
POINTS = 8640
_OBSERVED_NS = 30 * SECOND  # a value that was handed over so lately is not taken from what beds show
HEART_RATE = ("heart_rate", "/min")

Row = tuple[int, int, float, float, float]
"""Interval (number since the epoch), count of values, lowest, mean, highest."""
Rows = dict[str, dict[str, list[Row]]]
"""Bed, parameter, rows."""


class TrendError(ValueError):
    """A block of trends cannot be read."""


class ShownVital(msgspec.Struct, frozen=True, kw_only=True):
    """What trends need of a `VitalState`; the rest is skipped unread."""

    parameter: str
    value: float | None = None
    unit: str = ""
    at_ns: int = 0
    stale: bool = False
    source_id: str = ""


class ShownBed(msgspec.Struct, frozen=True, kw_only=True):
    """What trends need of a `Bed`."""

    device_id: str = ""
    bed_id: str = ""
    heart_rate: float | None = None
    stale: bool = False
    vitals: list[ShownVital] = []


class ShownBeds(Message, frozen=True, kw_only=True, tag="beds.1"):
    """`Beds`, as far as trends need it: at thousands of beds reading all of it would be most of the work."""

    at_ns: int
    beds: list[ShownBed]


class Gatherer:
    """Values of the intervals that have not been written."""

    def __init__(self) -> None:
        self._open: dict[int, dict[tuple[str, str], list[float]]] = {}  # interval -> count, lowest, sum, highest
        self._told: dict[tuple[str, str], int] = {}  # when the value that was last taken had been measured
        self.units: dict[str, str] = {}
        self._observed: dict[tuple[str, str], int] = {}  # source and parameter -> when it was handed over last

    def observe(self, observations: Iterable[Observation], now_ns: int) -> None:
        """Take it that these values are recorded as they were measured: what beds show of them is not taken too."""
        for one in observations:
            self._observed[one.source_id, one.parameter] = now_ns
            if one.parameter not in self.units:
                self.units[one.parameter] = PARAMETERS[one.parameter].unit if one.parameter in PARAMETERS else ""
        if len(self._observed) > 1_000_000:  # sources that went long ago
            self._observed.clear()

    def take(self, beds: ShownBeds) -> None:
        """Take the values of a message; a measurement that was shown before is taken once."""
        now = beds.at_ns
        for bed in beds.beds:
            bed_id = bed.bed_id or bed.device_id
            vitals = bed.vitals
            if not vitals and bed.heart_rate is not None and not bed.stale:
                self._value((bed_id, HEART_RATE[0]), bed.heart_rate, 0, now)
                self.units.setdefault(*HEART_RATE)
            for vital in vitals:
                if vital.value is not None and not vital.stale:
                    if now - self._observed.get((vital.source_id, vital.parameter), 0) < _OBSERVED_NS:
                        continue
                    self._value((bed_id, vital.parameter), vital.value, vital.at_ns, now)
                    if vital.parameter not in self.units:
                        self.units[vital.parameter] = vital.unit

    def _value(self, key: tuple[str, str], value: float, at_ns: int, now: int) -> None:
        if at_ns:
            if self._told.get(key) == at_ns:
                return
            self._told[key] = at_ns
        measured = at_ns if now - LATE_S * SECOND <= at_ns <= now else now
        interval = self._open.setdefault(measured // _INTERVAL_NS, {})
        entry = interval.get(key)
        if entry is None:
            interval[key] = [1.0, value, value, value]
        else:
            entry[0] += 1.0
            entry[1] = min(entry[1], value)
            entry[2] += value
            entry[3] = max(entry[3], value)

    def ended(self, now_ns: int, *, everything: bool = False) -> Rows:
        """Return the rows of intervals that have ended (or of all), and forget them."""
        rows: Rows = {}
        for number in sorted(self._open):
            if everything or (number + 1) * _INTERVAL_NS <= now_ns or number * _INTERVAL_NS > now_ns:
                for (bed_id, parameter), entry in self._open.pop(number).items():
                    rows.setdefault(bed_id, {}).setdefault(parameter, []).append(_row(number, entry))
        if len(self._told) > 1_000_000:  # beds that went long ago
            self._told.clear()
        return rows

    def rows(self, bed_id: str) -> dict[str, list[Row]]:
        """Return the rows of one bed that have not ended."""
        found: dict[str, list[Row]] = {}
        for number, interval in self._open.items():
            for (bed, parameter), entry in interval.items():
                if bed == bed_id:
                    found.setdefault(parameter, []).append(_row(number, entry))
        return found


def _row(number: int, entry: list[float]) -> Row:
    count, low, total, high = entry
    return number, int(count), low, total / count, high


def merge(into: Rows, more: Rows) -> None:
    """Add rows to rows."""
    for bed_id, parameters in more.items():
        bed = into.setdefault(bed_id, {})
        for parameter, rows in parameters.items():
            bed.setdefault(parameter, []).extend(rows)


# ---------------------------------------- on the disk

_COLUMNS = np.dtype([("interval", "<i8"), ("count", "<u4"), ("low", "<f4"), ("mean", "<f4"), ("high", "<f4")])


class _Block(msgspec.Struct, array_like=True):
    since: int  # newest frames from this number on, up to this frame, are in it; -1: none
    units: dict[str, str]
    beds: dict[str, dict[str, int]]  # rows of each parameter, in the order of the columns


_block = decoder(_Block)


def blocks(rows: Rows, units: dict[str, str], since: int = -1) -> list[tuple[str, bytes]]:
    """Return rows as blocks, each with its first bed."""
    result: list[tuple[str, bytes]] = []
    part: Rows = {}
    size = 0
    for bed_id in sorted(rows):
        part[bed_id] = rows[bed_id]
        size += sum(len(column) for column in rows[bed_id].values()) * _COLUMNS.itemsize + 16
        if size >= BLOCK_BYTES:
            result.append((next(iter(part)), _pack(part, units, since)))
            part, size = {}, 0
    if part:
        result.append((next(iter(part)), _pack(part, units, since)))
    return result


def _pack(rows: Rows, units: dict[str, str], since: int) -> bytes:
    counts = {bed: {name: len(column) for name, column in parameters.items()} for bed, parameters in rows.items()}
    used = {name for parameters in rows.values() for name in parameters}
    head = msgspec.msgpack.encode(_Block(since, {name: units.get(name, "") for name in used}, counts))
    table = np.array([row for p in rows.values() for column in p.values() for row in column], dtype=_COLUMNS)
    columns = b"".join(np.ascontiguousarray(table[name]).tobytes() for name in _COLUMNS.names or ())
    return bytes(imagecodecs.zstd_encode(struct.pack("<I", len(head)) + head + columns, level=1))


def unpack(block: bytes, bed_id: str) -> tuple[int, dict[str, str], dict[str, list[Row]]]:
    """Return which frames a block stands for (`since`), the units, and the rows of one bed per parameter.

    Raises
    ------
    TrendError
        If it is not a block of trends.
    """
    try:
        data = bytes(imagecodecs.zstd_decode(block))
        (size,) = struct.unpack_from("<I", data)
        head = _block.decode(data[4 : 4 + size])
        total = sum(count for parameters in head.beds.values() for count in parameters.values())
        offset = 4 + size
        columns: list[np.ndarray[tuple[int], np.dtype[np.generic]]] = []
        for name in _COLUMNS.names or ():
            columns.append(np.frombuffer(data, dtype=_COLUMNS[name], count=total, offset=offset))
            offset += total * _COLUMNS[name].itemsize
    except (imagecodecs.ZstdError, msgspec.MsgspecError, struct.error, ValueError) as error:
        raise TrendError(f"a block of trends cannot be read: {error}") from error
    at = 0
    found: dict[str, list[Row]] = {}
    for bed, parameters in head.beds.items():
        for parameter, count in parameters.items():
            if bed == bed_id:
                part = (column[at : at + count].tolist() for column in columns)
                found[parameter] = list(zip(*part, strict=True))
            at += count
    return head.since, head.units, found


# ---------------------------------------- asking


def series(
    rows: dict[str, list[Row]],
    units: dict[str, str],
    since_ns: int,
    until_ns: int,
    points: int,
) -> tuple[float, list[TrendSeries]]:
    """Return the length of an interval (ms), and each parameter over time; intervals without a value are left out.

    `at_ns` of a point is where its interval begins. A mean counts every measurement the same.
    """
    points = max(1, min(points, POINTS))
    span = max(1, until_ns - since_ns)
    step = max(1, -(-span // (points * _INTERVAL_NS)))  # in intervals, rounded up
    first, last = since_ns // _INTERVAL_NS, -(-until_ns // _INTERVAL_NS)
    if (last - first + step - 1) // step > points:
        step += 1
    found: list[TrendSeries] = []
    for parameter in sorted(rows):
        slots: dict[int, list[float]] = {}
        for number, count, low, mean, high in _within(rows[parameter], first, last):
            slot = slots.get((number - first) // step)
            if slot is None:
                slots[(number - first) // step] = [count, low, mean * count, high]
            else:
                slot[0] += count
                slot[1] = min(slot[1], low)
                slot[2] += mean * count
                slot[3] = max(slot[3], high)
        if not slots:
            continue
        order = sorted(slots)
        found.append(
            TrendSeries(
                parameter=parameter,
                unit=units.get(parameter, ""),
                at_ns=[(first + slot * step) * _INTERVAL_NS for slot in order],
                low=[slots[slot][1] for slot in order],
                mean=[slots[slot][2] / slots[slot][0] for slot in order],
                high=[slots[slot][3] for slot in order],
            )
        )
    return step * INTERVAL_S * 1000.0, found


def _within(rows: Iterable[Row], first: int, last: int) -> Iterable[Row]:
    return (row for row in rows if first <= row[0] < last)
