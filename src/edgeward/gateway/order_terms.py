"""The words that HL7 v2 orders use, and what they are called here.

Pure tables of HL7 v2.5.1 and DICOM, and how they are looked up. Not responsible for where in a message a word stands
(``hl7_orders``).
"""

from __future__ import annotations

from typing import Literal

from edgeward.gateway.order_entry import Action, Status

# Table 0119, order control, as far as a placer or the department's system says it.
ACTIONS: dict[str, Action] = {
    "NW": "new", "SN": "new", "RO": "new", "NA": "update", "XO": "update", "XX": "update", "RU": "update",
    "CA": "cancel", "OC": "cancel", "DC": "status", "OD": "status", "RP": "cancel", "HD": "cancel",
    "RL": "release", "SC": "status", "CN": "update", "PA": "new", "CH": "new", "OK": "update",
}  # fmt: skip
# Table 0038, order status (ORC-5).
STATUSES: dict[str, Status] = {
    "CM": "completed", "CA": "cancelled", "DC": "discontinued", "IP": "started", "SC": "scheduled", "HD": "cancelled",
    "RP": "cancelled", "A": "scheduled", "ER": "cancelled",
}  # fmt: skip
# Table 0074, diagnostic service section: what imaging is called there.
_SECTIONS = {
    "RUS": "US", "OUS": "US", "VUS": "US", "CUS": "US", "NMR": "MR", "NMS": "NM", "RX": "DX", "EC": "ECG",
}  # fmt: skip
# PS3.3, C.7.3.1.1.1: acquisition modalities, as far as they are scheduled.
_DICOM = frozenset({
    "AR", "BDUS", "BI", "BMD", "CR", "CT", "DG", "DX", "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "GM", "HD", "IO",
    "IVOCT", "IVUS", "LEN", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT",
    "PT", "PX", "RF", "RG", "RTIMAGE", "SM", "TG", "US", "VA", "XA", "XC",
})  # fmt: skip
# Priority: table 0485 (TQ1-9, ORC-7.6, OBR-27.6), and the words that OBR-5 was used with.
_PRIORITIES: dict[str, Literal["routine", "urgent", "stat"]] = {
    "S": "stat", "STAT": "stat", "A": "urgent", "ASAP": "urgent", "T": "urgent", "P": "urgent", "U": "urgent",
}  # fmt: skip


def modality(*told: str) -> str:
    """Return the first of these that is a DICOM modality, or a section (table 0074) that stands for one."""
    for text in told:
        word = text.strip().upper()
        if word in _DICOM:
            return word
        if word in _SECTIONS:
            return _SECTIONS[word]
    return ""


def priority(*told: str) -> Literal["routine", "urgent", "stat"]:
    """Return the priority that the first of these which is filled in says."""
    for text in told:
        if text:
            return _PRIORITIES.get(text.strip().upper(), "routine")
    return "routine"
