"""The intake log: what it took is there after a kill, what it forgot is gone, and damage stays where it is."""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.lanes import LANES, lane

from edgeward import native
from edgeward.privacy import intakelog
from edgeward.privacy.intakelog import BLOCK, IntakeLog, LogFull
from edgeward.privacy.keys import SiteKey, WrongKey

KEY = SiteKey(bytes(32))


@pytest.fixture(autouse=True)
def python_only() -> Iterator[None]:
    """Most tests here break calls of Python's."""
    with lane("python"):
        yield


def nothing() -> None:
    """Nobody waits for it."""


def found(path: Path) -> list[tuple[bytes, bytes]]:
    return [(record.row, record.content) for record in IntakeLog(path, KEY).found()]


def file_of(path: Path, number: int = 0) -> Path:
    return path.with_name(f"{path.name}-intake{number}")


@pytest.mark.parametrize("direct", [True, False])
def test_what_was_appended_is_found(tmp_path: Path, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct:
        refuse_direct(monkeypatch)
    log, records = IntakeLog(tmp_path / "j", KEY), []
    for size in (0, 1, 15, 16, BLOCK - 1, BLOCK, BLOCK + 1, 400_000):
        in_memory = memoryview(mmap.mmap(-1, size + 1))[:size]
        in_memory[:] = os.urandom(size)
        for content in (bytes(in_memory), in_memory):
            records.append((os.urandom(1 + size % 50_000), bytes(content)))
            log.append(records[-1][0], content, nothing)
    log.close()

    assert found(tmp_path / "j") == records


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file system that cannot write past the page cache."""
    real = os.open

    def refusing(path: object, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)


def test_what_was_forgotten_is_gone_and_cannot_be_read(tmp_path: Path) -> None:
    log = IntakeLog(tmp_path / "j", KEY)
    log.append(b"first", b"c" * 5000, nothing)
    account = log.turn()
    log.append(b"second", b"", nothing)
    assert account is not None

    log.forget(account)

    assert found(tmp_path / "j") == [(b"second", b"")]
    assert b"first" not in file_of(tmp_path / "j").read_bytes(), "a row is never in clear"
    head = file_of(tmp_path / "j").read_bytes()[:BLOCK]
    assert head == bytes(BLOCK), "the key of what is forgotten is gone"


def test_the_files_take_turns_and_old_records_do_not_come_back(tmp_path: Path) -> None:
    log = IntakeLog(tmp_path / "j", KEY)
    assert log.turn() is None, "there is nothing to carry over"
    for number in range(20):
        for _ in range(20 - number):  # each time fewer: the older ones lie behind the newer ones
            log.append(b"row %d" % number, b"x" * 3000, nothing)
        account = log.turn()
        assert account is not None
        log.forget(account)
    log.append(b"last", b"", nothing)

    assert found(tmp_path / "j") == [(b"last", b"")]
    log.close()


def test_one_that_was_not_forgotten_is_turned_to_again(tmp_path: Path) -> None:
    log = IntakeLog(tmp_path / "j", KEY)
    log.append(b"first", b"", nothing)
    account = log.turn()
    log.append(b"second", b"", nothing)

    assert log.turn() == account

    assert found(tmp_path / "j") == [(b"first", b""), (b"second", b"")]
    log.close()


@pytest.mark.parametrize("place", [0, 17, 20, 40, 60, 70])
def test_a_damaged_record_takes_nobody_with_it(tmp_path: Path, place: int) -> None:
    log = IntakeLog(tmp_path / "j", KEY)
    for number in range(3):
        log.append(b"row %d" % number, b"x" * 6000, nothing)
    log.close()
    data = bytearray(file_of(tmp_path / "j").read_bytes())
    second = BLOCK + 3 * BLOCK
    data[second + place] ^= 1
    file_of(tmp_path / "j").write_bytes(data)

    rows = [row for row, _ in found(tmp_path / "j")]

    assert rows == ([b"row 0", b"row 2"] if place < 64 else [b"row 0", b"row 1", b"row 2"])


def test_any_bytes_in_its_place_are_survived(tmp_path: Path) -> None:
    rng = random.Random(3)
    log = IntakeLog(tmp_path / "j", KEY)
    for number in range(8):
        log.append(b"row %d" % number, b"x" * 3000, nothing)
    log.close()
    whole = file_of(tmp_path / "j").read_bytes()[: 20 * BLOCK]
    for _ in range(300):
        data = bytearray(whole[: rng.randrange(len(whole))])
        for _ in range(rng.randrange(4)):
            if len(data) > 100:  # the head of the file holds the key: its damage is another test's
                at = rng.randrange(100, len(data))
                data[at : at + 8] = rng.randbytes(8)
        file_of(tmp_path / "j").write_bytes(data)

        # Only rows are the log's to vouch for: a content is ciphertext that its own key tells to be whole.
        assert {row for row, _ in found(tmp_path / "j")} <= {b"row %d" % number for number in range(8)}
    file_of(tmp_path / "j").write_bytes(rng.randbytes(3 * BLOCK))
    assert found(tmp_path / "j") == []


def test_another_sites_key_opens_nothing(tmp_path: Path) -> None:
    log = IntakeLog(tmp_path / "j", KEY)
    log.append(b"row", b"", nothing)

    with pytest.raises(WrongKey):
        list(IntakeLog(tmp_path / "j", SiteKey(b"k" * 32)).found())
    log.close()


def test_those_who_wait_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, syncs, real = IntakeLog(tmp_path / "j", KEY), [], os.fdatasync
    first, written = threading.Event(), threading.Semaphore(0)

    def held_up(handle: int) -> None:
        syncs.append(handle)
        if len(syncs) == 1:
            first.set()
            for _ in range(9):  # until all others have written theirs
                written.acquire()
        real(handle)

    log.append(b"warm", b"", nothing)
    monkeypatch.setattr(os, "fdatasync", held_up)
    monkeypatch.setattr(log, "_sync", noting(log._sync, written))
    threads = [start(lambda: log.append(b"row", b"", nothing))]
    assert first.wait(10)
    threads += [start(lambda: log.append(b"row", b"", nothing)) for _ in range(8)]
    for thread in threads:
        thread.join(10)

    assert len(found(tmp_path / "j")) == 10
    assert len(syncs) == 2, "the first, and one for all who came while it was on its way"
    log.close()


def noting(sync: Callable[[object], None], written: threading.Semaphore) -> Callable[[object], None]:
    def noted(file: object) -> None:
        written.release()
        sync(file)

    return noted


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_told_and_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    log, told = IntakeLog(tmp_path / "j", KEY), []
    log.append(b"before", b"", nothing)

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=os.strerror(code)):
            log.append(b"lost", b"", lambda: told.append("lost"))
    with pytest.raises(OSError, match="failed before"):  # nobody knows what this file's next sync would tell
        log.append(b"refused", b"", lambda: told.append("refused"))
    account = log.turn()
    assert account is not None
    log.append(b"after", b"", nothing)

    assert told == []
    assert found(tmp_path / "j") == [(b"before", b""), (b"after", b"")]
    log.forget(account)
    log.close()


def test_a_log_that_nobody_empties_is_full_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakelog, "_LIMIT", 8 * BLOCK)
    log = IntakeLog(tmp_path / "j", KEY)

    with pytest.raises(LogFull):
        for _ in range(8):
            log.append(b"row", b"", nothing)

    account = log.turn()
    assert account is not None
    log.append(b"again", b"", nothing)
    assert [row for row, _ in found(tmp_path / "j")].count(b"row") == 7
    log.close()


def test_turning_waits_for_those_who_are_writing(tmp_path: Path) -> None:
    log, entered, release, turned = IntakeLog(tmp_path / "j", KEY), threading.Event(), threading.Event(), []

    def done() -> None:
        entered.set()
        release.wait(10)

    writer = start(lambda: log.append(b"row", b"", done))
    assert entered.wait(10)
    turner = start(lambda: turned.append(log.turn()))
    log_moved_on(log)
    assert turned == []
    release.set()
    writer.join(10)
    turner.join(10)

    assert turned == [0]
    log.close()


def log_moved_on(log: IntakeLog) -> None:
    end = time.monotonic() + 10
    while log._active is log._files[0]:
        assert time.monotonic() < end
        time.sleep(0.001)


WRITER = """
import os, sys, threading
from pathlib import Path
from edgeward.privacy.intakelog import IntakeLog
from edgeward.privacy.keys import SiteKey
log, out = IntakeLog(Path(sys.argv[1]), SiteKey(bytes(32))), threading.Lock()
def write(worker):
    for number in range(100_000):
        row = b"%d-%d" % (worker, number)
        log.append(row, row * 900, lambda: None)
        os.write(1, row + b"\\n")
        if worker == 0 and number % 40 == 39 and len(sys.argv) > 2:
            log.turn()
for worker in range(4):
    threading.Thread(target=write, args=(worker,)).start()
"""


def test_the_compiled_sync_serves_all_and_tells_all_that_it_failed(tmp_path: Path) -> None:
    with lane("compiled"):
        log, told = IntakeLog(tmp_path / "j", KEY), []
        rows = [f"{worker}-{number}".encode() for worker in range(8) for number in range(20)]
        workers = [
            start(
                lambda part=rows[at : at + 20]: [log.append(row, row, lambda row=row: told.append(row)) for row in part]
            )
            for at in range(0, 160, 20)
        ]
        for worker in workers:
            worker.join(20)
        assert sorted(told) == sorted(rows)
        assert sorted(row for row, _ in found(tmp_path / "j")) == sorted(rows)

        shared = log._active.shared
        assert native.library().ew_sync(shared, -1) == errno.EBADF
        with pytest.raises(OSError, match="Bad file descriptor"):  # nobody knows what the next one would tell
            log.append(b"lost", b"", lambda: told.append(b"lost"))
        assert log.turn() is not None
        log.append(b"after", b"", lambda: told.append(b"after"))
        assert told[160:] == [b"after"]
        log.close()


@pytest.mark.fault
@pytest.mark.parametrize("way", LANES)
@pytest.mark.parametrize("turning", [[], ["turn"]])
def test_whatever_was_told_before_a_kill_is_found(tmp_path: Path, turning: list[str], way: str) -> None:
    chance = random.Random(11)
    for turn in range(3):
        path = tmp_path / str(turn)
        command = [sys.executable, "-c", WRITER, str(path), *turning]
        with lane(way), subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            head = writer.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.2))  # the moment of death is the variable under test
            writer.send_signal(signal.SIGKILL)
            told = (head + writer.stdout.read()).split(b"\n")[:-1]

        rows = dict(found(path))

        assert told
        for row in told:
            assert rows[row] == row * 900
        assert len(rows) <= len(told) + 4, "at most the one of each worker that was cut off"
