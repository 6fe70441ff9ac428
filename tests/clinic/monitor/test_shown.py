"""What is shown of a bed with two devices of which one dies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.support.monitoring import Site

from edgeward.clinic.monitor.shown import Shown


def shown(site: Site, ages_ms: dict[str, float], resting: set[str]) -> Shown:
    intake = SimpleNamespace(bank=ages_ms, resting=resting, numbers=lambda one, _: (None, ages_ms[one]))
    return Shown(site.beds, site.engine, intake, site.clock, source_label=str, site_label="site")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ages_ms", "resting", "expected"),
    [
        ({"a": 500.0, "b": 500.0}, set(), "a"),
        ({"a": 60_000.0, "b": 500.0}, set(), "b"),
        ({"a": 500.0, "b": 500.0}, {"a"}, "b"),
        ({"a": 60_000.0, "b": 60_000.0}, set(), "a"),
        ({"b": 60_000.0}, set(), "b"),
        ({}, set(), ""),
    ],
)
def test_the_ecg_that_is_alive_is_the_one_that_is_shown(ages_ms, resting, expected):
    site = Site("a", "b")
    site.beds["a"].sources = ["a", "b"]
    assert shown(site, ages_ms, resting)._ecg_of(site.beds["a"], site.clock.now_ns()) == expected
