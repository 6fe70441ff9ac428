"""Which order of the book a message means: pure rules over what is known and what is told.

Responsible for telling orders of one number apart by their placers, patients by their authorities, and the steps of
one order by their ids, filler numbers, codes or places. Not responsible for finding rows or keeping them (``orders``),
or for what a change does to a step (``order_entry``).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

from msgspec import structs

from edgeward.gateway.order_entry import Change, Entry, OrderError

Row = tuple[int, Entry]
"""A step of the book with its place there."""


def placed_by(new: Entry, rows: list[Row]) -> list[Row]:
    """Return which of the orders with a number a message means: two placers may use the same number.

    Where it does not name the placer, its filler number, accession number or patient may tell.

    Raises
    ------
    OrderError
        If several placers have an order with this number, and nothing tells which is meant.
    """
    agreed = [(row, row[1].placer.agrees(new.placer)) for row in rows]
    if any(known for _, known in agreed):
        return [row for row, known in agreed if known]
    left = [row for row, known in agreed if known is None]
    if not _of_several(left):
        return left
    for key in (_filler, _accession, _patient):
        meant = _meant(left, key, new)
        if meant and not _of_several(meant):
            return meant
    raise OrderError("order", "conflict", "several placers have an order with this number; name the placer")


def steps_meant(new: Entry, rows: list[Row]) -> list[Row]:
    """Return which of the steps of an order a message means; none if it is a step that is not known yet.

    A step that was known only by its order so far takes the step id that is told.
    """
    if new.step_id_given and rows:
        same = [row for row in rows if row[1].step_id == new.step_id]
        unnamed = [row for row in rows if not row[1].step_id_given]
        if not same and unnamed:
            seq, old = unnamed[0]
            same = [(seq, structs.replace(old, step_id=new.step_id, step_id_given=True))]
        return same
    if len(rows) > 1:  # of several procedures the one that is meant, if the message tells
        return _meant(rows, _filler, new) or _meant(rows, _code, new) or rows
    return rows


def other_patient(old: Entry, change: Change) -> bool:
    """Whether a message names a patient, and none of its numbers is the one that the order has."""
    new, known = change.entry, old.order.patient_id
    if not known or not new.order.patient_id:
        return False
    named = ((new.order.patient_id, new.issuer_of_patient_id), *change.patient_ids)
    return not any(
        number == known and not other_authority(issuer, authority)
        for known, issuer in ((known, old.issuer_of_patient_id), *old.known_as)
        for number, authority in named
    )


def same_accession(old: Entry, new: Entry) -> bool:
    """Whether orders with equal accession numbers have the same one: it is unique for who gave it (PS3.3, C.7.3.1).

    Where that is not told, for the system that sends the orders, unless their placers or fillers differ.
    """
    given = old.accession_by.agrees(new.accession_by)
    if given is not None:
        return given
    apart = False in (old.placer.agrees(new.placer), old.filler.agrees(new.filler))
    return old.order.source == new.order.source and not apart


def other_authority(one: str, other: str) -> bool:
    """Whether two assigning authorities of patient numbers are certainly not the same one.

    A name and an OID may well be the same authority, and so may one that is not told.
    """
    one, other = one.removeprefix("urn:oid:").casefold(), other.removeprefix("urn:oid:").casefold()
    universal = [":" in text or text.replace(".", "").isdigit() for text in (one, other)]
    return bool(one and other and one != other and universal[0] == universal[1])


def require(change: Change) -> None:
    """Refuse an order that is not known yet and comes without what a modality needs.

    Raises
    ------
    OrderError
        Naming what is missing.
    """
    order = change.entry.order
    if change.only_known:
        raise OrderError("procedure", "missing", "the order is not known yet, and no procedure is told")
    if not order.patient_id:
        raise OrderError("patient", "missing", "the patient identifier is missing, and the order is not known yet")
    if not order.patient_name:
        raise OrderError("name", "missing", "the patient name is missing, and the order is not known yet")


def told_apart(changes: Sequence[Change]) -> list[Change]:
    """Return the changes of one order with several procedures or steps, each with a step id of its own.

    Where the placer gives none it is made of what tells the procedures apart and stays: their codes, else their places
    in the message (a filler number may come later). Otherwise the last would be taken for an update of the first.
    """
    entries = [change.entry for change in changes]
    if len(changes) < 2 or all(entry.step_id_given for entry in entries):
        return list(changes)
    names = [entry.procedure_code.value for entry in entries]
    if len(set(names)) < len(names) or not all(names):
        names = [str(number) for number in range(len(entries))]
    return [
        change
        if change.entry.step_id_given
        else structs.replace(
            change, entry=structs.replace(change.entry, step_id=_made(change.entry, name), step_id_given=True)
        )
        for change, name in zip(changes, names, strict=True)
    ]


def _made(entry: Entry, name: str) -> str:
    digest = hashlib.sha256(f"{entry.order.order_id}\0{name}".encode()).digest()
    return f"S{int.from_bytes(digest[:8], 'big') % 10**12:012d}"


def _of_several(rows: list[Row]) -> bool:
    """Whether orders are certainly not all of one placer."""
    return any(one[1].placer.agrees(other[1].placer) is False for one, other in itertools.combinations(rows, 2))


def _meant(rows: list[Row], key: Callable[[Entry], str], new: Entry) -> list[Row]:
    return [row for row in rows if key(new) and key(row[1]) == key(new)]


def _filler(entry: Entry) -> str:
    return entry.filler_id


def _accession(entry: Entry) -> str:
    return entry.order.accession_number


def _patient(entry: Entry) -> str:
    return entry.order.patient_id


def _code(entry: Entry) -> str:
    return entry.procedure_code.value
