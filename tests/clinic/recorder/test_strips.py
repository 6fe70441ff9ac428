"""A strip is what arrived, in its order, with holes where nothing came."""

from __future__ import annotations

import numpy as np
import pytest

from edgeward.bedside import StripChannel
from edgeward.clinic.recorder.packing import Arrival
from edgeward.clinic.recorder.strips import MISSING, MOST_SAMPLES, strip
from edgeward.waveform import Block, Channel, Kind, WaveformPacket, encode, encode_channels

NOW = 1_800_000_000 * 10**9
SECOND = 10**9


def packet(
    number: int, *, rate: float = 250.0, leads: int = 1, seconds: float = 1.0, value: int | None = None
) -> bytes:
    count = round(rate * seconds)
    first = round(number * rate * seconds)
    samples = np.arange(first, first + count) % 1000 if value is None else np.full(count, value)
    return encode(
        WaveformPacket(
            samples=np.tile(samples, (leads, 1)).astype(np.int16), sequence=number, first_sample=first, start_ns=7,
            rate_hz=rate, gain_uv=2.5, leads=tuple(f"L{i}" for i in range(leads)), lead_off=(False,) * leads,
        )
    )  # fmt: skip


def arrived(*numbers: int, delay_s: float = 0.0) -> list[Arrival]:
    """Packets that arrive a second after their first sample, and `delay_s` later."""
    return [("bed", NOW + round((number + 1 + delay_s) * SECOND), packet(number)) for number in numbers]


def values(channel: StripChannel) -> np.ndarray:
    return np.frombuffer(channel.samples, dtype="<i2")


def test_samples_lie_at_their_site_time() -> None:
    (row,), bad = strip(arrived(*range(10)), NOW + 2 * SECOND, NOW + 5 * SECOND)
    assert bad == 0
    assert (row.name, row.unit, row.rate_hz, row.gain, row.offset) == ("L0", "uV", 250.0, 2.5, 0.0)
    assert row.start_ns == NOW + 2 * SECOND
    assert values(row).tolist() == [i % 1000 for i in range(500, 1250)]


def test_a_lost_packet_is_a_hole_and_order_and_copies_do_not_matter() -> None:
    packets = arrived(0, 1, 3, 5, 4, 4, 6)
    (row,), _ = strip(packets, NOW, NOW + 7 * SECOND)
    found = values(row)
    assert len(found) == 7 * 250
    assert (found[500:750] == MISSING).all()
    whole = np.arange(7 * 250) % 1000
    assert (found[:500] == whole[:500]).all()
    assert (found[750:] == whole[750:]).all()


def test_packets_sent_late_lie_where_they_were_taken() -> None:
    late = [("bed", NOW + 30 * SECOND, packet(number)) for number in range(3, 20)]
    (row,), _ = strip([*arrived(0, 1, 2), *late, *arrived(30, 31)], NOW, NOW + 20 * SECOND)
    assert row.start_ns == NOW
    assert values(row).tolist() == [i % 1000 for i in range(20 * 250)]


def test_a_device_that_began_anew_gives_a_row_of_its_own() -> None:
    again = [("bed", NOW + (21 + n) * SECOND, packet(n)) for n in range(3)]
    rows, _ = strip([*arrived(*range(10)), *again], NOW, NOW + 30 * SECOND)
    assert [row.start_ns for row in rows] == [NOW, NOW + 20 * SECOND]
    assert [len(values(row)) for row in rows] == [2500, 750]


def test_a_changed_rate_gives_a_row_of_its_own() -> None:
    other = [("bed", NOW + 11 * SECOND, packet(0, rate=500.0))]
    rows, _ = strip([*arrived(*range(10)), *other], NOW, NOW + 30 * SECOND)
    assert [row.rate_hz for row in rows] == [250.0, 500.0]


def test_channels_of_other_rates_share_one_axis_of_time() -> None:
    lead = Channel(name="II", kind=Kind.ECG, rate_hz=250.0, gain=1.0)
    pleth = Channel(name="PLETH", kind=Kind.PLETH, rate_hz=62.5, gain=0.5, offset=9.0)
    sent = [
        (
            "bed",
            NOW + (n + 2) * SECOND,
            encode_channels(
                (
                    Block(lead, n * 500, np.full(500, -32768, np.int16)),
                    Block(pleth, n * 125, np.arange(125, dtype=np.int16)),
                ),
                sequence=n,
                start_ns=1,
            ),
        )
        for n in range(0, 6, 2)
    ]
    sent = [(s, NOW + 2 * (i + 1) * SECOND, data) for i, (s, _, data) in enumerate(sent)]
    rows, _ = strip(sent, NOW, NOW + 60 * SECOND)
    by_name = {row.name: row for row in rows}
    assert by_name["PLETH"].unit == "1"
    assert by_name["PLETH"].offset == 9.0
    assert {row.name: row.kind for row in rows} == {"II": "ecg", "PLETH": "pleth"}
    assert {row.start_ns for row in rows} == {NOW}
    assert (values(by_name["II"]) != MISSING).any(), "the lowest value of an ECG is no hole"
    (only,), _ = strip(sent, NOW, NOW + 60 * SECOND, ["PLETH"])
    assert only == by_name["PLETH"]


def test_a_strip_fits_into_a_message() -> None:
    sent = [("bed", NOW + (n + 1) * SECOND, packet(n, rate=1000.0, leads=12)) for n in range(300)]
    rows, _ = strip(sent, NOW, NOW + 300 * SECOND)
    assert len(rows) == 12
    assert sum(len(row.samples) for row in rows) <= 2 * MOST_SAMPLES


def test_a_clock_that_was_set_makes_two_rows_not_an_hour_of_holes() -> None:
    before = arrived(*range(5))
    after = [(s, at + 3600 * SECOND, data) for s, at, data in arrived(*range(5, 8))]
    rows, _ = strip([*before, *after], NOW, NOW + 300 * SECOND)
    assert [len(values(row)) for row in rows] == [5 * 250]


@pytest.mark.parametrize("data", [b"", b"EWW1", packet(1)[:-3], b"\0" * 600])
def test_what_is_no_packet_is_counted_and_left_out(data: bytes) -> None:
    rows, bad = strip([*arrived(0), ("bed", NOW, data)], NOW, NOW + SECOND)
    assert bad == 1
    assert len(rows) == 1
