"""An answer in DICOM JSON as the Native DICOM Model, XML (PS3.19, A.1), for clients that read nothing else.

Pure. Responsible for the kinds of values that our own answers have: text, numbers and sequences. Not responsible for
person names or bulk data.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from pydicom.datadict import keyword_for_tag

_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"


def native_xml(body: dict[str, Any]) -> bytes:
    """Return a data set in the DICOM JSON model as an XML document in UTF-8."""
    root = Element("NativeDicomModel", {"xmlns": _NAMESPACE, "xml:space": "preserve"})
    _attributes(root, body)
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _attributes(parent: Element, body: dict[str, Any]) -> None:
    for tag, attribute in sorted(body.items()):
        names = {"tag": tag, "vr": attribute["vr"], "keyword": keyword_for_tag(int(tag, 16))}
        element = SubElement(parent, "DicomAttribute", names)
        for number, value in enumerate(attribute.get("Value", ()), start=1):
            if attribute["vr"] == "SQ":
                _attributes(SubElement(element, "Item", {"number": str(number)}), value)
            else:
                SubElement(element, "Value", {"number": str(number)}).text = str(value)
