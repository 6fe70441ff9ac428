"""Images that belong together: the series of an image as a stack to scroll, and what else there is of its patient.

Responsible for which images, in which order, and that no other patient's is among them. The gateway chooses; this looks
again, because another person's image beside this one would be worse than none.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from edgeward.console.present import examined_at
from edgeward.messages import Items, ItemsQuery, ItemSummary

Asked = Callable[[ItemsQuery], Awaitable[Items]]
ROWS = 500  # the gateway gives no more at once
MOST = 4000  # images that are looked through, and that a stack has
ALONE = 6  # a series of more images than this is one entry among a patient's others


async def series(ask: Asked, item: ItemSummary) -> list[ItemSummary]:
    """Return the images of an item's series in their order, the item among them; at most `MOST`.

    Loops are left out: each has its own frames. Ordered by instance number (PS3.3, C.7.6.1), then by arrival.
    """
    if not item.series_instance_uid or _frames(item) > 1:
        return [item]
    query = ItemsQuery(
        study_instance_uid=item.study_instance_uid, series_instance_uid=item.series_instance_uid, limit=ROWS
    )
    images = {other.item_id: other for other in await _all(ask, query) if _same_stack(item, other)}
    return sorted((images | {item.item_id: item}).values(), key=_place)


async def others(ask: Asked, item: ItemSummary, limit: int) -> list[tuple[ItemSummary, int]]:
    """Return other images of the same patient, the latest examination first, and how many images each stands for.

    A prior that is sent today was not made today: the time of arrival orders only what does not tell its examination.

    A series of more than `ALONE` images is one entry, its newest, and the item's own is none: six hundred slices must
    not hide what there was before them. Nor may a study of a thousand series: what does not fit is shared out.
    """
    found = [
        other
        for other in await _all(ask, ItemsQuery(same_patient_as=item.item_id, limit=ROWS))
        if same_patient(item, other)
    ]
    found.sort(key=_made, reverse=True)
    counted = Counter(other.series_instance_uid or other.item_id for other in found)
    kept: list[tuple[ItemSummary, int]] = []
    told = {item.series_instance_uid}
    for other in found:
        key = other.series_instance_uid or other.item_id
        images = counted[key] if counted[key] > ALONE else 1
        if other.item_id == item.item_id or (images > 1 and key in told):
            continue
        told.add(key)
        kept.append((other, images))
    return _shared_out(kept, item.study_instance_uid, limit)


def _shared_out(found: list[tuple[ItemSummary, int]], own: str, limit: int) -> list[tuple[ItemSummary, int]]:
    """Return `limit` of them in their order: at least half are the own study's if it has them, the rest in turns."""
    earlier = sum(other.study_instance_uid != own for other, _ in found)
    room = max(limit // 2, limit - earlier)
    seen = Counter[str]()
    turns: list[tuple[int, int]] = []
    for place, (other, _) in enumerate(found):
        turn = seen[other.study_instance_uid]
        seen[other.study_instance_uid] += 1
        if other.study_instance_uid == own:
            turn = -1 if turn < room else len(found)
        turns.append((turn, place))
    return [found[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


async def _all(ask: Asked, query: ItemsQuery) -> list[ItemSummary]:
    found: list[ItemSummary] = []
    while True:
        answer = await ask(query)
        found += answer.items
        if len(answer.items) < query.limit or len(found) >= MOST:
            return found[:MOST]
        query = msgspec.structs.replace(query, before_ns=answer.items[-1].received_ns)


def same_patient(item: ItemSummary, other: ItemSummary) -> bool:
    """Whether two images may be shown as one patient's: the same number, and nothing that contradicts it.

    A device without a worklist may send every patient under one number (``UNKNOWN``, ``0``). Names are no proof: one
    person's are written in several ways.
    """
    if _contradict(item.patient_birth_date, other.patient_birth_date) or _contradict(
        item.patient_sex, other.patient_sex
    ):
        return False
    if item.patient_id:
        return other.patient_id == item.patient_id
    return bool(item.study_instance_uid) and other.study_instance_uid == item.study_instance_uid


def _contradict(one: str, other: str) -> bool:
    """Whether both say something, and not the same; dots and dashes of a date are no difference."""
    first, second = (re.sub(r"[.\s-]", "", text).upper() for text in (one, other))
    return bool(first and second) and first != second


def _made(item: ItemSummary) -> tuple[str, int]:
    arrived = dt.datetime.fromtimestamp(item.received_ns / 1e9).astimezone()  # as the modality's time: the site's own
    return examined_at(item) or arrived.strftime("%Y%m%d%H%M"), item.received_ns


def _frames(item: ItemSummary) -> int:
    return item.finding.frames if item.finding else 1


def _same_stack(item: ItemSummary, other: ItemSummary) -> bool:
    same = (other.series_instance_uid, other.sop_class_uid) == (item.series_instance_uid, item.sop_class_uid)
    return same and _frames(other) == 1 and same_patient(item, other)


def _place(item: ItemSummary) -> tuple[int, int, str]:
    text = item.instance_number.strip()
    return (int(text) if re.fullmatch(r"[+-]?[0-9]{1,12}", text) else 0), item.received_ns, item.item_id
