"""Matching of a worklist query against entries (PS3.4, C.2.2.2 and table K.6-1), and the answer's shape.

Pure. Responsible for reading an identifier into a question, and for the answer a question makes of an entry: the keys
that were asked for, each with its value, an empty one, or, if it is not supported, empty and told.

Supported: universal, single value, wildcard, range (also of date and time taken together), list of UIDs, and sequence
matching. Names are compared without case, accents and padding, in any of their three groups (PS3.4, C.2.2.2.1.3).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from edgeward.gateway.matching import name_matcher, wild
from edgeward.gateway.order_entry import Entry
from edgeward.gateway.worklist_entry import SHORTCUTS, entry_dataset, example

_CHARSET = Tag(0x0008, 0x0005)
_STEPS = Tag(0x0040, 0x0100)
_STATION = Tag(0x0040, 0x0001)
_MODALITY = Tag(0x0008, 0x0060)
_DATE, _TIME = Tag(0x0040, 0x0002), Tag(0x0040, 0x0003)
_TIMEZONE = Tag(0x0008, 0x0201)
_WILD = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
_LONGEST = 1024  # characters of one key
_MOST_KEYS = 500
_DEEPEST = 6

Test = Callable[[Dataset], bool]


class BadIdentifier(ValueError):
    """A query cannot be answered; `status` is what it is answered with. The text quotes nothing."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(slots=True)
class Question:
    """A query, understood."""

    keys: Dataset = field(repr=False)
    calling: str
    shortcuts: list[Callable[[Entry], bool]] = field(default_factory=list)
    tests: list[Test] = field(default_factory=list)
    all_supported: bool = True

    def answer(self, entry: Entry) -> Dataset | None:
        """Return what the query asked for of an entry, or None if the entry does not match."""
        if not all(test(entry) for test in self.shortcuts):
            return None
        found = entry_dataset(entry)
        if not all(test(found) for test in self.tests):
            return None
        answer = _returned(self.keys, found)
        answer.SpecificCharacterSet = "ISO_IR 192"
        for step in answer.get("ScheduledProcedureStepSequence") or ():
            self._assign(step)
        return answer

    def _assign(self, step: Dataset) -> None:
        """Give a step that is for anybody the station and modality that asked (see ``gateway.worklist``)."""
        asked = _first_item(self.keys, _STEPS)
        if _STATION in step and not step[_STATION].value:
            step[_STATION].value = _single(asked, _STATION) or self.calling
        if _MODALITY in step and not step[_MODALITY].value:
            step[_MODALITY].value = _single(asked, _MODALITY) or "OT"


def ask(identifier: Dataset, calling: str) -> Question:
    """Understand a query.

    Parameters
    ----------
    identifier
        As it was received.
    calling
        AE title of the modality.

    Raises
    ------
    BadIdentifier
        If it is not a worklist identifier, or a key has a value that its kind does not allow.
    """
    try:
        question = Question(identifier, calling.strip())
        _read(identifier, question, path=(), depth=0, budget=[_MOST_KEYS])
    except BadIdentifier:
        raise
    except Exception as error:  # pydicom raises whatever a broken value leads to; its text may quote it
        raise BadIdentifier(0xC000, f"the identifier cannot be read ({type(error).__name__})") from None
    return question


def _read(keys: Dataset, question: Question, path: tuple[BaseTag, ...], depth: int, budget: list[int]) -> None:
    if depth > _DEEPEST:
        raise BadIdentifier(0xA900, "the identifier has too many levels")
    known = _model(path)
    for element in keys:
        budget[0] -= 1
        if budget[0] < 0:
            raise BadIdentifier(0xA900, "the identifier has too many keys")
        tag = element.tag
        if tag in (_CHARSET, _TIMEZONE) or tag.element == 0:
            continue
        if known is None or tag not in known:
            question.all_supported = False
            continue
        if element.VR == "SQ":
            items = element.value or []
            if len(items) > 1:
                raise BadIdentifier(0xA900, "a sequence in the identifier has more than one item")
            if items:
                _read(items[0], question, (*path, tag), depth + 1, budget)
        elif path == (_STEPS,) and tag in (_DATE, _TIME):
            continue  # together, below
        elif test := _test(element):
            shortcut = SHORTCUTS.get((bool(path), element.keyword)) if path in ((), (_STEPS,)) else None
            if shortcut is not None:
                question.shortcuts.append(_direct(shortcut, test, open_to_all=tag in (_STATION, _MODALITY)))
            else:
                question.tests.append(_within(path, tag, test))
    if path == (_STEPS,) and (moment := _moment(keys)):
        question.shortcuts.append(lambda entry: moment(entry.order.scheduled[:8], entry.order.scheduled[8:14]))


def _model(path: tuple[BaseTag, ...]) -> Dataset | None:
    """Return an entry at a level, to look up which attributes are supported there."""
    level = example()
    for tag in path:
        if tag not in level or not level[tag].value:
            return None
        level = level[tag].value[0]
    return level


def _direct(
    value_of: Callable[[Entry], str], test: Callable[[str], bool], *, open_to_all: bool
) -> Callable[[Entry], bool]:
    def matches(entry: Entry) -> bool:
        value = value_of(entry)
        return (open_to_all and not value) or test(value)

    return matches


def _within(path: tuple[BaseTag, ...], tag: BaseTag, test: Callable[[str], bool]) -> Test:
    def matches(entry: Dataset) -> bool:
        return any(
            test(value) for item in _items(entry, path) for value in (_texts(item[tag]) if tag in item else []) or [""]
        )

    return matches


def _items(entry: Dataset, path: tuple[BaseTag, ...]) -> list[Dataset]:
    level = [entry]
    for tag in path:
        level = [item for one in level if tag in one for item in one[tag].value or ()]
    return level


# ---------------------------------------- one key


def _texts(element: DataElement) -> list[str]:
    value = element.value
    if value is None or value == "":
        return []
    return [str(one).strip() for one in value] if isinstance(value, MultiValue | list | tuple) else [str(value).strip()]


def _test(element: DataElement) -> Callable[[str], bool] | None:
    """Return how values are compared with a key, or None if all match."""
    wanted = [text for text in _texts(element) if text]
    if not wanted:
        return None
    if any(len(text) > _LONGEST for text in wanted):
        raise BadIdentifier(0xA900, "a key is too long")
    vr = str(element.VR)
    if vr in _WILD and any(not text.strip("*") for text in wanted):
        return None
    if vr == "UI":
        return frozenset(wanted).__contains__
    if vr == "PN":
        found = [match for text in wanted if (match := name_matcher(text))]
        return (lambda value: any(match(value) for match in found)) if len(found) == len(wanted) else None
    if vr in ("DA", "TM", "DT") and any("-" in text for text in wanted):
        if len(wanted) > 1:
            raise BadIdentifier(0xA900, "a range stands alone")
        low, high = _range(wanted[0], vr)
        return lambda value: bool(value) and low <= _padded(value, vr) <= high
    if vr in _WILD:
        return lambda value: any(wild(text, value) for text in wanted)
    return lambda value: value in wanted


# ---------------------------------------- dates and times


def _padded(text: str, vr: str, fill: str = "0") -> str:
    text = text.replace(":", "").replace(".", "") if vr in ("DA", "TM") else text
    return text.ljust({"DA": 8, "TM": 12, "DT": 21}[vr], fill)


def _range(text: str, vr: str) -> tuple[str, str]:
    low, _, high = (part.strip() for part in text.partition("-"))
    for part in (low, high):
        if part and not part.replace(":", "").replace(".", "").isdigit():
            raise BadIdentifier(0xA900, "a range of dates or times is not one")
    if not low and not high:
        raise BadIdentifier(0xA900, "a range of dates or times is empty")
    # An end that is given to the minute takes in the whole minute.
    return _padded(low, vr) if low else "", _padded(high, vr, "9") if high else "~"


def _moment(keys: Dataset) -> Callable[[str, str], bool] | None:
    """Return the test of the step's start (K.6-1): two ranges, of date and time, are one from moment to moment."""
    date, time = _single(keys, _DATE), _single(keys, _TIME)
    for text, longest in ((date, 17), (time, 33)):
        if text and (len(text) > longest or not set(text) <= set("0123456789-.: ")):
            raise BadIdentifier(0xA900, "the start date or time is not one")
    if not date and not time:
        return None
    (first, last), (early, late) = _ends(date, "DA"), _ends(time, "TM")
    if "-" in date and "-" in time:
        return lambda day, at: bool(day) and first + early <= day + _padded(at, "TM") <= last + late
    return lambda day, at: (
        (not date or (bool(day) and first <= day <= last))
        and (not time or (bool(at) and early <= _padded(at, "TM") <= late))
    )


def _ends(text: str, vr: str) -> tuple[str, str]:
    """Return the first and last value that a date or time key takes in."""
    low, high = _range(text, vr) if "-" in text else (_padded(text, vr), _padded(text, vr, "9"))
    return low or _padded("", vr), high if high != "~" else _padded("", vr, "9")


# ---------------------------------------- the answer


def _returned(keys: Dataset, entry: Dataset) -> Dataset:
    answer = Dataset()
    for element in keys:
        tag = element.tag
        if tag == _CHARSET or tag.element == 0 or tag.is_private:
            continue
        if tag not in entry:
            answer.add(DataElement(tag, element.VR, Sequence() if element.VR == "SQ" else None))
        elif element.VR == "SQ" and element.value and len(element.value[0]):
            items = [_returned(element.value[0], item) for item in entry[tag].value or ()]
            answer.add(DataElement(tag, "SQ", Sequence(items)))
        elif element.VR == "SQ":  # without an item, or with an empty one, it asks for all of it
            answer.add(deepcopy(entry[tag]))
        else:
            answer.add(DataElement(tag, entry[tag].VR, entry[tag].value))
    return answer


def _first_item(dataset: Dataset, tag: BaseTag) -> Dataset:
    items = dataset[tag].value if tag in dataset else None
    return items[0] if items else Dataset()


def _single(dataset: Dataset, tag: BaseTag) -> str:
    """Return a key's value if it is a single one without wildcards, else an empty string."""
    texts = _texts(dataset[tag]) if tag in dataset else []
    if tag in (_DATE, _TIME) and len(texts) > 1:
        raise BadIdentifier(0xA900, "a date or time has several values")
    return texts[0] if len(texts) == 1 and not set(texts[0]) & set("*?") else ""
