"""The recording on the disk: kept for its time, gone afterwards, whole after a crash, closed to strangers."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.clinic.recorder.times import Machine

from edgeward.clinic.recorder import segment as files
from edgeward.clinic.recorder.archive import SEGMENT_S, Archive, DiskLow
from edgeward.clinic.recorder.clock import SECOND, SETTLE_S, RetentionClock, SystemTime
from edgeward.clinic.recorder.segment import WAVEFORMS, Segment
from edgeward.home import Home
from edgeward.privacy.keys import SiteKey

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    SiteKey.create(home)
    return home


def open_archive(home: Home, machine: SystemTime, **more: float) -> Archive:
    folder = home.data / "recorder"
    folder.mkdir(exist_ok=True)
    clock = RetentionClock(folder / "clock.json", machine)
    clock.tick()
    limits = {"hours": 24.0, "max_bytes": 1e12, **more}
    return Archive(folder, SiteKey.load(home), clock, **limits)  # type: ignore[arg-type]


def write(archive: Archive, machine: Machine, *payloads: bytes, source: str = "bed-1") -> None:
    for payload in payloads:
        archive.append(WAVEFORMS, [(source, payload)], machine.wall_ns())


def everything(archive: Archive) -> list[bytes]:
    return [block for _, _, block in archive.blocks((WAVEFORMS,), None, 0, 1 << 62)]


def on_disk(home: Home) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}


def age(archive: Archive, machine: Machine, seconds: float, step: float = 600.0) -> None:
    """Let time pass as the role does: tick and expire."""
    while seconds > 0:
        machine.pass_s(min(step, seconds))
        seconds -= step
        archive.clock.tick()
        archive.expire()


# ---------------------------------------- gone


def test_after_its_time_neither_content_nor_key_nor_wrapped_key_is_on_the_disk(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof by looking: every file below the state directory is searched, before and after."""
    machine, keys = Machine(), []
    wrap = SiteKey.wrap

    def spied(self: SiteKey, data_key: bytes, context: bytes) -> bytes:
        wrapped = wrap(self, data_key, context)
        keys.append((data_key, wrapped))
        return wrapped

    monkeypatch.setattr(SiteKey, "wrap", spied)
    archive = open_archive(home, machine)
    marks = [secrets.token_bytes(48) for _ in range(8)]
    write(archive, machine, *marks)
    ((key, wrapped),) = keys
    before = on_disk(home)
    assert any(wrapped in data for data in before.values()), "the test would not see a wrapped key"
    ciphertext = files.data_path(home.data / "recorder", 0).read_bytes()
    assert everything(archive) == marks
    assert not any(mark in data or key in data for data in before.values() for mark in marks)
    parts = [wrapped[i : i + 16] for i in range(0, len(wrapped) - 15, 16)]
    pieces = [ciphertext[i : i + 32] for i in range(0, len(ciphertext) - 31, 32)]

    age(archive, machine, DAY - 1)
    assert everything(archive) == marks, "it was erased before its time"
    age(archive, machine, SEGMENT_S + 2)

    assert everything(archive) == []
    after = on_disk(home)
    for path, data in after.items():
        assert not any(mark in data for mark in marks), path
        assert key not in data, path
        assert key.hex().encode() not in data, path
        assert not any(part in data for part in parts), path
        assert not any(piece in data for piece in pieces), path
    assert not [path for path in after if path.suffix == ".rec"]
    # Whoever copied the ciphertext in time and has the whole state directory now, site key included, reads nothing.
    _try_to_read(home, ciphertext, marks)


def _try_to_read(home: Home, ciphertext: bytes, marks: list[bytes]) -> None:
    site_key = SiteKey.load(home)
    header = ciphertext[:64]
    *_, run, counter, _, _, _, size, _, _ = files._HEADER.unpack(header)
    sealed = ciphertext[64 : 64 + size]
    candidates = [
        site_key._key,
        *(site_key._derived(what) for what in (b"seal", b"jetstream", b"content", b"recorder")),
    ]
    for data in on_disk(home).values():
        candidates += [data[at : at + 32] for at in range(max(0, min(len(data), 8192) - 31))]
    opened = Segment(home.data, 0, RetentionClock(home.data / "x", Machine()).now(), None)
    for candidate in candidates:
        for bound in (opened._bound, b""):
            with pytest.raises((InvalidTag, ValueError)):
                AESGCM(candidate).decrypt(run + counter.to_bytes(4, "big"), sealed, bound)
    copy = files.data_path(home.data / "recorder", 0)
    copy.write_bytes(ciphertext)
    again = open_archive(home, Machine())
    assert not any(mark in block for block in everything(again) for mark in marks)
    again.close()


def test_the_key_is_overwritten_where_it_lay_before_its_name_goes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut between the steps of an erasure: at each point the key is gone first."""
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"x" * 100)
    key = files.key_path(home.data / "recorder", 0)
    inode, content = key.stat().st_ino, key.read_bytes()
    seen: list[tuple[int, bytes]] = []

    def stop(path: Path, missing_ok: bool = False) -> None:
        seen.append((path.stat().st_ino, path.read_bytes()))
        raise OSError(5, "the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        machine.pass_s(DAY + SEGMENT_S)
        write(archive, machine, b"y")  # the old one is no longer written
        with pytest.raises(OSError, match="power"):
            archive.expire()

    assert seen[0][0] == inode, "another file was overwritten"
    assert len(seen[0][1]) == len(content) == files.KEY_FILE_BYTES
    assert not any(seen[0][1][i : i + 16] == content[i : i + 16] for i in range(0, 256, 16))
    again = open_archive(home, machine)  # after the power came back
    assert not key.exists()
    assert not files.data_path(home.data / "recorder", 0).exists()
    assert everything(again) == [b"y"]


def test_nothing_is_older_than_25_hours_nor_gone_before_24(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    written: dict[bytes, int] = {}
    for number in range(3 * 28):
        payload = f"{number:08d}".encode()
        written[payload] = machine.boot_ns()
        write(archive, machine, payload)
        age(archive, machine, 1200.0)
        there = {payload: (machine.boot_ns() - written[payload]) / SECOND for payload in everything(archive)}
        assert max(there.values()) <= 25 * HOUR
        gone = set(written) - set(there)
        assert all((machine.boot_ns() - written[payload]) / SECOND > DAY for payload in gone)
    assert len(written) > len(everything(archive))


@pytest.mark.parametrize("by_s", [HOUR, -HOUR, 40 * DAY, -40 * DAY])
def test_a_wall_clock_that_is_set_neither_destroys_early_nor_keeps_longer(home: Home, by_s: float) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"before")
    age(archive, machine, 12 * HOUR)
    write(archive, machine, b"middle")

    machine.set_wall(by_s)
    age(archive, machine, 12 * HOUR - 60)
    assert everything(archive) == [b"before", b"middle"]
    archive.close()
    archive = open_archive(home, machine)  # a restart changes nothing
    age(archive, machine, 30 * 60 + 120)

    assert everything(archive) == [b"middle"]
    age(archive, machine, 12 * HOUR)
    assert everything(archive) == []


def test_after_a_reboot_with_a_wrong_clock_nothing_goes_until_it_is_right(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"young")
    archive.close()
    machine.reboot(off_s=60, wall_error_s=400 * DAY)
    archive = open_archive(home, machine)
    age(archive, machine, SETTLE_S / 2)
    machine.set_wall(-400 * DAY)
    age(archive, machine, 3 * SETTLE_S)
    assert everything(archive) == [b"young"]


def test_what_came_due_while_the_site_was_off_goes_at_its_return(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"old")
    archive.close()
    machine.reboot(off_s=2 * DAY)
    archive = open_archive(home, machine)
    write(archive, machine, b"new")
    age(archive, machine, SETTLE_S + 1, step=60)
    assert everything(archive) == [b"new"]


def test_above_its_size_the_oldest_goes_first(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine, max_bytes=100_000)
    for number in range(40):
        write(archive, machine, number.to_bytes(4, "big") + secrets.token_bytes(10_000))
        archive.expire()
        machine.pass_s(1)
    kept = [int.from_bytes(block[:4], "big") for block in everything(archive)]
    assert archive.size() <= 100_000
    assert kept == list(range(40 - len(kept), 40))
    assert len(kept) >= 5
    assert archive.given_up > 0


# ---------------------------------------- wrong keys


def test_a_wrong_site_key_deletes_nothing(home: Home, tmp_path: Path) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"kept")
    archive.close()
    right = {name: (home.keys / name).read_bytes() for name in ("site.key", "site.check")}
    there = {
        path: data
        for path, data in on_disk(home).items()
        if path.suffix in (".key", ".rec") and "recorder" in path.parts
    }
    other = Home(tmp_path / "other")
    other.create()
    SiteKey.create(other)
    for name in right:  # a key that passes its own check, but is not the one this was written with
        shutil.copy(other.keys / name, home.keys / name)

    archive = open_archive(home, machine)
    assert archive.unreadable == 1
    assert everything(archive) == []
    write(archive, machine, b"new")
    age(archive, machine, HOUR)
    archive.close()
    assert there.items() <= on_disk(home).items()

    for name, data in right.items():
        (home.keys / name).write_bytes(data)
    assert everything(open_archive(home, machine)) == [b"kept"]


def test_a_frame_opens_only_where_it_was_written(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"a" * 50, b"b" * 50, b"c" * 50)
    archive.close()
    path = files.data_path(home.data / "recorder", 0)
    data = path.read_bytes()
    third = len(data) // 3
    one, two, three = data[:third], data[third : 2 * third], data[2 * third :]

    for altered in (two + one + three, one + one + three, one + bytes([*two[:-1], two[-1] ^ 1]) + three):
        path.write_bytes(altered)
        segment = Segment.load(home.data / "recorder", 0, SiteKey.load(home))
        assert segment is not None
        with segment.reading() as handle:
            opened = 0
            for frame in segment.frames(handle):
                try:
                    opened += bool(segment.blocks(handle, frame))
                except files.SegmentError:
                    continue
        assert opened < 3


def test_a_damaged_frame_hides_none_of_the_others(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"a" * 50, b"b" * 50, b"c" * 50)
    path = files.data_path(home.data / "recorder", 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 10] ^= 1
    path.write_bytes(data)
    assert everything(archive) == [b"a" * 50, b"c" * 50]


# ---------------------------------------- crashes


@pytest.mark.parametrize("cut", [1, 17, 63, 64, 70, 90])
def test_an_unfinished_frame_is_cut_off_and_writing_goes_on(home: Home, cut: int) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"one", b"two", b"three")
    archive.close()
    path = files.data_path(home.data / "recorder", 0)
    os.truncate(path, path.stat().st_size - cut)

    archive = open_archive(home, machine)
    write(archive, machine, b"four")

    assert everything(archive) == [b"one", b"two", b"four"]
    assert archive.segments == 1
    assert archive.cut > 0


def test_a_frame_of_which_only_the_room_reached_the_disk_is_cut_off(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"one", b"two" * 100)
    archive.close()
    path = files.data_path(home.data / "recorder", 0)
    data = path.read_bytes()
    path.write_bytes(data[:-200] + bytes(200))

    archive = open_archive(home, machine)
    write(archive, machine, b"three")
    assert everything(archive) == [b"one", b"three"]


def test_no_nonce_is_used_twice_after_a_crash(home: Home) -> None:
    machine = Machine()
    used: set[bytes] = set()
    for _ in range(3):
        archive = open_archive(home, machine)
        write(archive, machine, b"same" * 10)
        path = files.data_path(home.data / "recorder", 0)
        header = path.read_bytes()[-(path.stat().st_size // 1) :][:64]
        used.add(header[12:24])
        archive.close()
        os.truncate(path, path.stat().st_size - 5)  # that frame is written again, under the same key
    assert len(used) == 3


def _writer(root: str, told: int) -> None:
    home = Home(Path(root))
    archive = open_archive(home, SystemTime())
    number = 0
    while True:
        archive.append(WAVEFORMS, [("bed", number.to_bytes(8, "big") + os.urandom(20_000))], time.time_ns())
        os.write(told, number.to_bytes(8, "big"))  # it has reached the disk
        number += 1


def test_a_kill_at_any_moment_loses_nothing_that_was_written(home: Home) -> None:
    fork = multiprocessing.get_context("fork")
    total = 0
    for attempt in range(6):
        read_end, write_end = os.pipe()
        process = fork.Process(target=_writer, args=(str(home.root), write_end))
        process.start()
        os.close(write_end)
        told = os.read(read_end, 8)
        time.sleep(0.02 + 0.013 * attempt)  # anywhere within a frame
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while data := os.read(read_end, 8 * 4096):
            told = data[-8:]
        os.close(read_end)
        total += int.from_bytes(told, "big") + 1

        machine = SystemTime()
        archive = open_archive(home, machine)
        blocks = everything(archive)
        archive.close()
        assert all(len(block) == 20_008 for block in blocks)
        # Each run counts from 0; a frame may have been finished that nobody was told of.
        assert total <= len(blocks) <= total + attempt + 1
        total = len(blocks)
    assert archive.segments == 1, "a restart does not begin a new segment"


def test_interrupted_beginnings_and_erasures_are_tidied(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"kept")
    archive.close()
    folder = home.data / "recorder"
    (folder / ".00000001.key.abc").write_bytes(b"EWRKEY01 never named")
    (folder / "00000007.rec").write_bytes(b"data whose key is gone")
    files.key_path(folder, 8).write_bytes(secrets.token_bytes(4096))  # overwritten, not yet deleted
    files.data_path(folder, 8).write_bytes(b"data")

    archive = open_archive(home, machine)

    assert everything(archive) == [b"kept"]
    assert sorted(path.name for path in folder.iterdir()) == ["00000000.key", "00000000.rec", "clock.json"]


def test_a_disk_that_is_nearly_full_is_left_to_others(home: Home) -> None:
    machine = Machine()
    archive = open_archive(home, machine, min_free_bytes=1 << 60)
    with pytest.raises(DiskLow):
        write(archive, machine, b"x")


def test_a_disk_that_fills_during_a_frame_leaves_the_file_as_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    archive = open_archive(home, machine)
    write(archive, machine, b"one")
    pwrite = os.pwrite

    def full(handle: int, data: memoryview, offset: int) -> int:
        pwrite(handle, data[:10], offset)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            write(archive, machine, b"two")
    write(archive, machine, b"three")
    assert everything(archive) == [b"one", b"three"]
