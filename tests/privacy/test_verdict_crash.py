"""A verdict that was acknowledged is there after any crash, counted once, and still to be handed over."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.privacy.test_journal import finding, new_item

from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey

WRITER = """
import sys
from pathlib import Path
from edgeward.messages import Verdict
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
journal = Journal(Path(sys.argv[1]), SiteKey(bytes(32)))
start = journal.item("item1").revision
for number in range(start + 1, start + 10_000):
    verdict = Verdict(verdict_id=f"v{number}", item_id="item1", finding_id="f1", action="confirm", by="dr", at_ns=number)
    revision = journal.verdict(verdict, 7)
    print("kept", number, revision, flush=True)
    if number % 2:
        journal.handed("item1", ["pacs"], 9, revision)
        print("handed", number, revision, flush=True)
"""


@pytest.mark.fault
def test_every_verdict_acknowledged_before_a_kill_is_there_in_order_and_due(tmp_path: Path) -> None:
    path, chance = tmp_path / "journal.db", random.Random(7)
    journal = Journal(path, SiteKey(bytes(32)))
    journal.admit(new_item())
    journal.analysed("item1", finding(), None, 1.0, 20)
    journal.handed("item1", ["pacs"], 30)
    journal.close()
    kept, handed = set[int](), set[int]()

    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]
            time.sleep(chance.uniform(0.0, 0.15))  # the moment of death is the variable under test
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith("\n"):
                word, number, revision = line.split()
                assert number == revision
                (kept if word == "kept" else handed).add(int(revision))

    journal = Journal(path, SiteKey(bytes(32)))
    count = journal.item("item1").revision
    verdicts, _ = journal.verdicts("item1", count)
    due = journal.due("item1", 0)
    journal.close()

    assert kept
    assert max(kept) <= count <= max(kept) + 1  # at most the one whose acknowledgement was cut off
    assert [verdict.at_ns for verdict in verdicts] == list(range(1, count + 1))
    assert not handed & set(due[1:] if due and due[0] == 0 else due)
    assert {number for number in kept if number % 2 == 0} <= set(due)
