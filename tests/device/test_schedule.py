"""Events: the same for the same seed, one at a time for each device, and a wrong file is told by entry."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import islice, pairwise

import pytest

from edgeward.device.schedule import KINDS, Event, Schedule, ScheduleError, built_in, read


@pytest.mark.parametrize("count", [1, 2, 8, 200])
def test_built_in_events_come_in_order_and_never_two_at_once_for_a_device(count):
    events = list(islice(built_in(count, 7, 2.0), 300))

    assert [e.at_s for e in events] == sorted(e.at_s for e in events)
    by_device = defaultdict(list)
    for event in events:
        assert 0 <= event.device < count
        by_device[event.device].append(event)
    for own in by_device.values():
        assert all(a.at_s + a.for_s < b.at_s for a, b in pairwise(own))


def test_the_same_seed_gives_the_same_events_and_another_seed_others():
    def take(seed):
        return list(islice(built_in(20, seed, 5.0), 60))

    assert take(1) == take(1)
    assert take(1) != take(2)


def test_within_a_minute_each_kind_is_seen_and_the_first_alarm_is_due_at_once():
    opening = list(built_in(11, 1, 0.0, sensors=3))

    assert {event.kind for event in opening} == set(KINDS)
    assert opening[0].at_s <= 1.0
    assert any(event.kind == "asystole" and event.at_s <= 3.0 and event.for_s >= 8.0 for event in opening)
    assert max(event.at_s for event in opening) < 60


def test_a_schedule_hands_out_each_event_once_and_not_before_its_time():
    plan = Schedule(iter([Event(1.0, 0, "stop", 2.0), Event(2.0, 1, "loss", 1.0), Event(9.0, 0, "abort", 1.0)]), 2)

    assert plan.take(0, 1.0) == []
    assert [e.kind for e in plan.take(0, 5.0)] == ["stop"]
    assert plan.take(0, 5.0) == []
    assert [e.kind for e in plan.take(1, 100.0)] == ["loss"]
    assert [e.kind for e in plan.take(0, 100.0)] == ["abort"]


def test_an_endless_stream_of_events_is_read_only_as_far_as_needed():
    plan = Schedule(built_in(3, 1, 5.0), 3)

    taken = [e for second in range(600) for device in range(3) for e in plan.take(device, float(second))]

    assert taken == [e for e in islice(built_in(3, 1, 5.0), 1000) if e.at_s < 599]


def test_a_file_may_name_devices_by_place_or_name(tmp_path):
    path = tmp_path / "events.json"
    path.write_text(json.dumps([
        {"device": "bed-b", "kind": "stop", "at_s": 9, "for_s": 2},
        {"device": 0, "kind": "lead_off", "at_s": 1.5},
    ]))  # fmt: skip

    assert read(path, {"bed-a": 0, "bed-b": 1}) == [Event(1.5, 0, "lead_off", 10.0), Event(9.0, 1, "stop", 2.0)]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"kind": "stop", "at_s": 1}, "lacks 'device'"),
        ({"device": 0, "kind": "stop"}, "lacks 'at_s'"),
        ({"device": 0, "kind": "sneeze", "at_s": 1}, "sneeze"),
        ({"device": 2, "kind": "stop", "at_s": 1}, "no device 2"),
        ({"device": -1, "kind": "stop", "at_s": 1}, "no device -1"),
        ({"device": True, "kind": "stop", "at_s": 1}, "no device True"),
        ({"device": "bed-x", "kind": "stop", "at_s": 1}, "no device 'bed-x'"),
        ({"device": 0, "kind": "stop", "at_s": -1}, "at_s"),
        ({"device": 0, "kind": "stop", "at_s": float("nan")}, "at_s"),
        ({"device": 0, "kind": "stop", "at_s": "soon"}, "soon"),
        ({"device": 0, "kind": "stop", "at_s": 1, "for_s": 0}, "for_s"),
        ({"device": 0, "kind": "stop", "at_s": 1, "for_s": 1e9}, "for_s"),
        ({"device": 0, "kind": "stop", "at_s": 1, "for": 3}, "unknown key 'for'"),
        ("stop", "not a table"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, reason):
    path = tmp_path / "events.json"
    path.write_text(json.dumps([{"device": 0, "kind": "stop", "at_s": 0}, entry]))

    with pytest.raises(ScheduleError, match=f"event 2: .*{reason}"):
        read(path, {"bed-a": 0, "bed-b": 1})


@pytest.mark.parametrize("text", ["", "{", '{"device": 0}', "7"])
def test_a_file_that_is_no_list_is_refused(tmp_path, text):
    path = tmp_path / "events.json"
    path.write_text(text)

    with pytest.raises(ScheduleError, match=r"events\.json"):
        read(path, {"bed-a": 0})
