"""Trends: every measurement once, in its interval, and no more intervals than were asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.clinic.recorder.times import Machine

from edgeward.bedside import Trend, TrendQuery
from edgeward.bus.role import Stats
from edgeward.clinic.recorder import role as recorder
from edgeward.clinic.recorder import trends
from edgeward.clinic.recorder.trends import Gatherer, ShownBed, ShownBeds, ShownVital, TrendError
from edgeward.clinic.recorder.writing import Batch
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import Bed, Beds, VitalState, decode, encode
from edgeward.privacy.keys import SiteKey

SECOND = 10**9
NOW = 1_800_000_000 * SECOND


def shown(at_s: float, **values: tuple[float | None, float]) -> ShownBeds:
    vitals = [
        ShownVital(parameter=name, value=value, unit="x", at_ns=NOW + round(measured * SECOND))
        for name, (value, measured) in values.items()
    ]
    return ShownBeds(at_ns=NOW + round(at_s * SECOND), beds=[ShownBed(bed_id="bed-1", vitals=vitals)])


def test_what_the_monitor_publishes_is_read() -> None:
    vital = VitalState(parameter="spo2", value=97.0, unit="%", at_ns=NOW, low=90.0)
    beds = Beds(at_ns=NOW, beds=[Bed(device_id="d", bed_id="b", label="x", vitals=[vital]), Bed(device_id="e", label="y", heart_rate=71.0)])  # fmt: skip
    gatherer = Gatherer()
    gatherer.take(decode(ShownBeds, encode(beds)))
    rows = gatherer.ended(NOW, everything=True)
    assert rows["b"]["spo2"][0][2:] == (97.0, 97.0, 97.0)
    assert rows["e"]["heart_rate"][0][2:] == (71.0, 71.0, 71.0)
    assert gatherer.units == {"spo2": "%", "heart_rate": "/min"}


def test_a_measurement_that_is_shown_again_and_again_counts_once() -> None:
    gatherer = Gatherer()
    for half in range(40):
        gatherer.take(shown(half / 2, nibp_sys=(120.0, 0.0), heart_rate=(60.0 + half, half / 2)))
    rows = gatherer.ended(NOW + 20 * SECOND)["bed-1"]
    assert [row[1] for row in rows["nibp_sys"]] == [1]
    assert [row[1:] for row in rows["heart_rate"]] == [(20, 60.0, 69.5, 79.0), (20, 80.0, 89.5, 99.0)]
    assert gatherer.ended(NOW + 3600 * SECOND) == {}


def test_no_value_and_stale_values_leave_a_hole() -> None:
    gatherer = Gatherer()
    gatherer.take(shown(0, spo2=(None, 0.0)))
    stale = ShownVital(parameter="spo2", value=80.0, stale=True)
    gatherer.take(ShownBeds(at_ns=NOW, beds=[ShownBed(bed_id="b", vitals=[stale], heart_rate=70.0)]))
    assert gatherer.ended(NOW, everything=True) == {}


def test_a_late_value_lies_where_it_was_measured_unless_that_is_long_ago() -> None:
    gatherer = Gatherer()
    gatherer.take(shown(100, a=(1.0, 60.0), b=(2.0, -4000.0), c=(3.0, 5000.0)))
    rows = gatherer.ended(NOW, everything=True)["bed-1"]
    base = NOW // SECOND // 10
    assert {name: row[0][0] - base for name, row in rows.items()} == {"a": 6, "b": 10, "c": 10}


def test_rows_come_back_from_their_blocks() -> None:
    rng = np.random.default_rng(1)
    rows: trends.Rows = {
        f"bed-{n:04d}": {
            name: [(1000 + k, int(rng.integers(1, 20)), float(np.float32(k)), 2.0, 3.0) for k in range(30)]
            for name in ("heart_rate", "spo2")[: 1 + n % 2]
        }
        for n in range(300)
    }
    blocks = trends.blocks(rows, {"heart_rate": "/min", "spo2": "%"}, since=7)
    assert len(blocks) > 1
    firsts = [first for first, _ in blocks]
    for bed, wanted in rows.items():
        block = blocks[max(i for i, first in enumerate(firsts) if first <= bed)][1]
        since, units, found = trends.unpack(block, bed)
        assert since == 7
        assert units["heart_rate"] == "/min"
        assert found == wanted
    assert trends.unpack(blocks[0][1], "nobody")[2] == {}


def test_a_damaged_block_is_an_error_and_nothing_else() -> None:
    block = trends.blocks({"bed": {"hr": [(1, 1, 1.0, 1.0, 1.0)] * 50}}, {})[0][1]
    rng = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(block)
        for at in rng.integers(0, len(block), 3):
            data[at] ^= int(rng.integers(1, 256))
        try:
            trends.unpack(bytes(data[: int(rng.integers(0, len(data) + 1))]), "bed")
        except TrendError:
            continue


@pytest.mark.parametrize("points", [1, 2, 7, 100, 720, 10_000])
@pytest.mark.parametrize("hours", [0.02, 1, 24])
@pytest.mark.parametrize("offset_s", [0, 3])
def test_never_more_points_than_asked_and_nothing_is_lost(points: int, hours: float, offset_s: int) -> None:
    first = NOW // SECOND // 10
    count = int(hours * 360)
    rows = {"hr": [(first + k, 2, float(k - 1), float(k), float(k + 1)) for k in range(count) if not 5 <= k < 6]}
    since = NOW + offset_s * SECOND
    interval_ms, (found,) = trends.series(rows, {"hr": "/min"}, since, NOW + count * 10 * SECOND, points)
    assert len(found.at_ns) <= points
    assert min(found.low) == -1.0
    assert max(found.high) == float(count)
    assert found.at_ns == sorted(set(found.at_ns))
    assert interval_ms % 10_000 == 0
    if points == 1 and offset_s == 0:
        k = np.array([k for k in range(count) if k != 5])
        assert found.mean[0] == pytest.approx(k.mean())


def test_intervals_without_a_value_are_left_out() -> None:
    first = NOW // SECOND // 10
    rows = {"hr": [(first, 1, 1.0, 1.0, 1.0), (first + 9, 1, 2.0, 2.0, 2.0)]}
    _, (found,) = trends.series(rows, {}, NOW, NOW + 100 * SECOND, 10)
    assert found.at_ns == [NOW, NOW + 90 * SECOND]


async def test_rows_that_are_written_while_somebody_asks_count_once(tmp_path: Path) -> None:
    """They were waiting when the question came, and are on the disk when that is read."""
    home, machine = Home(tmp_path / "home"), Machine()
    home.create()
    SiteKey.create(home)
    context: Any = SimpleNamespace(home=home, settings=Settings(), stats=Stats())
    role = recorder.Recorder(context, recorder.open_archive(context, machine), machine)
    first = machine.wall_ns() // (10 * SECOND)
    rows = {"bed-1": {"spo2": [(first, 1, 90.0, 90.0, 90.0)]}}
    role.queue.add(Batch(rows={"bed-1": {"spo2": [(first + 1, 1, 98.0, 98.0, 98.0)]}}))
    await role.write_waiting()
    role.queue.add(Batch(rows=rows))
    read = role.answers._read

    async def late(work: Callable[..., Any], *arguments: object) -> Any:
        await role.write_waiting()
        return await read(work, *arguments)

    role.answers._read = late  # type: ignore[method-assign, assignment]
    query = TrendQuery(bed_id="bed-1", since_ns=first * 10 * SECOND, until_ns=(first + 2) * 10 * SECOND, points=1)

    trend = await role.answers.trend(query)

    assert isinstance(trend, Trend)
    assert trend.series[0].mean == [94.0]
    await role.finish()
    role.close()
