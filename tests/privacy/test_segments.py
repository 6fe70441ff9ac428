"""Many objects in one file: each can be read and erased alone, and a crash at any moment leaves whole ones or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward import native
from edgeward.config import Budgets
from edgeward.gateway.reception import Reception
from edgeward.messages import ItemsQuery
from edgeward.privacy import blockfile, plainrow, segments
from edgeward.privacy.blockfile import BLOCK, HEAD
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.lane import Lane
from edgeward.privacy.reading import is_held, open_object
from edgeward.privacy.vault import FileVault, VaultDamaged, VaultFull, read
from edgeward.privacy.vaultfile import MAGIC, TAG, nonce, place_of
from edgeward.privacy.vaultfile import bound as bound_chunk

KEY = SiteKey(bytes(32))
COMMON = plainrow.common("device", "1.2.840.1", "1.2.840.2") or b""


@dataclass
class Bench:
    """A vault whose segments are appended to by hand, as ``native/admission.c`` does."""

    root: Path
    vault: FileVault = field(init=False)
    keys: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.vault = FileVault(self.root / "vault", KEY)

    @property
    def segments(self) -> segments.Segments:
        return self.vault.segments

    @property
    def file(self) -> Path:
        (path,) = self.root.glob("vault/??/*.ews")
        return path

    def open(self) -> None:
        library = native.library()
        assert library is not None, "the compiled data path is missing: python -m edgeward.native.build"
        self.segments.open(Lane(library), self.vault.check_room)

    def append(self, data: bytes, number: int = 1, uid: str = "") -> str:
        active = self.segments._active
        assert active is not None
        at, key, name = active.end, os.urandom(32), bytes(active.numbers.name)
        object_id = (name + (at // BLOCK + 1).to_bytes(4, "big") + os.urandom(4)).hex()
        content = MAGIC + AESGCM(key).encrypt(nonce(0), data, bound_chunk(0, final=True))
        uid = uid or f"1.2.3.{number}"
        row = plainrow._HEAD.pack(
            plainrow.MARK, 0, number, number + 1, number, len(data), number.to_bytes(12, "big"),
            bytes.fromhex(object_id), key, number.to_bytes(16, "big"),
        ) + COMMON + bytes([len(uid)]) + uid.encode()  # fmt: skip
        salt, fresh = bytes(active.numbers.salt), os.urandom(12)
        cipher = AESGCM(bytes(active.numbers.key))
        sealed = cipher.encrypt(fresh, row, blockfile.bound(salt, at, content))
        head = HEAD.pack(salt, len(sealed), len(content), fresh) + sealed
        with active.path.open("r+b") as file:
            file.seek(at)
            file.write(head.ljust(BLOCK, b"\0") + content)
        active.numbers.end = at + BLOCK + blockfile.blocks(len(content))
        self.keys[object_id] = key
        return object_id

    def read(self, object_id: str, size: int) -> bytes:
        place = self.segments.place_of(object_id, size)
        assert place is not None
        with open_object(place, self.keys[object_id]) as file:
            found = file.read()
        assert found == read(place, self.keys[object_id])
        return found

    def retired(self) -> None:
        self.segments.turn()
        self.segments.close(lambda: None)
        self.segments.retire()

    def next_start(self) -> Journal:
        """What the next start finds, of the files as they are now; its vault is `vault` then."""
        copy = self.root.with_name(f"{self.root.name}-crashed")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.root, copy)
        self.root, self.vault = copy, FileVault(copy / "vault", KEY)
        self.vault.give_room_back()
        journal = Journal(copy / "journal.db", KEY)
        Reception(self.vault, journal, KEY, Budgets()).recover()
        self.vault.sweep(journal.knows_object)
        return journal


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "site")
    bench.open()
    yield bench
    bench.segments.close(lambda: None)
    for one in bench.segments._old:
        one.close()


SIZES = (1, 100, 4096 - len(MAGIC) - TAG, 4096, 39_000, (1 << 20) - 4096)


def test_each_object_reads_as_it_was_put(bench: Bench) -> None:
    contents = [os.urandom(size) for size in SIZES]
    ids = [bench.append(data, number) for number, data in enumerate(contents)]

    for _ in range(2):
        assert [bench.read(one, len(data)) for one, data in zip(ids, contents, strict=True)] == contents
        bench.retired()
    assert bench.vault.count() == len(SIZES)


def test_a_part_of_an_object_reads_alone(bench: Bench) -> None:
    data = os.urandom(300_000)
    bench.append(os.urandom(5000), 1)
    one = bench.append(data, 2)

    with open_object(bench.segments.place_of(one, len(data)) or "", bench.keys[one]) as file:
        file.seek(123_456)
        assert file.read(1000) == data[123_456:124_456]


def test_what_was_altered_or_is_anothers_does_not_open(bench: Bench) -> None:
    ids = [bench.append(os.urandom(9000), number) for number in range(2)]
    place = bench.segments.place_of(ids[0], 9000) or ""
    with pytest.raises(VaultDamaged, match="not its key"):
        read(place, bench.keys[ids[1]])
    with pytest.raises(VaultDamaged):
        read(place.replace("+9024", "+9023"), bench.keys[ids[0]])
    with pytest.raises(VaultDamaged):
        read(place.replace("+9024", "+999999999"), bench.keys[ids[0]])
    with bench.file.open("r+b") as file:
        file.seek(place_of(place).at + 5000)
        file.write(b"x" * 16)
    for way in (read, open_object):
        with pytest.raises(VaultDamaged, match="altered"):
            way(place, bench.keys[ids[0]])
    assert len(bench.read(ids[1], 9000)) == 9000


@pytest.mark.parametrize(
    "text", ["/a/b.ews@12", "/a/b.ews@x+1", "/a/b.ews@-1+5", "/a/b.ew@1+2", "/a@1+2/b.ew", "/a/b.ews@1+²"]
)
def test_other_paths_are_files_of_their_own(text: str) -> None:
    assert place_of(text) == (text, 0, None)


@pytest.mark.parametrize("retired", [False, True])
def test_the_bytes_of_an_erased_object_are_gone_from_the_disk(bench: Bench, retired: bool) -> None:
    contents = [os.urandom(60_000) for _ in range(3)]
    ids = [bench.append(data, number) for number, data in enumerate(contents)]
    if retired:
        bench.retired()
    place = place_of(bench.segments.place_of(ids[1], 60_000) or "")
    os.sync()
    before, was = bench.file.stat().st_blocks, bench.file.read_bytes()

    bench.vault.erase(ids[1])
    bench.vault.erase(ids[1])

    now = bench.file.read_bytes()
    assert now[place.at - BLOCK : place.at + 61_440] == bytes(BLOCK + 61_440), "its record is gone too"
    assert was[: place.at - BLOCK] == now[: place.at - BLOCK]
    assert bench.file.stat().st_blocks <= before - (BLOCK + 61_440) // 512
    with pytest.raises(VaultDamaged, match="any more"):
        bench.read(ids[1], 60_000)
    assert [bench.read(ids[number], 60_000) for number in (0, 2)] == [contents[0], contents[2]]
    for one in (ids[0], ids[2]):
        bench.vault.erase(one)
    if not retired:
        bench.retired()
    assert list(bench.root.glob("vault/??/*.ews")) == [], "a segment without objects is removed"


def test_an_object_in_a_segment_is_held_until_it_is_erased(bench: Bench) -> None:
    ids = [bench.append(os.urandom(9000), number) for number in range(2)]
    places = [bench.segments.place_of(one, 9000) or "" for one in ids]
    assert [is_held(place) for place in places] == [True, True]

    bench.vault.erase(ids[0])

    assert [is_held(place) for place in places] == [False, True]
    assert not is_held(place_of(places[0]).file.replace("vault", "elsewhere") + "@0+100")


def test_where_there_are_no_holes_zeros_are_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_fallocate", lambda *_: 1)
    monkeypatch.setattr(segments.ctypes, "get_errno", lambda: 95)
    one, other = [bench.append(os.urandom(2_500_000), number) for number in range(2)]
    place = place_of(bench.segments.place_of(one, 2_500_000) or "")

    bench.vault.erase(one)

    assert not any(bench.file.read_bytes()[place.at - BLOCK : place.at + 2_500_024])
    raw, there = bench.file.read_bytes(), place_of(bench.segments.place_of(other, 2_500_000) or "").at
    assert raw[there : there + 8] == MAGIC


def test_once_it_is_retired_nobody_can_read_the_records(bench: Bench) -> None:
    bench.append(os.urandom(5000))
    active = bench.segments._active
    assert active is not None
    salt, key = bytes(active.numbers.salt), bytes(active.numbers.key)
    path = bench.file
    sealed = path.read_bytes()[8 + 16 : 8 + 16 + 60]

    bench.retired()

    raw = path.read_bytes()
    assert sealed not in raw
    assert not any(raw[8 + 16 : BLOCK])
    assert len(raw) == BLOCK + BLOCK + 2 * BLOCK, "room that nobody needed is given back"
    with path.open("rb") as file:
        assert list(blockfile.records(file, len(raw), salt, key)), "only with the key that was overwritten"
    assert list(bench.segments.found()) == []


def test_after_a_crash_everything_whole_is_an_item_and_nothing_else_remains(bench: Bench) -> None:
    contents = [os.urandom(size) for size in SIZES]
    ids = [bench.append(data, number) for number, data in enumerate(contents)]

    with closing(bench.next_start()) as journal:
        assert sum(journal.counts().values()) == len(SIZES)
        assert bench.vault.count() == len(SIZES)
        for one, data in zip(ids, contents, strict=True):
            assert journal.knows_object(one)
            assert bench.read(one, len(data)) == data
    assert list(bench.root.glob("vault/live/*")) == []
    with closing(bench.next_start()) as journal:
        assert bench.vault.count() == len(SIZES)


def test_cut_or_torn_anywhere_the_whole_ones_before_are_kept(bench: Bench) -> None:
    ids = [bench.append(os.urandom(size), number) for number, size in enumerate((5000, 100, 9000))]
    starts = [place_of(bench.segments.place_of(one, 0) or "").at for one in ids]
    ends = [start + size + 24 for start, size in zip(starts, (5000, 100, 9000), strict=True)]
    active = bench.segments._active
    assert active is not None
    file, end = bench.file, active.end
    raw, site = file.read_bytes()[:end], bench.root
    for number, at in enumerate([*range(BLOCK, end + 1, BLOCK), BLOCK + 50, ends[1] - 1]):
        torn = (raw[:at], raw[:at] + bytes(end - at), raw[:at] + os.urandom(end - at))[number % 3]
        file.write_bytes(torn)
        bench.root = site
        with closing(bench.next_start()) as journal:
            whole = [one for one, stop in zip(ids, ends, strict=True) if stop <= at]
            assert [one for one in ids if journal.knows_object(one)] == whole
            assert bench.vault.count() == len(whole)
            assert len(list(bench.root.glob("vault/??/*.ews"))) == bool(whole)


def test_one_block_that_did_not_reach_the_disk_takes_one_object(bench: Bench) -> None:
    ids = [bench.append(os.urandom(20_000), number) for number in range(3)]
    lost = place_of(bench.segments.place_of(ids[1], 0) or "").at
    with bench.file.open("r+b") as file:
        file.seek(lost + BLOCK)
        file.write(bytes(BLOCK))

    with closing(bench.next_start()) as journal:
        assert [journal.knows_object(one) for one in ids] == [True, False, True]
        assert not any(bench.file.read_bytes()[lost - BLOCK : lost + 20_024]), "nothing of it stays"
        assert bench.vault.count() == 2


def test_what_was_here_before_is_not_kept_twice_and_a_conflict_is(bench: Bench) -> None:
    first = bench.append(b"one" * 100, 1, "1.9")
    with closing(bench.next_start()):
        pass
    later = Bench(bench.root)
    later.open()
    ids = [later.append(b"one" * 100, 1, "1.9"), later.append(b"two" * 100, 2, "1.9"), later.append(b"new", 3)]
    with closing(later.next_start()) as journal:
        states = sorted((row.sop_instance_uid, row.state) for row in journal.summaries(ItemsQuery(), 0))
        assert states == [("1.2.3.3", "admitted"), ("1.9", "admitted"), ("1.9", "failed")]
        assert [journal.knows_object(one) for one in [first, *ids]] == [True, False, True, True]
        assert later.vault.count() == 3


def test_a_crash_before_the_mark_is_taken_away_loses_nothing(bench: Bench) -> None:
    one = bench.append(b"x" * 9000)
    with closing(bench.next_start()):
        (bench.root / "vault" / "live" / bench.file.stem).touch()
    with closing(bench.next_start()) as journal:
        assert journal.knows_object(one)
        assert bench.read(one, 9000) == b"x" * 9000
        assert list(bench.root.glob("vault/live/*")) == []


def test_a_crash_while_one_is_begun_leaves_nothing(tmp_path: Path) -> None:
    site = Bench(tmp_path / "site")
    folder = site.root / "vault"
    (folder / "live").mkdir()
    for name, content in (("aa" * 8, None), ("bb" * 8, b""), ("cc" * 8, bytes(BLOCK)), ("dd" * 8, b"EWSEGMT1short")):
        (folder / "live" / name).touch()
        if content is not None:
            (folder / name[:2] / f"{name}.ews").write_bytes(content)

    with closing(site.next_start()):
        assert [path for path in site.root.glob("vault/**/*") if path.is_file()] == []


def test_a_head_that_the_disk_lost_takes_no_object_with_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The last rows were in the journal already, and the segment was not retired yet."""
    one = bench.append(b"x" * 9000)
    with closing(bench.next_start()) as journal:
        assert journal.knows_object(one)
    (bench.root / "vault" / "live" / bench.file.stem).touch()
    with bench.file.open("r+b") as file:
        file.write(bytes(BLOCK))

    with closing(bench.next_start()) as journal:
        assert journal.knows_object(one)
        assert bench.read(one, 9000) == b"x" * 9000
        assert f"{bench.file.name} is damaged" in caplog.text


def test_another_sites_key_opens_and_changes_nothing(bench: Bench) -> None:
    bench.append(b"x" * 9000)
    before = bench.file.read_bytes()
    other = SiteKey(b"o" * 32)
    vault = FileVault(bench.root / "vault", other)
    with closing(Journal(bench.root / "other.db", other)) as journal, pytest.raises(WrongKey):
        Reception(vault, journal, other, Budgets()).recover()
    assert bench.file.read_bytes() == before


def test_a_record_of_another_place_is_none(bench: Bench) -> None:
    """Whoever copies a record elsewhere, or into another segment, makes no item of it."""
    bench.append(b"x" * 100, 1)
    one = bench.append(b"y" * 100, 2)
    raw = bench.file.read_bytes()
    record = raw[BLOCK : 3 * BLOCK]
    bench.file.write_bytes(raw[: 5 * BLOCK] + record + raw[7 * BLOCK :])

    with closing(bench.next_start()) as journal:
        assert journal.knows_object(one)
        assert sum(journal.counts().values()) == 2
        assert bench.vault.count() == 2


def test_without_room_nothing_is_begun_and_what_is_there_stays(bench: Bench) -> None:
    one = bench.append(b"x" * 9000)

    def refuse(_: int) -> None:
        raise VaultFull("full")

    bench.segments._check = refuse
    with pytest.raises(VaultFull):
        bench.segments.turn()
    with pytest.raises(VaultFull):
        bench.segments._active.numbers.end = bench.segments._active.size - BLOCK  # type: ignore[union-attr]
        bench.segments.make_room()
    assert bench.read(one, 9000) == b"x" * 9000
    assert len(list(bench.root.glob("vault/??/*.ews"))) == len(list(bench.root.glob("vault/live/*"))) == 1


def test_room_that_is_not_used_is_given_back(bench: Bench) -> None:
    active = bench.segments._active
    assert active is not None
    least = active.size
    active.grow(least + (16 << 20))

    assert bench.segments.turn() is False

    assert active.size == active.path.stat().st_size == least


def test_after_a_crash_the_room_that_was_made_ahead_is_there_before_the_journal_is_opened(bench: Bench) -> None:
    active = bench.segments._active
    assert active is not None
    active.grow(8 << 20)
    ids = [bench.append(os.urandom(9000), number) for number in range(3)]
    copy = bench.root.with_name("crashed")
    shutil.copytree(bench.root, copy)
    vault = FileVault(copy / "vault", KEY)

    vault.give_room_back()

    assert sum(one.stat().st_size for one in copy.glob("vault/??/*.ews")) == active.end
    assert [place[:24] for place, _, _ in vault.segments.found()] == [one[:24] for one in ids]
    journal = bench.next_start()
    with closing(journal):
        assert bench.vault.count() == 3
    assert len(list(bench.root.glob("vault/??/*.ews"))) == 1


def test_room_of_one_that_was_not_begun_is_given_back_too(bench: Bench) -> None:
    path = bench.root / "vault/ab" / f"{'ab' * 8}.ews"
    path.write_bytes(bytes(2 << 20))
    (bench.root / "vault/live" / path.stem).touch()

    FileVault(bench.root / "vault", KEY).give_room_back()

    assert not path.exists()


def test_room_is_given_back_before_the_rows_are_written(bench: Bench) -> None:
    active = bench.segments._active
    assert active is not None
    active.grow(8 << 20)
    one = bench.append(os.urandom(9000))
    assert bench.segments.turn()

    bench.segments.await_rows(lambda: None)

    assert active.path.stat().st_size == active.end
    assert len(bench.read(one, 9000)) == 9000
