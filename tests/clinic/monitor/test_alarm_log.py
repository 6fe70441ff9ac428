"""The alarm log: what it keeps, what it takes over from the version before, and what a killed process leaves."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edgeward.bedside import AlarmQuery, LimitChange, Notice, ParameterLimit
from edgeward.clinic.monitor import alarm_log
from edgeward.clinic.monitor.alarm_log import AlarmLog, Writing
from edgeward.clinic.monitor.alarms import BedAlarms
from edgeward.clinic.monitor.beds import BedRecord
from edgeward.messages import Alarm, AlarmPriority, encode

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
    found = AlarmLog(tmp_path / "alarms.sqlite")
    yield found
    found.close()


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
    log.save(Writing(gone_beds=["room"], gone_sources=["a"]))
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


def test_notices_wait_until_they_are_handed_over(tmp_path):
    log = AlarmLog(tmp_path / "alarms.sqlite")
    notices = [Notice(notice_id=f"n{i}", phase="start", alarm=alarm(i), at_ns=i) for i in (3, 1, 2)]
    log.save(Writing(notices=notices))
    log.save(Writing(notices=notices[:1]))  # written again
    log.close()
    log = AlarmLog(tmp_path / "alarms.sqlite")
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

    log = AlarmLog(path)
    ((record, kept),) = log.beds()
    assert (record.bed_id, record.sources) == ("bed-1", ["bed-1"])
    assert [one.code for one in BedAlarms.from_dict(kept, source_id="bed-1").active] == ["asystole"]
    assert log.sources() == {"bed-1": signal_row}
    assert [one.alarm_id for one in log.recent(10, "bed-1")] == ["bed-1-2"]
    log.close()


#: Raises alarms as fast as it can, and says of each when it is on the bus.
KILLED = """
import asyncio, itertools, sys
from types import SimpleNamespace
from pathlib import Path
from tests.support.monitoring import Site
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

async def main():
    names = [f"w{i}" for i in range(20)]
    site = Site(*names)
    context = SimpleNamespace(bus=OnTheBus(), stats=Stats(), settings=site.settings)
    told = publisher.Publisher(
        context=context, log=AlarmLog(Path(sys.argv[1])), engine=site.engine, shown=Shown(),
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

    log = AlarmLog(path)
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
