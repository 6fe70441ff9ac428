"""The worklist's filter: what an address says, what the gateway is asked, and what is sorted out here.

Responsible for reading a filter from an address (anything odd in it means "any") and writing it back, and for walking
through the journal where a filter asks what the journal does not know. An address never carries a name or number of a
patient: see ``searches``. Pure but for the walk.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal
from urllib.parse import urlencode

import msgspec

from edgeward.bus.subjects import TOKEN
from edgeward.console.present import FILTERS, ItemView, chosen
from edgeward.messages import Items, ItemsQuery, ItemSummary

PAGE = 50
SCAN = 2000  # rows looked through for a filter that the journal does not know, and for images of one series
MORE = 400  # rows asked for at once when the first page did not suffice
STATES = ("admitted", "dispatched", "analysed", "closed", "failed")
ORDERS = ("newest", "priority")
_MAX_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """What somebody wants to see. Every field is as in the address; empty means any."""

    show: str = "all"
    order: str = ""
    state: str = ""
    device: str = ""
    modality: str = ""
    decided: str = ""  # yes | no
    late: str = ""  # yes
    since: str = ""  # first day, YYYY-MM-DD, in `zone`
    until: str = ""  # last day
    zone: str = ""  # IANA name of the reader's time zone
    study_of: str = ""  # an item: those of its study (a study's UID would point at a patient)
    find: str = ""  # handle of a search
    before: int = 0
    offset: int = 0

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Filter:
        """Return the filter in an address."""

        def one_of(name: str, allowed: tuple[str, ...], default: str = "") -> str:
            value = query.get(name, "")
            return value if value in allowed else default

        def number(name: str) -> int:
            value = query.get(name, "")
            return min(int(value), _MAX_NS) if value.isascii() and value.isdigit() and len(value) < 20 else 0

        def words(name: str) -> str:
            value = query.get(name, "")
            return value if len(value) <= 64 and value.isprintable() else ""

        study_of = query.get("study_of", "")
        return cls(
            show=one_of("show", FILTERS, "all"),
            order=one_of("order", ORDERS),
            state=one_of("state", STATES),
            device=words("device"),
            modality=words("modality"),
            decided=one_of("decided", ("yes", "no")),
            late=one_of("late", ("yes",)),
            since=_day(query.get("since", "")),
            until=_day(query.get("until", "")),
            zone=words("zone"),
            study_of=study_of if TOKEN.fullmatch(study_of) else "",
            find=words("find"),
            before=number("before"),
            offset=min(number("offset"), 10_000_000),
        )

    def address(self, **changes: object) -> str:
        """Return the query part of the address of this filter, some fields changed; ``""`` for no filter at all."""
        changed = replace(self, **changes)  # type: ignore[arg-type]
        default = Filter()
        given = {f.name: getattr(changed, f.name) for f in fields(Filter)}
        if not (given["since"] or given["until"]):
            given["zone"] = ""
        return urlencode({name: value for name, value in given.items() if value != getattr(default, name)})

    @property
    def first_page(self) -> Filter:
        """The same filter from its beginning."""
        return replace(self, before=0, offset=0)

    @property
    def narrowed(self) -> int:
        """How many conditions are set beside the tab and the order."""
        named = (self.state, self.device, self.modality, self.decided, self.late, self.study_of, self.find)
        return sum(bool(value) for value in named) + bool(self.since or self.until)

    @property
    def ordered(self) -> Literal["newest", "priority"]:
        """The order in force: what waits for somebody is sorted by urgency unless she chose otherwise."""
        if self.order:
            return "priority" if self.order == "priority" else "newest"
        return "priority" if self.show in ("open", "suspicious") else "newest"

    @property
    def local(self) -> bool:
        """Whether the journal cannot tell by itself which rows belong."""
        return self.show in ("open", "not_analysed")

    def query(self, *, text: str = "", study_instance_uid: str = "", limit: int = PAGE + 1) -> ItemsQuery:
        """Return the question for the gateway."""
        end_ns = _end_ns(self.until, self.zone)
        before = min((value for value in (self.before, end_ns) if value), default=0)
        decided = {"yes": True, "no": False}.get(self.decided)
        return ItemsQuery(
            limit=limit,
            before_ns=before,
            offset=self.offset if self.ordered == "priority" else 0,
            since_ns=_start_ns(self.since, self.zone),
            order=self.ordered,
            state=self.state or ("failed" if self.show == "failed" else ""),
            device=self.device,
            modality=self.modality,
            suspicious=True if self.show == "suspicious" else None,
            decided=False if self.show == "open" else decided,
            late=True if self.late else None,
            study_instance_uid=study_instance_uid,
            text=text,
        )


def _day(text: str) -> str:
    try:
        return dt.date.fromisoformat(text).isoformat() if len(text) == 10 else ""
    except ValueError:
        return ""


def zone_of(name: str) -> dt.tzinfo | None:
    """Return the time zone `name`; None, the site's own, if this machine does not know it."""
    try:
        return zoneinfo.ZoneInfo(name) if name else None
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _start_ns(day: str, zone: str) -> int:
    if not day:
        return 0
    midnight = dt.datetime.combine(dt.date.fromisoformat(day), dt.time(), zone_of(zone))
    try:
        return max(0, min(_MAX_NS, int(midnight.timestamp()) * 1_000_000_000))
    except (OverflowError, OSError, ValueError):
        return 0


def _end_ns(day: str, zone: str) -> int:
    """Return the first moment after `day`."""
    if not day:
        return 0
    try:
        return _start_ns((dt.date.fromisoformat(day) + dt.timedelta(days=1)).isoformat(), zone)
    except OverflowError:
        return 0


@dataclass(frozen=True, slots=True)
class Found:
    """One page of the worklist."""

    views: list[ItemView]
    more: Filter | None  # the next page
    answer: Items  # the gateway's first answer: counts, what there is to choose from

    @property
    def total(self) -> int:
        """Rows that match, -1 if nobody counted."""
        return self.answer.total


async def walk(
    wish: Filter,
    ask: Callable[[ItemsQuery], Awaitable[Items]],
    view: Callable[[ItemSummary], ItemView],
    *,
    text: str = "",
    study_instance_uid: str = "",
) -> Found:
    """Return the page of the worklist that `wish` asks for.

    Images of one series that fared alike and wait for nobody are one row, the newest of them: the slices of one CT must
    not push everybody else off the page. At most `SCAN` rows are looked through for that, and where the journal does
    not know the condition; the next page goes on there.
    """
    here, seen = wish, 0
    rows: list[tuple[ItemView, Filter]] = []
    places: dict[tuple[str, str], int] = {}  # series and state: its row
    first: Items | None = None
    limit = PAGE + 1
    while True:
        answer = await ask(here.query(text=text, study_instance_uid=study_instance_uid, limit=limit))
        first = first or answer
        for item in answer.items:
            at = _after(here, item)
            one = view(item)
            if wish.show == "open" and wish.ordered == "priority" and not one.open:
                # Undecided findings come first: here "the rest" begins, and nothing in it waits for anybody.
                return Found([row for row, _ in rows], None, _uncounted(first))
            if chosen(one, wish.show):
                alike = _alike(one)
                if alike and alike in places:
                    first_of, _ = rows[places[alike]]
                    rows[places[alike]] = replace(first_of, images=first_of.images + 1), rows[places[alike]][1]
                    rows[-1] = rows[-1][0], at  # the next page goes on after it
                    here, seen = at, seen + 1
                    continue
                if len(rows) == PAGE:
                    return Found([row for row, _ in rows], rows[-1][1], _uncounted(first) if wish.local else first)
                if alike:
                    places[alike] = len(rows)
                rows.append((one, at))
            here, seen = at, seen + 1
        if len(answer.items) < limit:
            return Found([row for row, _ in rows], None, _uncounted(first) if wish.local else first)
        if seen >= SCAN:
            return Found([row for row, _ in rows], here, _uncounted(first))
        limit = MORE


def _alike(view: ItemView) -> tuple[str, str] | None:
    item = view.item
    waits = view.open or view.suspicious or item.verdicts or not item.series_instance_uid
    return None if waits else (item.series_instance_uid, f"{view.status} {view.why}")


def _after(here: Filter, item: ItemSummary) -> Filter:
    if here.ordered == "priority":
        return replace(here, offset=here.offset + 1)
    return replace(here, before=item.received_ns)


def _uncounted(answer: Items) -> Items:
    return msgspec.structs.replace(answer, total=-1)  # it counted rows that were sorted out here
