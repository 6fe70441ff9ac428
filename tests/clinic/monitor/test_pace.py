"""A stream that waited somewhere is behind its own pace, whatever else happened to its packets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeward.clinic.monitor.streams import STREAM, behind_ns, new_stream, take_pace

SECOND = 10**9


@pytest.fixture
def book() -> NDArray[Any]:
    book = np.zeros(1, dtype=STREAM)
    new_stream(book, 0, 250.0, 0)
    return book


def steady(book: NDArray[Any], first: int, last: int, delay_s: float = 0.0) -> None:
    for number in range(first, last):
        take_pace(book, 0, number * 250, 250, round((number + 1 + delay_s) * SECOND))


@pytest.mark.parametrize("copy", [20, 17, 5])
def test_a_copy_or_an_overtaken_packet_does_not_hide_that_a_stream_is_behind(book: NDArray[Any], copy: int) -> None:
    steady(book, 1, 21)
    steady(book, 21, 23, delay_s=4.0)  # the machine stood still
    take_pace(book, 0, copy * 250, 250, 27 * SECOND)

    assert behind_ns(book, 0, 22 * 250, 27 * SECOND) >= 3 * SECOND


@pytest.mark.parametrize("first", [0, 250])
def test_a_stream_that_began_anew_is_not_behind(book: NDArray[Any], first: int) -> None:
    steady(book, 1, 100)
    take_pace(book, 0, first, 250, 500 * SECOND)
    assert behind_ns(book, 0, first, 500 * SECOND) <= 0
