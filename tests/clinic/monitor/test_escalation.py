"""Who is told of an alarm, when, and what when nobody can be told."""

from __future__ import annotations

import pytest
from tests.support.monitoring import Site

from edgeward.bedside import MOST_PLACES, NoticeReport
from edgeward.clinic.monitor.engine import SITE, BedChange
from edgeward.clinic.monitor.escalation import Escalation
from edgeward.clinic.monitor.reminders import Reminders
from edgeward.clinic.monitor.shown import to_message
from edgeward.config import Contact, EscalationStep, Pcd04, Settings, Ward

WARD = Ward(
    name="icu",
    escalation=[
        EscalationStep(after_s=60, contacts=["resident"]),
        EscalationStep(after_s=180, contacts=["on-call", "matron"]),
        EscalationStep(after_s=30, contacts=["nurse"], priorities=["medium"]),
    ],
)
CONTACTS = [
    Contact(name="resident", webhook="https://pager.example/a", email="r@hospital.example"),
    Contact(name="on-call", email="o@hospital.example"),
    Contact(name="matron"),
    Contact(name="nurse", email="n@hospital.example"),
]


class Ladder:
    def __init__(self, **settings) -> None:
        self.settings = Settings(ward=[WARD], contact=CONTACTS, **settings)
        self.site = Site("a", settings=self.settings)
        self.site.beds["a"].ward = "icu"
        self.escalation = Escalation(self.settings, self.site.engine, self.site.clock)
        self.told: list[tuple[int, list[str]]] = []

    def begin(self, code: str) -> str:
        for one in self.site.begin("a", code):
            self.escalation.begin(one.bed_id, one.change.alarm)
        return f"a-{self.site.engine.active('a')[0].number}"

    def wait(self, seconds: float) -> list[list[str]]:
        found = []
        for _ in range(round(seconds)):
            self.site.hands.pass_s(1)
            found += self.hear(self.escalation.tick())
        return found

    def hear(self, steps) -> list[list[str]]:
        return [contacts for _, contacts in steps if contacts]

    def report(self, alarm_id: str, receiver: str, state: str, level: int = 1) -> list[list[str]]:
        raised = self.site.engine.active("a")[0].raised_ns
        report = NoticeReport(
            notice_id=f"{alarm_id}/escalate/{raised}/{level}", alarm_id=alarm_id, receiver=receiver,
            state=state, at_ns=1,
        )  # fmt: skip
        return self.hear(self.escalation.report(report))


def test_each_step_is_taken_at_its_time_until_somebody_acknowledges():
    ladder = Ladder()
    alarm_id = ladder.begin("asystole")
    assert ladder.wait(59) == []
    assert ladder.wait(2) == [["resident"]]
    assert ladder.site.engine.active("a")[0].level == 1
    ladder.site.engine.acknowledge(alarm_id, by="Li")
    assert ladder.wait(300) == []


def test_nobody_acknowledges():
    ladder = Ladder()
    ladder.begin("asystole")
    assert ladder.wait(200) == [["resident"], ["on-call", "matron"]]
    assert ladder.wait(300) == []
    assert ladder.site.engine.active("a")[0].level == 2


def test_a_latched_alarm_whose_condition_is_over_goes_on_calling():
    ladder = Ladder()
    ladder.begin("asystole")
    ladder.site.end("a", "asystole")
    assert ladder.wait(61) == [["resident"]]


def test_a_paused_sound_does_not_stop_the_escalation():
    ladder = Ladder()
    ladder.begin("asystole")
    ladder.site.engine.pause("a", "", seconds=120, by="Li")
    assert ladder.wait(61) == [["resident"]]


def test_each_priority_has_its_own_steps():
    ladder = Ladder()
    ladder.begin("signal_lost")
    assert ladder.wait(100) == [["nurse"]]


def test_an_alarm_that_is_over_calls_nobody():
    ladder = Ladder()
    ladder.begin("signal_lost")
    ladder.site.end("a", "signal_lost")
    assert ladder.wait(100) == []


def test_who_was_told_stands_in_the_alarm():
    ladder = Ladder()
    alarm_id = ladder.begin("asystole")
    ladder.wait(61)
    ladder.report(alarm_id, "resident/email", "delivered")
    ladder.report(alarm_id, "resident/webhook", "delivered")
    assert ladder.site.engine.active("a")[0].told == ("resident",)


def test_when_nobody_of_a_step_could_be_told_the_next_is_due_at_once():
    ladder = Ladder()
    alarm_id = ladder.begin("asystole")
    ladder.wait(61)
    assert ladder.report(alarm_id, "resident/email", "failed") == [], "the webhook may still work"
    assert ladder.report(alarm_id, "resident/email", "failed") == [], "told twice"
    assert ladder.report(alarm_id, "resident/webhook", "failed") == [["on-call", "matron"]]
    assert ladder.wait(300) == [], "the step is not taken a second time"


def test_a_person_whom_deliver_could_not_reach_is_told_of_by_name():
    ladder = Ladder()
    alarm_id = ladder.begin("asystole")
    ladder.wait(61)
    assert ladder.report(alarm_id, "resident", "failed") == [["on-call", "matron"]]
    assert ladder.report(alarm_id, "on-call", "failed", level=2) == []
    assert ladder.site.engine.active("a")[0].level == 2


def test_a_contact_without_a_channel_counts_as_not_told():
    ladder = Ladder()
    alarm_id = ladder.begin("asystole")
    ladder.wait(181)
    assert ladder.report(alarm_id, "on-call/email", "failed", level=2) == []
    assert ladder.report(alarm_id, "matron/nothing", "failed", level=2) == [], "there is no further step"
    assert ladder.site.engine.active("a")[0].level == 2


@pytest.mark.parametrize("receiver", ["alarm-manager", "stranger/email"])
def test_reports_of_systems_and_strangers_change_nothing(receiver):
    ladder = Ladder()
    alarm_id = ladder.begin("asystole")
    ladder.wait(61)
    assert ladder.report(alarm_id, receiver, "failed") == []
    assert ladder.site.engine.active("a")[0].told == ()


def test_after_a_restart_the_next_step_comes_at_its_time():
    ladder = Ladder()
    ladder.begin("asystole")
    ladder.wait(70)
    after = Ladder()
    after.site.hands.steady = 5  # another process: its steady clock begins anew
    after.site.hands.wall = ladder.site.hands.wall
    after.site.clock = after.site.hands.clock()
    after.site.engine._clock = after.site.clock
    after.escalation = Escalation(after.settings, after.site.engine, after.site.clock)
    after.site.engine.restore("a", ladder.site.engine.alarms("a").to_dict())
    for record in after.site.engine.active("a"):
        after.escalation.begin("a", record)
    assert after.wait(105) == []
    assert after.wait(10) == [["on-call", "matron"]]


def test_a_wall_clock_set_forward_by_an_hour_calls_nobody_early():
    ladder = Ladder()
    ladder.begin("asystole")
    ladder.site.hands.wall += 3600 * 10**9
    ladder.site.clock.follow()
    assert ladder.wait(58) == []
    assert ladder.wait(3) == [["resident"]]


def test_that_nobody_hears_is_told_at_once_to_the_first_of_every_ward():
    ladder = Ladder()
    for one in ladder.site.engine.condition(SITE, "alarms_not_heard", True):
        ladder.escalation.begin(one.bed_id, one.change.alarm)
    assert ladder.wait(1) == [["resident"]]


def test_systems_are_told_of_every_transition_and_people_only_when_it_is_their_turn():
    ladder = Ladder(pcd04=[Pcd04(name="manager", host="127.0.0.1", port=1)])
    changes = ladder.site.begin("a", "asystole") + ladder.site.end("a", "asystole")
    changes += ladder.site.engine.acknowledge("a-1", by="Li")
    told = [(one, to_message(one.bed_id, one.change.alarm, one.change.state, one.change.at_ns), []) for one in changes]
    notices = ladder.escalation.notices(told, lambda _: [])
    assert [notice.phase for notice in notices] == ["start", "update", "acknowledge", "end"]
    assert len({notice.notice_id for notice in notices}) == 4
    assert Ladder().escalation.notices(told, lambda _: []) == []


def test_a_notice_of_a_flood_says_what_its_beds_are_called():
    ladder = Ladder()
    silent = [f"b{number}" for number in range(40)]
    began = ladder.site.engine.alarms(SITE).begin(
        "signal_flood", at_ns=1, received_ns=1, args={"beds": 40.0}, members=tuple(silent)
    )
    told = BedChange(SITE, began[0])
    shown = to_message(SITE, told.change.alarm, told.change.state, 1)
    (notice,) = ladder.escalation.notices([(told, shown, ["resident"])], lambda _: [], str.upper)
    assert notice.alarm.members == silent
    assert notice.places == [name.upper() for name in silent[:MOST_PLACES]]


def test_people_are_called_anew_when_an_acknowledged_alarm_calls_once_more():
    ladder = Ladder(pcd04=[])
    ladder.site.engine._reminders = Reminders(300.0)
    alarm_id = ladder.begin("asystole")
    assert ladder.wait(60) == [["resident"]]
    first = ladder.site.engine.active("a")[0]
    ladder.site.engine.acknowledge(alarm_id, by="Li")
    assert ladder.wait(299) == []
    ladder.site.hands.pass_s(2)
    (again,) = ladder.site.engine.tick()
    ladder.escalation.begin(again.bed_id, again.change.alarm)
    assert ladder.wait(59) == [], "counted from the reminder, not from the beginning"
    assert ladder.wait(121) == [["resident"], ["on-call", "matron"]]
    later = ladder.site.engine.active("a")[0]
    assert (later.number, later.level, later.raised_ns) == (first.number, 2, first.raised_ns)
    told = ladder.site.engine.escalate("a", later.number, level=1)
    shown = to_message("a", later, "escalated", 1)
    (notice,) = ladder.escalation.notices([(told[0], shown, ["resident"])], lambda _: [])
    assert notice.notice_id != f"{alarm_id}/escalate/{first.raised_ns}/1", "deliver would take it for the first one"
