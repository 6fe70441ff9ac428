"""The compiled data path and the Python that it is an extract of: whatever comes, both do the same."""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UltrasoundImageStorage,
)
from pynetdicom.dsutils import encode
from tests.gateway.door import Door, frame, open_door, until
from tests.gateway.spoken import LEGACY, Spoken, number, request, text
from tests.gateway.test_walker import FIRST, IMPLICIT, WHOLE
from tests.support.lanes import lane

from edgeward import native
from edgeward.config import Settings
from edgeward.gateway import command as dimse
from edgeward.gateway.command import Command
from edgeward.gateway.dataset import WANTED
from edgeward.gateway.reception import Reception
from edgeward.gateway.walker import Malformed, Walker
from edgeward.home import Home
from edgeward.messages import ItemsQuery
from edgeward.native import Code, build
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault, read

CONTEXTS = (
    (UltrasoundImageStorage, ExplicitVRLittleEndian),
    (UltrasoundImageStorage, ImplicitVRLittleEndian),
    (UltrasoundImageStorage, DeflatedExplicitVRLittleEndian),
)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Iterator[None]:
    with lane("compiled"):
        yield


@dataclass
class Lanes:
    """A door with and one without the compiled data path."""

    compiled: Door
    python: Door


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    folder, sections = tmp_path_factory.mktemp("lanes"), {"dicom": {"legacy": [LEGACY], "max_object_mb": 3}}
    with (
        lane("python"),
        open_door(folder / "python", **sections) as slow,
        lane("compiled"),
        open_door(folder / "compiled", **sections) as fast,
    ):
        assert (fast.dicom.library is None, slow.dicom.library is None) == (False, True)
        yield Lanes(fast, slow)


def outcome(door: Door, pieces: list[bytes]) -> tuple[object, ...]:
    """Send this over an association of its own and say what came of it."""
    before, reasons = len(door.admitted), {entry.reason: entry.count for entry in door.quarantine.entries()}
    peer = Spoken(door, *CONTEXTS)
    said = b""
    try:
        for piece in pieces:
            peer.socket.sendall(piece)
        peer.socket.shutdown(socket.SHUT_WR)
        while more := peer.socket.recv(65536):
            said += more
    except ConnectionError:
        pass
    peer.socket.close()
    until(lambda: door.dicom.associations == 0)
    new = [
        (
            item.sop_instance_uid,
            item.state,
            item.rows,
            item.columns,
            item.study_instance_uid,
            sha256(door.stored(item)).hexdigest(),
        )
        for item, is_new in door.admitted[before:]
        if is_new
    ]
    told = {
        entry.reason: entry.count - reasons.get(entry.reason, 0)
        for entry in door.quarantine.entries()
        if entry.count != reasons.get(entry.reason, 0)
    }
    return said, new, told, len(door.admitted) - before


def fragments(context_id: int, message: bytes, data: bytes, rng: random.Random) -> list[bytes]:
    """A message, cut into fragments in some way."""
    whole = struct.pack("<HHLL", 0, 0, 4, len(message)) + message
    pieces = [(3, whole)]
    most = rng.choice([7, 500, 16_000, 131_060]) if len(data) < 10_000 else rng.choice([9_000, 16_000, 131_060])
    cuts = [data[at : at + most] for at in range(0, len(data), most)] or [b""]
    if rng.random() < 0.2:
        cuts.insert(rng.randrange(len(cuts)), b"")
    pieces += [(2 if number == len(cuts) - 1 else 0, cut) for number, cut in enumerate(cuts)]
    return [struct.pack(">LBB", len(content) + 2, context_id, control) + content for control, content in pieces]


def packed(pdvs: list[bytes], rng: random.Random) -> bytes:
    """Fragments in PDUs."""
    out, body, often = b"", b"", rng.choice([0.4, 0.95])
    for pdv in pdvs:
        if body and (rng.random() < often or len(body) + len(pdv) > 131_072):
            out, body = out + struct.pack(">BxL", 4, len(body)) + body, b""
        body += pdv
    return out + struct.pack(">BxL", 4, len(body)) + body


def pdus(context_id: int, message: bytes, data: bytes, rng: random.Random) -> bytes:
    """A message in PDUs of its own."""
    return packed(fragments(context_id, message, data, rng), rng)


def stream(rng: random.Random) -> bytes:
    """Some messages, most of them as they should be."""
    out = b""
    for _ in range(rng.randrange(1, 4)):
        context_id = rng.choice([1, 1, 1, 3, 5])
        big = rng.random() < 0.25
        image = frame(*((700, 800) if big else (20, rng.randrange(8, 200))), seed=rng.randrange(1 << 20))
        image.SOPInstanceUID = f"1.2.{rng.randrange(1 << 60)}"
        data = encode(image, context_id == 3, True, deflated=context_id == 5) or b""
        uid, kind = str(image.SOPInstanceUID), rng.random()
        if kind < 0.08:
            uid = rng.choice(["1.2.3", "x", "", "1" * 65])
        elif kind < 0.2:
            data = data[: rng.randrange(len(data))]
        elif kind < 0.3:
            spoiled = bytearray(data)
            for _ in range(3):
                spoiled[rng.randrange(min(600, len(spoiled)))] = rng.choice([0, 0xFF, rng.randrange(256)])
            data = bytes(spoiled)
        more = number(0x0700, 0) if rng.random() < 0.1 else text(0x1030, "MOVER") if rng.random() < 0.1 else b""
        message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=uid, more=more)
        sent = pdus(context_id, message, data, rng)
        if rng.random() < 0.1:  # a second message begins in the PDU in which the first one ends
            echo = fragments(1, request(dimse.C_ECHO, "1.2.840.10008.1.1"), b"", rng)
            sent = packed([*fragments(context_id, message, data, rng), *echo[:1]], rng)
        out += sent * (2 if rng.random() < 0.1 else 1)
        if rng.random() < 0.15:
            out += pdus(1, request(dimse.C_ECHO, "1.2.840.10008.1.1"), b"", rng)[: None if rng.random() < 0.8 else -3]
    if rng.random() < 0.3:
        out += rng.choice(
            [struct.pack(">BBLL", 5, 0, 4, 0), struct.pack(">BBLL", 7, 0, 4, 0), b"\x04", b"GET / HTTP/1.1\r\n\r\n"]
        )
    if rng.random() < 0.35:
        spoiled = bytearray(out)
        for _ in range(rng.randrange(1, 3)):
            spoiled[rng.choice([rng.randrange(min(300, len(out))), rng.randrange(len(out))])] ^= 1 << rng.randrange(8)
        out = bytes(spoiled)
    return out[: rng.randrange(1, len(out))] if rng.random() < 0.2 else out


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    pieces, at = list[bytes](), 0
    most = rng.choice([50, 3000, 200_000, 1 << 24])
    while at < len(data) and len(pieces) < 400:
        length = rng.randrange(1, most)
        pieces.append(data[at : at + length])
        at += length
    return [*pieces, data[at:]]


def same(lanes: Lanes, seed: int) -> None:
    rng = random.Random(seed)
    data = stream(rng)
    fast, slow = outcome(lanes.compiled, cut(data, rng)), outcome(lanes.python, cut(data, rng))
    if fast != slow:  # not an assert: pytest would explain megabytes
        pytest.fail(f"seed {seed}: {fast}\n{slow}")


def test_both_lanes_do_the_same_however_it_is_cut(lanes: Lanes, campaign: bool, request: pytest.FixtureRequest) -> None:
    first = request.config.getoption("--seed") or 1
    for seed in range(first, first + (3000 if campaign else 60)):
        same(lanes, seed)


@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.tuples(st.sampled_from([*WHOLE.values(), IMPLICIT]), st.binary(max_size=40)).map(b"".join),
        st.tuples(st.just(FIRST), st.binary(max_size=200)).map(b"".join),
    ),
    spoil=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=3),
    end=st.integers(0, 5000),
    implicit=st.booleans(),
)
@settings(max_examples=1500, deadline=None)
def test_what_is_found_in_a_data_set_is_what_the_walker_finds(
    data: bytes, spoil: list[tuple[int, int]], end: int, implicit: bool
) -> None:
    """It may say that it does not know; it may not say anything else than the walker."""
    spoiled = bytearray(data)
    for at, value in spoil:
        if at < len(spoiled):
            spoiled[at] = value
    whole = bytes(spoiled[:end])
    conn = native.Connection()
    conn.wanted_count = len(WANTED)
    conn.wanted[: len(WANTED)] = WANTED
    room = ctypes.create_string_buffer(whole, len(whole)) if whole else ctypes.create_string_buffer(1)

    sure = native.library().ew_walk(ctypes.addressof(conn), ctypes.addressof(room), len(whole), implicit)

    if sure:
        walker = Walker(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian, WANTED)
        walker.feed(memoryview(whole))
        walker.finish()
        found = {
            tag: whole[at : at + min(size, 1024)]
            for tag, at, size in zip(WANTED, conn.value_at, conn.value_size, strict=False)
            if size != native.ABSENT
        }
        assert (found, walker.lost) == (walker.values, False)


@pytest.mark.parametrize("name", list(WHOLE))
def test_ordinary_data_sets_need_no_second_look(name: str) -> None:
    conn = native.Connection()
    data = WHOLE[name]

    assert native.library().ew_walk(ctypes.addressof(conn), data, len(data), 0) == 1
    with pytest.raises(Malformed):
        walker = Walker(ExplicitVRLittleEndian, ())
        walker.feed(memoryview(data[:-3]))
        walker.finish()
    assert native.library().ew_walk(ctypes.addressof(conn), data[:-3], len(data) - 3, 0) == 0


def test_an_image_of_a_usual_sender_never_leaves_the_compiled_path(lanes: Lanes, monkeypatch) -> None:
    monkeypatch.setattr("edgeward.gateway.association.Association.message", _never)
    monkeypatch.setattr("edgeward.gateway.association.Association._store", _never)
    peer = Spoken(lanes.compiled, *CONTEXTS)
    for columns in (100, 3000, 9000):  # one call, two fragments of the largest PDU, more than a chunk
        image = frame(100, columns, seed=columns)
        message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=image.SOPInstanceUID)
        peer.send(1, message, encode(image, False, True) or b"")
        assert peer.answer().status == 0x0000
    peer.socket.close()


def _never(*_: object) -> None:
    raise AssertionError("it was read by Python")


def test_an_association_that_waits_holds_no_buffers(lanes: Lanes, monkeypatch) -> None:
    from edgeward.privacy import vaultfile

    out, real = [0], vaultfile.pool
    monkeypatch.setattr(real, "take", _counting(real.take, out, 1))
    monkeypatch.setattr(real, "give", _counting(real.give, out, -1))
    peer = Spoken(lanes.compiled, *CONTEXTS)
    image = frame(40, 40, seed=77)
    message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=image.SOPInstanceUID)
    peer.send(1, message, encode(image, False, True) or b"")

    assert peer.answer().status == 0x0000
    until(lambda: out == [0])
    peer.socket.close()


def _counting(call: Callable[..., object], out: list[int], step: int) -> Callable[..., object]:
    def counted(*arguments: object) -> object:
        out[0] += step
        return call(*arguments)

    return counted


def test_a_log_that_fails_is_told_and_the_association_lives(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(native.library(), "admits", False)  # Python decides
    with open_door(tmp_path / "home", dicom={"legacy": [LEGACY]}) as door:
        peer = Spoken(door, *CONTEXTS)
        images = [frame(40, 40, seed=seed) for seed in range(3)]
        real = native.library().ew_exchange
        with monkeypatch.context() as patch:
            patch.setattr(door.dicom.library, "ew_exchange", _on_a_closed_log(real))
            assert _sent(peer, images[0]) == 0xA700
        assert _sent(peer, images[0]) == 0xA700, "after a failed sync nobody knows what the next one would tell"
        door.dicom._reception.settle()
        assert _sent(peer, images[1]) == 0x0000
        until(lambda: len(door.admitted) == 1)
        assert door.vault_files() == 1
        peer.socket.close()


def test_a_file_that_cannot_be_written_is_written_later(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(native.library(), "admits", False)  # Python decides
    with open_door(tmp_path / "home", dicom={"legacy": [LEGACY]}) as door:
        peer, image = Spoken(door, *CONTEXTS), frame(40, 40, seed=5)
        real = native.library().ew_exchange
        with monkeypatch.context() as patch:
            patch.setattr(door.dicom.library, "ew_exchange", _without_a_folder(real))
            assert _sent(peer, image) == 0x0000
        until(lambda: door.dicom._reception._owed)
        assert door.admitted == []
        assert door.vault_files() == 0
        assert _sent(peer, frame(40, 40, seed=6)) == 0xA700, "no more is taken until then"

        door.dicom._reception.settle()

        ((item, is_new),) = door.admitted
        assert is_new
        assert door.stored(item)[-100:] == (encode(image, False, True) or b"")[-100:]
        peer.socket.close()


def _sent(peer: Spoken, image: object) -> int:
    message = request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=image.SOPInstanceUID)
    peer.send(1, message, encode(image, False, True) or b"")
    return peer.answer().status


def _on_a_closed_log(real: Callable[..., int]) -> Callable[..., int]:
    def exchange(conn: int, record: int | None) -> int:
        if record:
            native.Record.from_address(record).handle = -1
        return real(conn, record)

    return exchange


def _without_a_folder(real: Callable[..., int]) -> Callable[..., int]:
    def exchange(conn: int, record: int | None) -> int:
        if record:
            native.Record.from_address(record).path = b"/nowhere/at/all"
        return real(conn, record)

    return exchange


SERVER = """
import asyncio, sys
from pathlib import Path
from tests.gateway.door import open_door
from tests.gateway.spoken import LEGACY
with open_door(Path(sys.argv[1]), dicom={"legacy": [LEGACY]}) as door:
    assert door.dicom.library is not None
    print(door.dicom.ports["plain"], flush=True)
    asyncio.run(door.dicom._reception.keep_settling())
"""


@pytest.mark.fault
def test_whatever_was_answered_before_a_kill_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    chance = random.Random(5)
    for turn in range(2):
        home, sure = tmp_path / str(turn), list[str]()
        with subprocess.Popen([sys.executable, "-c", SERVER, str(home)], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            senders = [threading.Thread(target=_send_until_killed, args=(port, worker, sure)) for worker in range(4)]
            for sender in senders:
                sender.start()
            until(partial(_more_than, sure, 20))
            time.sleep(chance.uniform(0.0, 0.4))  # the moment of death is the variable under test
            server.send_signal(signal.SIGKILL)
            for sender in senders:
                sender.join(20)

        with closing(_reopened(home)) as journal:
            vault = FileVault(Home(home).vault, SiteKey.load(Home(home)))
            assert sure
            for uid in sure:
                assert journal.held(uid), "answered with Success, and gone"
            for summary in journal.summaries(ItemsQuery(limit=5000), 0):
                item = journal.item(summary.item_id)
                reference = vault.reference(item.object_id, item.wrapped_key, item.size)
                assert item.sop_instance_uid.encode() in read(reference.path, reference.data_key)
            assert sum(journal.counts().values()) <= len(sure) + 4


def _more_than(some: list[str], count: int) -> bool:
    return len(some) > count


def _reopened(home: Path) -> Journal:
    key = SiteKey.load(Home(home))
    journal = Journal(Home(home).db("journal"), key)
    Reception(FileVault(Home(home).vault, key), journal, key, Settings().budgets).recover()
    return journal


def _send_until_killed(port: int, worker: int, sure: list[str]) -> None:
    image = frame(60, 80, seed=worker)
    try:
        peer = Spoken(port, *CONTEXTS)
        for number_of_it in range(100_000):
            image.SOPInstanceUID = f"1.2.{worker}.{number_of_it}"
            if _sent(peer, image) == 0x0000:
                sure.append(image.SOPInstanceUID)
            if number_of_it % 4 == 0:
                _sent(peer, image)  # the same again is the same item, also after a crash
    except (OSError, AssertionError):
        return


def test_without_a_compiler_nothing_is_missing_but_speed(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "lib.so")

    assert build.main() == 0
    assert "no C compiler" in capsys.readouterr().err
    monkeypatch.setenv("EDGEWARD_COMPILED", str(tmp_path / "lib.so"))
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        monkeypatch.undo()
        native.library.cache_clear()


@pytest.mark.parametrize("status", [0x0000, 0xA700])
@pytest.mark.parametrize("most", [0, 40, 16_382])
def test_a_store_is_answered_as_any_other_request(status: int, most: int) -> None:
    for uid in ("1.2.3", "1.2.34"):
        command = Command.store(7, UltrasoundImageStorage, uid)
        expected = b"".join(dimse.pdus(3, dimse.response(command, status), b"", most))
        assert dimse.store_answer(3, command, status, most) == expected


def test_codes_are_those_of_the_source() -> None:
    source = build.SOURCE.with_suffix(".h").read_text(encoding="utf-8")
    names = source[source.index("MESSAGE = 1") :].split("};")[0]
    found = [line.strip().split(",")[0].split(" ")[0] for line in names.splitlines() if "," in line]
    assert found == [code.name for code in Code]
