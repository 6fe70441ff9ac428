"""Content items and their bytes."""

from __future__ import annotations

import io
import math

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.valuerep import DS

from edgeward.clinic.imaging import codes, content
from edgeward.clinic.imaging.codes import Code
from edgeward.clinic.imaging.content import CONTAINS, ImageReference, Item


def read(item: Item, character_set: str | list[str] = "ISO_IR 192") -> Dataset:
    """The item, written by us and read by pydicom."""
    document = Dataset()
    document.SpecificCharacterSet = character_set
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, document, implicit_vr=False, little_endian=True)
    element = content.content_sequence([item], character_set)
    head = b"\x40\x00\x30\xa7SQ\0\0" + len(element.value).to_bytes(4, "little")
    (back,) = pydicom.dcmread(io.BytesIO(buffer.getvalue() + head + element.value), force=True).ContentSequence
    return back


@given(st.floats(-1e300, 1e300))
def test_a_decimal_string_fits_and_is_as_exact_as_sixteen_characters_allow(value):
    written = content.decimal(value)

    assert len(written) <= 16
    assert DS(written, auto_format=False) == pytest.approx(value, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measurement_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="not a number"):
        content.number(CONTAINS, codes.AREA, value, codes.MM2, 2)


@pytest.mark.parametrize(
    ("character_set", "value"),
    [
        ("ISO_IR 192", "Ärztin 王 ✓"),
        ("ISO_IR 100", "Befund: Zyste, größer"),
        ("GB18030", "王小东"),
        (["", "ISO 2022 IR 87"], "山田"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_text_and_names_are_read_in_the_character_set_of_the_document(character_set, value):
    assert read(content.text(CONTAINS, codes.COMMENT, value), character_set).TextValue == value
    assert read(content.person(CONTAINS, codes.PERSON_NAME, value), character_set).PersonName == value


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 65534, 65535, 65536, 300_000])
def test_text_of_any_length_survives(length):
    assert read(content.text(CONTAINS, codes.COMMENT, "x" * length)).TextValue == "x" * length


def test_uids_of_odd_and_even_length_are_padded_as_uids_are():
    for value in ("1.2.3", "1.2.34"):
        item = read(content.uid(CONTAINS, codes.TRACKING_UID, value))
        assert str(item.UID) == value


def test_a_reference_names_its_frames():
    one = read(content.image(CONTAINS, codes.SOURCE, ImageReference("1.2", "3.4", (7,)))).ReferencedSOPSequence[0]
    two = read(content.image(CONTAINS, codes.SOURCE, ImageReference("1.2", "3.4", (7, 12)))).ReferencedSOPSequence[0]
    none = read(content.image(CONTAINS, codes.SOURCE, ImageReference("1.2", "3.4"))).ReferencedSOPSequence[0]

    assert one.ReferencedFrameNumber == 7
    assert list(two.ReferencedFrameNumber) == [7, 12]
    assert "ReferencedFrameNumber" not in none


def test_the_longest_outline_still_fits_its_length_field():
    points = np.random.default_rng(0).random((1001, 2)) * 4000
    item = read(content.polyline(CONTAINS, codes.IMAGE_REGION, points, ImageReference("1.2", "3.4"), codes.SOURCE))

    assert np.allclose(np.asarray(item.GraphicData).reshape(-1, 2), points, atol=1e-3)


def test_elements_stand_in_the_order_of_their_tags():
    reference = ImageReference("1.2", "3.4", (1,))
    region = content.polyline(CONTAINS, codes.IMAGE_REGION, np.zeros((3, 2)), reference, codes.SOURCE)
    group = content.container(
        CONTAINS,
        codes.MEASUREMENT_GROUP,
        [
            region,
            content.number(CONTAINS, codes.AREA, 1.0, codes.MM2, 2),
            content.code(CONTAINS, codes.FINDING, codes.LESION),
        ],
        "1410",
    )

    def check(item: Dataset) -> None:
        tags = list(item.keys())
        assert tags == sorted(tags)
        for child in item.get("ContentSequence", []):
            check(child)

    check(read(group))


def test_every_code_keeps_to_the_lengths_of_the_standard():
    found = [value for value in vars(codes).values() if isinstance(value, Code)]
    found += [
        c for value in vars(codes).values() if isinstance(value, dict) for c in value.values() if isinstance(c, Code)
    ]

    assert len(found) > 50
    for code in found:
        assert len(code.value) <= 16
        assert len(code.scheme) <= 16
        assert len(code.meaning) <= 64
        assert all(part.isascii() for part in code)


@pytest.mark.filterwarnings("ignore")
def test_standard_codes_mean_what_the_standards_dictionary_says():
    from pydicom.sr._concepts_dict import concepts

    theirs = {
        (scheme, value): meaning
        for scheme, words in concepts.items()
        for word in words.values()
        for value, (meaning, _) in word.items()
    }
    ours = [value for value in vars(codes).values() if isinstance(value, Code)]
    ours += [*codes.LABELS.values(), *codes.SIDES.values()]
    unknown = [code for code in ours if code.scheme in ("DCM", "SCT") and (code.scheme, code.value) not in theirs]

    assert {code.meaning for code in unknown} <= {"Ultrasonography of breast", "Imaging procedure", "Source", "Area"}
    for code in ours:
        meaning = theirs.get((code.scheme, code.value))
        if meaning is not None and code.scheme in ("DCM", "SCT"):
            assert code.meaning.lower().split()[0] in meaning.lower(), code
