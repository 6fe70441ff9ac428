"""Character sets of DICOM text (PS3.3, C.12.1.1.2), where pydicom's reading of them falls short.

Importing this module mends pydicom for the process. Responsible for two things that real images need: simplified
Chinese by code extension (ISO 2022 IR 58), and text that declares no character set. Not responsible for HL7
(``edgeward.hl7.charset``).
"""

from __future__ import annotations

import pydicom.charset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

UNICODE = "ISO_IR 192"
_UNICODE = pydicom.charset.convert_encodings(UNICODE)
_PER_FRAME = 0x52009230  # functional groups: thousands of items, of numbers and codes

# pydicom 3.0 takes Python's gb2312 for a codec that knows escape sequences, as those of Japanese do. It does not: a
# name after PS3.5, annex K would be read with the escape sequence in it, and be written without.
pydicom.charset.handled_encodings = tuple(
    name for name in pydicom.charset.handled_encodings if name != pydicom.charset.python_encoding["ISO 2022 IR 58"]
)


def undeclared(text: bytes) -> str:
    """Return text whose character set nobody declared: UTF-8 if it is that, else Latin-1.

    What is neither ASCII nor declared breaks the standard, and occurs. Text of another set than UTF-8 is next to never
    valid UTF-8 by chance.
    """
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def declare(dataset: Dataset) -> Dataset:
    """Say that a data set is in Unicode if it says nothing itself, holds more than ASCII, and all of that is UTF-8.

    Its sequences count, except items that declare a set of their own.

    Parameters
    ----------
    dataset
        As it was read, before any text of it was looked at.
    """
    if "SpecificCharacterSet" in dataset and dataset.get_item("SpecificCharacterSet").value:
        return dataset
    undeclared_sets, beyond = [dataset], list[bytes]()
    for one in undeclared_sets:  # it grows by the items of its sequences
        for tag in list(one.keys()):
            element = one.get_item(tag)
            vr = element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")
            if vr == "SQ":
                undeclared_sets += _items(one, element)
                continue
            value = element.value if isinstance(element, RawDataElement) and vr in CUSTOMIZABLE_CHARSET_VR else None
            if value and not bytes(value).isascii():
                beyond.append(bytes(value))
    if beyond and all(_is_utf8(value) for value in beyond):
        for one in undeclared_sets:
            one.set_original_encoding(one.original_encoding[0], one.original_encoding[1], _UNICODE)
        dataset.SpecificCharacterSet = UNICODE
    return dataset


def _items(dataset: Dataset, element: DataElement | RawDataElement) -> list[Dataset]:
    """Return the items of a sequence that say nothing of their own and may hold more than ASCII."""
    if element.tag == _PER_FRAME:
        return []
    if isinstance(element, RawDataElement):
        if not element.value or bytes(element.value).isascii():
            return []
        try:
            element = dataset[element.tag]
        except Exception:  # a sequence that cannot be read says nothing of any character set
            return []
    return [item for item in element.value or () if "SpecificCharacterSet" not in item]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
