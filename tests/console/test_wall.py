"""Which beds a wall shows, and what a screen sounds for."""

from __future__ import annotations

import msgspec

from edgeward.bedside import AlarmSystemState
from edgeward.console.wall import MAX_PAGE, WallWish, choose, loudness
from edgeward.console.watch import Watch, alarm_order
from edgeward.messages import Alarm, AlarmPriority, Bed, Beds
from tests.support.synthetic import make_alarm

SECOND = 1_000_000_000


def bed(name: str, *alarms: Alarm, ward: str = "", standby: bool = False) -> Bed:
    return Bed(
        device_id=f"src-{name}", bed_id=name, label=f"Bed {name}", ward=ward, alarms=list(alarms), standby=standby
    )


def watching() -> tuple[Watch, list[float]]:
    now = [100.0]
    return Watch(clock=lambda: now[0], connected=lambda: True), now


def test_a_wall_of_thousands_is_cut_into_pages_in_natural_order() -> None:
    beds = [bed(str(i)) for i in range(5000, 0, -1)]

    first = choose(beds, WallWish(count=10_000))
    last = choose(beds, WallWish(start=99_999, count=64))

    assert first["ids"][:3] == ["1", "2", "3"]
    assert (len(first["ids"]), first["total"]) == (MAX_PAGE, 5000)
    assert last["ids"][-1] == "5000", "a page beyond the end is the last one"


def test_by_alarm_the_most_urgent_comes_first_and_standby_last() -> None:
    high = make_alarm("a", "asystole", AlarmPriority.HIGH)
    seen = msgspec.structs.replace(high, acknowledged=True)
    medium = make_alarm("c", "signal_lost", AlarmPriority.MEDIUM)
    beds = [bed("s", standby=True), bed("n"), bed("k", seen), bed("m", medium), bed("h", high)]

    page = choose(beds, WallWish(order="alarm"))

    assert page["ids"] == ["h", "m", "k", "n", "s"]
    assert choose(beds, WallWish(order="alarm", alarmed=True))["ids"] == ["h", "m", "k"]


def test_what_goes_on_stands_before_what_only_waits_to_be_seen() -> None:
    """A second arrest must not be read as the lost pulse of before it."""
    arrest = msgspec.structs.replace(make_alarm("a", "asystole", AlarmPriority.HIGH), raised_ns=1)
    over = msgspec.structs.replace(make_alarm("a", "no_pulse", AlarmPriority.HIGH), raised_ns=2, present=False)
    seen = msgspec.structs.replace(make_alarm("a", "apnea", AlarmPriority.HIGH), raised_ns=3, acknowledged=True)
    low = msgspec.structs.replace(make_alarm("a", "lead_off", AlarmPriority.LOW), raised_ns=4)
    found = sorted((seen, low, over, arrest), key=alarm_order)
    assert [alarm.code for alarm in found] == ["asystole", "no_pulse", "lead_off", "apnea"]


def test_a_screen_sounds_for_its_ward_and_for_what_belongs_to_none() -> None:
    here = make_alarm("a", "signal_lost", AlarmPriority.MEDIUM)
    there = make_alarm("b", "asystole", AlarmPriority.HIGH)
    site = make_alarm("site", "signal_flood", AlarmPriority.LOW)
    beds = [bed("a", here, ward="ICU"), bed("b", there, ward="Ward 3"), bed("site.alarms", site)]

    assert loudness(beds, "ICU", 0)["sound"] == "medium"
    assert loudness(beds, "Ward 9", 0)["sound"] == "low"
    assert loudness(beds, "", 0)["sound"] == "high"


def test_a_paused_or_acknowledged_alarm_does_not_sound_and_the_pause_ends() -> None:
    alarm = make_alarm("a", "asystole", AlarmPriority.HIGH)
    paused = msgspec.structs.replace(alarm, audio_paused_until_ns=10 * SECOND)
    fresh = make_alarm("a", "lead_off", AlarmPriority.LOW)
    seen = msgspec.structs.replace(alarm, acknowledged=True)

    during = loudness([bed("a", paused)], "", 9 * SECOND)

    assert (during["sound"], during["paused"], during["paused_until"]) == ("", 1, 10_000)
    assert during["alarms"]["high"] == 1, "it is still shown"
    assert loudness([bed("a", paused)], "", 10 * SECOND)["sound"] == "high"
    assert loudness([bed("a", paused, fresh)], "", 9 * SECOND)["sound"] == "low", "a new alarm sounds"
    assert loudness([bed("a", seen)], "", 0)["sound"] == ""


def test_partial_numerics_are_merged_and_beds_that_left_are_told() -> None:
    watch, _ = watching()
    watch.take_beds(Beds(at_ns=1, beds=[bed("a"), bed("b"), bed("c")]))

    changed = watch.take_beds(Beds(at_ns=2, beds=[bed("b", ward="ICU")], full=False, gone=["c"]))

    assert changed == {"b", "c"}
    assert watch.beds is not None
    assert [(b.bed_id, b.ward) for b in watch.beds.beds] == [("a", ""), ("b", "ICU")]
    assert watch.take_beds(Beds(at_ns=3, beds=[bed("a")])) == {"a", "b"}


def test_an_alarm_is_known_before_the_next_numerics_and_gone_when_it_ended() -> None:
    watch, _ = watching()
    watch.take_beds(Beds(at_ns=1, beds=[bed("a")]))
    alarm = msgspec.structs.replace(make_alarm("src-a", "asystole", AlarmPriority.HIGH), bed_id="a")

    assert watch.take_alarm(alarm) == "a"
    assert [found.alarm_id for _, found in watch.alarms()] == [alarm.alarm_id]
    watch.take_alarm(msgspec.structs.replace(alarm, state="ended"))
    assert watch.alarms() == []
    assert watch.take_alarm(msgspec.structs.replace(alarm, bed_id="elsewhere")) == ""


def test_a_silent_or_broken_alarm_system_is_noticed_within_ten_seconds() -> None:
    watch, now = watching()
    assert not watch.alarms_may_fail(), "the monitor gets its time to begin"
    now[0] += 9.5
    assert watch.alarms_may_fail()

    watch.take_alarm_system(AlarmSystemState(at_ns=1, number=1, ok=True))
    assert not watch.alarms_may_fail()
    watch.take_alarm_system(AlarmSystemState(at_ns=1, number=2, ok=False, problems=["the log cannot be written"]))
    assert watch.alarms_may_fail()
    watch.take_alarm_system(AlarmSystemState(at_ns=1, number=3, ok=True))
    now[0] += 9.5
    assert watch.alarms_may_fail()
