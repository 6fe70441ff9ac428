"""What the journal keeps of an item, as those who write and read it see it.

Responsible for names and types only: ``privacy.schema`` has the tables, ``privacy.journal`` reads and writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgeward.messages import Finding, decode
from edgeward.privacy.vault import StoredObject

STATES = ("admitted", "dispatched", "analysed", "closed", "failed")
NO_DESTINATION = "no destination configured"
# The console knows it by its first word.
CONFLICT = "conflict: another object with the same SOP Instance UID was admitted earlier; both are kept"
CONFLICT_TO_DO = (
    "compare both objects; send the right one again from the device under a new SOP Instance UID, "
    "or correct it at the PACS"
)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells who an item is of. Only ever stored sealed."""

    patient_name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    study_description: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    patient_sex: str = ""
    issuer_of_patient_id: str = ""
    referring_physician: str = ""
    study_id: str = ""
    series_description: str = ""
    series_number: str = ""
    instance_number: str = ""
    body_part: str = ""


def other_patient(one: Identity, other: Identity) -> bool:
    """Whether two objects certainly name different patients. Who has no Patient ID is nobody else (PS3.3, C.7.1.1)."""
    numbers = [identity.patient_id.strip() for identity in (one, other)]
    issuers = [identity.issuer_of_patient_id.strip() for identity in (one, other)]
    return all(numbers) and (numbers[0] != numbers[1] or (all(issuers) and issuers[0] != issuers[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """An item about to be admitted: its object is in the vault already."""

    item_id: str
    received_ns: int
    deadline_ns: int
    stored_ns: int
    device: str
    modality: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str = ""
    transfer_syntax_uid: str
    rows: int = 0  # 0: not an image
    columns: int = 0
    frames: int = 1
    digest: bytes
    stored: StoredObject
    identity: Identity = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A row as the dispatcher needs it: without identity. `wrapped_key` is empty once the object was erased."""

    item_id: str
    state: str
    reason: str
    received_ns: int
    deadline_ns: int
    stored_ns: int
    asked_ns: int
    analysed_ns: int
    handed_ns: int
    delivered_ns: int
    late: bool
    attempts: int
    crashes: int
    device: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    object_id: str
    wrapped_key: bytes = field(repr=False)
    size: int
    finding: Finding | None = field(repr=False)
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    rows: int = -1  # 0: it has no pixels; -1: not known (admitted by version 0.1)
    columns: int = -1
    frames: int = -1
    revision: int = 0  # of the result: the number of verdicts

    @property
    def open(self) -> bool:
        """Whether the item has not reached its end."""
        return self.state not in ("closed", "failed")


COLUMNS = (
    "item_id, state, reason, received_ns, deadline_ns, stored_ns, asked_ns, analysed_ns, handed_ns, delivered_ns, "
    "late, attempts, crashes, device, sop_class_uid, sop_instance_uid, transfer_syntax_uid, object_id, wrapped_key, "
    "size, finding, study_instance_uid, series_instance_uid, rows, columns, frames, revision"
)
_NAMES = COLUMNS.replace(" ", "").split(",")


def item_of(row: tuple[Any, ...]) -> Item:
    """Return the item that a row of `COLUMNS` holds."""
    values = dict(zip(_NAMES, row, strict=True))
    values["late"] = bool(values["late"])
    values["wrapped_key"] = bytes(values["wrapped_key"] or b"")
    values["finding"] = decode(Finding, values["finding"]) if values["finding"] else None
    return Item(**values)
