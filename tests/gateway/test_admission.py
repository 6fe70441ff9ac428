"""Small objects that the compiled data path admits without Python: the same items, whatever comes and whenever it dies."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage
from pynetdicom.dsutils import encode
from tests.gateway.door import Door, frame, open_door, until
from tests.gateway.spoken import LEGACY, Spoken, request
from tests.gateway.test_express import CONTEXTS
from tests.support.lanes import lane

from edgeward import native
from edgeward.config import Settings
from edgeward.gateway import command as dimse
from edgeward.gateway.dicom import Receives
from edgeward.gateway.reception import Reception
from edgeward.home import Home
from edgeward.messages import ItemsQuery
from edgeward.privacy import intake, plainrow
from edgeward.privacy.blockfile import BlockFile
from edgeward.privacy.header import WANTED
from edgeward.privacy.items import CONFLICT, Item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.lane import Lane, Reason
from edgeward.privacy.vault import FileVault, read


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    with lane("compiled"):
        yield


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """A door that has room in its log, so that the next image is admitted by the library."""
    with open_door(tmp_path / "home", dicom={"legacy": [LEGACY]}) as door:
        peer = Spoken(door, *CONTEXTS)
        assert sent(peer, frame(8, 8, seed=99)) == 0
        peer.socket.close()
        until(lambda: door.admitted and door.dicom.associations == 0)
        door.admitted.clear()
        yield door


def sent(peer: Spoken, image: Dataset, context_id: int = 1) -> int:
    """Send an image and return the status of the answer."""
    message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=image.SOPInstanceUID)
    peer.send(context_id, message, encode(image, context_id == 3, True) or b"")
    return peer.answer().status


def without_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("Python decided")

    monkeypatch.setattr("edgeward.gateway.dicom.DicomDoor.begin_store", never)


def lane_of(door: Door) -> Lane:
    found = door.journal.lane
    assert found is not None
    return found


def segment_of(door: Door) -> BlockFile:
    """Return what objects are appended to now."""
    found = door.vault.segments._active
    assert found is not None
    return found


def nobody_takes_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it died before anybody heard of what was answered."""
    monkeypatch.setattr(Lane, "take", lambda _self: [])
    monkeypatch.setattr(Lane, "waiting", False)


def after_a_crash(door: Door) -> tuple[Journal, FileVault]:
    """Journal and vault as the next start finds them."""
    home = Home(door.site.home.root.with_name("crashed"))
    shutil.rmtree(home.root, ignore_errors=True)
    shutil.copytree(door.site.home.root, home.root)
    key = SiteKey.load(home)
    journal, vault = Journal(home.db("journal"), key), FileVault(home.vault, key)
    Reception(vault, journal, key, Settings().budgets).recover()
    vault.sweep(journal.knows_object)
    return journal, vault


def content(vault: FileVault, item: Item) -> bytes:
    reference = vault.reference(item.object_id, item.wrapped_key, item.size)
    return read(reference.path, reference.data_key)


def test_an_ordinary_image_is_admitted_without_python(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    without_python(monkeypatch)
    peer, images = Spoken(door, *CONTEXTS), [frame(60, 80 + seed, seed=seed) for seed in range(20)]

    assert [sent(peer, image, 1 + 2 * (number % 2)) for number, image in enumerate(images)] == [0] * 20

    until(lambda: len(door.admitted) == 20)
    for number, (image, (item, is_new)) in enumerate(zip(images, door.admitted, strict=True)):
        assert (is_new, item.state, item.device) == (True, "admitted", LEGACY["name"])
        assert (item.sop_instance_uid, item.columns) == (image.SOPInstanceUID, image.Columns)
        assert item.deadline_ns - item.received_ns == door.dicom._reception.budget_ns
        assert door.stored(item).endswith(encode(image, bool(number % 2), True) or b"x")
        assert len(door.stored(item)) == item.size
    peer.socket.close()


@pytest.mark.parametrize(
    ("charset", "name"),
    [("", "PLAIN^NAME"), ("ISO_IR 100", "MÜSTERFRAU^ÄNNE"), ("GB18030", "王^小东"), ("ISO_IR 192", "Ünï^Çødé")],
)
def test_the_row_is_the_one_that_python_writes(door: Door, charset: str, name: str) -> None:
    found = []
    for way in range(2):
        image = frame(20, 30, uid=f"1.2.3.{way}", seed=7, name=name)
        image.SpecificCharacterSet, image.PatientID = charset, "P 7 "
        image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.77", "1.2.78"
        if way:
            lane_of(door).forbid(Reason.OWING)
        peer = Spoken(door, *CONTEXTS)
        assert sent(peer, image) == 0
        peer.socket.close()
        until(partial(_more_than, door.admitted, way))
        (row,) = door.journal._db.all("SELECT * FROM items WHERE item_id = ?", (door.admitted[-1][0].item_id,))
        (shown,) = [
            one for one in door.journal.summaries(ItemsQuery(), 0) if one.item_id == door.admitted[-1][0].item_id
        ]
        found.append((row, shown))
    columns = [row[1] for row in door.journal._db.all("PRAGMA table_info(items)")]
    own = {"seq", "item_id", "received_ns", "deadline_ns", "stored_ns", "sop_instance_uid", "digest", "object_id"}
    own |= {"wrapped_key", "identity"}
    (one, shown), (other, shown_too) = found
    assert {name: (a, b) for name, a, b in zip(columns, one, other, strict=True) if a != b}.keys() <= own
    assert (shown.patient_name, shown.patient_id) == (shown_too.patient_name, shown_too.patient_id) == (name, "P 7")


def _more_than(some: list[tuple[Item, bool]], count: int) -> bool:
    return len(some) > count


def test_people_hear_of_objects_in_the_order_in_which_they_came(door: Door) -> None:
    """Also of one that Python took in, while the sender does not pause."""
    peer, uids = Spoken(door, *CONTEXTS), [f"1.2.3.{number}" for number in range(60)]
    for number, uid in enumerate(uids):
        deflated = number % 20 == 0  # not looked into by the library
        data = encode(frame(20, 20, uid=uid, seed=number), False, True, deflated=deflated) or b""
        message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=uid)
        peer.send(5 if deflated else 1, message, data)

    until(lambda: len(door.admitted) == len(uids))

    assert [item.sop_instance_uid for item, _ in door.admitted] == uids
    peer.socket.close()


def test_what_comes_again_is_the_item_it_was(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, image = Spoken(door, *CONTEXTS), frame(30, 30, seed=3)
    lane_of(door).forbid(Reason.OWING)  # the first time Python takes it in
    assert sent(peer, image) == 0
    lane_of(door).allow(Reason.OWING)
    without_python(monkeypatch)

    assert [sent(peer, image) for _ in range(4)] == [0] * 4

    until(lambda: len(door.admitted) == 5)
    assert [is_new for _, is_new in door.admitted] == [True, False, False, False, False]
    assert len({item.item_id for item, _ in door.admitted}) == 1
    door.dicom._reception.settle()
    assert door.vault_files() == 2, "what was stored in vain is gone"
    peer.socket.close()


def test_what_comes_again_while_such_an_object_is_erased_is_erased_too(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, image = Spoken(door, *CONTEXTS), frame(30, 30, seed=3)
    assert [sent(peer, image) for _ in range(2)] == [0] * 2
    until(lambda: len(door.admitted) == 2)
    erase, erased = door.vault.erase, []

    def erase_slowly(object_id: str) -> None:
        erased.append(object_id)
        if len(erased) == 1:
            assert sent(peer, image) == 0
            until(lambda: len(door.admitted) == 3)
        erase(object_id)

    monkeypatch.setattr(door.vault, "erase", erase_slowly)
    door.dicom._reception.settle()

    assert len(set(erased)) == 2
    assert door.vault_files() == 2, "the fixture's and this one"
    peer.socket.close()


def test_another_content_under_the_same_uid_is_kept_apart(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    without_python(monkeypatch)
    peer, (first, other) = Spoken(door, *CONTEXTS), [frame(30, 30, uid="1.2.3.4", seed=seed) for seed in (1, 2)]

    assert [sent(peer, image) for image in (first, other, other)] == [0] * 3

    until(lambda: len(door.admitted) == 3)
    assert [(item.state, is_new) for item, is_new in door.admitted] == [
        ("admitted", True),
        ("failed", True),
        ("failed", False),
    ]
    assert door.reasons() == [CONFLICT]
    peer.socket.close()


def test_whoever_looks_finds_it_though_nobody_collects(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reception, "collect", lambda _self, **_: None)
    peer, image = Spoken(door, *CONTEXTS), frame(30, 30, seed=3)
    before = door.journal.counts()["admitted"]

    assert sent(peer, image) == 0

    until(lambda: door.journal.held(image.SOPInstanceUID))
    assert door.journal.counts()["admitted"] == before + 1
    peer.socket.close()


def test_after_a_crash_it_is_decided_what_came(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, known = Spoken(door, *CONTEXTS), frame(30, 30, uid="1.9.1", seed=1)
    assert sent(peer, known) == 0
    until(lambda: len(door.admitted) == 1)
    nobody_takes_note(monkeypatch)
    without_python(monkeypatch)
    fresh = [frame(30, 30, uid=f"1.8.{seed}", seed=seed) for seed in range(5)]
    again, other = frame(30, 30, uid="1.9.1", seed=1), frame(30, 30, uid="1.9.1", seed=2)
    again.StudyInstanceUID, again.SeriesInstanceUID = known.StudyInstanceUID, known.SeriesInstanceUID
    for image in [*fresh, again, other, fresh[0], fresh[0]]:
        assert sent(peer, image) == 0
    until(lambda: segment_of(door).numbers.busy == 9)

    journal, vault = after_a_crash(door)

    with closing(journal):
        for image in [*fresh, known]:
            (row,) = [one for one in journal.summaries(ItemsQuery(), 0) if one.sop_instance_uid == image.SOPInstanceUID
                      and one.state != "failed"]  # fmt: skip
            assert content(vault, journal.item(row.item_id)).endswith(encode(image, False, True) or b"x")
        (failed,) = [one for one in journal.summaries(ItemsQuery(), 0) if one.state == "failed"]
        assert (failed.sop_instance_uid, failed.reason) == ("1.9.1", CONFLICT)
        assert content(vault, journal.item(failed.item_id)).endswith(encode(other, False, True) or b"x")
        assert sum(journal.counts().values()) == 8
        assert vault.count() == 8
    monkeypatch.undo()
    door.journal.drain()
    peer.socket.close()


def test_after_a_crash_an_undecided_object_gives_way_to_a_decided_one(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came first, and Python took the same one in before anybody had heard of it."""
    peer, image = Spoken(door, *CONTEXTS), frame(30, 30, uid="1.9.1", seed=1)
    with monkeypatch.context() as patch:
        nobody_takes_note(patch)
        assert sent(peer, image) == 0
        lane_of(door).forbid(Reason.OWING)
        assert sent(peer, image) == 0
        assert sent(peer, frame(30, 30, uid="1.9.1", seed=2)) == 0
        until(lambda: len(door.admitted) == 2)

        journal, vault = after_a_crash(door)

    with closing(journal):
        states = [(one.sop_instance_uid, one.state) for one in journal.summaries(ItemsQuery(), 0)]
        assert sorted(states)[-2:] == [("1.9.1", "admitted"), ("1.9.1", "failed")]
        assert len(states) == 3
        assert vault.count() == 3
    door.journal.drain()
    assert sorted(item.state for item, _ in door.admitted if item.sop_instance_uid == "1.9.1") == [
        "admitted",
        "admitted",
        "failed",
    ]
    peer.socket.close()


def test_a_segment_that_fails_is_left_and_python_takes_over(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, failed, known = Spoken(door, *CONTEXTS), segment_of(door), door.journal.counts()["admitted"]
    failed.numbers.handle = -1

    assert [sent(peer, frame(30, 30, seed=seed)) for seed in range(3)] == [0] * 3

    assert failed.failed, "after a failed sync nobody knows what the next one would tell"
    until(lambda: len(door.admitted) == 3)
    door.dicom._reception.settle()
    assert segment_of(door) is not failed
    without_python(monkeypatch)
    assert sent(peer, frame(30, 30, seed=4)) == 0
    until(lambda: len(door.admitted) == 4)
    assert door.vault_files() == door.journal.counts()["admitted"] == known + 4
    assert [door.stored(item) for item, _ in door.admitted]
    peer.socket.close()


def test_an_object_that_finds_no_room_waits_for_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    without_python(monkeypatch)
    peer, active = Spoken(door, *CONTEXTS), segment_of(door)

    for seed in range(3):
        active.size = active.end
        assert sent(peer, frame(100 + 100 * seed, 300, seed=seed)) == 0

    until(lambda: len(door.admitted) == 3)
    assert [len(door.stored(item)) for item, _ in door.admitted] == [item.size for item, _ in door.admitted]
    peer.socket.close()


def test_a_closed_door_leaves_no_segment_open(door: Door) -> None:
    peer = Spoken(door, *CONTEXTS)
    assert sent(peer, frame(30, 30, seed=1)) == 0
    peer.socket.close()

    door.dicom.close()

    assert list((door.vault.root / "live").iterdir()) == []
    assert sum(path.stat().st_size for path in door.vault.root.glob("??/*.ews")) < 100_000
    assert door.vault_files() == door.journal.counts()["admitted"] == 2


def test_rows_that_cannot_be_written_close_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_ROWS", 4)
    door.journal.counts()
    (pages,) = door.journal._db._writer.execute("PRAGMA page_count").fetchone()
    door.journal._db._writer.execute(f"PRAGMA max_page_count = {pages}")
    peer, sure = Spoken(door, *CONTEXTS), 0
    for seed in range(2000):
        if sent(peer, frame(8, 8, seed=seed)):
            break
        sure += 1
    assert 0 < sure < 2000, "it is refused in the end"
    assert lane_of(door)._store.closed & Reason.BEHIND
    door.journal._db._writer.execute("PRAGMA max_page_count = 1000000")

    assert sent(peer, frame(8, 8, seed=1)) == 0

    assert not lane_of(door)._store.closed & Reason.BEHIND
    until(lambda: len(door.admitted) == sure + 1)
    assert sum(door.journal.counts().values()) == sure + 2
    peer.socket.close()


def test_a_full_disk_is_told_by_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_door(tmp_path / "home", 1, dicom={"legacy": [LEGACY]}) as door:
        peer = Spoken(door, *CONTEXTS)
        assert [sent(peer, frame(300, 300, seed=seed)) for seed in range(3)] == [0] * 3
        monkeypatch.setattr(door.vault, "_reserve", 1 << 60)

        until(lambda: sent(peer, frame(300, 300)) == 0xA700, 60.0)  # what was granted is used up first

        assert [sent(peer, frame(300, 300, seed=seed)) for seed in range(3)] == [0xA700] * 3
        assert "the disk is full: images are refused" in door.reasons()
        peer.socket.close()


def test_many_at_once_while_the_log_is_carried_over(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    over, told = threading.Event(), list[int]()

    def settle() -> None:
        while not over.wait(0.01):
            door.dicom._reception.settle()

    def send(worker: int) -> None:
        peer = Spoken(door, *CONTEXTS)
        for number in range(40):
            told.append(sent(peer, frame(20, 20 + number, uid=f"1.3.{worker % 6}.{number}", seed=number)))
        peer.socket.close()

    settler = threading.Thread(target=settle)
    settler.start()
    workers = [threading.Thread(target=send, args=(worker,)) for worker in range(8)]  # two send what others send too
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    over.set()
    settler.join(60)

    assert told == [0] * 320
    until(lambda: len(door.admitted) == 320)
    assert not lane_of(door).waiting
    assert sum(is_new and item.state == "admitted" for item, is_new in door.admitted) == 240
    assert sum(door.journal.counts().values()) - 1 == sum(is_new for _, is_new in door.admitted)
    assert segment_of(door).numbers.busy == 0
    journal, vault = after_a_crash(door)
    with closing(journal):
        for item, is_new in door.admitted:
            assert not is_new or content(vault, journal.item(item.item_id))


def test_an_association_that_is_aborted_takes_no_more(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that never pauses: the end comes between two images, not when it pauses."""
    peer, image = Spoken(door, *CONTEXTS), frame(20, 20, seed=1)
    message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=image.SOPInstanceUID)
    data, gone = encode(image, False, True) or b"", threading.Event()

    def flood() -> None:
        try:
            while True:
                peer.send(1, message, data)
        except OSError:
            gone.set()

    threading.Thread(target=flood, daemon=True).start()
    threading.Thread(target=lambda: [None for _ in iter(lambda: _swallow(peer), b"")], daemon=True).start()
    until(lambda: len(door.admitted) > 20)

    door.dicom.close()

    assert gone.wait(20)
    assert door.dicom.associations == 0
    peer.socket.close()


def _swallow(peer: Spoken) -> bytes:
    try:
        return peer.socket.recv(65536)
    except OSError:
        return b""


def test_without_libcrypto_python_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.library(), "admits", False)
    with open_door(tmp_path / "home", dicom={"legacy": [LEGACY]}) as door:
        assert door.dicom.receives == Receives.COMPILED
        peer = Spoken(door, *CONTEXTS)
        assert [sent(peer, frame(20, 20, seed=seed)) for seed in range(3)] == [0] * 3
        until(lambda: len(door.admitted) == 3)
        peer.socket.close()


def test_a_note_with_all_that_fits_is_read_as_it_was_written() -> None:
    key = SiteKey(bytes(32))
    common = plainrow.common("device", "1.2.840.1", "1.2.840.2")
    assert common is not None
    values = {tag: bytes([number % 256]) * number for number, tag in enumerate(WANTED)}
    row = b"R\x01\0" + bytes([len(values)]) + (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    row += (3).to_bytes(8, "little") + (4).to_bytes(8, "little") + b"i" * 12 + b"o" * 16 + b"k" * 32 + b"d" * 16
    row += common + b"\x051.2.3"
    row += b"".join(t.to_bytes(4, "little") + len(v).to_bytes(2, "little") + v for t, v in values.items())

    new = plainrow.new_item(row, key)

    assert (new.received_ns, new.deadline_ns, new.stored_ns, new.stored.size) == (1, 2, 3, 4)
    assert (new.item_id, new.device, new.sop_instance_uid) == ((b"i" * 12).hex(), "device", "1.2.3")
    assert key.unwrap(new.stored.wrapped_key, (b"o" * 16).hex().encode()) == b"k" * 32
    for end in range(len(row)):
        with pytest.raises(Exception, match=r".*"):
            plainrow.new_item(row[:end], key)
    assert plainrow.new_item(row, key, header=False).identity.patient_name == ""
    assert plainrow.common("x" * 300, "1", "2") is None
