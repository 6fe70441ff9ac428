"""From messages to what a page shows."""

from __future__ import annotations

import msgspec
import pytest

from edgeward.console import present, render
from edgeward.console.pages.beds import latest
from edgeward.console.watch import Watch, bed_order
from edgeward.messages import AlarmPriority, Bed, Beds, RoleState, SiteState, StageStats
from tests.support.synthetic import make_alarm, make_item


@pytest.mark.parametrize(
    ("dicom", "shown"),
    [
        ("Lindqvist^Maja", "Lindqvist, Maja"),
        ("Haddad^Leila^Noor^Dr^", "Haddad, Leila Noor"),
        ("Wang^XiaoDong=王^小东", "Wang, XiaoDong (王小东)"),
        ("=王^小东", "王小东"),
        ("Lindqvist", "Lindqvist"),
        ("^^^^", ""),
        ("", ""),
    ],
)
def test_person_names_are_readable(dicom: str, shown: str) -> None:
    assert present.person_name(dicom) == shown


def test_who_may_not_see_identity_sees_none() -> None:
    item, _ = make_item(0)

    view = present.item_view(item, identity=False)

    assert (view.patient, view.patient_id, view.picture) == ("", "", False)
    assert view.label == "malignant"


def test_an_image_that_was_not_analysed_shows_neither_label_nor_probability_but_why() -> None:
    item, _ = make_item(0, "outside")

    view = present.item_view(item, identity=True)

    assert (view.status, view.label, view.malignancy, view.open) == ("not_analysed", "", None, False)
    assert "domain" in view.why


def test_sizes_name_their_unit() -> None:
    item, _ = make_item(0)
    assert item.finding is not None
    pixels = [msgspec.structs.replace(item.finding.lesions[0], long_axis=187.4, short_axis=133.2, unit="px")]
    in_pixels = msgspec.structs.replace(item, finding=msgspec.structs.replace(item.finding, lesions=pixels))

    assert present.item_view(item, identity=True).unit == "mm"
    view = present.item_view(in_pixels, identity=True)
    assert (view.size, view.unit) == ("187 × 133", "px")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "<1\u202f%"),
        (0.004, "<1\u202f%"),
        (0.5, "50\u202f%"),
        (0.999, ">99\u202f%"),
        (1.0, ">99\u202f%"),
        (None, "—"),
        (float("nan"), "—"),
    ],
)
def test_a_probability_is_never_shown_as_certain(value: float | None, shown: str) -> None:
    assert render._percent(value) == shown


def role(name: str, **values: object) -> RoleState:
    base = {"role": name, "node": "n", "pid": 1, "at_ns": 0, "started_ns": 0, "status": "ready"}
    return RoleState(**{**base, **values})  # type: ignore[arg-type]


def watch_at(now: list[float], connected: bool = True) -> Watch:
    return Watch(clock=lambda: now[0], connected=lambda: connected)


def test_a_budget_row_joins_what_the_roles_measured_and_names_the_culprit() -> None:
    now = [0.0]
    watch = watch_at(now)
    stats = StageStats(count=9, p50_ms=1, p99_ms=2, max_ms=3)
    watch.take_role(
        role(
            "gateway",
            budgets={"interactive": 3},
            missed_by={"interactive/engine.infer": 2, "interactive/wait": 1},
            stages={"interactive/total": stats, "interactive/wait": stats},
        )
    )
    watch.take_role(role("engine", stages={"interactive/infer": stats}))

    rows = present.budgets(watch.role_views(), {"alarm": 500, "interactive": 1000})

    alarm, interactive = rows
    assert (alarm.count, alarm.stages) == (None, ())
    assert (interactive.count, interactive.misses, interactive.culprit) == (9, 3, "engine.infer")
    assert {s.stage for s in interactive.stages} == {"wait", "infer"}


def test_a_role_without_a_heartbeat_turns_silent() -> None:
    now = [0.0]
    watch = watch_at(now)
    watch.take_role(role("engine"))

    assert watch.role_views()[0].status == "ready"
    now[0] = 4.0
    assert watch.role_views()[0].status == "silent"


def test_what_the_supervisor_says_outranks_an_old_heartbeat() -> None:
    now = [0.0]
    watch = watch_at(now)
    watch.take_role(role("engine"))
    watch.take_site(
        SiteState(
            at_ns=0,
            site="s",
            node="n",
            started_ns=0,
            roles={"engine": "degraded", "deliver": "stopped"},
            restarts={"engine": 5},
            reasons={"engine": "crashed 5 times"},
        )
    )

    engine, deliver = watch.role_views()

    assert (engine.status, engine.reason, engine.restarts) == ("degraded", "crashed 5 times", 5)
    assert (deliver.status, deliver.state) == ("stopped", None)


def test_numerics_are_live_only_while_they_come_and_the_bus_is_there() -> None:
    now = [0.0]
    watch = watch_at(now)
    assert not watch.beds_live()
    watch.take_beds(Beds(at_ns=0, beds=[]))
    assert watch.beds_live()
    now[0] = 2.1
    assert not watch.beds_live()

    lost = watch_at(now, connected=False)
    lost.take_beds(Beds(at_ns=0, beds=[]))
    assert not lost.beds_live()


def test_beds_are_ordered_by_urgency_then_naturally() -> None:
    high = make_alarm("a", "asystole", AlarmPriority.HIGH)
    seen = msgspec.structs.replace(high, acknowledged=True)
    low = make_alarm("b", "noisy", AlarmPriority.LOW)
    beds = [
        Bed(device_id="1", label="Bed 10"),
        Bed(device_id="2", label="Bed 2"),
        Bed(device_id="3", label="Bed 3", alarms=[low]),
        Bed(device_id="4", label="Bed 4", alarms=[seen]),
        Bed(device_id="5", label="Bed 5", alarms=[low, high]),
    ]

    assert [b.device_id for b in sorted(beds, key=bed_order)] == ["5", "3", "4", "2", "1"]


def test_notices_tell_the_worst_first_and_nothing_twice() -> None:
    now = [0.0]
    watch = watch_at(now)
    watch.take_role(
        role("deliver", status="degraded", reason="pacs is away", warnings=["pacs is away", "legacy device x"])
    )

    found = present.notices(
        connected=True, monitor_live=False, monitor_known=True, roles=watch.role_views(), warnings=watch.warnings(),
        counts={"failed": 2}, quarantine=[], unavailable=[],
    )  # fmt: skip

    assert [n.kind for n in found] == ["monitor_silent", "role_degraded", "items_failed", "warning"]


def test_the_history_of_a_bed_shows_each_alarm_as_it_stands() -> None:
    raised = make_alarm("bed-1", "asystole", AlarmPriority.HIGH)
    seen = msgspec.structs.replace(raised, state="acknowledged", acknowledged=True, at_ns=raised.at_ns + 1)
    ended = msgspec.structs.replace(seen, state="ended", present=False, at_ns=raised.at_ns + 2)
    later = make_alarm("bed-1", "noisy", AlarmPriority.LOW)
    elsewhere = make_alarm("bed-2", "asystole", AlarmPriority.HIGH)

    for order in ([raised, seen, ended], [ended, seen, raised]):
        history = latest([*order, elsewhere, later], "bed-1")

        assert [(a.code, a.state) for a in history] == [("noisy", "raised"), ("asystole", "ended")]
