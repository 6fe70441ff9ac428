"""What was requested and when it was performed: attributes of a series that the journal does not keep.

Responsible for the keys of PS3.18, table 10.6.1-5 that stand in a sequence or are too rare for a column: they are read
from the stored object itself, when a search asks for them and everything else matches. Not responsible for searching
(``gateway.qido``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread

from edgeward.gateway.matching import Match
from edgeward.privacy.catalogue import Catalogue, Entry
from edgeward.privacy.character_sets import declare
from edgeward.privacy.keys import WrongKey
from edgeward.privacy.reading import open_object
from edgeward.privacy.vault import Vault, VaultDamaged

SEQUENCE: Final = "RequestAttributesSequence"
IN_SEQUENCE: Final = ("ScheduledProcedureStepID", "RequestedProcedureID")
PERFORMED: Final = ("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime")
MOST: Final = 2000  # objects that one search opens


@dataclass(slots=True)
class Requested:
    """Conditions on these attributes, and whether they are to be told."""

    performed: dict[str, Match] = field(default_factory=dict)
    items: dict[str, Match] = field(default_factory=dict)
    told: bool = False

    @property
    def asked(self) -> bool:
        """Whether there is a condition."""
        return bool(self.performed or self.items)

    def takes(self, dataset: Dataset) -> bool:
        """Return whether an object fulfils the conditions; those on the sequence must hold in one item."""
        if not all(match(_text(dataset, keyword)) for keyword, match in self.performed.items()):
            return False
        if not self.items:
            return True
        return any(
            all(match(_text(item, keyword)) for keyword, match in self.items.items()) for item in _items(dataset)
        )


class Details:
    """Reads these attributes of the object that an entry stands for."""

    def __init__(self, catalogue: Catalogue, vault: Vault) -> None:
        self._catalogue, self._vault = catalogue, vault

    def of(self, entry: Entry) -> Dataset:
        """Return the attributes; none of an object that cannot be read."""
        held = self._catalogue.held(entry.study_instance_uid, entry.series_instance_uid, entry.sop_instance_uid)
        if not held:
            return Dataset()
        reference = self._vault.reference(held[0].object_id, held[0].wrapped_key, held[0].size)
        wanted = ["SpecificCharacterSet", SEQUENCE, *PERFORMED]
        try:
            with open_object(reference.path, reference.data_key) as file:
                found: Dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(wanted))
                return declare(found)
        except (VaultDamaged, WrongKey):
            return Dataset()
        except Exception:  # a parser met bytes somebody else chose: any of its errors means the same
            return Dataset()


def key_in_sequence(name: str) -> str:
    """Return the keyword of a key such as ``00400275.00400009``, or an empty string if it is none of these."""
    outer, dot, inner = name.partition(".")
    if not dot or _keyword(outer) != SEQUENCE:
        return ""
    keyword = _keyword(inner)
    return keyword if keyword in IN_SEQUENCE else ""


def shown(dataset: Dataset) -> dict[str, Any]:
    """Return these attributes of an object in the DICOM JSON model."""
    result = {_tag(keyword): _element(dataset, keyword) for keyword in PERFORMED}
    items = [{_tag(keyword): _element(item, keyword) for keyword in IN_SEQUENCE} for item in _items(dataset)]
    result[_tag(SEQUENCE)] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    return result


def _element(dataset: Dataset, keyword: str) -> dict[str, Any]:
    vr, text = str(dictionary_VR(keyword)), _text(dataset, keyword)
    return {"vr": vr, "Value": [text]} if text else {"vr": vr}


def _items(dataset: Dataset) -> list[Dataset]:
    try:
        return list(dataset.get(SEQUENCE) or ())
    except Exception:  # as in `Details.of`: elements are converted when they are looked at
        return []


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # as in `Details.of`
        return ""
    return "" if value is None else str(value).strip("\0 ")


def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword):08X}"


def _keyword(name: str) -> str:
    if len(name) == 8 and all(digit in "0123456789abcdefABCDEF" for digit in name):
        return str(keyword_for_tag(int(name, 16)))
    return name
