"""The Native DICOM Model, XML (PS3.19, A.1), to and from the DICOM JSON model (PS3.18, annex F).

Pure. A document with a document type is refused: entities have no place in it.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, ParseError, SubElement, TreeBuilder, XMLParser, tostring

from pydicom.datadict import keyword_for_tag

from edgeward.gateway.multipart import part_head

_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_TAG = re.compile("[0-9A-Fa-f]{8}")
_WHOLE = frozenset({"IS", "SL", "SS", "SV", "UL", "US", "UV"})
_REAL = frozenset({"FD", "FL"})
_NAMES = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_DEEPEST = 40  # sequences within sequences
_NOT_XML = dict.fromkeys(
    [code for code in range(0x20) if code not in (9, 10, 13)] + [*range(0xD800, 0xE000), 0xFFFE, 0xFFFF],
    "\N{REPLACEMENT CHARACTER}",
)


class NotNative(ValueError):
    """A document is not in this model; the text quotes nothing of it."""


def native_xml(body: dict[str, Any]) -> bytes:
    """Return a data set in the DICOM JSON model as an XML document in UTF-8."""
    root = Element("NativeDicomModel", {"xmlns": _NAMESPACE, "xml:space": "preserve"})
    _attributes(root, body)
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def xml_multipart(boundary: str) -> str:
    """Return the media type of documents that come together (PS3.18, 8.7.3.2)."""
    return f'multipart/related; type="application/dicom+xml"; boundary={boundary}'


def xml_part(boundary: str, body: dict[str, Any]) -> bytes:
    """Return one document as a part of such an answer."""
    document = native_xml(body)
    return (
        part_head(boundary, {"Content-Type": "application/dicom+xml", "Content-Length": str(len(document))}) + document
    )


def _attributes(parent: Element, body: dict[str, Any]) -> None:
    for tag, attribute in sorted(body.items()):
        vr = attribute["vr"]
        element = SubElement(parent, "DicomAttribute", _names(tag, vr, body))
        if "InlineBinary" in attribute:
            SubElement(element, "InlineBinary").text = attribute["InlineBinary"]
        elif "BulkDataURI" in attribute:
            SubElement(element, "BulkData", {"uri": attribute["BulkDataURI"]})
        for number, value in enumerate(attribute.get("Value", ()), start=1):
            place = {"number": str(number)}
            if vr == "SQ":
                _attributes(SubElement(element, "Item", place), value or {})
            elif value is None or value == "":
                continue  # an empty value: the next one has its own number
            elif vr == "PN":
                _name_of(SubElement(element, "PersonName", place), value)
            else:
                SubElement(element, "Value", place).text = _text(value)


def _names(tag: str, vr: str, body: dict[str, Any]) -> dict[str, str]:
    """Return what names an attribute: private ones by who reserved their block, which the tag leaves out."""
    if keyword := keyword_for_tag(int(tag, 16)):
        return {"tag": tag, "vr": vr, "keyword": keyword}
    if int(tag[:4], 16) % 2:
        creator = (body.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value") or [""])[0]
        if creator and tag[4:6] != "00":
            return {"tag": f"{tag[:4]}00{tag[6:]}", "vr": vr, "privateCreator": _text(creator)}
    return {"tag": tag, "vr": vr}


def _name_of(person: Element, groups: dict[str, str]) -> None:
    for group in ("Alphabetic", "Ideographic", "Phonetic"):
        if text := groups.get(group):
            found = SubElement(person, group)
            for name, part in zip(_NAMES, text.split("^", 4), strict=False):
                if part:
                    SubElement(found, name).text = _text(part)


def _text(value: Any) -> str:
    """Return a value as XML can hold it: without the control characters that XML 1.0 (2.2) excludes."""
    return value.translate(_NOT_XML) if isinstance(value, str) else str(value)


def from_native_xml(document: bytes) -> dict[str, Any]:
    """Return a document as a data set in the DICOM JSON model.

    Raises
    ------
    NotNative
        If it is not a Native DICOM Model.
    """
    parser = XMLParser(target=_Plain())  # noqa: S314 - without a document type there are no entities
    try:
        parser.feed(document)
        root: Element = parser.close()
    except ParseError:
        raise NotNative("it is not XML") from None
    if _name(root) != "NativeDicomModel":
        raise NotNative("its root is no NativeDicomModel")
    return _data_set(root, 0)


class _Plain(TreeBuilder):
    """Builds the tree of a document that has no document type: its entities could grow without bounds."""

    def doctype(self, *_: Any) -> NoReturn:
        raise NotNative("it has a document type")


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _data_set(parent: Element, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise NotNative("its sequences are nested too deep")
    found: dict[str, Any] = {}
    creators: dict[tuple[str, str], str] = {}  # who reserves which block of private attributes here
    for one in parent:
        if _name(one) != "DicomAttribute":
            continue
        tag, creator = one.get("tag", "").upper(), one.get("privateCreator", "")
        if not _TAG.fullmatch(tag):
            raise NotNative("an attribute has no tag")
        if creator and int(tag[:4], 16) % 2 and tag[4:6] == "00":  # the model leaves the block out
            block = creators.setdefault((tag[:4], creator), f"{0x10 + len(creators):02X}")
            found[f"{tag[:4]}00{block}"] = {"vr": "LO", "Value": [creator]}
            tag = f"{tag[:4]}{block}{tag[6:]}"
        found[tag] = _attribute(one, one.get("vr", "UN"), depth)
    return found


def _attribute(attribute: Element, vr: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"vr": vr}
    for one in sorted(attribute, key=lambda child: _number(child.get("number", "1"))):
        kind = _name(one)
        if kind == "BulkData":
            found["BulkDataURI"] = one.get("uri") or one.get("uuid") or ""
        elif kind == "InlineBinary":
            found["InlineBinary"] = "".join((one.text or "").split())
        elif kind == "Item":
            found.setdefault("Value", []).append(_data_set(one, depth + 1))
        elif kind == "PersonName":
            found.setdefault("Value", []).append(_person(one))
        elif kind == "Value":
            found.setdefault("Value", []).append(_value(one.text or "", vr))
    return found


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise NotNative("a value has no number") from None


def _value(text: str, vr: str) -> Any:
    try:
        return int(text) if vr in _WHOLE else float(text) if vr in _REAL else text
    except ValueError:
        raise NotNative("a number is none") from None


def _person(person: Element) -> dict[str, str]:
    groups = {}
    for group in person:
        parts = {_name(part): part.text or "" for part in group}
        groups[_name(group)] = "^".join(parts.get(name, "") for name in _NAMES).rstrip("^")
    return groups
