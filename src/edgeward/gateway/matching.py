"""Attribute matching as C-FIND and QIDO-RS define it (PS3.4, C.2.2.2; PS3.18, 8.3.4).

Pure. Responsible for whether a value matches a key. Not responsible for where values come from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

Match = Callable[[str], bool]
LONGEST = 1024  # characters of a key

_VOICED = "\u3099\u309a"  # the marks of が and ぱ
_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


class BadKey(ValueError):
    """A key cannot be matched with; the text says why, without the key."""


def matcher(vr: str, key: str) -> Match | None:
    """Return how values are compared with `key`, or None if everything matches (universal matching).

    Parameters
    ----------
    vr
        Value representation of the attribute: ``UI`` takes a list, ``DA`` and ``TM`` a range, ``PN`` is compared
        without case and accents, in any of its three groups; all but these take the wildcards ``*`` and ``?``.

    Raises
    ------
    BadKey
        If the key is no value of that kind.
    """
    if len(key) > LONGEST:
        raise BadKey(f"the key is longer than {LONGEST} characters")
    key = key.strip()
    if not key or not key.strip("*"):
        return None
    if vr == "UI":
        wanted = frozenset(re.split(r"[\\,]", key))
        return lambda value: value in wanted
    if vr == "DA":
        return _range(key, _DATE, "a date is YYYYMMDD, a range YYYYMMDD-YYYYMMDD", lambda text: text.replace(".", ""))
    if vr == "TM":
        return _range(key, _TIME, "a time is HHMMSS, a range HHMMSS-HHMMSS", lambda text: text.replace(":", ""))
    if vr == "PN":
        return name_matcher(key)
    if vr == "IS":
        return lambda value: value.strip() == key
    return lambda value: wild(key, value.strip())


def wild(pattern: str, text: str) -> bool:
    """Return whether `text` matches a pattern with ``*`` (any characters) and ``?`` (one).

    Takes time of at most the product of their lengths, whatever the pattern: it comes from outside.
    """
    at = star = 0
    back = -1
    for_text = 0
    while for_text < len(text):
        if at < len(pattern) and pattern[at] == "*":
            back, star = at, for_text
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[for_text]):
            at += 1
            for_text += 1
        elif back >= 0:
            star += 1
            at, for_text = back + 1, star
        else:
            return False
    return not pattern[at:].strip("*")


def plain(text: str) -> str:
    """Return text as names are compared: without case, accents and other marks (but those that make another kana)."""
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in decomposed if c in _VOICED or not unicodedata.combining(c))
    return unicodedata.normalize("NFKC", bare.casefold())


def names(text: str) -> list[str]:
    """Return the groups of a person name, or of a key for one, as they are compared."""
    groups = [plain(group).strip().rstrip("^ ") for group in text.split("=")[:3]]
    return [" ".join(group.split()) for group in groups]


def name_matcher(key: str) -> Match | None:
    """Return how person names are compared with `key` (PS3.4, C.2.2.2.1), or None if every name matches.

    A key of one group is compared with every group of a name: few who ask know in which one it was written. Of several
    groups each must match its counterpart, where the name has one.
    """
    patterns = {place: group for place, group in enumerate(names(key)) if group.strip("*^ ")}
    if not patterns:
        return None
    if len(patterns) == 1:
        (pattern,) = patterns.values()
        return lambda value: any(wild(pattern, group) for group in names(value) if group)

    def matches(value: str) -> bool:
        given = names(value)
        known = [(pattern, given[place]) for place, pattern in patterns.items() if place < len(given) and given[place]]
        return bool(known) and all(wild(pattern, group) for pattern, group in known)

    return matches


def _range(key: str, form: re.Pattern[str], hint: str, plain: Callable[[str], str]) -> Match:
    low, dash, high = (part.strip() for part in key.partition("-"))
    low, high = plain(low), plain(high)
    if not all(form.fullmatch(part) for part in (low, high) if part) or not (low or high):
        raise BadKey(hint)
    if not dash:
        return lambda value: plain(value.strip()).startswith(low) if value else False

    def within(value: str) -> bool:
        given = plain(value.strip())
        # 1030 stands for all of that minute: an end of a range takes in what begins with it.
        return bool(given) and (not low or given >= low) and (not high or given[: len(high)] <= high)

    return within
