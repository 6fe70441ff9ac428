"""The small PACS files what it gets, durably and once, and counts what came again."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite, examples
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage, UltrasoundImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from edgeward.device.pacs import CANNOT_UNDERSTAND, MISMATCH, OUT_OF_RESOURCES, SUCCESS, Archive, serve
from edgeward.device.ultrasound_image import Session, ultrasound_image
from edgeward.scu import steady


def image(number=0, value=7):
    who = Session(1, "us-1", dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 1.0).exam(number)
    return ultrasound_image(np.full((40, 60), value, dtype=np.uint8), who, "us-1")


def as_file(dataset):
    file = BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@contextmanager
def connected(archive, *contexts):
    server = serve(archive, "127.0.0.1", 0, "PACS")
    entity = AE(ae_title="TEST")
    for context in contexts:
        entity.add_requested_context(context)
    association = steady(entity.associate("127.0.0.1", server.server_address[1], ae_title="PACS"))
    assert association.is_established
    try:
        yield association
    finally:
        association.release()
        server.shutdown()


def test_an_object_sent_over_the_wire_lies_under_study_series_instance(tmp_path):
    archive, sent = Archive(tmp_path / "pacs"), image()

    with connected(archive, UltrasoundImageStorage, Verification) as association:
        assert association.send_c_echo().Status == SUCCESS
        assert association.send_c_store(sent).Status == SUCCESS

    path = tmp_path / "pacs" / sent.StudyInstanceUID / sent.SeriesInstanceUID / f"{sent.SOPInstanceUID}.dcm"
    got = dcmread(path)
    assert got.PixelData == sent.PixelData
    assert got.PatientID == sent.PatientID
    assert (archive.counts.unique, archive.counts.echoes) == (1, 1)


def test_reports_and_captures_are_taken_too(tmp_path):
    with connected(Archive(tmp_path), ComprehensiveSRStorage, SecondaryCaptureImageStorage) as association:
        assert len(association.accepted_contexts) == 2


def test_an_instance_that_comes_again_is_counted_and_the_first_is_kept(tmp_path):
    archive = Archive(tmp_path / "pacs", tmp_path / "state.json")

    answers = [archive.store(as_file(d)) for d in (image(value=1), image(value=1), image(value=2), image(1))]

    assert answers == [SUCCESS] * 4
    counts = json.loads((tmp_path / "state.json").read_text())
    assert counts == {"unique": 2, "repeated": 2, "differing": 1, "refused": 0, "echoes": 0}
    kept = dcmread(next((tmp_path / "pacs").rglob(f"{image().SOPInstanceUID}.dcm")))
    assert set(kept.PixelData) == {1}


def test_what_was_filed_is_known_after_a_restart(tmp_path):
    Archive(tmp_path).store(as_file(image()))

    again = Archive(tmp_path)
    again.store(as_file(image()))

    assert (again.counts.unique, again.counts.repeated) == (1, 1)


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "1.2/3", "", "1" * 65, "1.2\\1.3"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_hostile_uid_never_becomes_a_path(tmp_path, keyword, uid):
    dataset = image()
    setattr(dataset, keyword, uid)
    if keyword == "SOPInstanceUID":
        dataset.file_meta.MediaStorageSOPInstanceUID = uid
    file = BytesIO()
    dcmwrite(file, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)

    status = Archive(tmp_path / "pacs").store(file.getvalue())

    assert status in (MISMATCH, CANNOT_UNDERSTAND)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("size", [0, 10, 131, 140, 400])
def test_a_truncated_object_is_refused_and_nothing_of_it_is_left(tmp_path, size):
    archive = Archive(tmp_path)

    assert archive.store(as_file(image())[:size]) == CANNOT_UNDERSTAND
    assert list(tmp_path.iterdir()) == []
    assert archive.counts.refused == 1


def test_an_object_that_is_not_what_the_request_says_is_refused(tmp_path):
    data = as_file(image())
    other = dcmread(BytesIO(data))
    other.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = BytesIO()
    dcmwrite(file, other, enforce_file_format=False)

    assert Archive(tmp_path).store(file.getvalue()) == MISMATCH


def test_when_it_cannot_write_it_says_so_and_takes_the_object_later(tmp_path):
    archive = Archive(tmp_path / "pacs")
    blocker = tmp_path / "pacs" / image().StudyInstanceUID
    blocker.touch()

    assert archive.store(as_file(image())) == OUT_OF_RESOURCES
    blocker.unlink()
    assert archive.store(as_file(image())) == SUCCESS
    assert archive.counts.unique == 1


def test_compressed_objects_are_filed_in_their_own_transfer_syntax(tmp_path):
    original = dcmread(examples.get_path("ybr_color"))
    archive = Archive(tmp_path)
    server = serve(archive, "127.0.0.1", 0, "PACS")
    entity = AE()
    entity.add_requested_context(original.SOPClassUID, original.file_meta.TransferSyntaxUID)
    association = steady(entity.associate("127.0.0.1", server.server_address[1]))

    status = association.send_c_store(original).Status
    association.release()
    server.shutdown()

    assert status == SUCCESS
    assert dcmread(next(tmp_path.rglob("*.dcm"))).PixelData == original.PixelData


def test_the_process_prints_its_port_and_ends_when_told(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeward.device.pacs", "--dir", str(tmp_path / "pacs"), "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        port = json.loads(process.stdout.readline())["port"]
        entity = AE()
        entity.add_requested_context(Verification)
        association = steady(entity.associate("127.0.0.1", port))
        assert association.send_c_echo().Status == SUCCESS
        process.terminate()  # with the association still open
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()


def test_a_port_that_is_taken_is_told(tmp_path):
    server = serve(Archive(tmp_path / "a"), "127.0.0.1", 0, "PACS")
    done = subprocess.run(
        [sys.executable, "-m", "edgeward.device.pacs", "--dir", str(tmp_path / "b"), "--port", str(server.server_address[1])],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    server.shutdown()

    assert done.returncode == 2
    assert "cannot start" in done.stderr
