"""Which images belong to a series or a patient, in which order, and that nobody else's is among them."""

from __future__ import annotations

import msgspec
import pytest

from edgeward.console import stack
from edgeward.console.filters import Filter, walk
from edgeward.console.present import item_view
from edgeward.messages import Items, ItemsQuery, ItemSummary
from tests.support.synthetic import make_item


def image(number: int, *, series: str = "1.2.3", patient: str = "P-1", place: str | None = None) -> ItemSummary:
    item, _ = make_item(3, "outside")
    return msgspec.structs.replace(
        item,
        item_id=f"{series}-{number}",
        series_instance_uid=series,
        study_instance_uid="1.2",
        patient_id=patient,
        instance_number=str(number) if place is None else place,
        received_ns=1_000_000 + number,
    )


class Gateway:
    """Answers at most `stack.ROWS` rows, newest first, whatever else is asked."""

    def __init__(self, rows: list[ItemSummary]) -> None:
        self.rows = sorted(rows, key=lambda row: -row.received_ns)
        self.asked: list[ItemsQuery] = []

    async def __call__(self, query: ItemsQuery) -> Items:
        self.asked.append(query)
        rows = [row for row in self.rows if not query.before_ns or row.received_ns < query.before_ns]
        return Items(items=rows[: query.limit], total=len(rows))


async def test_a_series_longer_than_an_answer_is_whole_and_in_its_order() -> None:
    rows = [image(n, place=str(601 - n)) for n in range(1, 601)]
    gateway = Gateway(rows)

    found = await stack.series(gateway, rows[10])

    assert [int(one.instance_number) for one in found] == list(range(1, 601))
    assert gateway.asked[0].series_instance_uid == "1.2.3"


async def test_another_patient_another_series_and_a_loop_are_not_in_a_stack() -> None:
    loop = image(4)
    assert loop.finding is not None
    loop = msgspec.structs.replace(loop, finding=msgspec.structs.replace(loop.finding, frames=30))
    mine = [image(1), image(2)]

    found = await stack.series(Gateway([*mine, image(3, patient="P-2"), image(5, series="9.9"), loop]), mine[0])

    assert found == mine
    assert await stack.series(Gateway([*mine, loop]), loop) == [loop]


async def test_numbers_that_are_none_leave_the_order_of_arrival() -> None:
    rows = [image(1, place=""), image(2, place="two"), image(3, place=" 3 "), image(4, place="9" * 40)]

    assert [one.item_id for one in await stack.series(Gateway(rows), rows[0])] == ["1.2.3-1", "1.2.3-2", "1.2.3-4", "1.2.3-3"]  # fmt: skip


async def test_a_long_series_hides_no_prior() -> None:
    mine = [image(n) for n in range(1000, 1600)]
    prior = [image(n, series="7.7") for n in range(40)]
    single = image(500, series="8.8")

    found = await stack.others(Gateway([*mine, *prior, single, image(3, series="6.6", patient="P-2")]), mine[0], 24)

    assert found == [(single, 1), (prior[-1], 40)]


async def test_priors_stand_by_when_they_were_made_and_not_by_when_they_came() -> None:
    def made(number: int, day: str, time: str = "", **changes: str) -> ItemSummary:
        one = msgspec.structs.replace(image(number, series=f"7.{number}"), study_date=day, study_time=time)
        return msgspec.structs.replace(one, study_instance_uid=f"1.{number}", **changes)

    own = made(1, "20260105", "101500")
    old = made(9, "20190315", "0830")  # sent last
    morning, evening, undated_time = made(5, "2020.06.01", "07"), made(4, "20200601", "1900"), made(3, "20210101")
    arrived = made(2, "nonsense")  # says nothing: 1970, when it came

    found = await stack.others(Gateway([own, old, morning, evening, undated_time, arrived]), own, 24)

    assert [one for one, _ in found] == [undated_time, evening, morning, old, arrived]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"patient_name": "Somebody^Else"}, True),
        ({"patient_birth_date": "", "patient_sex": ""}, True),
        ({"patient_birth_date": "1964.02.29"}, True),
        ({"patient_birth_date": "19640228"}, False),
        ({"patient_sex": "M"}, False),
    ],
)
async def test_one_number_for_everybody_does_not_make_them_one_patient(changes: dict[str, str], same: bool) -> None:
    mine, other = image(1, patient="UNKNOWN"), image(2, patient="UNKNOWN")
    other = msgspec.structs.replace(other, **changes)
    gateway = Gateway([mine, other])

    assert [one.item_id for one, _ in await stack.others(gateway, mine, 24)] == ([other.item_id] if same else [])
    assert (other in await stack.series(gateway, mine)) is same
    assert stack.same_patient(other, mine) is same


async def test_a_study_of_many_series_hides_no_prior() -> None:
    def of(study: str, count: int, at: int) -> list[ItemSummary]:
        made = [image(at + n, series=f"{study}.{n}") for n in range(count)]
        return [msgspec.structs.replace(one, study_instance_uid=study) for one in reversed(made)]

    mine, last, before, first = of("1.4", 1000, 5000), of("1.3", 1000, 3000), of("1.2", 1, 2000), of("1.1", 3, 1000)

    found = [one for one, _ in await stack.others(Gateway([*mine, *last, *before, *first]), mine[0], 24)]
    assert found == [*mine[1:13], *last[:8], *before, *first]
    assert [one for one, _ in await stack.others(Gateway([*mine, *before]), mine[0], 24)] == [*mine[1:24], *before]
    assert [one for one, _ in await stack.others(Gateway([*before, *first, *last]), before[0], 24)] == [
        *last[:21],
        *first,
    ]


async def test_images_of_one_series_that_wait_for_nobody_are_one_row_of_the_worklist() -> None:
    slices = [image(n) for n in range(10, 620)]
    waiting, _ = make_item(3, "malignant")
    waiting = msgspec.structs.replace(waiting, series_instance_uid="1.2.3", received_ns=1_000_300)
    older = image(1, series="5.5")

    found = await walk(Filter(), Gateway([*slices, waiting, older]), lambda item: item_view(item, identity=True))

    assert [(view.id, view.images) for view in found.views] == [
        (slices[-1].item_id, 610),
        (waiting.item_id, 1),
        (older.item_id, 1),
    ]
    assert found.more is None
