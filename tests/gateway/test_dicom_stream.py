"""A data set on its way from the socket into the vault: however it is cut, however large, wherever it ends."""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation, UserIdentityNegotiation
from tests.gateway.door import AE_TITLE, Door, ask, frame, open_door, until
from tests.gateway.spoken import LEGACY, Spoken, request
from tests.support.lanes import LANES, lane

from edgeward.gateway import command as dimse
from edgeward.gateway import transport
from edgeward.privacy import vaultfile
from edgeward.privacy.lane import Reason
from edgeward.privacy.reading import open_object

ULTRASOUND = (UltrasoundImageStorage, ExplicitVRLittleEndian)
MB = 1 << 20


@pytest.fixture(params=LANES)
def door(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Door]:
    with lane(request.param), open_door(tmp_path / "home", dicom={"legacy": [LEGACY], "max_object_mb": 2048}) as door:
        yield door


def fragments(data: bytes, cuts: Iterator[int], per_pdu: int = 1, last: bool = True) -> Iterator[bytes]:
    """Yield P-DATA-TF PDUs with `data` cut into fragments of these lengths, several to a PDU."""
    pieces, at = list[bytes](), 0
    while at < len(data):
        length = next(cuts)
        pieces.append(data[at : at + length])
        at += length
    pdvs = [
        struct.pack(">LBB", len(piece) + 2, 1, 2 if last and number == len(pieces) - 1 else 0) + piece
        for number, piece in enumerate(pieces)
    ]
    for start in range(0, len(pdvs), per_pdu):
        body = b"".join(pdvs[start : start + per_pdu])
        yield struct.pack(">BxL", 0x04, len(body)) + body


def begin(peer: Spoken, uid: str) -> None:
    peer.send(1, request(dimse.C_STORE, UltrasoundImageStorage, data_set=True, uid=uid))


def store(peer: Spoken, uid: str, pdus: Iterator[bytes]) -> int:
    begin(peer, uid)
    for pdu in pdus:
        peer.socket.sendall(pdu)
    return peer.answer().status


@pytest.mark.parametrize("seed", range(6))
def test_however_a_data_set_is_cut_it_is_the_same_object(door: Door, seed: int) -> None:
    rng = random.Random(seed)
    image = frame(700, 900, seed=seed)  # 1.9 MB: two chunks of the vault
    data = encode(image, False, True)
    peer = Spoken(door, ULTRASOUND)
    lengths = {0: [1000], 1: [131_066], 2: [7, 60_000, 0, 2], 3: [65_000], 4: [100_001], 5: [1, 0, 0, 33]}[seed]
    cuts = itertools.chain((rng.choice(lengths) for _ in range(3000)), itertools.repeat(50_000))

    assert store(peer, image.SOPInstanceUID, fragments(data, cuts, per_pdu=rng.choice([1, 2]))) == 0x0000
    assert store(peer, image.SOPInstanceUID, fragments(data, itertools.repeat(16_000))) == 0x0000

    until(lambda: [new for _, new in door.admitted] == [True, False])
    assert dcmread(io.BytesIO(door.stored(door.admitted[0][0]))) == image
    door.dicom._reception.settle()  # what was stored in vain goes
    assert door.vault_files() == 1


def rss_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / MB


def test_a_large_object_needs_little_memory(door: Door, campaign: bool) -> None:
    size = (1024 if campaign else 192) * MB
    image = frame(8, 8)
    del image.PixelData
    head = encode(image, False, True) + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, size)
    block = os.urandom(128_000)
    content = itertools.chain([head], itertools.repeat(block, size // len(block)), [block[: size % len(block)]])
    peer = Spoken(door, ULTRASOUND)
    begin(peer, image.SOPInstanceUID)
    before = most = rss_mb()

    sent = 0
    for number, piece in enumerate(content):
        sent += len(piece)
        control = 2 if sent == size + len(head) else 0
        peer.socket.sendall(struct.pack(">BxLLBB", 0x04, len(piece) + 6, len(piece) + 2, 1, control))
        peer.socket.sendall(piece)
        if number % 64 == 0:
            most = max(most, rss_mb())

    assert peer.answer().status == 0x0000
    assert max(most, rss_mb()) - before < 12
    until(lambda: door.admitted)
    (item, _), *_ = door.admitted
    reference = door.vault.reference(item.object_id, item.wrapped_key, item.size)
    with open_object(reference.path, reference.data_key) as stored:
        stored.seek(item.size - size)
        for _ in range(size // len(block)):
            assert stored.read(len(block)) == block


@pytest.mark.parametrize("after", [0, 100, 3 * MB])
@pytest.mark.parametrize("how", ["close", "abort", "release", "garbage", "command"])
def test_an_object_that_breaks_off_leaves_nothing(door: Door, after: int, how: str) -> None:
    image = frame(8, 8)
    peer = Spoken(door, ULTRASOUND)
    begin(peer, image.SOPInstanceUID)
    data = encode(image, False, True)[:300] + bytes(after)
    for pdu in fragments(data[:after], itertools.repeat(60_000), last=False):
        peer.socket.sendall(pdu)

    if how == "abort":
        peer.socket.sendall(struct.pack(">BBLL", 0x07, 0, 4, 0))
    elif how == "release":
        peer.socket.sendall(struct.pack(">BBLL", 0x05, 0, 4, 0))
    elif how == "garbage":
        peer.socket.sendall(os.urandom(64) if after else b"\x77" * 64)
    elif how == "command":
        peer.send(1, request(dimse.C_ECHO, "1.2.840.10008.1.1"))
    peer.socket.close()

    until(lambda: door.dicom.associations == 0)
    assert door.vault_files() == 0
    assert sum(door.journal.counts().values()) == 0


def test_a_length_that_promises_more_than_comes_is_refused(door: Door) -> None:
    image = frame(64, 64)
    data = bytearray(encode(image, False, True))
    place = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB")) + 8
    data[place : place + 4] = struct.pack("<L", 500 * MB)
    peer = Spoken(door, ULTRASOUND)

    assert store(peer, image.SOPInstanceUID, fragments(bytes(data), itertools.repeat(9000))) == 0xC000

    assert door.vault_files() == 0
    assert "truncated" in door.reasons()[0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_disk_that_fills_in_mid_stream_is_told_and_the_association_lives(
    door: Door, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    image = frame(1500, 1500)  # 6.75 MB
    write, written = os.write, []
    if door.dicom.lane is not None:
        door.dicom.lane.forbid(Reason.OWING)  # Python writes it; what the library does is in test_large

    def full(handle: int, data: bytes) -> int:
        if len(data) < 100_000:
            return write(handle, data)
        written.append(len(data))
        if len(written) > 2:
            raise OSError(code, os.strerror(code))
        return write(handle, data)

    peer = Spoken(door, ULTRASOUND)
    monkeypatch.setattr(vaultfile.os, "write", full)
    status = store(peer, image.SOPInstanceUID, fragments(encode(image, False, True), itertools.repeat(100_000)))
    monkeypatch.undo()

    assert status == 0xA700
    assert len(written) == 3
    assert door.vault_files() == 0
    assert store(peer, image.SOPInstanceUID, fragments(encode(image, False, True), itertools.repeat(100_000))) == 0
    until(lambda: door.admitted)
    assert dcmread(io.BytesIO(door.stored(door.admitted[0][0]))) == image


def test_a_revocation_ends_an_association_that_is_sending(door: Door) -> None:
    peer = Spoken(door, ULTRASOUND)
    begin(peer, "1.2.3")
    stop = threading.Event()
    pdu = next(fragments(bytes(60_000), itertools.repeat(60_000), last=False))

    def pour() -> None:
        try:
            while not stop.is_set():
                peer.socket.sendall(pdu)
        except OSError:
            return

    pouring = threading.Thread(target=pour)
    pouring.start()
    (association,) = door.dicom._live
    association.abort()

    assert association.over.wait(10)
    pouring.join(10)
    stop.set()
    assert door.vault_files() == 0


def test_idle_associations_are_not_woken(door: Door) -> None:
    device = door.site.enrol("us1", "ultrasound", AE_TITLE)
    plain = [Spoken(door, ULTRASOUND) for _ in range(10)]
    secure = [ask(door, device) for _ in range(3)]
    until(lambda: door.dicom.associations == 13)

    def switches() -> dict[int, str]:
        ids = [thread.native_id for thread in threading.enumerate() if thread.name == "dicom-association"]
        status = {number: Path(f"/proc/self/task/{number}/status").read_text() for number in ids if number}
        return {number: text[text.index("voluntary_ctxt") :] for number, text in status.items()}

    until(lambda: all("voluntary" in text for text in switches().values()))
    threading.Event().wait(0.2)
    before = switches()
    threading.Event().wait(1.0)

    assert switches() == before
    assert len(before) == 13
    for peer in plain:
        peer.socket.close()
    for association in secure:
        association.abort()


def test_one_device_cannot_take_all_associations(tmp_path: Path) -> None:
    limits = {"legacy": [LEGACY], "max_associations": 10, "max_associations_per_device": 3}
    with open_door(tmp_path / "home", dicom=limits) as door:
        device = door.site.enrol("us1", "ultrasound", AE_TITLE)
        held = [Spoken(door, ULTRASOUND) for _ in range(3)]

        with pytest.raises(AssertionError):  # A-ASSOCIATE-RJ
            Spoken(door, ULTRASOUND)

        association = ask(door, device)
        assert association.send_c_store(frame()).Status == 0x0000
        association.release()
        assert len(held) == 3


def test_one_address_gives_way_to_itself_not_to_others(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_YOUNG_PER_ADDRESS", 3)
    import socket

    knocks = [socket.create_connection(("127.0.0.1", door.dicom.ports["plain"]), timeout=10) for _ in range(5)]

    assert knocks[0].recv(1) == b""
    assert knocks[1].recv(1) == b""
    until(lambda: any("ask for nothing" in reason for reason in door.reasons()))
    peer = Spoken(door, ULTRASOUND)
    image = frame()
    assert store(peer, image.SOPInstanceUID, fragments(encode(image, False, True), itertools.repeat(9000))) == 0
    for knock in knocks:
        knock.close()


def role(scu: bool, scp: bool) -> SCP_SCU_RoleSelectionNegotiation:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = UltrasoundImageStorage, scu, scp
    return item


def test_roles_and_user_identity_are_answered_as_the_standard_says(door: Door) -> None:
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.positive_response_requested = 1, b"nobody", True

    peer = Spoken(door, ULTRASOUND, more=(role(scu=True, scp=True), identity))
    accepted = peer.accepted.to_primitive()

    (answer,) = [one for one in accepted.user_information if isinstance(one, SCP_SCU_RoleSelectionNegotiation)]
    assert (answer.scu_role, answer.scp_role) == (True, False)
    image = frame()
    assert store(peer, image.SOPInstanceUID, fragments(encode(image, False, True), itertools.repeat(9000))) == 0

    provider = Spoken(door, ULTRASOUND, more=(role(scu=False, scp=True),)).accepted.to_primitive()
    assert [one.result for one in provider.presentation_context_definition_results_list] == [0x01]
