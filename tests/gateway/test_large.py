"""Objects of more than a chunk that the compiled data path takes in without Python: whole or not at all, and the same."""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit, UltrasoundImageStorage
from pynetdicom.dsutils import encode
from tests.gateway.door import Door, frame, open_door, until
from tests.gateway.spoken import LEGACY, Spoken, request
from tests.gateway.test_admission import after_a_crash, content, lane_of, nobody_takes_note, segment_of, without_python
from tests.gateway.test_express import SERVER, Lanes, _more_than, _reopened, outcome, packed
from tests.support.lanes import lane

from edgeward import native
from edgeward.gateway import command as dimse
from edgeward.gateway.express import Express
from edgeward.home import Home
from edgeward.messages import ItemsQuery
from edgeward.privacy.items import CONFLICT
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.lane import Lane, Reason
from edgeward.privacy.vault import FileVault, VaultError
from edgeward.privacy.vaultfile import CHUNK, TAG

CONTEXTS = (
    (UltrasoundImageStorage, "1.2.840.10008.1.2.1"),
    (UltrasoundImageStorage, ImplicitVRLittleEndian),
    (UltrasoundImageStorage, JPEGBaseline8Bit),
)


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    with lane("compiled"):
        yield


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with open_door(tmp_path / "home", dicom={"legacy": [LEGACY]}) as door:
        yield door


def image(size: int, *, uid: str = "", seed: int = 1) -> Dataset:
    """An image with so many bytes of pixels: the door does not look at how many there should be."""
    dataset = frame(8, 8, uid=uid, seed=seed)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.77", "1.2.78"  # always as long
    dataset.PixelData = random.Random(seed).randbytes(size)
    return dataset


def cine(size: int, seed: int = 1) -> Dataset:
    """Encapsulated frames: their length is in no header before them."""
    dataset, chance = frame(8, 8, seed=seed), random.Random(seed)
    dataset.PixelData = encapsulate([chance.randbytes(300_000) for _ in range(size // 300_000)])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def encoded(dataset: Dataset, context_id: int = 1) -> bytes:
    return encode(dataset, context_id == 3, True) or b""


def begun(peer: Spoken, uid: str, data: bytes, context_id: int = 1) -> None:
    """Send a request and the first bytes of its data set."""
    message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=uid)
    whole = struct.pack("<HHLL", 0, 0, 4, len(message)) + message
    peer.socket.sendall(packed([struct.pack(">LBB", len(whole) + 2, context_id, 3) + whole], random.Random(1)))
    for at in range(0, len(data), 100_000):
        part = data[at : at + 100_000]
        peer.socket.sendall(struct.pack(">BxLLBB", 4, len(part) + 6, len(part) + 2, context_id, 0) + part)


def ended(peer: Spoken, data: bytes, context_id: int = 1) -> int:
    """Send the last bytes and return the status of the answer."""
    peer.socket.sendall(struct.pack(">BxLLBB", 4, len(data) + 6, len(data) + 2, context_id, 2) + data)
    return peer.answer().status


def sent(peer: Spoken, dataset: Dataset, context_id: int = 1) -> int:
    begun(peer, dataset.SOPInstanceUID, encoded(dataset, context_id), context_id)
    return ended(peer, b"", context_id)


def files(door: Door) -> int:
    return len(list(door.vault.root.glob("??/*.ew")))


@pytest.mark.parametrize("lends", [False, True])
def test_it_is_admitted_without_python_whatever_its_length(
    door: Door, monkeypatch: pytest.MonkeyPatch, lends: bool
) -> None:
    """Also where its end falls on the end of a chunk, or beside it; whoever encrypts it."""
    without_python(monkeypatch)
    monkeypatch.setattr(native.library(), "lends", lends)
    peer, uid = Spoken(door, *CONTEXTS), iter(f"1.2.3.{number}" for number in range(1000, 9000))
    assert sent(peer, image(2_000_000, uid=next(uid))) == 0
    until(lambda: door.admitted)
    ((item, _),) = door.admitted
    around = item.size - 2_000_000  # bytes of an object beside its pixels
    sizes = [chunks * CHUNK - around + more for chunks in (1, 2, 3) for more in (-4098, -4, -2, 0, 2, 4)]
    door.admitted.clear()

    images = [image(size, uid=next(uid), seed=size) for size in sizes]
    assert [sent(peer, one) for one in images] == [0] * len(sizes)

    until(lambda: len(door.admitted) == len(sizes))
    for size, one, (item, is_new) in zip(sizes, images, door.admitted, strict=True):
        assert (is_new, item.state, item.size, item.columns) == (True, "admitted", size + around, 8)
        assert door.stored(item).endswith(encoded(one))
        assert len(door.stored(item)) == item.size
    assert files(door) == 1 + sum(size + around > CHUNK for size in sizes)
    peer.socket.close()


@pytest.mark.parametrize(("context_id", "lends"), [(1, True), (3, False), (5, True), (5, False)])
def test_a_long_one_is_what_python_makes_of_it(
    door: Door, monkeypatch: pytest.MonkeyPatch, context_id: int, lends: bool
) -> None:
    """Python recognises it, so its digest is the same; and the first one reads as the second would have."""
    monkeypatch.setattr(native.library(), "lends", lends)
    one = cine(12_000_000) if context_id == 5 else image(12_345_678)
    peer = Spoken(door, *CONTEXTS)
    with monkeypatch.context() as patch:
        without_python(patch)
        assert sent(peer, one, context_id) == 0
    until(lambda: len(door.admitted) == 1)
    lane_of(door).forbid(Reason.OWING)
    assert sent(peer, one, context_id) == 0

    until(lambda: len(door.admitted) == 2)

    (item, is_new), (again, is_new_too) = door.admitted
    assert (is_new, is_new_too, item.item_id) == (True, False, again.item_id)
    assert door.stored(item).endswith(encoded(one, context_id))
    assert files(door) == 1
    peer.socket.close()


def test_what_comes_again_leaves_no_second_file(door: Door) -> None:
    peer, one, other = Spoken(door, *CONTEXTS), image(1_500_000, uid="1.2.9"), image(1_500_000, uid="1.2.9", seed=2)

    assert [sent(peer, each) for each in (one, one, other, one)] == [0] * 4

    until(lambda: len(door.admitted) == 4)
    assert [(item.state, is_new) for item, is_new in door.admitted] == [
        ("admitted", True),
        ("admitted", False),
        ("failed", True),
        ("admitted", False),
    ]
    assert door.reasons() == [CONFLICT]
    door.dicom._reception.settle()
    assert files(door) == door.vault_files() == 2
    peer.socket.close()


def spoiled(number: int, data: bytes) -> bytes:
    """Something that the library leaves to Python, more than a chunk from the beginning."""
    tail = {
        0: b"",
        1: b"\0" * 20,  # padding
        2: struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 4) + b"1234",  # an ordinary element: nothing to leave
        3: struct.pack("<HH2sHL", 0x0400, 0xFFFA, b"SQ", 0, 0xFFFFFFFF),  # a sequence without an end
        4: struct.pack("<HH2sH", 0xFFFC, 0xFFFC, b"ZZ", 4) + b"1234",
        5: struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", 4) + b"1234",  # wanted, and much too late
        6: struct.pack("<HH", 0xFFFC, 0xFFFC),
    }
    if number in tail:
        return data + tail[number]
    return data[:-1] if number == 7 else data[:-70_000]


@pytest.mark.parametrize("number", range(9))
def test_what_the_library_leaves_in_the_middle_python_ends(
    tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    folder, sections = tmp_path_factory.mktemp("lanes"), {"dicom": {"legacy": [LEGACY], "max_object_mb": 5}}
    data = spoiled(number, encoded(image(2_700_000, uid="1.2.3", seed=4)))
    message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid="1.2.3")
    whole = struct.pack("<HHLL", 0, 0, 4, len(message)) + message
    pieces = [struct.pack(">LBB", len(whole) + 2, 1, 3) + whole]
    for at in range(0, len(data), 120_000):
        part = data[at : at + 120_000]
        pieces.append(struct.pack(">LBB", len(part) + 2, 1, 2 if at + 120_000 >= len(data) else 0) + part)
    stream = b"".join(packed([piece], random.Random(1)) for piece in pieces)
    with (
        lane("python"),
        open_door(folder / "python", **sections) as slow,
        lane("compiled"),
        open_door(folder / "compiled", **sections) as fast,
    ):
        lanes = Lanes(fast, slow)
        one, other = (outcome(each, [stream, stream]) for each in (lanes.compiled, lanes.python))
        if one != other:
            pytest.fail(f"{one}\n{other}")
        fast.dicom._reception.settle()
        assert files(fast) == files(slow) == len(one[1])


def test_one_that_becomes_too_large_ends_as_in_python(tmp_path: Path) -> None:
    with open_door(tmp_path / "home", dicom={"legacy": [LEGACY], "max_object_mb": 3}) as door:
        peer, one = Spoken(door, *CONTEXTS), image(5_000_000)
        with pytest.raises((AssertionError, OSError, struct.error)):
            assert sent(peer, one) == 0
        until(lambda: door.dicom.associations == 0)
        assert (door.admitted, files(door), len(door.reasons())) == ([], 0, 1)
        peer.socket.close()


def test_who_announces_gigabytes_takes_no_room_for_them(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    without_python(monkeypatch)
    peer, dataset = Spoken(door, *CONTEXTS), image(2, uid="1.2.3")
    head = encoded(dataset)[: -2 - 4] + struct.pack("<L", 3 << 30)
    begun(peer, "1.2.3", head + bytes(1_500_000))
    until(lambda: files(door) == 1)
    (path,) = door.vault.root.glob("??/*.ew")
    until(lambda: path.stat().st_blocks)

    assert path.stat().st_blocks * 512 <= 10 << 20

    peer.socket.close()
    until(lambda: door.dicom.associations == 0)
    assert (door.admitted, files(door)) == ([], 0)


def test_whoever_leaves_in_the_middle_leaves_nothing(door: Door) -> None:
    for _ in range(2):
        peer, data = Spoken(door, *CONTEXTS), encoded(image(5_000_000, uid="1.2.3"))
        begun(peer, "1.2.3", data[:3_000_000])
        until(lambda: files(door) == 1)
        peer.socket.close()
        until(lambda: door.dicom.associations == 0)
        assert (door.admitted, files(door)) == ([], 0)


def test_a_door_that_closes_in_the_middle_leaves_nothing(door: Door) -> None:
    peer, data = Spoken(door, *CONTEXTS), encoded(image(5_000_000, uid="1.2.3"))
    begun(peer, "1.2.3", data[:3_000_000])
    until(lambda: files(door) == 1)

    door.dicom.close()

    assert (door.admitted, files(door)) == ([], 0)
    peer.socket.close()


def test_a_sender_that_dawdles_holds_up_nobody(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    without_python(monkeypatch)
    slow, other, data = Spoken(door, *CONTEXTS), Spoken(door, *CONTEXTS), encoded(image(5_000_000, uid="1.2.3"))
    begun(slow, "1.2.3", data[:3_000_000])
    until(lambda: files(door) == 1)

    assert sent(other, image(2_000_000)) == 0
    assert sent(other, frame(30, 30)) == 0
    before = segment_of(door)
    door.dicom._reception.settle()

    assert segment_of(door) is not before
    assert len(list((door.vault.root / "live").iterdir())) == 1, "what was appended before is retired"
    begun_more = data[3_000_000:]
    for at in range(0, len(begun_more), 100_000):
        part = begun_more[at : at + 100_000]
        slow.socket.sendall(struct.pack(">BxLLBB", 4, len(part) + 6, len(part) + 2, 1, 0) + part)
    assert ended(slow, b"") == 0
    until(lambda: len(door.admitted) == 3)
    slow.socket.close()
    other.socket.close()


def test_records_without_an_object_beside_them_give_their_room_back(door: Door) -> None:
    peer, reception = Spoken(door, *CONTEXTS), door.dicom._reception
    reception.settle()
    assert [sent(peer, image(1_200_000, seed=seed)) for seed in range(3)] == [0] * 3
    until(lambda: len(door.admitted) == 3)

    reception.settle()
    assert len(list(door.vault.root.glob("??/*.ews"))) == 1, "only the one that is appended to"

    assert [sent(peer, one) for one in (image(1_200_000), frame(30, 30), image(1_200_000, seed=2))] == [0] * 3
    until(lambda: len(door.admitted) == 6)
    reception.settle()
    small = door.admitted[4][0]
    (place,) = [path for path in door.vault.root.glob("??/*.ews") if path != segment_of(door).path]
    os.sync()
    assert place.stat().st_blocks <= 4 * 8, "its first block, one record, and its object"
    assert all(door.stored(item) for item, _ in door.admitted)
    door.vault.erase(small.object_id)
    assert not place.exists()
    door.vault.erase(door.admitted[0][0].object_id)
    assert files(door) == 4
    peer.socket.close()


def test_a_disk_that_fills_in_the_middle_is_told_and_nothing_stays(door: Door) -> None:
    peer = Spoken(door, *CONTEXTS)
    assert sent(peer, image(1_200_000)) == 0
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))
    try:
        assert sent(peer, image(4_000_000, seed=2)) == 0xA700
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(door) == 1
    assert door.reasons() == ["the disk is full: images are refused"]
    assert sent(peer, image(4_000_000, seed=3)) == 0
    until(lambda: len(door.admitted) == 2)
    peer.socket.close()


def test_a_chunk_that_cannot_be_encrypted_for_the_library_python_takes(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.library(), "lends", True)
    monkeypatch.setattr(Express, "_lend", _lent_once(Express._lend))
    peer, one = Spoken(door, *CONTEXTS), image(3_300_000)

    assert sent(peer, one) == 0

    until(lambda: len(door.admitted) == 1)
    assert door.stored(door.admitted[0][0]).endswith(encoded(one))
    assert files(door) == 1
    peer.socket.close()


def _lent_once(call: Callable[..., int]) -> Callable[..., int]:
    def lent(self: Express, lane: Lane, *chunk: int) -> int:
        return call(self, lane, *chunk) if chunk[2] else 0

    return lent


def test_where_no_file_can_be_made_python_is_asked(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(Express, "_store_large", _noted(Express._store_large, asked))
    lane_of(door).root = Path("/nowhere/at/all")
    peer = Spoken(door, *CONTEXTS)

    assert sent(peer, image(2_000_000)) == 0

    until(lambda: len(door.admitted) == 1)
    assert len(asked) == 1
    assert door.stored(door.admitted[0][0])
    peer.socket.close()


def test_a_record_that_cannot_be_written_costs_no_object(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there then, and Python reads from it what the peer will not send again."""
    asked = list[int]()
    monkeypatch.setattr(Express, "_store_large", _noted(Express._store_large, asked))
    peer, one = Spoken(door, *CONTEXTS), image(3_300_000)
    assert sent(peer, frame(30, 30)) == 0
    segment_of(door).numbers.handle = -1

    assert sent(peer, one) == 0

    until(lambda: len(door.admitted) == 2)
    assert len(asked) == 1
    assert door.stored(door.admitted[1][0]).endswith(encoded(one))
    assert files(door) == 1
    peer.socket.close()


def _noted(call: Callable[..., None], asked: list[int]) -> Callable[..., None]:
    def noted(self: Express, code: int) -> None:
        asked.append(code)
        call(self, code)

    return noted


def test_after_a_crash_what_was_answered_is_an_item_and_nothing_else_remains(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_takes_note(monkeypatch)
    without_python(monkeypatch)
    peer, other = Spoken(door, *CONTEXTS), Spoken(door, *CONTEXTS)
    images = [image(1_100_000 + 900_000 * seed, uid=f"1.8.{seed}", seed=seed) for seed in range(4)]
    assert [sent(peer, one) for one in [*images, images[0]]] == [0] * 5
    begun(other, "1.2.3", encoded(image(5_000_000, uid="1.2.3"))[:3_000_000])
    until(lambda: files(door) == 6)

    journal, vault = after_a_crash(door)

    with closing(journal):
        rows = {row.sop_instance_uid: journal.item(row.item_id) for row in journal.summaries(ItemsQuery(), 0)}
        assert rows.keys() == {one.SOPInstanceUID for one in images}
        for one in images:
            assert content(vault, rows[one.SOPInstanceUID]).endswith(encoded(one))
        assert vault.count() == 4
        assert list(vault.root.glob("live/*")) == list(vault.root.glob("??/*.ews")) == []
    monkeypatch.undo()
    door.journal.drain()
    peer.socket.close()
    other.socket.close()


@pytest.mark.parametrize("how", ["cut", "longer", "torn", "zeros", "gone", "another"])
def test_after_a_crash_people_hear_of_a_file_that_the_disk_lost(
    door: Door, monkeypatch: pytest.MonkeyPatch, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was durable before its record was: it may have been answered, and is an item that cannot be read."""
    nobody_takes_note(monkeypatch)
    peer = Spoken(door, *CONTEXTS)
    assert [sent(peer, image(2_400_000, uid=f"1.8.{seed}", seed=seed)) for seed in range(2)] == [0] * 2
    one, other = sorted(door.vault.root.glob("??/*.ew"), key=lambda path: path.stat().st_ino)
    raw = one.read_bytes()
    if how == "gone":
        one.unlink()
    elif how == "another":
        one.write_bytes(other.read_bytes())
    else:
        at = 8 + CHUNK + TAG
        spoiled = {"cut": raw[:-1], "longer": raw + b"x", "torn": raw[:at] + os.urandom(4096) + raw[at + 4096 :]}
        one.write_bytes(spoiled.get(how, raw[:at] + bytes(len(raw) - at)))

    journal, vault = after_a_crash(door)

    with closing(journal):
        rows = {row.item_id: journal.item(row.item_id) for row in journal.summaries(ItemsQuery(), 0)}
        lost = [item_id for item_id in rows if f"item {item_id} is damaged or gone" in caplog.text]
        assert len(rows) == 2
        assert len(lost) == 1
        with pytest.raises((VaultError, OSError)):
            content(vault, rows.pop(lost[0]))
        assert content(vault, *rows.values())
    monkeypatch.undo()
    door.journal.drain()
    peer.socket.close()


@pytest.mark.fault
def test_whatever_was_answered_before_a_kill_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, campaign: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    chance = random.Random()
    for turn in range(3 if campaign else 1):
        home, sure = tmp_path / str(turn), list[str]()
        with subprocess.Popen([sys.executable, "-c", SERVER, str(home)], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            senders = [threading.Thread(target=_send_until_killed, args=(port, worker, sure)) for worker in range(3)]
            for sender in senders:
                sender.start()
            until(partial(_more_than, sure, 15))
            time.sleep(chance.uniform(0.0, 0.4))  # the moment of death is the variable under test
            server.send_signal(signal.SIGKILL)
            for sender in senders:
                sender.join(20)

        with closing(_reopened(home)) as journal:
            vault = FileVault(Home(home).vault, SiteKey.load(Home(home)))
            vault.sweep(journal.knows_object)
            assert sure
            for uid in sure:
                assert journal.held(uid), "answered with Success, and gone"
            for summary in journal.summaries(ItemsQuery(limit=5000), 0):
                item = journal.item(summary.item_id)
                assert item.sop_instance_uid.encode() in content(vault, item)
            assert vault.count() == sum(journal.counts().values()) <= len(sure) + 3


def _send_until_killed(port: int, worker: int, sure: list[str]) -> None:
    dataset = image(1_100_000 + 700_000 * worker, seed=worker)
    try:
        peer = Spoken(port, *CONTEXTS)
        for number in range(100_000):
            dataset.SOPInstanceUID = f"1.2.{worker}.{number}"
            if sent(peer, dataset) == 0x0000:
                sure.append(dataset.SOPInstanceUID)
            if number % 4 == 0:
                sent(peer, dataset)  # the same again is the same item, also after a crash
    except (OSError, AssertionError):
        return
