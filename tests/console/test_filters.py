"""The worklist's filter: addresses, questions, and the walk through a journal that does not know every condition."""

from __future__ import annotations

import datetime as dt
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.console.filters import PAGE, SCAN, Filter, walk
from edgeward.console.present import ItemView, item_view
from edgeward.messages import Items, ItemsQuery, ItemSummary
from tests.support.synthetic import make_item, urgency


def test_an_address_is_read_and_written_back() -> None:
    query = {"show": "open", "device": "us-1", "modality": "US", "late": "yes", "since": "2026-11-01", "zone": "Asia/Shanghai"}  # fmt: skip
    wish = Filter.read(query)

    assert dict(parse_qsl(wish.address())) == query
    assert wish.narrowed == 4
    assert Filter.read({}).address() == ""


NONSENSE = {
    "show": "<script>", "order": "x", "state": "DROP TABLE", "decided": "maybe", "since": "2026-13-01", "until": "yesterday",
    "before": "-9223372036854775809", "offset": "1e9", "study_of": "../..", "device": "x" * 65, "modality": "U\nS",
}  # fmt: skip


def test_what_makes_no_sense_means_any() -> None:
    assert Filter.read(NONSENSE) == Filter()


@given(st.dictionaries(st.sampled_from([*sorted(NONSENSE), "zone", "find", "late"]), st.text(max_size=40)))
def test_no_address_breaks_it(query: dict[str, str]) -> None:
    wish = Filter.read(query)

    wish.query()
    assert Filter.read(dict(parse_qsl(wish.address()))) == wish or (wish.zone and not (wish.since or wish.until))


def test_days_are_those_of_the_reader() -> None:
    wish = Filter.read({"since": "2026-11-22", "until": "2026-11-22", "zone": "Asia/Shanghai"})
    query = wish.query()

    midnight = dt.datetime(2026, 11, 21, 16, tzinfo=dt.UTC).timestamp()
    assert query.since_ns == int(midnight) * 1_000_000_000
    assert query.before_ns - query.since_ns == 86_400 * 1_000_000_000


def test_the_day_in_which_clocks_change_has_its_own_length() -> None:
    query = Filter.read({"since": "2026-10-25", "until": "2026-10-25", "zone": "Europe/Berlin"}).query()

    assert query.before_ns - query.since_ns == 25 * 3600 * 1_000_000_000


def test_the_last_day_and_the_page_bound_each_other() -> None:
    end = Filter.read({"until": "2026-11-22", "zone": "UTC"}).query().before_ns

    assert Filter.read({"until": "2026-11-22", "zone": "UTC", "before": str(end - 5)}).query().before_ns == end - 5
    assert Filter.read({"until": "2026-11-22", "zone": "UTC", "before": str(end + 5)}).query().before_ns == end


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {"order": "newest"}),
        ({"show": "open"}, {"order": "priority", "decided": False}),
        ({"show": "suspicious"}, {"order": "priority", "suspicious": True}),
        ({"show": "suspicious", "order": "newest", "decided": "yes"}, {"order": "newest", "suspicious": True, "decided": True}),
        ({"show": "failed"}, {"state": "failed"}),
        ({"late": "yes", "state": "closed"}, {"late": True, "state": "closed"}),
        ({"order": "priority", "offset": "50"}, {"order": "priority", "offset": 50}),
        ({"offset": "50"}, {"order": "newest", "offset": 0}),
    ],
)  # fmt: skip
def test_the_gateway_is_asked_for_what_was_chosen(query: dict[str, str], expected: dict[str, object]) -> None:
    asked = Filter.read(query).query()

    assert {name: getattr(asked, name) for name in expected} == expected


class Journal:
    """A gateway that knows its rows and nothing else."""

    def __init__(self, items: list[ItemSummary]) -> None:
        self.items = sorted(items, key=lambda item: -item.received_ns)
        self.asked = 0

    async def __call__(self, query: ItemsQuery) -> Items:
        self.asked += 1
        rows = [i for i in self.items if not query.before_ns or i.received_ns < query.before_ns]
        rows = [i for i in rows if query.decided is None or bool(i.verdicts) == query.decided]
        if query.order == "priority":
            rows.sort(key=urgency)
        return Items(items=rows[query.offset : query.offset + query.limit], total=len(rows))


def rows(count: int, *kinds: str) -> list[ItemSummary]:
    made = {kind: make_item(0, kind)[0] for kind in kinds}
    return [
        msgspec.structs.replace(made[kinds[i % len(kinds)]], item_id=f"i{i}", received_ns=10_000 - i, verdicts=[])
        for i in range(count)
    ]


def view(item: ItemSummary) -> ItemView:
    return item_view(item, identity=True)


@pytest.mark.parametrize("query", [{}, {"order": "priority"}, {"show": "open"}, {"show": "open", "order": "newest"}, {"show": "not_analysed"}])  # fmt: skip
async def test_every_row_comes_once_over_all_pages(query: dict[str, str]) -> None:
    items = rows(137, "malignant", "benign", "outside", "waiting")
    journal = Journal(items)
    wish: Filter | None = Filter.read(query)
    seen: list[str] = []
    while wish is not None:
        found = await walk(wish, journal, view)
        assert len(found.views) <= PAGE
        seen += [v.id for v in found.views]
        wish = found.more

    kinds = {"open": (0, 1), "not_analysed": (2,)}.get(query.get("show", ""), (0, 1, 2, 3))
    assert sorted(seen) == sorted(i.item_id for n, i in enumerate(items) if n % 4 in kinds)


async def test_looking_for_what_is_rare_stops_and_goes_on_from_there() -> None:
    journal = Journal(
        [*rows(SCAN + 200, "benign"), msgspec.structs.replace(rows(1, "outside")[0], item_id="last", received_ns=1)]
    )

    found = await walk(Filter.read({"show": "not_analysed"}), journal, view)
    assert found.views == []
    assert found.more is not None
    assert found.total == -1, "rows that were sorted out must not be counted as matching"
    further = await walk(found.more, journal, view)

    assert [v.id for v in further.views] == ["last"]


async def test_who_waits_for_a_verdict_is_known_without_reading_the_whole_journal() -> None:
    journal = Journal([*rows(20, "malignant"), *rows(400, "waiting")])

    found = await walk(Filter.read({"show": "open"}), journal, view)

    assert len(found.views) == 20
    assert found.more is None
    assert journal.asked == 1
