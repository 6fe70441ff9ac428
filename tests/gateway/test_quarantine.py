"""What is set aside is counted, bounded, and written a few at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeward.gateway.quarantine import FLOOD, Quarantine
from edgeward.messages import Quarantined
from edgeward.privacy.database import DatabaseFull
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", SiteKey(os.urandom(32)))
    yield journal
    journal.close()


def test_the_same_refusal_is_one_line_with_a_count(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    quarantine = Quarantine(journal, clock=iter(range(1, 100)).__next__)
    with caplog.at_level(logging.WARNING, "edgeward"):
        for _ in range(5):
            quarantine.note("dicom", "10.0.0.9", "unknown AE title", "enrol it")
    quarantine.flush()
    quarantine.note("dicom", "10.0.0.9", "unknown AE title", "enrol it")

    (entry,) = quarantine.entries()

    assert (entry.count, entry.at_ns) == (6, 6)
    assert len(caplog.records) == 2  # once for each time it was written, not once for each refusal


def test_a_flood_of_different_refusals_costs_one_commit_and_stays_bounded(journal: Journal, monkeypatch) -> None:
    commits = []
    write = journal.quarantine
    monkeypatch.setattr(journal, "quarantine", lambda entries: (commits.append(1), write(entries)))
    quarantine = Quarantine(journal)

    for number in range(5000):
        quarantine.note("dicom", f"10.{number >> 8}.{number & 255}.1", "no certificate")
    quarantine.flush()

    entries = journal.quarantined(limit=10_000)
    assert len(commits) == 1
    assert len(entries) <= 501
    assert sum(entry.count for entry in entries) == 5000
    assert any(entry.reason == FLOOD for entry in entries)


def test_entries_survive_a_disk_that_is_full_for_a_while(journal: Journal, monkeypatch) -> None:
    quarantine = Quarantine(journal)
    quarantine.note("dicom", "us1", "the disk is full")

    def full(_: object) -> None:
        raise DatabaseFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "quarantine", full)
        quarantine.flush()

    assert [entry.count for entry in quarantine.entries()] == [1]


def test_what_another_thread_is_just_writing_is_not_missing(journal: Journal, monkeypatch) -> None:
    quarantine, begun, go_on = Quarantine(journal), threading.Event(), threading.Event()
    write, seen = journal.quarantine, list[int]()

    def slowly(entries: list[Quarantined]) -> None:
        begun.set()
        assert go_on.wait(30)
        write(entries)

    monkeypatch.setattr(journal, "quarantine", slowly)
    quarantine.note("dicom", "us1", "no")
    flushing = threading.Thread(target=quarantine.flush)
    flushing.start()
    assert begun.wait(30)
    looking = threading.Thread(target=lambda: seen.append(len(quarantine.entries())))
    looking.start()
    looking.join(0.2)
    go_on.set()
    for thread in (flushing, looking):
        thread.join(30)

    assert seen == [1]


def test_many_threads_lose_no_count(journal: Journal) -> None:
    quarantine = Quarantine(journal)

    def work() -> None:
        for _ in range(200):
            quarantine.note("dicom", "us1", "no")
            if threading.get_ident() % 3 == 0:
                quarantine.flush()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(entry.count for entry in quarantine.entries()) == 1200


def test_overlong_text_is_cut(journal: Journal) -> None:
    quarantine = Quarantine(journal)
    quarantine.note("dicom", "p" * 5000, "r" * 5000, "w" * 5000)

    (entry,) = quarantine.entries()

    assert max(len(entry.peer), len(entry.reason), len(entry.what_to_do)) <= 300
