"""A modality is told "committed" only for what is intact here, and it is told, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role
from tests.gateway.door import frame, until
from tests.gateway.workflow import open_workflow
from tests.support.site import free_port

from edgeward.gateway import commitment
from edgeward.gateway.commitment import STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
from edgeward.gateway.dimse import DimseRequest, Operation
from edgeward.privacy.database import DatabaseFull


def asked(*pairs, transaction=""):
    dataset = Dataset()
    dataset.TransactionUID = transaction or generate_uid()
    dataset.ReferencedSOPSequence = []
    for sop_class, instance in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        dataset.ReferencedSOPSequence.append(item)
    return dataset


class Results:
    """What a modality was told."""

    def __init__(self, status=0x0000):
        self.status, self.told, self.there = status, [], threading.Event()

    def handle(self, event):
        self.told.append((event.event_type, event.event_information))
        self.there.set()
        return self.status, None

    @property
    def committed(self):
        return [[str(i.ReferencedSOPInstanceUID) for i in d.get("ReferencedSOPSequence", [])] for _, d in self.told]

    @property
    def failed(self):
        return [
            {str(i.ReferencedSOPInstanceUID): i.FailureReason for i in d.get("FailedSOPSequence", [])}
            for _, d in self.told
        ]


@contextmanager
def listening(results, port, ae_title="US1", tls=None):
    """A modality that listens for results on an address of its own."""
    ae = AE(ae_title=ae_title)
    ae.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, ssl_context=tls, evt_handlers=[(evt.EVT_N_EVENT_REPORT, results.handle)]
    )
    try:
        yield
    finally:
        server.shutdown()


@pytest.fixture
def door(tmp_path):
    with open_workflow(tmp_path, dicom={"port": 0}) as door:
        door.folder = door.site.enrol("us-1", "ultrasound", ae_title="US1")
        yield door


def sent(door, count=2):
    """Store so many images and return their UIDs."""
    association = door.associate(door.folder, (UltrasoundImageStorage, ExplicitVRLittleEndian))
    frames = [frame(seed=number) for number in range(count)]
    for one in frames:
        assert association.send_c_store(one).Status == 0
    association.release()
    return [str(one.SOPInstanceUID) for one in frames]


def request(door, dataset, results, wait=True):
    association = door.associate(door.folder, STORAGE_COMMITMENT, handlers=[results.handle])
    status, _ = association.send_n_action(dataset, 1, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE)
    if wait and status.Status == 0:
        assert results.there.wait(30)
        until(lambda: not door.commitment._on_their_association)  # or the release overtakes the answer
    association.release()
    return status.Status


def states(door):
    return [row[0] for row in door.book.db.all("SELECT state FROM commitments ORDER BY created_ns")]


def test_what_is_here_is_committed_on_the_same_association(door):
    uids, results = sent(door), Results()

    assert request(door, asked(*((UltrasoundImageStorage, uid) for uid in uids), transaction="1.2.3"), results) == 0

    [(kind, told)] = results.told
    assert kind == 1
    assert told.TransactionUID == "1.2.3"
    assert results.committed == [uids]
    assert results.failed == [{}]
    until(lambda: states(door) == ["answered"])


def test_what_is_not_here_or_is_something_else_or_is_damaged_is_not_committed(door):
    good, wrong, damaged, erased = sent(door, 4)
    path = {uid: door.journal.catalogue.copies(uid)[0].object_id for uid in (damaged, erased)}
    file = door.vault.path_of(path[damaged])
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    door.vault.path_of(path[erased]).unlink()
    results = Results()

    pairs = [(UltrasoundImageStorage, uid) for uid in (good, damaged, erased, "1.2.3.4")] + [(CTImageStorage, wrong)]
    assert request(door, asked(*pairs), results) == 0

    assert results.told[0][0] == 2
    assert results.committed == [[good]]
    assert results.failed == [{damaged: 0x0110, erased: 0x0110, "1.2.3.4": 0x0112, wrong: 0x0119}]
    assert any("not all here" in reason for reason in door.reasons())


def test_of_two_objects_with_one_uid_none_is_committed_until_a_person_has_decided(door):
    uid, (other,), results = generate_uid(), sent(door, 1), Results()
    association = door.associate(door.folder, (UltrasoundImageStorage, ExplicitVRLittleEndian))
    for seed in (1, 2):
        assert association.send_c_store(frame(uid=uid, seed=seed)).Status == 0
    association.release()
    copies = door.journal.catalogue.copies(uid)
    assert len(copies) == 2

    pairs = [(UltrasoundImageStorage, one) for one in (uid, other)]
    assert request(door, asked(*pairs), results) == 0

    assert (results.committed, results.failed) == ([[other]], [{uid: 0x0110}])
    (entry,) = [entry for entry in door.quarantine.entries() if "storage commitment" in entry.reason]
    assert "different content" in entry.reason
    assert (entry.item_id, entry.other_item_id) == (copies[1].item_id, copies[0].item_id)


def test_a_transaction_is_answered_once(door):
    uids = sent(door, 1)
    dataset = asked((UltrasoundImageStorage, uids[0]), transaction="1.2.3")

    assert request(door, dataset, Results()) == 0x0000
    assert request(door, dataset, Results()) == 0x0131


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"dataset": None}, 0x0115),
        ({"dataset": Dataset()}, 0x0115),
        ({"dataset": asked()}, 0x0115),
        ({"dataset": asked(("1.2", "not a uid"))}, 0x0115),
        ({"dataset": asked(("1.2", "1.3"), transaction="x")}, 0x0115),
        ({"action_type": 2}, 0x0123),
        ({"sop_instance_uid": "1.2.3"}, 0x0112),
        ({"operation": Operation.N_GET}, 0x0211),
    ],
)
def test_a_wrong_request_is_told_so(door, change, status):
    fields = {
        "operation": Operation.N_ACTION, "sop_class_uid": STORAGE_COMMITMENT, "sop_instance_uid": WELL_KNOWN_INSTANCE,
        "action_type": 1, "dataset": asked(("1.2", "1.3")), "device_id": "us-1", "calling_ae_title": "US1", "address": "",
    }  # fmt: skip

    [reply] = door.commitment.serve(DimseRequest(**(fields | change)))

    assert reply.status == status
    assert reply.event is None
    assert states(door) == []


def test_what_could_not_be_kept_can_be_asked_for_again(door, monkeypatch):
    def full(*_):
        raise DatabaseFull("full")

    asking = DimseRequest(
        operation=Operation.N_ACTION, sop_class_uid=STORAGE_COMMITMENT, sop_instance_uid=WELL_KNOWN_INSTANCE,
        action_type=1, dataset=asked(("1.2", "1.3")), device_id="us-1", calling_ae_title="US1", address="",
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(door.book.db, "write", full)
        [reply] = door.commitment.serve(asking)
    assert (reply.status, reply.event) == (0x0213, None)

    [reply] = door.commitment.serve(asking)
    assert reply.status == 0x0000


# ---------------------------------------- telling


@contextmanager
def with_modality(path, **more):
    port = free_port()
    modality = [{"ae_title": "US1", "host": "127.0.0.1", "port": port, **more}]
    with open_workflow(path, dicom={"port": 0, "modality": modality}) as door:
        door.folder = door.site.enrol("us-1", "ultrasound", ae_title="US1")
        yield door, port


def test_a_modality_that_hung_up_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(commitment, "_BACKOFF_S", (0.0, 0.0))
    with with_modality(tmp_path) as (door, port):
        uids, results = sent(door), Results()

        def hangs_up(event):
            event.assoc.abort()
            return 0x0000, None

        association = door.associate(door.folder, STORAGE_COMMITMENT, handlers=[hangs_up])
        dataset = asked(*((UltrasoundImageStorage, uid) for uid in uids))
        status, _ = association.send_n_action(dataset, 1, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE)
        assert status.Status == 0
        until(lambda: not door.commitment._on_their_association)
        assert door.commitment.tell_once() == 0, "it does not listen yet"
        assert states(door) == ["pending"]

        with listening(results, port):
            assert door.commitment.tell_once() == 1

        assert results.committed == [uids]
        assert states(door) == ["answered"]
        assert door.commitment.tell_once() == 0


def test_a_modality_that_answers_with_a_failure_is_told_again(tmp_path, monkeypatch):
    monkeypatch.setattr(commitment, "_BACKOFF_S", (0.0, 0.0))
    with with_modality(tmp_path) as (door, port):
        uids, busy, results = sent(door, 1), Results(0x0110), Results()

        assert request(door, asked((UltrasoundImageStorage, uids[0])), busy) == 0
        until(lambda: not door.commitment._on_their_association)

        with listening(results, port):
            until(lambda: door.commitment.tell_once() == 1)
        assert results.committed == [uids]


def test_over_tls_the_result_goes_only_to_the_device_that_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(commitment, "_BACKOFF_S", (0.0, 0.0))
    with with_modality(tmp_path, tls=True) as (door, port):
        uids, results = sent(door, 1), Results(0x0110)
        request(door, asked((UltrasoundImageStorage, uids[0])), results)
        until(lambda: not door.commitment._on_their_association)
        results.told.clear()

        def context(name):
            folder = door.folder if name == "us-1" else door.site.enrol(name, "ultrasound", ae_title="OTHER")
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(folder / "device.pem", folder / "device.key")
            tls.load_verify_locations(folder / "ca.pem")
            tls.verify_mode = ssl.CERT_REQUIRED
            return tls

        with listening(results, port, tls=context("impostor")):
            assert door.commitment.tell_once() == 0
        assert results.told == []
        assert any("somebody else" in reason for reason in door.reasons())
        results.status = 0
        with listening(results, port, tls=context("us-1")):
            assert door.commitment.tell_once() == 1


async def test_a_modality_that_does_not_answer_holds_up_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(commitment, "_BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr(commitment, "_LOOK_S", 0.05)
    port, results = free_port(), Results()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        modality = [
            {"ae_title": "MUTE", "host": "127.0.0.1", "port": mute.getsockname()[1]},
            {"ae_title": "US1", "host": "127.0.0.1", "port": port},
        ]
        with open_workflow(tmp_path, dicom={"port": 0, "modality": modality}) as door:
            for device, ae_title in (("mute", "MUTE"), ("us-1", "US1")):
                request_of = DimseRequest(
                    operation=Operation.N_ACTION, sop_class_uid=STORAGE_COMMITMENT, sop_instance_uid=WELL_KNOWN_INSTANCE,
                    action_type=1, dataset=asked(("1.2", "1.3")), device_id=device, calling_ae_title=ae_title, address="",
                )  # fmt: skip
                [reply] = door.commitment.serve(request_of)
                reply.event.answered(None)
            telling = asyncio.create_task(door.commitment.keep_telling())
            with listening(results, port):
                async with asyncio.timeout(8):  # well below what the mute one is given
                    while not results.told:
                        await asyncio.sleep(0.02)
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


def test_without_an_address_people_are_told_what_to_do_and_after_a_day_it_ends(door, monkeypatch):
    monkeypatch.setattr(commitment, "_BACKOFF_S", (0.0, 0.0))
    uids = sent(door, 1)
    assert request(door, asked((UltrasoundImageStorage, uids[0])), Results(0x0110)) == 0
    until(lambda: not door.commitment._on_their_association)

    door.commitment.tell_once()
    assert any("where it listens is not known" in reason for reason in door.reasons())
    assert states(door) == ["pending"]

    monkeypatch.setattr(door.commitment, "_clock", lambda: 10**20)
    door.commitment.tell_once()
    assert states(door) == ["given up"]
    assert any("given up" in reason for reason in door.reasons())


ASKER = """
import sys
from pathlib import Path
from pydicom.uid import UltrasoundImageStorage
from tests.gateway.test_commitment import asked, sent
from tests.gateway.workflow import open_workflow
from pynetdicom import evt
import time
with open_workflow(Path(sys.argv[1]), dicom={"port": 0, "modality": [{"ae_title": "US1", "host": "127.0.0.1", "port": 1}]}) as door:
    door.folder = door.site.enrol("us-1", "ultrasound", ae_title="US1")
    uids = sent(door, 3)
    def mute(event):
        sys.stdout.write("told" + chr(10))  # one write: print makes two, and the other thread may come in between
        sys.stdout.flush()
        time.sleep(60)
    association = door.associate(door.folder, "1.2.840.10008.1.20.1", handlers=[mute])
    dataset = asked(*((UltrasoundImageStorage, uid) for uid in uids), transaction="1.2.3")
    status, _ = association.send_n_action(dataset, 1, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1")
    sys.stdout.write(" ".join(["accepted", *map(str, uids)]) + chr(10))
    sys.stdout.flush()
    time.sleep(60)
"""


def test_a_result_that_was_not_answered_is_told_after_a_kill(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ASKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    uids = []
    while not uids:
        line = process.stdout.readline()
        assert line, "it ended"
        if line.startswith("accepted"):
            uids = line.split()[1:]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    from edgeward.config import Dicom
    from edgeward.gateway.commitment import Commitment
    from edgeward.gateway.orders import OrderBook
    from edgeward.gateway.quarantine import Quarantine
    from edgeward.home import Home
    from edgeward.privacy.journal import Journal
    from edgeward.privacy.keys import SiteKey
    from edgeward.privacy.registry import Registry
    from edgeward.privacy.vault import FileVault

    home = Home(tmp_path)
    key = SiteKey.load(home)
    journal, book, port, results = (
        Journal(home.db("journal"), key),
        OrderBook(home.db("orders"), key),
        free_port(),
        Results(),
    )
    settings = Dicom(modality=[{"ae_title": "US1", "host": "127.0.0.1", "port": port}])
    again = Commitment(
        book, journal, FileVault(home.vault, key), settings=settings, registry=Registry(home),
        quarantine=Quarantine(journal), tls=lambda: None, site="hospital",
    )  # fmt: skip
    with listening(results, port):
        assert again.tell_once() == 1
    assert results.committed == [uids]
    book.close()
    journal.close()


def test_a_role_that_is_offered_is_taken(door):
    uids, results = sent(door, 1), Results()
    association = door.associate(
        door.folder, STORAGE_COMMITMENT, handlers=[results.handle],
        roles=[build_role(STORAGE_COMMITMENT, scu_role=True, scp_role=True)],
    )  # fmt: skip
    status, _ = association.send_n_action(
        asked((UltrasoundImageStorage, uids[0])), 1, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
    )
    assert status.Status == 0
    assert results.there.wait(30)
    association.release()
