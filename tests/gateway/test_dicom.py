"""The DICOM door over real sockets: who gets in, what is stored, and what a device is told."""

from __future__ import annotations

import io
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
)
from pynetdicom.dsutils import encode
from tests.gateway.door import AE_TITLE, Door, ask, frame, open_door, tls_of, until
from tests.support.site import new_home

from edgeward.messages import ItemsQuery
from edgeward.privacy import intake
from edgeward.privacy.items import CONFLICT
from edgeward.privacy.registry import Registry

PLAIN = {"name": "old", "ae_title": "OLDUS", "address": "127.0.0.1", "transport": "plain"}
TLS12 = {"name": "older", "ae_title": "OLDERUS", "address": "127.0.0.1", "transport": "tls1.2"}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with open_door(tmp_path / "home") as door:
        yield door


@pytest.fixture
def device(door: Door) -> Path:
    return door.site.enrol("us1", "ultrasound", AE_TITLE)


def rejection(association: object) -> tuple[int, int, int]:
    assert association.is_rejected  # type: ignore[attr-defined]
    primitive = association.acceptor.primitive  # type: ignore[attr-defined]
    return primitive.result, primitive.result_source, primitive.diagnostic


def test_an_enrolled_device_stores_an_image_and_it_is_durable_before_success(door: Door, device: Path) -> None:
    image = frame()
    association = ask(door, device)

    status = association.send_c_store(image)

    assert status.Status == 0x0000
    (item, is_new) = door.admitted[0]
    assert is_new
    stored = dcmread(io.BytesIO(door.stored(item)))
    assert stored == image
    assert stored.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert stored.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert stored.file_meta.SourceApplicationEntityTitle == AE_TITLE
    row = door.journal.summaries(ItemsQuery(), 0)[0]
    assert (row.state, row.device, row.patient_name, row.modality) == ("admitted", "us1", "MUSTERFRAU^ERIKA", "US")
    assert row.study_description == "Breast left"
    assert 0 < item.received_ns < item.stored_ns
    assert item.deadline_ns - item.received_ns == 1_000_000_000
    assert door.dicom.last_seen_ns["us1"] > 0
    association.release()
    until(lambda: door.dicom.associations == 0)


def test_an_echo_is_answered(door: Door, device: Path) -> None:
    association = ask(door, device)
    assert association.send_c_echo().Status == 0x0000
    association.release()


def test_the_same_image_twice_is_one_item_and_success_both_times(door: Door, device: Path) -> None:
    image = frame()
    association = ask(door, device)

    assert association.send_c_store(image).Status == 0x0000
    assert association.send_c_store(image).Status == 0x0000
    association.release()

    assert [is_new for _, is_new in door.admitted] == [True, False]
    assert door.admitted[0][0].item_id == door.admitted[1][0].item_id
    assert door.journal.counts()["admitted"] == 1
    assert door.vault_files() == 1


def test_the_same_uid_with_other_content_is_kept_and_told(door: Door, device: Path) -> None:
    image = frame(seed=1)
    other = frame(seed=2, uid=image.SOPInstanceUID)
    association = ask(door, device)

    assert association.send_c_store(image).Status == 0x0000
    assert association.send_c_store(other).Status == 0x0000
    association.release()

    assert door.journal.counts() == {"admitted": 1, "dispatched": 0, "analysed": 0, "closed": 0, "failed": 1}
    assert door.vault_files() == 2
    assert door.reasons() == [CONFLICT]


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit]
)
def test_every_transfer_syntax_is_taken_as_it_comes(door: Door, device: Path, syntax: str) -> None:
    from pydicom.encaps import encapsulate

    image = frame()
    image.file_meta.TransferSyntaxUID = syntax
    if syntax == JPEGBaseline8Bit:
        image.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        image["PixelData"].is_undefined_length = True
    association = ask(door, device, contexts=((UltrasoundImageStorage, syntax),))

    assert association.send_c_store(image).Status == 0x0000
    association.release()

    stored = dcmread(io.BytesIO(door.stored(door.admitted[0][0])))
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert stored.PatientName == image.PatientName


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image Storage, retired
        "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
        "1.2.840.113543.6.6.1.3.10002",  # private: Philips 3D volume
    ],
)
def test_any_storage_class_is_taken_retired_and_private_too(door: Door, device: Path, sop_class: str) -> None:
    image = frame()
    image.SOPClassUID = sop_class
    association = ask(door, device, contexts=((sop_class, ExplicitVRLittleEndian),))
    image.file_meta.MediaStorageSOPClassUID = sop_class

    assert association.send_c_store(image).Status == 0x0000
    association.release()
    assert door.journal.counts()["admitted"] == 1


def test_a_syntax_we_can_decode_is_preferred_over_one_we_cannot(door: Door, device: Path) -> None:
    mpeg = "1.2.840.10008.1.2.4.100"
    association = ask(door, device, contexts=((UltrasoundImageStorage, [mpeg, ExplicitVRLittleEndian]),))

    accepted = {cx.abstract_syntax: cx.transfer_syntax for cx in association.accepted_contexts}
    association.release()

    assert accepted[UltrasoundImageStorage] == [ExplicitVRLittleEndian]


# ---------------------------------------- who gets in


def test_another_ae_title_than_the_certificates_is_rejected(door: Door, device: Path) -> None:
    assert rejection(ask(door, device, calling="SOMEONE")) == (1, 1, 3)
    (entry,) = door.quarantine.entries()
    assert (entry.where, entry.peer) == ("dicom", "us1")
    assert "SOMEONE" in entry.reason
    assert AE_TITLE in entry.what_to_do


def test_a_device_that_calls_somebody_else_is_rejected(door: Door, device: Path) -> None:
    assert rejection(ask(door, device, called="OTHERPACS")) == (1, 1, 7)
    assert "OTHERPACS" in door.reasons()[0]


def test_a_device_enrolled_without_ae_title_is_rejected_and_told_what_to_do(door: Door) -> None:
    folder = door.site.enrol("wearable1")
    assert rejection(ask(door, folder)) == (1, 1, 3)
    assert "--ae-title" in door.quarantine.entries()[0].what_to_do


def test_a_roles_certificate_is_no_device(door: Door) -> None:
    roles = door.site.home.identity / "roles"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(door.site.home.identity / "ca.pem")
    context.load_cert_chain(roles / "console.pem", roles / "console.key")

    assert rejection(ask(door, None, tls=context)) == (1, 1, 3)


def test_an_older_certificate_of_a_device_is_rejected(door: Door, device: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    device.rename(old)
    door.registry.revoke("us1")
    door.site.enrol("us1", "ultrasound", AE_TITLE)

    assert rejection(ask(door, old)) == (1, 1, 3)
    assert "another certificate" in door.reasons()[0]
    association = ask(door, door.site.home.root / "devices" / "us1")
    assert association.is_established
    association.release()


def test_a_strangers_certificate_gets_no_connection(door: Door, tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "other")
    from tests.support.site import TestSite

    stranger = tls_of(TestSite(home, settings).enrol("us1", "ultrasound", AE_TITLE))
    stranger.load_verify_locations(door.site.home.identity / "ca.pem")

    association = ask(door, None, tls=stranger)

    assert not association.is_established
    until(lambda: any("not from this site" in reason for reason in door.reasons()))


def test_no_certificate_plain_tcp_or_old_tls_gets_no_connection(door: Door, device: Path) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(door.site.home.identity / "ca.pem")
    old = tls_of(device)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    assert not ask(door, None, tls=bare).is_established
    assert not ask(door, None).is_established
    assert not ask(door, None, tls=old).is_established

    until(lambda: len(door.reasons()) >= 3)
    text = " / ".join(door.reasons())
    for part in ("has no certificate", "speaks no TLS", "offers no TLS 1.3"):
        assert part in text


def test_a_revoked_device_is_rejected_and_its_live_association_ends(door: Door, device: Path) -> None:
    association = ask(door, device)
    assert association.send_c_echo().Status == 0x0000
    Registry(door.site.home).revoke("us1")  # another process: the command line

    door.dicom.enforce()

    until(lambda: not association.is_established)
    assert association.is_aborted
    assert door.dicom.associations == 0
    assert rejection(ask(door, device)) == (1, 1, 3)
    assert any("revoked" in reason for reason in door.reasons())


def test_a_revoked_device_stores_nothing_even_before_its_association_ends(door: Door, device: Path) -> None:
    association = ask(door, device)
    Registry(door.site.home).revoke("us1")

    assert association.send_c_store(frame()).Status == 0x0124

    association.abort()
    assert door.admitted == []
    assert door.vault_files() == 0


# ---------------------------------------- legacy doors


def test_no_legacy_door_is_open_by_default(door: Door) -> None:
    assert set(door.dicom.ports) == {"tls"}
    assert door.dicom.warnings() == []


def test_a_listed_legacy_device_sends_without_tls_and_is_shown_as_a_warning(tmp_path: Path) -> None:
    with open_door(tmp_path / "home", dicom={"legacy": [PLAIN]}) as door:
        association = ask(door, None, calling="OLDUS", port=door.dicom.ports["plain"])

        assert association.send_c_store(frame()).Status == 0x0000
        association.release()

        assert door.admitted[0][0].device == "old"
        assert door.dicom.warnings() == ["legacy device old may send without encryption from 127.0.0.1"]
        assert rejection(ask(door, None, calling="OTHER", port=door.dicom.ports["plain"])) == (1, 1, 3)
        assert set(door.dicom.ports) == {"tls", "plain"}


def test_an_unlisted_address_cannot_even_knock_at_the_legacy_door(tmp_path: Path) -> None:
    elsewhere = {**PLAIN, "address": "192.0.2.7"}
    with open_door(tmp_path / "home", dicom={"legacy": [elsewhere]}) as door:
        assert not ask(door, None, calling="OLDUS", port=door.dicom.ports["plain"]).is_established
        until(lambda: any("listed devices only" in reason for reason in door.reasons()))


def test_a_listed_device_may_use_tls_1_2_at_its_own_door_only(tmp_path: Path) -> None:
    with open_door(tmp_path / "home", dicom={"legacy": [TLS12]}) as door:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(door.site.home.identity / "ca.pem")
        context.maximum_version = ssl.TLSVersion.TLSv1_2

        association = ask(door, None, tls=context, calling="OLDERUS", port=door.dicom.ports["tls1.2"])
        assert association.send_c_store(frame()).Status == 0x0000
        association.release()

        assert not ask(door, None, tls=context, calling="OLDERUS").is_established


# ---------------------------------------- what a device is told when it cannot be stored


def test_a_full_disk_is_told_and_nothing_is_half_there(tmp_path: Path) -> None:
    with open_door(tmp_path / "home", min_free_mb=10_000_000) as door:
        device = door.site.enrol("us1", "ultrasound", AE_TITLE)
        association = ask(door, device)

        assert association.send_c_store(frame()).Status == 0xA700

        assert association.send_c_echo().Status == 0x0000  # the association lives on
        association.release()
        assert door.vault_files() == 0
        assert sum(door.journal.counts().values()) == 0
        assert "disk is full" in door.reasons()[0]


def test_a_full_journal_is_told_and_the_object_is_taken_back(
    door: Door, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_ROWS", 8)
    writer = door.journal._db._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    association = ask(door, device)

    statuses = {association.send_c_store(frame(seed=n)).Status for n in range(40)}

    association.release()
    assert 0xA700 in statuses
    writer.execute("PRAGMA max_page_count = 1000000")
    assert door.vault_files() == door.journal.counts()["admitted"] == len(door.admitted)


def raw_store(door: Door, device: Path, data: bytes, *, uid: str, syntax: str = ExplicitVRLittleEndian) -> int:
    """Send `data` as it is, whatever it is, as a C-STORE."""
    from pynetdicom.dimse_primitives import C_STORE

    association = ask(door, device, contexts=((UltrasoundImageStorage, syntax),))
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UltrasoundImageStorage, uid
    request.DataSet = io.BytesIO(data)
    context = next(cx for cx in association.accepted_contexts if cx.abstract_syntax == UltrasoundImageStorage)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    return int(response.Status)


def test_a_data_set_that_is_not_what_was_negotiated_is_refused_with_a_reason(door: Door, device: Path) -> None:
    image = frame()
    uid = image.SOPInstanceUID
    explicit, implicit = encode(image, False, True), encode(image, True, True)
    big = encode(image, False, False)

    assert raw_store(door, device, implicit, uid=uid) == 0xC000
    assert raw_store(door, device, explicit, uid=uid, syntax=ImplicitVRLittleEndian) == 0xC000
    assert raw_store(door, device, big, uid=uid) == 0xC000
    assert raw_store(door, device, explicit, uid=uid, syntax=DeflatedExplicitVRLittleEndian) == 0xC000
    assert raw_store(door, device, bytes(128) + b"DICM" + explicit, uid=uid) == 0xC000
    assert raw_store(door, device, explicit[:-1000], uid=uid) == 0xC000
    assert raw_store(door, device, explicit[:40], uid=uid) in (0xC000, 0xA900)
    assert raw_store(door, device, b"\xff" * 5000, uid=uid) == 0xC000
    assert raw_store(door, device, explicit, uid="1.2.3") == 0xA900

    assert door.vault_files() == 0
    assert sum(door.journal.counts().values()) == 0
    assert len(door.reasons()) >= 6
    assert raw_store(door, device, explicit, uid=uid) == 0x0000


def test_refusals_name_no_patient(door: Door, device: Path) -> None:
    image = frame(name="SECRET^PERSON")
    raw_store(door, device, encode(image, False, True)[:-500], uid=image.SOPInstanceUID)

    for entry in door.quarantine.entries():
        assert "SECRET" not in repr(entry)
        assert "PID-4711" not in repr(entry)


def test_more_associations_than_allowed_are_rejected_as_a_passing_state(tmp_path: Path) -> None:
    with open_door(tmp_path / "home", dicom={"max_associations": 4}) as door:
        device = door.site.enrol("us1", "ultrasound", AE_TITLE)
        held = [ask(door, device) for _ in range(4)]
        assert all(association.is_established for association in held)

        assert rejection(ask(door, device)) == (2, 3, 2)

        held[0].release()
        until(lambda: door.dicom.associations == 3)
        again = ask(door, device)
        assert again.is_established
        for association in (*held[1:], again):
            association.release()


def test_an_idle_association_is_ended_after_the_set_time(tmp_path: Path) -> None:
    with open_door(tmp_path / "home", dicom={"idle_timeout_s": 0.5}) as door:
        association = ask(door, door.site.enrol("us1", "ultrasound", AE_TITLE))

        until(lambda: not association.is_established)

        assert association.is_aborted
        until(lambda: door.dicom.associations == 0)
