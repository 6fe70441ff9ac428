"""A wrong enrolment folder is told in words that name the file and the remedy."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import ssl

import pytest
from tests.support.site import TestSite, new_home

from edgeward.device.enrolment import EnrolmentError, load, load_all


def edit(folder, **changes):
    path = folder / "device.json"
    card = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in card.items() if value is not ...}))


def test_a_folder_as_the_site_writes_it_is_read(site):
    enrolment = load(site.enrol("us-1", "ultrasound", ae_title="US1"))

    assert (enrolment.device_id, enrolment.kind, enrolment.ae_title) == ("us-1", "ultrasound", "US1")
    assert enrolment.require_mqtt().topic == "raw/wave/us-1"
    assert enrolment.require_dicom().port == site.settings.dicom.port
    context = enrolment.context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("name", ["device.json", "device.pem", "device.key", "ca.pem"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "folder"])
def test_a_damaged_file_is_named(site, name, damage):
    path = site.enrol("bed-1") / name
    path.unlink()
    if damage == "empty":
        path.touch()
    elif damage == "garbage":
        path.write_bytes(bytes(range(256)) * 8)
    elif damage == "folder":
        path.mkdir()

    with pytest.raises(EnrolmentError, match=name) as caught:
        load(path.parent)
    assert "enrol" in str(caught.value)


def test_a_key_of_another_device_is_noticed(site):
    folder, other = site.enrol("bed-1"), site.enrol("bed-2")
    shutil.copy(other / "device.key", folder / "device.key")

    with pytest.raises(EnrolmentError, match=r"device\.key is not the private key of device\.pem"):
        load(folder)


def test_a_certificate_of_another_device_is_noticed(site):
    folder, other = site.enrol("bed-1"), site.enrol("bed-2")
    for name in ("device.key", "device.pem"):
        shutil.copy(other / name, folder / name)

    with pytest.raises(EnrolmentError, match=r"bed-2.*but device\.json says bed-1"):
        load(folder)


def test_a_certificate_of_another_site_is_noticed(site, tmp_path):
    other = TestSite(*new_home(tmp_path / "elsewhere"))
    folder, foreign = site.enrol("bed-1"), other.enrol("bed-1")
    shutil.copy(foreign / "ca.pem", folder / "ca.pem")

    with pytest.raises(EnrolmentError, match=r"not issued by the authority in ca\.pem"):
        load(folder)


def test_an_expired_certificate_is_told_with_its_date(site):
    folder = site.enrol("bed-1")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=900)

    with pytest.raises(EnrolmentError, match=rf"device\.pem expired on {(later - dt.timedelta(days=75)):%Y-%m}"):
        load(folder, later)


def test_a_device_with_a_wrong_clock_is_asked_about_it(site):
    with pytest.raises(EnrolmentError, match="clock"):
        load(site.enrol("bed-1"), dt.datetime(1970, 1, 2, tzinfo=dt.UTC))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device_id": ...}, "lacks 'device_id'"),
        ({"device_id": "a b"}, "not a valid name"),
        ({"device_id": "../../etc"}, "not a valid name"),
        ({"device_id": 7}, "damaged"),
        ({"mqtt": {"host": "h", "port": 99999, "topic": "t"}}, "99999"),
        ({"mqtt": {"host": "h", "port": "x", "topic": "t"}}, "damaged"),
        ({"dicom": {"host": "h"}}, "lacks 'port'"),
    ],
)
def test_a_wrong_description_is_told(site, changes, reason):
    folder = site.enrol("bed-1")
    edit(folder, **changes)

    with pytest.raises(EnrolmentError, match=reason):
        load(folder)


def test_a_device_that_lacks_an_address_or_ae_title_is_told_when_it_needs_it(site):
    folder = site.enrol("bed-1")
    edit(folder, mqtt={})

    enrolment = load(folder)

    with pytest.raises(EnrolmentError, match="mqtt"):
        enrolment.require_mqtt()
    with pytest.raises(EnrolmentError, match="--ae-title"):
        enrolment.require_dicom()


def test_a_directory_of_folders_gives_the_devices_of_a_kind_in_order(site):
    for name, kind in (("bed-2", "wearable"), ("bed-1", "wearable"), ("us-1", "ultrasound")):
        folder = site.enrol(name, kind)
    (folder.parent / "notes").mkdir()

    found = load_all(folder.parent, ("wearable",))

    assert [enrolment.device_id for enrolment in found] == ["bed-1", "bed-2"]
    assert [e.device_id for e in load_all(folder.parent / "us-1", ("ultrasound",))] == ["us-1"]
    with pytest.raises(EnrolmentError, match="no enrolled device of kind ct"):
        load_all(folder.parent, ("ct",))
    with pytest.raises(EnrolmentError, match="no folder"):
        load_all(folder.parent / "nowhere", ("ct",))
