"""Groups for the pages that a PACS administrator reads: refusals, deliveries per revision, orders. Pure functions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeward.console.present import person_name
from edgeward.messages import DeliveryReport, ItemSummary, Order, Quarantined, Verdict

MAX_PEERS = 6


@dataclass(slots=True)
class Refusals:
    """Cases that were refused at the same place, for the same reason, with the same remedy."""

    where: str
    reason: str
    what_to_do: str
    count: int = 0
    last_ns: int = 0
    peers: list[str] = field(default_factory=list)  # the latest first
    item_ids: list[str] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)  # of an item that is a conflict: the one that came first

    @property
    def shown_peers(self) -> list[str]:
        """The first few peers."""
        return self.peers[:MAX_PEERS]

    @property
    def more_peers(self) -> int:
        """How many peers are not shown."""
        return max(0, len(self.peers) - MAX_PEERS)


def refusals(entries: Iterable[Quarantined]) -> list[Refusals]:
    """Return like cases together, the group with the latest case first."""
    groups: dict[tuple[str, str, str], Refusals] = {}
    for entry in sorted(entries, key=lambda entry: -entry.at_ns):
        key = entry.where, entry.reason, entry.what_to_do
        group = groups.setdefault(key, Refusals(*key))
        group.count += entry.count
        group.last_ns = max(group.last_ns, entry.at_ns)
        if entry.peer and entry.peer not in group.peers:
            group.peers.append(entry.peer)
        if entry.item_id and entry.item_id not in group.item_ids:
            group.item_ids.append(entry.item_id)
            if entry.other_item_id:
                group.others[entry.item_id] = entry.other_item_id
    return sorted(groups.values(), key=lambda group: -group.last_ns)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of an item's result, and where it went."""

    number: int
    verdict: Verdict | None  # that made it; None for the preliminary result
    reports: tuple[DeliveryReport, ...]


def revisions(item: ItemSummary) -> list[Revision]:
    """Return the revisions of an item's result, the latest first; the last word of each destination on each.

    A verdict makes one revision. One that no destination has taken or refused yet has no reports: it is on its way.
    """
    last: dict[tuple[int, str], DeliveryReport] = {}
    for report in item.deliveries:
        key = report.revision, report.destination
        if key not in last or report.at_ns >= last[key].at_ns:
            last[key] = report
    verdicts = sorted(item.verdicts, key=lambda verdict: verdict.at_ns)
    highest = max([len(verdicts), *(revision for revision, _ in last)], default=0)
    if not last and not verdicts:
        return []
    return [
        Revision(
            number=number,
            verdict=verdicts[number - 1] if 0 < number <= len(verdicts) else None,
            reports=tuple(sorted((r for (n, _), r in last.items() if n == number), key=lambda r: r.destination)),
        )
        for number in range(highest, -1, -1)
    ]


@dataclass(frozen=True, slots=True)
class OrderView:
    """One order as a particular reader may see it."""

    order: Order
    patient: str
    patient_id: str
    accession: str
    born: str
    procedure: str
    scheduled: str  # for reading
    urgent: bool


def order_view(order: Order, *, identity: bool) -> OrderView:
    """Return the view of `order` for a reader who may (not) see identity."""
    return OrderView(
        order=order,
        patient=person_name(order.patient_name) if identity else "",
        patient_id=order.patient_id if identity else "",
        accession=order.accession_number if identity else "",
        born=date_text(order.birth_date) if identity else "",
        procedure=(order.procedure or order.procedure_code) if identity else "",
        scheduled=datetime_text(order.scheduled),
        urgent=order.priority in ("urgent", "stat"),
    )


def date_text(value: str) -> str:
    """Return a DICOM DA (PS3.5, 6.2) as ``YYYY-MM-DD``; as it is if it is none."""
    try:
        return dt.datetime.strptime(value, "%Y%m%d").date().isoformat() if value else ""  # noqa: DTZ007 - a date
    except ValueError:
        return value


def datetime_text(value: str) -> str:
    """Return a DICOM DT, site's local time, as ``YYYY-MM-DD HH:MM`` as far as it goes; as it is if it is none."""
    digits = value[:12]
    if not digits.isdigit() or len(digits) not in (8, 10, 12):
        return value
    day = date_text(digits[:8])
    return f"{day} {digits[8:10]}:{digits[10:12] or '00'}" if len(digits) > 8 else day
