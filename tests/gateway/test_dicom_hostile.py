"""Peers that misbehave at the DICOM door disturb nobody: each test ends with a good device that is served as ever."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage
from tests.gateway.door import AE_TITLE, Door, ask, connect, frame, open_door, until
from tests.gateway.spoken import LEGACY, Spoken
from tests.gateway.spoken import associate_request as request_of

from edgeward.gateway import association, transport
from edgeward.gateway.dicom import DicomDoor

ULTRASOUND = (UltrasoundImageStorage, ExplicitVRLittleEndian)
associate_request = partial(request_of, ULTRASOUND)
_NOISE = bytes(range(7, 247, 6))


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(tmp_path_factory.mktemp("site") / "home", dicom={"legacy": [LEGACY], "max_object_mb": 1}) as door:
        door.site.enrol("us1", "ultrasound", AE_TITLE)
        yield door


@pytest.fixture
def device(door: Door) -> Path:
    return door.site.home.root / "devices" / "us1"


@pytest.fixture(params=["tls", "plain"])
def knock(request: pytest.FixtureRequest, door: Door, device: Path) -> Callable[[], socket.socket]:
    """A raw connection to either door, by somebody who gets as far as sending bytes."""
    if request.param == "tls":
        return lambda: connect(door, device)
    return lambda: connect(door, None, door.dicom.ports["plain"])


def served(door: Door, device: Path) -> bool:
    association = ask(door, device)
    status = association.send_c_store(frame(seed=int.from_bytes(os.urandom(2), "big")))
    association.release()
    return status.get("Status", -1) == 0x0000


def closed(peer: socket.socket) -> bool:
    """Read until the other side closes."""
    peer.settimeout(30)
    try:
        while peer.recv(65536):
            pass
    except ConnectionError:
        pass
    peer.close()
    return True


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "unknown PDU": struct.pack(">BBL", 0x77, 0, 4) + b"abcd",
    "huge PDU": struct.pack(">BBL", 0x01, 0, 0xFFFFFFFF),
    "huge data PDU first": struct.pack(">BBL", 0x04, 0, 0x7FFFFFFF) + bytes(1000),
    "empty associate": struct.pack(">BBL", 0x01, 0, 0),
    "short associate": struct.pack(">BBL", 0x01, 0, 70) + bytes(70),
    "release before associate": struct.pack(">BBLL", 0x05, 0, 4, 0),
    "abort before associate": struct.pack(">BBLL", 0x07, 0, 4, 0),
    "accept instead of request": struct.pack(">BBL", 0x02, 0, 68) + bytes(68),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_cut_off(door: Door, device: Path, knock: Callable[[], socket.socket], name: str) -> None:
    peer = knock()
    peer.sendall(GARBAGE[name])
    peer_closed = threading.Thread(target=closed, args=(peer,))
    peer_closed.start()

    assert served(door, device)
    if name == "short associate":  # a well-formed length, so it is answered by an abort or a rejection
        peer_closed.join(20)
    peer_closed.join(20)
    assert not peer_closed.is_alive()


def established(door: Door) -> socket.socket:
    """An association of the legacy device, spoken by hand."""
    return Spoken(door, ULTRASOUND).socket


def test_an_oversized_pdu_within_an_association_is_cut_off(door: Door, device: Path) -> None:
    peer = established(door)
    peer.sendall(struct.pack(">BBL", 0x04, 0, association.MAX_PDU + 1000) + bytes(100))

    assert closed(peer)
    assert served(door, device)
    assert any("larger than agreed" in reason for reason in door.reasons())


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">LBB", 2, 1, 0x03),  # a command that is empty
        struct.pack(">LBB", 100, 1, 0x03) + bytes(10),  # an item longer than its PDU
        struct.pack(">LBB", 0, 1, 0x03),
        struct.pack(">LBB", 42, 1, 0x03) + _NOISE,
        struct.pack(">LBB", 42, 99, 0x02) + _NOISE,  # data for a context nobody negotiated
        b"",
    ],
)
def test_malformed_data_within_an_association_harms_only_itself(door: Door, device: Path, body: bytes) -> None:
    peer = established(door)
    peer.sendall(struct.pack(">BBL", 0x04, 0, len(body)) + body)

    assert served(door, device)
    peer.close()
    until(lambda: door.dicom.associations == 0)


def test_an_object_beyond_the_limit_is_cut_off_without_being_kept_in_memory(door: Door, device: Path) -> None:
    image = frame(700, 700)  # 1.5 MB, the limit is 1
    association = ask(door, device)

    status = association.send_c_store(image)

    assert status.get("Status") != 0x0000
    assert any("larger than 1 MB" in reason for reason in door.reasons())
    assert served(door, device)


def test_a_connection_lost_in_the_middle_of_an_image_leaves_nothing(door: Door, device: Path) -> None:
    before, items = door.vault_files(), sum(door.journal.counts().values())
    peer = established(door)
    fragment = struct.pack(">LBB", 50_002, 1, 0x00) + bytes(50_000)
    peer.sendall(struct.pack(">BBL", 0x04, 0, len(fragment)) + fragment)
    peer.close()
    until(lambda: door.dicom.associations == 0)

    assert (door.vault_files(), sum(door.journal.counts().values())) == (before, items)
    assert served(door, device)


def test_many_silent_connections_hold_up_nobody(door: Door, device: Path, monkeypatch) -> None:
    monkeypatch.setattr(transport, "_YOUNG", 40)
    silent = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(120)]
    silent += [connect(door, None, door.dicom.ports["plain"]) for _ in range(60)]
    half = connect(door, None, door.dicom.ports["plain"])
    half.sendall(associate_request()[:20])

    assert served(door, device)

    for peer in (*silent, half):
        peer.close()


def test_a_peer_that_drips_is_cut_off(door: Door, device: Path, monkeypatch) -> None:
    # For the one that drips alone: a good device may be held up for longer on a busy machine.
    patience, short, taken = door.dicom.pdu_timeout_s, [0.3], threading.Event()

    def pdu_timeout_s(_: DicomDoor) -> float:
        if not short:
            return patience
        taken.set()
        return short.pop()

    monkeypatch.setattr(DicomDoor, "pdu_timeout_s", property(pdu_timeout_s), raising=False)
    peer = connect(door, None, door.dicom.ports["plain"])
    request, stop = associate_request(), threading.Event()

    def drip() -> None:
        try:
            for byte in request * 100:
                peer.sendall(bytes([byte]))
                if stop.wait(0.05):
                    return
        except OSError:
            return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert taken.wait(20)
        assert served(door, device)
        dripping.join(20)
        assert not dripping.is_alive()
    finally:
        stop.set()
        peer.close()


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x01\x00", b"\x04\x00\x00\x00"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_before_an_association_are_survived(door: Door, data: bytes, head: bytes) -> None:
    peer = connect(door, None, door.dicom.ports["plain"])
    peer.sendall(head + data)
    peer.close()


def test_after_all_of_this_the_door_serves_and_holds_nothing(door: Door, device: Path) -> None:
    assert served(door, device)
    until(lambda: door.dicom.associations == 0)
    until(lambda: not any(thread.name == "dicom-association" for thread in threading.enumerate()), 30)
