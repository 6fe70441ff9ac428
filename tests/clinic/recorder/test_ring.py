"""The last seconds in memory: told by the clock of now, whatever was done to it."""

from __future__ import annotations

from edgeward.clinic.recorder.ring import Ring

SECOND = 1_000_000_000


def test_arrivals_before_the_clock_was_set_are_told_as_they_would_read_now() -> None:
    ring, boot, wall = Ring(), 1000 * SECOND, 50_000 * SECOND
    ring.add("w", wall - 200_000_000, b"1", boot)  # kept a fifth of a second after it came
    ring.add("w", wall + 4 * SECOND, b"2", boot + 5 * SECOND)

    packets, after = ring.page(45.0, "", boot + 10 * SECOND, wall + 10 * SECOND)
    assert packets == [("w", wall - 200_000_000, b"1"), ("w", wall + 4 * SECOND, b"2")]
    assert after == ""

    for step in (-3600 * SECOND, 3600 * SECOND):
        packets, _ = ring.page(45.0, "", boot + 10 * SECOND, wall + 10 * SECOND + step)
        assert [(at - step, data) for _, at, data in packets] == [(wall, b"1"), (wall + 5 * SECOND, b"2")]


def test_a_source_is_never_split_and_all_are_told_page_by_page() -> None:
    ring, boot = Ring(), 1000 * SECOND
    for source in ("c", "a", "b"):
        for number in range(3):
            ring.add(source, number, bytes(200_000), boot)

    first, after = ring.page(45.0, "", boot)
    second, end = ring.page(45.0, after, boot)
    rest, last = ring.page(45.0, end, boot) if end else ([], "")

    assert [source for source, _, _ in first + second + rest] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert last == ""
