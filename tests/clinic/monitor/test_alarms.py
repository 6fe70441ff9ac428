"""The alarm state machine: priority, latching, acknowledgement, supersession, survival of a restart."""

import msgspec
import pytest

from edgeward.clinic.monitor.alarms import RULES, BedAlarms
from edgeward.messages import AlarmPriority

LETHAL = {
    "asystole",
    "ventricular_fibrillation",
    "ventricular_tachycardia",
    "extreme_bradycardia",
    "no_pulse",
    "apnea",
    "pacing_without_capture",
}


def begin(alarms, code, at=1, **kwargs):
    return alarms.begin(code, at_ns=at, received_ns=at, **kwargs)


def test_exactly_the_lethal_alarms_latch_and_are_of_high_priority():
    assert {code for code, rule in RULES.items() if rule.latching} == LETHAL
    assert all(RULES[code].priority is AlarmPriority.HIGH for code in LETHAL)


@pytest.mark.parametrize("code", sorted(LETHAL))
def test_a_lethal_alarm_stays_after_its_end_until_acknowledged(code):
    alarms = BedAlarms()
    begin(alarms, code)
    (change,) = alarms.end(code, at_ns=2, sample=7)
    assert (change.state, change.alarm.present, change.alarm.end_sample) == ("raised", False, 7)
    assert [a.code for a in alarms.active] == [code]
    changes = alarms.acknowledge(change.alarm.number, by="Li", at_ns=3)
    assert [c.state for c in changes] == ["acknowledged", "ended"]
    assert changes[0].alarm.by == "Li"
    assert changes[0].alarm.acknowledged_ns == 3
    assert alarms.active == []


def test_an_acknowledged_alarm_stays_while_its_condition_holds_and_ends_with_it():
    alarms = BedAlarms()
    (raised,) = begin(alarms, "asystole")
    alarms.acknowledge(raised.alarm.number, by="Li", at_ns=2)
    assert alarms.active[0].acknowledged
    (ended,) = alarms.end("asystole", at_ns=3)
    assert ended.state == "ended"
    (again,) = begin(alarms, "asystole", 4)
    assert again.alarm.number != raised.alarm.number
    assert not again.alarm.acknowledged


def test_a_lethal_condition_that_returns_continues_its_latched_alarm():
    alarms = BedAlarms()
    (first,) = begin(alarms, "ventricular_tachycardia", onset=1)
    alarms.end("ventricular_tachycardia", at_ns=2)
    (second,) = begin(alarms, "ventricular_tachycardia", 3, onset=50)
    assert second.alarm.number == first.alarm.number
    assert (second.alarm.raised_ns, second.alarm.onset_sample, second.alarm.present) == (1, 50, True)


def test_the_more_precise_event_replaces_the_vaguer_and_gives_way_again():
    alarms = BedAlarms()
    begin(alarms, "extreme_tachycardia", 1)
    changes = begin(alarms, "ventricular_tachycardia", 2)
    assert [(c.state, c.alarm.code) for c in changes] == [
        ("raised", "ventricular_tachycardia"),
        ("ended", "extreme_tachycardia"),
    ]
    changes = alarms.end("ventricular_tachycardia", at_ns=3)
    assert ("raised", "extreme_tachycardia") in [(c.state, c.alarm.code) for c in changes]


def test_a_couplet_from_before_a_run_does_not_come_up_again_after_it():
    alarms = BedAlarms()
    assert [c.state for c in begin(alarms, "couplet", at=1)] == ["raised"]
    assert [c.state for c in begin(alarms, "ventricular_run", at=2)] == ["raised", "ended"]

    assert [(c.state, c.alarm.code) for c in alarms.end("ventricular_run", at_ns=3)] == [("ended", "ventricular_run")]
    assert alarms.end("couplet", at_ns=4) == []


def test_fibrillation_does_not_remove_a_latched_tachycardia():
    alarms = BedAlarms()
    begin(alarms, "ventricular_tachycardia", 1)
    begin(alarms, "ventricular_fibrillation", 2)
    assert {a.code for a in alarms.active} == {"ventricular_tachycardia", "ventricular_fibrillation"}


def test_a_technical_alarm_never_silences_a_latched_lethal_one():
    alarms = BedAlarms()
    begin(alarms, "asystole", 1)
    for at, code in enumerate(["lead_off", "all_leads_off", "signal_lost"], 2):
        begin(alarms, code, at)
    assert alarms.active[0].code == "asystole"
    alarms.end("asystole", at_ns=9)
    assert alarms.active[0].code == "asystole"


def test_a_condition_that_is_told_twice_is_one_alarm():
    alarms = BedAlarms()
    assert len(begin(alarms, "lead_off")) == 1
    assert begin(alarms, "lead_off", 2) == []
    assert len(alarms.end("lead_off", at_ns=3)) == 1
    assert alarms.end("lead_off", at_ns=4) == []


def test_the_most_urgent_alarm_comes_first():
    alarms = BedAlarms()
    for at, code in enumerate(["noisy", "signal_lost", "asystole"]):
        begin(alarms, code, at)
    assert [a.code for a in alarms.active][:2] == ["asystole", "signal_lost"]


def test_the_state_survives_a_restart_through_plain_types():
    alarms = BedAlarms()
    begin(alarms, "asystole", onset=5, decisive=9, args={"seconds": 4.2})
    alarms.end("asystole", at_ns=2)
    begin(alarms, "lead_off", 3, args={"leads": "II"})
    state = msgspec.json.decode(msgspec.json.encode(alarms.to_dict()))
    again = BedAlarms.from_dict(state)
    assert again.active == alarms.active
    (change,) = begin(again, "noisy", 4)
    assert change.alarm.number == 3


@pytest.mark.parametrize("state", [{}, {"number": 1}, {"number": "x", "active": [], "waiting": []},
                                   {"number": 1, "active": [{"code": "nonsense"}], "waiting": []}])  # fmt: skip
def test_a_damaged_saved_state_is_refused_with_a_reason(state):
    with pytest.raises(ValueError):
        BedAlarms.from_dict(state)


def test_an_acknowledgement_has_a_name():
    alarms = BedAlarms()
    (raised,) = begin(alarms, "asystole")
    with pytest.raises(ValueError, match="name"):
        alarms.acknowledge(raised.alarm.number, by="", at_ns=2)
    assert alarms.acknowledge(999, by="Li", at_ns=2) == []


def test_an_unknown_condition_is_an_error():
    with pytest.raises(KeyError):
        begin(BedAlarms(), "boredom")


def test_what_is_said_of_an_alarm_changes_and_only_more_urgency_calls_anew():
    alarms = BedAlarms()
    key = ("parameter_low", "spo2")
    args = {"parameter": "spo2", "value": 86.0, "limit": 90.0, "priority": "medium"}
    alarms.begin("parameter_low", at_ns=1, received_ns=1, args=args, scope="spo2")
    alarms.acknowledge(1, by="Li", at_ns=2)

    (change,) = alarms.alter(key, {**args, "limit": 88.0}, at_ns=3)
    assert (change.new, change.alarm.acknowledged, change.alarm.args["limit"]) == (False, True, 88.0)
    (change,) = alarms.alter(key, {**args, "priority": "high"}, at_ns=4)
    assert (change.new, change.alarm.acknowledged, change.alarm.priority, change.alarm.number) == (
        True,
        False,
        "high",
        1,
    )
    (change,) = alarms.alter(key, {**args, "priority": "low"}, at_ns=5)
    assert (change.new, change.alarm.priority) == (False, "low")
    alarms.end("parameter_low", at_ns=6, scope="spo2")
    assert alarms.alter(key, args, at_ns=7) == []
