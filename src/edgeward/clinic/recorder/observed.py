"""Numerics as they were measured: their form on the disk, as rows of trends, and as an answer.

Responsible for taking over from the monitor what it has acknowledged, each batch once, and for finding it again by bed
and time. Not responsible for files (``segment``) or for trends' own form (``trends``).

Each block says up to which batch of which of the monitor's logs the recording goes: after a restart the last frame
tells where to go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import imagecodecs
import msgspec

from edgeward.bedside import Observation, ObservationQuery, Observations, Observed
from edgeward.clinic.recorder import trends
from edgeward.clinic.recorder.clock import SECOND
from edgeward.messages import decoder

BLOCK_ROWS = 2000
MOST = 50_000  # of one answer


class _Row(msgspec.Struct, array_like=True):
    source_id: str
    parameter: str
    value: float
    at_ns: int
    device_ns: int
    bound: Literal["", "below", "above"] = ""  # blocks of the version before end here


class ObservedError(ValueError):
    """A block of numerics cannot be read."""


class _Block(msgspec.Struct, array_like=True):
    log: str
    upto: int
    beds: dict[str, list[_Row]]


_block = decoder(_Block)


def fresh(observed: Observed, upto: int) -> list[Observation]:
    """Return what is in batches after `upto`."""
    return [one for number, batch in observed.batches if number > upto for one in batch]


def rows(observations: Iterable[Observation]) -> trends.Rows:
    """Return numerics as rows of trends, one per value."""
    found: trends.Rows = {}
    for one in observations:
        value = one.value
        row = one.at_ns // (trends.INTERVAL_S * SECOND), 1, value, value, value
        found.setdefault(one.bed_id, {}).setdefault(one.parameter, []).append(row)
    return found


def blocks(log: str, upto: int, observations: Iterable[Observation]) -> list[tuple[str, bytes]]:
    """Return numerics as blocks, each with its first bed."""
    beds: dict[str, list[_Row]] = {}
    for one in observations:
        row = _Row(one.source_id, one.parameter, one.value, one.at_ns, one.device_ns, one.bound)
        beds.setdefault(one.bed_id, []).append(row)
    result: list[tuple[str, bytes]] = []
    part: dict[str, list[_Row]] = {}
    count = 0
    for bed_id in sorted(beds):
        part[bed_id] = beds[bed_id]
        count += len(beds[bed_id])
        if count >= BLOCK_ROWS:
            result.append((next(iter(part)), _pack(log, upto, part)))
            part, count = {}, 0
    if part:
        result.append((next(iter(part)), _pack(log, upto, part)))
    return result


def _pack(log: str, upto: int, beds: dict[str, list[_Row]]) -> bytes:
    return bytes(imagecodecs.zstd_encode(msgspec.msgpack.encode(_Block(log, upto, beds)), level=1))


def _unpacked(block: bytes) -> _Block:
    try:
        found: _Block = _block.decode(bytes(imagecodecs.zstd_decode(block)))
        return found
    except (imagecodecs.ZstdError, msgspec.MsgspecError, ValueError) as error:
        raise ObservedError(f"a block of numerics cannot be read: {error}") from error


def unpack(block: bytes, bed_id: str) -> list[Observation]:
    """Return the numerics of a bed.

    Raises
    ------
    ObservedError
        If it is not a block of numerics.
    """
    return [
        Observation(
            bed_id=bed_id,
            source_id=row.source_id,
            parameter=row.parameter,
            value=row.value,
            at_ns=row.at_ns,
            device_ns=row.device_ns,
            bound=row.bound,
        )
        for row in _unpacked(block).beds.get(bed_id, ())
    ]


def upto(block: bytes) -> tuple[str, int]:
    """Return up to which batch of which log the recording goes.

    Raises
    ------
    ObservedError
        If it is not a block of numerics.
    """
    found = _unpacked(block)
    return found.log, found.upto


def answer(query: ObservationQuery, until_ns: int, found: Iterable[Observation]) -> Observations:
    """Return what was asked for, by time. The same measurement that a system sent twice is told once."""
    wanted: dict[tuple[str, str, int, float, str], Observation] = {}
    for one in found:
        if query.since_ns <= one.at_ns <= until_ns and (not query.parameters or one.parameter in query.parameters):
            wanted.setdefault((one.source_id, one.parameter, one.device_ns or one.at_ns, one.value, one.bound), one)
    ordered = sorted(wanted.values(), key=lambda one: (one.at_ns, one.source_id, one.parameter))
    limit = max(1, min(query.limit, MOST))
    return Observations(observations=ordered[:limit], more=len(ordered) > limit)
