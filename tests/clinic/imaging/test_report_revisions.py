"""A verdict makes a new report that replaces the one before and leaves the AI's opinion to be seen."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, timedelta, timezone

import highdicom as hd
import pydicom
import pytest
from pydicom.dataset import Dataset
from tests.support.imaging import CREATED_NS, breast_image, finding_for, not_analysed, verdict

from edgeward.clinic.imaging.header import encode_dataset
from edgeward.clinic.imaging.report import MAX_OTHER_FRAMES, build_report
from edgeward.clinic.imaging.report_text import as_text, walk
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding, FrameFinding, Verdict

IMAGE = breast_image()


def report_of(finding: Finding, *verdicts: Verdict, image: Dataset = IMAGE, zone=UTC) -> Dataset:
    report = build_report(finding, read_source(image, finding), zone, len(verdicts), list(verdicts))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, report, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def groups(report: Dataset) -> list[str]:
    """The text of each measurement group."""
    container = report.ContentSequence[-1]
    assert container.ConceptNameCodeSequence[0].CodeValue == "126010"
    return [as_text(group) for group in container.ContentSequence]


def reference(report: Dataset) -> tuple[str, str, str]:
    (study,) = report.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    return study.StudyInstanceUID, series.SeriesInstanceUID, document.ReferencedSOPInstanceUID


def test_flags_say_how_far_it_has_come():
    finding = finding_for(IMAGE)
    first, later = report_of(finding), report_of(finding, verdict("confirm"))

    flags = [(r.CompletionFlag, r.PreliminaryFlag, r.VerificationFlag) for r in (first, later)]

    assert flags == [("COMPLETE", "PRELIMINARY", "UNVERIFIED"), ("COMPLETE", "FINAL", "VERIFIED")]
    assert "PredecessorDocumentsSequence" not in first
    assert "VerifyingObserverSequence" not in first


def test_each_revision_names_the_one_before_as_its_predecessor():
    finding = finding_for(IMAGE)
    verdicts = [verdict("confirm"), verdict("correct", label="benign"), verdict("reject")]

    chain = [report_of(finding, *verdicts[:n]) for n in range(4)]

    for before, after in itertools.pairwise(chain):
        assert reference(after) == (before.StudyInstanceUID, before.SeriesInstanceUID, before.SOPInstanceUID)
        assert before.SeriesInstanceUID == after.SeriesInstanceUID
        assert before.InstanceNumber < after.InstanceNumber
    assert len({r.SOPInstanceUID for r in chain}) == 4


def test_the_verifier_and_the_time_are_stated():
    image = breast_image(InstitutionName="General Hospital")

    report = report_of(
        finding_for(image), verdict("confirm", by="dr.meier"), image=image, zone=timezone(timedelta(hours=8))
    )

    (observer,) = report.VerifyingObserverSequence
    assert observer.VerifyingObserverName == "dr.meier"
    assert observer.VerifyingOrganization == "General Hospital"
    assert observer.VerificationDateTime == "20251122162740+0800"
    assert report.ContentTime.startswith("162740")
    assert "Person Observer Name: dr.meier" in as_text(report)


def test_a_confirmation_repeats_the_label():
    decision, frame, lesion = groups(report_of(finding_for(IMAGE), verdict("confirm")))

    assert "Clinician's decision on the AI result: Confirmed" in decision
    assert "Impression: Malignant" in decision
    assert "Impression: Malignant" in frame
    assert "Algorithm Name" not in decision
    assert "Long Axis: 13.33 mm" in lesion


def test_a_correction_codes_the_new_label_and_keeps_that_of_the_ai():
    decision, frame, _ = groups(
        report_of(finding_for(IMAGE), verdict("correct", label="benign", comment="simple cyst"))
    )

    assert "Impression: Benign" in decision
    assert "corrected to benign by dr.meier" in decision
    assert "simple cyst" in decision
    assert "Impression: Malignant" in frame
    assert "before the clinician decided" in frame


def test_a_rejection_says_so_and_claims_nothing():
    decision, *_ = groups(report_of(finding_for(IMAGE), verdict("reject", comment="artefact")))

    assert "Rejected" in decision
    assert "Do not use it" in decision
    assert "Impression" not in decision


def test_earlier_decisions_stay_in_the_history():
    decision, *_ = groups(report_of(finding_for(IMAGE), verdict("reject"), verdict("confirm", by="dr.li")))

    assert "confirmed by dr.li" in decision
    assert "Earlier: rejected by dr.meier" in decision


def test_a_decision_on_what_was_not_analysed_is_a_report_as_well():
    decision, frame = groups(report_of(not_analysed(IMAGE), verdict("correct", label="malignant")))

    assert "Impression: Malignant" in decision
    assert "Not Attempted" in frame


def test_tracking_uids_stay_over_revisions():
    finding = finding_for(IMAGE)

    def tracked(report):
        return {str(i.UID) for _, i in walk(report) if i.get("ValueType") == "UIDREF"}

    assert tracked(report_of(finding)) < tracked(report_of(finding, verdict("confirm")))


def test_a_repeat_is_byte_identical():
    finding, verdicts = finding_for(IMAGE), [verdict("confirm")]

    first, second = (encode_dataset(build_report(finding, read_source(IMAGE, finding), UTC, 1, verdicts)) for _ in "12")

    assert first == second


def test_a_revision_without_a_verdict_is_refused():
    finding = finding_for(IMAGE)

    with pytest.raises(ValueError, match="verdict"):
        build_report(finding, read_source(IMAGE, finding), UTC, 1)


@pytest.mark.parametrize("name", ["", "\\^=\n", "王小东", "x" * 500, "O'Brien & <b>"])
def test_any_account_name_is_carried_without_harm(name):
    report = report_of(finding_for(IMAGE), verdict("confirm", by=name, comment="\x00\x1b[31m" + "y" * 9000))

    assert report.VerifyingObserverSequence[0].VerifyingObserverName
    assert len(str(report.VerifyingObserverSequence[0].VerifyingObserverName)) <= 64
    text = as_text(report)
    assert "\x1b" not in text
    assert len(text) < 8000


def test_highdicom_reads_a_revision():
    finding = finding_for(IMAGE)
    report = build_report(finding, read_source(IMAGE, finding), UTC, 1, [verdict("confirm")])
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, report, enforce_file_format=True)

    document = hd.sr.srread(io.BytesIO(buffer.getvalue()))

    assert (document.VerificationFlag, document.PreliminaryFlag) == ("VERIFIED", "FINAL")
    assert len(document.content.get_planar_roi_measurement_groups()) == 1
    assert len(document.content.get_image_measurement_groups()) == 2


# ---------------------------------------- loops


def loop(frames: int, sampled: int) -> tuple[Dataset, Finding]:
    image = breast_image(SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", NumberOfFrames=frames)
    lesions = finding_for(image).lesions
    said = [
        FrameFinding(
            frame=k, status="analysed", lesions=lesions if k % 3 == 0 else [], malignancy=k / frames, label="benign"
        )
        for k in range(0, frames, frames // sampled)
    ]
    return image, finding_for(image, frame=0, frame_findings=said)


def test_other_frames_of_a_loop_are_reported_in_short():
    image, finding = loop(30, 5)

    _, _, *others = groups(report_of(finding, image=image))

    assert len(others) == 4
    assert "Tracking Identifier: Frame 7" in others[0]
    assert "Lesion 1: 13.3 x 7.5 mm" in others[0]
    assert "Probability of cancer: 20.0 %" in others[0]
    assert "frame 7" in others[0]
    assert all("Image Region" not in other for other in others)


def test_a_loop_of_a_thousand_sampled_frames_gives_a_bounded_report():
    image, finding = loop(1000, 1000)

    report = report_of(finding, image=image)

    best, _, *others = groups(report)
    assert len(others) == MAX_OTHER_FRAMES
    assert f"1000 of 1000 frames were sampled; {MAX_OTHER_FRAMES} of the others are reported below" in best
    assert all("Lesion 1:" in other for other in others), "those with a lesion come first"
    assert len(encode_dataset(build_report(finding, read_source(image, finding), UTC))) < 100_000


def test_a_frame_that_was_not_analysed_says_why():
    image, finding = loop(6, 2)
    said = [finding.frame_findings[0], FrameFinding(frame=3, status="not_analysed", reason="a frozen menu")]

    *_, other = groups(report_of(finding_for(image, frame=0, frame_findings=said), image=image))

    assert "Not analysed: a frozen menu" in other
    assert "Finding Site" not in other


def test_the_time_of_the_first_report_is_that_of_the_analysis():
    assert report_of(finding_for(IMAGE)).ContentTime == "082640.123456"
    assert CREATED_NS % 10**9 == 123_456_789
