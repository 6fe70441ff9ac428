"""Our encoder writes what highdicom would have written: the same content tree, over many generated findings."""

from __future__ import annotations

import io
from datetime import UTC, timedelta, timezone

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from tests.support.highdicom_report import reference_report
from tests.support.imaging import breast_image, finding_for, not_analysed, verdict

from edgeward.clinic.imaging.header import encode_dataset
from edgeward.clinic.imaging.report import build_report
from edgeward.clinic.imaging.report_text import as_text
from edgeward.clinic.imaging.source import read_source
from edgeward.messages import Finding, FrameFinding, Lesion, Verdict

COLUMNS, ROWS = 400, 300
numbers = st.floats(0, 5000, allow_nan=False)
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=70)
chances = st.floats(0, 1)


@st.composite
def lesions(draw) -> Lesion:
    x0, y0 = draw(st.floats(-20, COLUMNS)), draw(st.floats(-20, ROWS))
    box = (x0, y0, x0 + draw(st.floats(1, 90)), y0 + draw(st.floats(1, 90)))
    point = st.tuples(st.floats(box[0], box[2]), st.floats(box[1], box[3]))
    return Lesion(
        contour=draw(st.lists(point, max_size=30)),
        box=box,
        long_axis=draw(numbers),
        short_axis=draw(numbers),
        area=draw(st.one_of(numbers, st.just(float("nan")))),
        unit=draw(st.sampled_from(["mm", "px"])),
        probability=draw(chances),
    )


labels = st.one_of(st.sampled_from(["benign", "malignant", "normal", ""]), words)


@st.composite
def cases(draw) -> tuple[Dataset, Finding, list[Verdict]]:
    frames = draw(st.sampled_from([1, 1, 7, 200]))
    image = breast_image(
        rows=ROWS,
        columns=COLUMNS,
        NumberOfFrames=frames,
        Laterality=draw(st.sampled_from(["L", "R", "B", ""])),
        PatientName=draw(st.sampled_from(["Muster^Erika", "Müller^Änne"])),
    )
    said = {
        "model": draw(words),
        "model_version": draw(words),
        "frames": frames,
        "frame": frames // 2,
        "spacing_mm": draw(st.one_of(st.none(), st.just((0.1, 0.1)))),
        "created_ns": draw(st.integers(0, 4 * 10**18)),
    }
    if draw(st.integers(0, 9)) == 0:
        finding = not_analysed(image, reason=draw(words))
    else:
        malignancy = draw(st.one_of(st.none(), chances))
        others = [
            FrameFinding(
                frame=k,
                status="not_analysed" if k == 0 else "analysed",
                reason="menu",
                lesions=draw(st.lists(lesions(), max_size=2)),
                label=draw(labels),
                malignancy=draw(st.one_of(st.none(), chances)),
                suspicious=draw(st.booleans()),
            )
            for k in (range(frames) if 1 < frames < 20 else [])
        ]
        finding = finding_for(
            image,
            lesions=draw(st.lists(lesions(), max_size=4)),
            label=draw(labels),
            malignancy=malignancy,
            suspicious=draw(st.booleans()),
            probabilities=draw(st.dictionaries(words, chances, max_size=4)),
            frame_findings=others,
            **said,
        )
    verdicts = draw(
        st.lists(
            st.builds(
                verdict,
                action=st.sampled_from(["confirm", "correct", "reject"]),
                label=words,
                comment=st.one_of(st.just(""), words),
                by=st.sampled_from(["dr.meier", "王小东", "Müller^Anna"]),
            ),
            max_size=3,
        )
    )
    return image, finding, verdicts


def content(document: Dataset) -> str:
    """Every element of the content tree, with its VR and its whole value."""
    kept = Dataset()
    for keyword in (
        "ValueType",
        "ConceptNameCodeSequence",
        "ContinuityOfContent",
        "ContentTemplateSequence",
        "ContentSequence",
    ):
        kept[keyword] = document[keyword]
    return str(kept.to_json())


def as_written(document: Dataset) -> Dataset:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, document, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def in_unicode(tree: Dataset) -> Dataset:
    """Highdicom's tree as it is after writing and reading: numbers as short as written, 32-bit coordinates."""
    document = Dataset()
    document.SpecificCharacterSet = "ISO_IR 192"
    document.update(tree)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, document, implicit_vr=False, little_endian=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()), force=True)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
@pytest.mark.filterwarnings("ignore")
def test_the_content_tree_is_the_one_highdicom_builds(case):
    image, finding, verdicts = case
    source = read_source(image, finding)

    ours = as_written(build_report(finding, source, UTC, len(verdicts), verdicts))

    assert content(ours) == content(in_unicode(reference_report(finding, source, UTC, verdicts)))


def test_written_by_pydicom_it_is_what_we_wrote_in_explicit_and_in_implicit_vr():
    image = breast_image()
    report = build_report(finding_for(image), read_source(image, finding_for(image)), UTC)
    encoded = encode_dataset(report)
    again_implicit = io.BytesIO()

    str(report)  # decodes everything
    assert encode_dataset(report) == encoded
    fresh = build_report(finding_for(image), read_source(image, finding_for(image)), UTC)
    del fresh.file_meta
    pydicom.dcmwrite(again_implicit, fresh, implicit_vr=True, little_endian=True)

    read = pydicom.dcmread(io.BytesIO(again_implicit.getvalue()), force=True)
    assert content(read) == content(report)


def test_text_in_our_own_words_outside_the_character_set_is_readable():
    image = breast_image(PatientName="Müller^Erika")
    finding = finding_for(image, model="超声")

    report = as_written(build_report(finding, read_source(image, finding), timezone(timedelta(hours=8))))

    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert report.PatientName == "Müller^Erika"
    assert "Algorithm Name: 超声" in as_text(report)
