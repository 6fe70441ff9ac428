"""The alarm log: what it keeps, what it takes over from the version before, and what a killed process leaves."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.monitoring import KEY

from edgeward.bedside import DISCHARGED, AlarmQuery, LimitChange, Notice, ParameterLimit, SetBed
from edgeward.clinic.monitor import alarm_log
from edgeward.clinic.monitor.alarm_log import AlarmLog, Writing
from edgeward.clinic.monitor.alarms import BedAlarms
from edgeward.clinic.monitor.beds import BedRecord, Beds
from edgeward.clinic.monitor.limits import Profiles
from edgeward.config import Ward
from edgeward.messages import Alarm, AlarmPriority, encode
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.keys import SiteKey

HERE = Path(__file__).parents[3]


def alarm(number: int = 1, **fields) -> Alarm:
    known = {
        "alarm_id": f"a-{number}", "device_id": "a", "code": "asystole", "priority": AlarmPriority.HIGH,
        "technical": False, "latching": True, "state": "raised", "present": True, "raised_ns": 1, "at_ns": number,
        "bed_id": "a",
    }  # fmt: skip
    return Alarm(**{**known, **fields})


@pytest.fixture
def log(tmp_path):
    found = AlarmLog(tmp_path / "alarms.sqlite", KEY)
    yield found
    found.close()


def test_when_patients_left_is_known_however_much_was_changed_since(log):
    def change(at_ns: int, what: str, bed_id: str = "room") -> LimitChange:
        return LimitChange(at_ns=at_ns, by="Li", bed_id=bed_id, what=what, before="", after="yes")

    left = [change(at_ns, DISCHARGED) for at_ns in (5, 100, 200)]
    since = [change(300 + n, "limits.spo2.low") for n in range(80)]
    log.save(Writing(changes=[*left, *since, change(150, DISCHARGED, "other")]))
    assert log.discharges("room", 50) == [200, 100]
    assert log.discharges("room", 201) == []


def test_beds_alarms_changes_and_sources_are_kept(log):
    alarms = BedAlarms()
    alarms.begin("asystole", at_ns=1, received_ns=1, source_id="a", args={"seconds": 4.0})
    bed = BedRecord(bed_id="room", sources=["a"], limits={"spo2": ParameterLimit(low=88)}, own=True)
    change = LimitChange(at_ns=1, by="Li", bed_id="room", what="limits.spo2.low", before="90", after="88")
    log.save(
        Writing(beds={"room": (bed, alarms.snapshot())}, sources={"a": {"ecg": None, "device": "a"}}, changes=[change])
    )
    ((kept, state),) = log.beds()
    assert kept == bed
    assert BedAlarms.from_dict(state).active == alarms.active
    assert log.sources() == {"a": {"ecg": None, "device": "a"}}
    assert log.changes("room") == [change]
    log.save(Writing(gone_beds={"room": 1}, gone_sources=["a"]))
    assert (log.beds(), log.sources()) == ([], {})
    assert log.changes("room") == [change], "the record stays"


def test_transitions_are_found_by_what_is_asked_for(log):
    log.save(
        Writing(
            transitions=[
                (alarm(1), True),
                (alarm(2, state="acknowledged"), False),
                (alarm(3, bed_id="b", ward="icu", priority=AlarmPriority.LOW), True),
            ]
        )
    )

    def numbers(**query):
        return [found.at_ns for found in log.events(AlarmQuery(**query))]

    assert numbers() == [3, 2, 1]
    assert numbers(bed_id="a") == [2, 1]
    assert numbers(ward="icu") == [3]
    assert numbers(priority="high", raised_only=True) == [1]
    assert numbers(since_ns=2, until_ns=2) == [2]
    assert numbers(limit=1) == [3]
    assert numbers(bed_id="' OR 1=1 --") == []


def test_nothing_that_is_said_of_a_patient_can_be_read_in_the_files(log, tmp_path):
    told = alarm(1, label="Mrs Example", args={"parameter": "glucose", "value": 41.5}, by="Li Wei")
    log.save(Writing(
        beds={"a": (BedRecord(bed_id="a", sources=["a"], label="Mrs Example"), {"said": "glucose"})},
        sources={"a": {"ecg": "glucose"}}, transitions=[(told, True)],
        changes=[LimitChange(bed_id="a", by="Li Wei", at_ns=1, what="limits.glucose", before="", after="41.5")],
        notices=[Notice(notice_id="n1", phase="start", alarm=told, at_ns=1)],
    ))  # fmt: skip
    log.keep("values", b"glucose")

    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    for word in (b"Example", b"glucose", b"Li Wei", b"asystole"):
        assert word not in files
    assert (log.recent(1), log.notices()[0].alarm, log.kept("values")) == ([told], told, b"glucose")
    assert (log.changes("a")[0].by, log.beds()[0][0].label) == ("Li Wei", "Mrs Example")
    assert log.sources()["a"] == {"ecg": "glucose"}


def test_the_log_of_another_site_is_not_taken_for_ours(tmp_path):
    log = AlarmLog(tmp_path / "alarms.sqlite", KEY)
    log.save(Writing(sources={"a": {}}))
    log.close()
    with pytest.raises(DatabaseError, match="does not open"):
        AlarmLog(tmp_path / "alarms.sqlite", SiteKey(b"x" * 32)).sources()


def test_notices_wait_until_they_are_handed_over(tmp_path):
    log = AlarmLog(tmp_path / "alarms.sqlite", KEY)
    notices = [Notice(notice_id=f"n{i}", phase="start", alarm=alarm(i), at_ns=i) for i in (3, 1, 2)]
    log.save(Writing(notices=notices))
    log.save(Writing(notices=notices[:1]))  # written again
    log.close()
    log = AlarmLog(tmp_path / "alarms.sqlite", KEY)
    assert log.notices() == notices, "in the order in which they were made"
    log.handed_over(["n3", "n1"])
    log.save(Writing(notices=[Notice(notice_id="n9", phase="end", alarm=alarm(9), at_ns=9)]))
    assert [notice.notice_id for notice in log.notices()] == ["n2", "n9"]
    log.close()


def test_the_file_of_the_version_before_is_taken_over(tmp_path):
    path = tmp_path / "alarms.sqlite"
    signal_row = {"rate_hz": 250.0, "gain_uv": 1.0, "leads": ["II"]}
    state = {
        "number": 2,
        "active": [
            {"code": "asystole", "number": 2, "raised_ns": 5, "received_ns": 5, "onset_sample": 1,
             "decisive_sample": 2, "args": {"seconds": 4.1}, "present": False, "acknowledged": False, "by": "",
             "acknowledged_ns": 0, "ended_ns": 9, "end_sample": 3},
        ],
        "waiting": [],
    }  # fmt: skip
    db = sqlite3.connect(path)
    db.executescript(alarm_log._MIGRATIONS[0])
    db.execute("INSERT INTO patients VALUES (?, ?, ?)", ("bed-1", json.dumps(signal_row), json.dumps(state)))
    db.execute(
        "INSERT INTO transitions (at_ns, device_id, alarm) VALUES (?, ?, ?)",
        (5, "bed-1", encode(alarm(2, alarm_id="bed-1-2", device_id="bed-1", bed_id=""))),
    )
    db.execute(f"PRAGMA application_id = {alarm_log._APPLICATION}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()

    log = AlarmLog(path, KEY)
    ((record, kept),) = log.beds()
    assert (record.bed_id, record.sources) == ("bed-1", ["bed-1"])
    assert [one.code for one in BedAlarms.from_dict(kept, source_id="bed-1").active] == ["asystole"]
    assert log.sources() == {"bed-1": signal_row}
    assert [one.alarm_id for one in log.recent(10, "bed-1")] == ["bed-1-2"]
    log.close()


def test_a_bed_that_had_gone_before_its_numbers_were_kept_gets_none_again(tmp_path):
    path = tmp_path / "alarms.sqlite"
    db = sqlite3.connect(path)
    for script in alarm_log._MIGRATIONS[:2]:
        db.executescript(script)
    db.execute("INSERT INTO beds VALUES ('here', '', '')")
    db.executemany(
        "INSERT INTO transitions (at_ns, bed_id, alarm) VALUES (?, ?, '')", [(1, "gone"), (2, "here"), (3, "here")]
    )
    db.execute(f"PRAGMA application_id = {alarm_log._APPLICATION}")
    db.execute("PRAGMA user_version = 2")
    db.commit()
    db.close()

    log = AlarmLog(path, KEY)
    assert log.numbers() == {"gone": 3}
    log.close()


#: Raises alarms as fast as it can, and says of each when it is on the bus.
KILLED = """
import asyncio, itertools, sys
from types import SimpleNamespace
from pathlib import Path
from tests.support.monitoring import KEY, Site
from edgeward.bus.role import Stats
from edgeward.clinic.monitor import publisher
from edgeward.clinic.monitor.alarm_log import AlarmLog
from edgeward.clinic.monitor.escalation import Escalation
from edgeward.clinic.monitor.shown import to_message

publisher.WAIT_S = 30.0  # on a busy machine too: what is published first is another test's

class OnTheBus:
    async def publish(self, subject, alarm):
        print(alarm.alarm_id, alarm.state, flush=True)

class Shown:
    def alarm(self, bed_id, record, state, at_ns):
        return to_message(bed_id, record, state, at_ns)
    def vitals(self, bed_id):
        return []
    def label(self, bed_id):
        return bed_id

async def main():
    names = [f"w{i}" for i in range(20)]
    site = Site(*names)
    context = SimpleNamespace(bus=OnTheBus(), stats=Stats(), settings=site.settings)
    told = publisher.Publisher(
        context=context, log=AlarmLog(Path(sys.argv[1]), KEY), engine=site.engine, shown=Shown(),
        escalation=Escalation(site.settings, site.engine, site.clock), clock=site.clock, describe=lambda _: {})
    asyncio.ensure_future(told.run())
    for turn in itertools.count():
        for name in names:
            told.put(site.begin(name, "asystole", onset_sample=turn, decisive_sample=turn))
            told.put(site.end(name, "asystole"))
            await asyncio.sleep(0)
        for name in names:
            for record in site.engine.active(name):
                told.put(site.engine.acknowledge(f"{name}-{record.number}", by="Li"))
        await told.settled()

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 57, 400])
def test_a_killed_process_has_written_down_every_alarm_that_it_published(tmp_path, lines):
    path = tmp_path / "alarms.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=HERE
    )  # fmt: skip
    assert process.stdout is not None
    heard = [process.stdout.readline().split() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    heard += [line.split() for line in process.stdout.read().splitlines()]
    process.wait()
    heard = [line for line in heard if len(line) == 2]

    log = AlarmLog(path, KEY)
    kept = {record.bed_id: BedAlarms.from_dict(state) for record, state in log.beds()}
    written = {(found.alarm_id, found.state) for found in log.events(AlarmQuery(limit=2000))}
    log.close()
    last = dict(heard)
    latched = [alarm_id for alarm_id, state in last.items() if state == "raised"]
    for alarm_id in latched:
        bed_id, _, number = alarm_id.rpartition("-")
        standing = kept[bed_id].by_number(int(number))
        # Either it stands, or its acknowledgement was written and was about to be published.
        assert standing is not None or (alarm_id, "acknowledged") in written
    recent = heard[-300:]
    assert all((alarm_id, state) in written for alarm_id, state in recent)


def test_everything_that_can_be_set_for_a_bed_outlasts_a_loss_of_power(tmp_path):
    """Also what is added to `SetBed` later: each of its fields is set here, or the test fails."""
    wards = [Ward(name="icu")]
    given = {
        "label": "Room 7",
        "ward": "icu",
        "sources": ["a", "b"],
        "profile": "child",
        "limits": {"spo2": ParameterLimit(low=91.0, delay_s=3.0)},
        "rhythm": {"asystole_s": 5.0},
        "spo2_scale2": True,
        "paced": "yes",
        "standby": True,
        "disabled": ["couplet"],
    }
    settable = set(SetBed.__struct_fields__) - {"bed_id", "by", "at_ns", "discharged", "removed"}
    assert set(given) == settable
    beds = Beds(Profiles(), wards)
    for source in ("a", "b"):
        beds.add_source(source)
    applied = beds.apply(SetBed(bed_id="a", by="Li", at_ns=1, **given), {"a", "b"})
    before = beds.settings("a")
    log = AlarmLog(tmp_path / "alarms.db", KEY)
    log.save(Writing(beds={"a": (beds["a"], BedAlarms().snapshot())}, changes=applied.changes))
    # no close: the power is gone

    again = Beds(Profiles(), wards)
    reopened = AlarmLog(tmp_path / "alarms.db", KEY)
    again.restore([record for record, _ in reopened.beds()])
    assert again.settings("a") == before
    assert {change.what.split(".")[0] for change in reopened.changes("a")} == settable
