"""What is shown of a bed with two devices: one that dies, one that alarms."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.support.monitoring import Site

from edgeward.bedside import ParameterLimit
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
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


class TwoDevices:
    """A bed of which two devices measure the same, told by turns once a second."""

    def __init__(self) -> None:
        self.site = Site("a", "b")
        self.site.beds.remove_source("b")
        self.site.beds["a"].sources = ["a", "b"]
        self.site.beds._bed_of["b"] = "a"
        self.intake = Intake(self.site.clock, Limits(), lambda *_: None)
        for source in "ab":
            self.intake.watch.set_limits(source, {"spo2": ParameterLimit(extreme_low=80, low=90)})
        self.shown = Shown(
            self.site.beds, self.site.engine, self.intake, self.site.clock, source_label=str, site_label="site"
        )

    def told(self, **values: float) -> list[tuple[float | None, str]]:
        """Take a value of each device; return the number and its colour after each of them."""
        found = []
        for source, value in values.items():
            self.site.hands.pass_s(0.5)
            now = self.site.clock.now_ns()
            self.intake.watch.update(source, "spo2", value, at_ns=now, received_ns=now)
            self.site.told += self.site.engine.take(self.intake.tick()) + self.site.engine.tick()
            found += [(vital.value, vital.priority) for vital in self.shown.vitals("a")]
        return found


def test_of_two_devices_the_number_that_alarms_is_shown():
    bed = TwoDevices()
    assert bed.told(a=96, b=97) == [(96, ""), (97, "")], "without an alarm the newest"
    assert bed.told(a=85, b=97)[1] == (85, "medium")
    for _ in range(10):
        assert bed.told(a=85, b=97) == [(85, "medium")] * 2, "it does not go to and fro"
    assert bed.told(b=97, a=85) == [(85, "medium")] * 2


def test_of_two_devices_that_alarm_the_more_urgent_one_is_shown_and_of_equals_always_the_same():
    bed = TwoDevices()
    bed.told(a=85, b=86)
    shown = {value for _ in range(5) for value, _ in bed.told(a=85, b=86)}
    assert len(shown) == 1
    quiet = TwoDevices()
    quiet.site.beds["a"].standby = True  # no alarm stands, yet both are beyond
    assert {value for _ in range(5) for value, _ in quiet.told(b=86, a=85)[1:]} == {85}
    assert {value for _ in range(5) for value, _ in quiet.told(a=85, b=86)} == {85}
    assert bed.told(a=85, b=75)[1] == (75, "high")
    assert bed.told(a=85, b=75) == [(75, "high")] * 2
    bed.site.hands.pass_s(600)
    assert bed.told(a=95) == [(95, "")], "what is old is no number of now, whatever it alarmed"


def test_near_the_limit_the_number_shown_is_the_one_whose_alarm_stands():
    bed = TwoDevices()
    bed.told(a=89, b=97)
    for value in (91, 89, 91, 91, 89, 90):
        assert bed.told(a=value, b=97) == [(value, "medium")] * 2
