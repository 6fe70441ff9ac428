"""Objects on their way in when the gateway is killed, the power is cut, or the disk fills: counted from outside.

The receiver is the DICOM door with vault and journal in a process of its own; whoever sends remembers what it was told.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage
from pynetdicom.dsutils import encode
from tests.gateway.door import frame
from tests.gateway.spoken import Spoken, request

from edgeward.config import Budgets
from edgeward.gateway import command as dimse
from edgeward.gateway.reception import Reception
from edgeward.home import Home
from edgeward.privacy.database import DatabaseFull
from edgeward.privacy.intakelog import IntakeLog
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault, VaultFull, read

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

RECEIVER = """
import sys, threading
from pathlib import Path
from tests.gateway.door import open_door
from tests.gateway.spoken import LEGACY
with open_door(Path(sys.argv[1]), min_free_mb=int(sys.argv[2]), dicom={"legacy": [LEGACY]}) as door:
    print(door.dicom.ports["plain"], flush=True)
    while not threading.Event().wait(float(sys.argv[3])):
        door.dicom._reception.relieve_now()
"""
SIZES = ((24, 24), (60, 80), (500, 600), (700, 900))  # three of one chunk, one of two
NEVER = 1e6


@dataclass
class Receiver:
    """The door in a process of its own. Has what `Spoken` needs of a door."""

    home: Path
    min_free_mb: int = 0
    settling_s: float = NEVER
    compiled: bool = True
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def dicom(self) -> Receiver:
        return self

    def start(self) -> None:
        root = str(Path(__file__).parents[2])
        arguments = [sys.executable, "-c", RECEIVER, str(self.home), str(self.min_free_mb), str(self.settling_s)]
        environment = {**os.environ, "EDGEWARD_COMPILED": "1" if self.compiled else "0"}
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=root, env=environment)
        assert self.process.stdout is not None
        self.ports["plain"] = int(self.process.stdout.readline())

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)


@contextlib.contextmanager
def receiving(
    home: Path, min_free_mb: int = 0, settling_s: float = NEVER, *, compiled: bool = True
) -> Iterator[Receiver]:
    receiver = Receiver(home, min_free_mb, settling_s, compiled)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.kill()


def store(peer: Spoken, uid: str, data: bytes) -> int:
    """Send an object and return the status; raise `ConnectionError` if there was none."""
    peer.send(1, request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=uid))
    for pdu in dimse.pdus(1, b"", data, 60_000):
        peer.socket.sendall(pdu)
    kind, pdu = peer.pdu()
    if kind != 0x04:
        raise ConnectionError
    return dimse.Command(pdu[12:]).status


def pour(receiver: Receiver, told: dict[str, bytes], seed: int) -> None:
    """Send objects over one association until it breaks, some twice; remember those we were told are stored."""
    rng = random.Random(seed)
    peer = Spoken(receiver, (UltrasoundImageStorage, ExplicitVRLittleEndian))  # type: ignore[arg-type]
    with contextlib.suppress(OSError):
        while True:
            rows, columns = rng.choice(SIZES)
            image = frame(rows, columns, seed=rng.randrange(1 << 30))
            data = encode(image, False, True)
            assert data
            if store(peer, image.SOPInstanceUID, data) == dimse.SUCCESS:
                told[image.SOPInstanceUID] = data
                if not rng.randrange(4):
                    store(peer, image.SOPInstanceUID, data)


@dataclass
class Kept:
    """What a gateway finds at its next start."""

    objects: dict[str, bytes]
    files: int
    rows: int


def next_start(home_path: Path) -> Kept:
    """Recover and sweep as the role does, and read everything back."""
    home = Home(home_path)
    key = SiteKey.load(home)
    vault = FileVault(home.vault, key)
    vault.give_room_back()
    journal = Journal(home.db("journal"), key)
    try:
        Reception(vault, journal, key, Budgets()).recover()
        vault.sweep(journal.knows_object)
        assert journal.unsettled() == []
        with contextlib.closing(sqlite3.connect(home.db("journal"))) as db:
            rows = db.execute("SELECT sop_instance_uid, object_id, wrapped_key, size FROM items").fetchall()
        objects = {}
        for uid, object_id, wrapped, size in rows:
            reference = vault.reference(object_id, wrapped, size)
            objects[uid] = read(reference.path, reference.data_key)
    finally:
        journal.close()
    return Kept(objects, vault.count(), len(rows))


def check(kept: Kept, told: dict[str, bytes]) -> None:
    for uid, data in told.items():
        assert kept.objects[uid].endswith(data), "an acknowledged object is not what was sent"
    assert kept.files == kept.rows == len(kept.objects), "something half done remains"


@pytest.mark.parametrize("settling_s", [NEVER, 0.002])
@pytest.mark.parametrize("senders", [1, 6])
def test_killed_in_mid_stream_nothing_acknowledged_is_lost_and_nothing_half_done_remains(
    tmp_path: Path, senders: int, settling_s: float, campaign: bool
) -> None:
    rng = random.Random(senders)
    for turn in range(25 if campaign else 3):
        told: dict[str, bytes] = {}
        with receiving(tmp_path / f"home{turn}", settling_s=settling_s) as receiver:
            pouring = [
                threading.Thread(target=pour, args=(receiver, told, 1000 * turn + number)) for number in range(senders)
            ]
            for thread in pouring:
                thread.start()
            while len(told) < 4:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.1))
            receiver.kill()
            for thread in pouring:
                thread.join(30)
        check(next_start(receiver.home), told)


def test_after_a_power_cut_small_objects_come_back_from_the_journal(tmp_path: Path) -> None:
    """What was never synced is taken away by hand: the file of a small object is lost, emptied or cut."""
    told: dict[str, bytes] = {}
    # Nobody settles here, and nothing is appended to segments: everything small waits in the journal.
    with receiving(tmp_path / "home", compiled=False) as receiver:
        peer = Spoken(receiver, (UltrasoundImageStorage, ExplicitVRLittleEndian))  # type: ignore[arg-type]
        for number in range(9):
            image = frame(24, 24, seed=number)
            data = encode(image, False, True)
            assert data
            assert store(peer, image.SOPInstanceUID, data) == dimse.SUCCESS
            told[image.SOPInstanceUID] = data
        receiver.kill()
    files = [path for path in (tmp_path / "home" / "vault").rglob("*") if path.is_file()]
    assert len(files) == len(told)
    for number, path in enumerate(files):
        if number % 3 == 0:
            path.unlink()
        else:
            os.truncate(path, 0 if number % 3 == 1 else 100)

    check(next_start(tmp_path / "home"), told)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.fail(f"this test needs to mount a tmpfs (run as root): {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(("rows", "columns", "most"), [(1000, 1200, 12), (250, 330, 200)])
@pytest.mark.parametrize("min_free_mb", [0, 12])
@pytest.mark.parametrize("settling_s", [0.05, NEVER])
def test_a_disk_that_fills_in_mid_stream_refuses_and_keeps_what_it_promised(
    small_disk: Path, settling_s: float, min_free_mb: int, rows: int, columns: int, most: int
) -> None:
    told: dict[str, bytes] = {}
    statuses = []
    with receiving(small_disk / "home", min_free_mb, settling_s) as receiver:
        peer = Spoken(receiver, (UltrasoundImageStorage, ExplicitVRLittleEndian))  # type: ignore[arg-type]
        for number in range(most):
            image = frame(rows, columns, seed=number)  # 3.6 MB, or 250 KB
            data = encode(image, False, True)
            assert data
            status = store(peer, image.SOPInstanceUID, data)
            statuses.append(status)
            if status == dimse.SUCCESS:
                told[image.SOPInstanceUID] = data
        assert statuses[0] == dimse.SUCCESS
        assert statuses[-1] == 0xA700
        assert set(statuses) == {dimse.SUCCESS, 0xA700}

    # What is kept free is for this: at worst for all that the intake log holds, twice. Without it somebody has to make room.
    if not min_free_mb:
        fill(small_disk / "others")
        with contextlib.suppress(DatabaseFull, VaultFull):
            next_start(small_disk / "home")
        (small_disk / "others").unlink()
        subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    check(next_start(small_disk / "home"), told)  # nothing was lost by trying


def test_the_intake_log_leaves_alone_what_is_kept_free(small_disk: Path) -> None:
    """Room that is made ahead of its records is little where little is left."""
    log = IntakeLog(small_disk / "journal.db", SiteKey(bytes(32)))
    before, written, content = free(small_disk), 0, bytes(250_000)
    try:
        while written < 9_000_000:  # by doubling it would be in 16 MB
            log.append(b"row", content, lambda: None)
            written += len(content)
            assert free(small_disk) > before - 1.1 * written - 4_000_000
    finally:
        log.close()


@pytest.mark.parametrize("given_back", [False, True])
def test_a_full_disk_after_a_crash_costs_nothing(small_disk: Path, given_back: bool) -> None:
    """What was made ahead of the images is enough for their rows; if that is gone too, the start says what is wrong."""
    told: dict[str, bytes] = {}
    with receiving(small_disk / "home", 0) as receiver:
        peer = Spoken(receiver, (UltrasoundImageStorage, ExplicitVRLittleEndian))  # type: ignore[arg-type]
        for number in range(12):
            image = frame(250, 330, seed=number)
            data = encode(image, False, True)
            assert data
            assert store(peer, image.SOPInstanceUID, data) == dimse.SUCCESS
            told[image.SOPInstanceUID] = data
    home = Home(small_disk / "home")
    if given_back:
        FileVault(home.vault, SiteKey.load(home)).give_room_back()
    fill(small_disk / "others")
    if not given_back:
        check(next_start(small_disk / "home"), told)
        return

    for _ in range(3):
        with pytest.raises((DatabaseFull, VaultFull)):
            next_start(small_disk / "home")

    (small_disk / "others").unlink()
    check(next_start(small_disk / "home"), told)


def free(path: Path) -> int:
    """Return the bytes that are left on a disk."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def fill(path: Path) -> None:
    """Leave no room on a disk."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
