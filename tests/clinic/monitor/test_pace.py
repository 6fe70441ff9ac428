"""A stream that waited somewhere is behind its own pace, whatever else happened to its packets."""

from __future__ import annotations

import pytest

from edgeward.clinic.monitor.intake import Pace

SECOND = 10**9


def steady(pace: Pace, first: int, last: int, delay_s: float = 0.0) -> None:
    for number in range(first, last):
        pace.take(number * 250, 250, round((number + 1 + delay_s) * SECOND))


@pytest.mark.parametrize("copy", [20, 17, 5])
def test_a_copy_or_an_overtaken_packet_does_not_hide_that_a_stream_is_behind(copy: int) -> None:
    pace = Pace(250.0)
    steady(pace, 1, 21)
    steady(pace, 21, 23, delay_s=4.0)  # the machine stood still
    pace.take(copy * 250, 250, 27 * SECOND)

    assert pace.behind_ns(22 * 250, 27 * SECOND) >= 3 * SECOND


@pytest.mark.parametrize("first", [0, 250])
def test_a_stream_that_began_anew_is_not_behind(first: int) -> None:
    pace = Pace(250.0)
    steady(pace, 1, 100)
    pace.take(first, 250, 500 * SECOND)
    assert pace.behind_ns(first, 500 * SECOND) <= 0
