"""Two languages from two catalogues, and which of them a reader gets.

Responsible for finding texts and filling in their values. A text that is missing is an error of ours, so it shows as
its key rather than as nothing; the tests compare the catalogues key by key. Escaping is the template's business.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgeward.phrases import UNITS, fill, particulars

__all__ = [
    "DEFAULT",
    "LANGUAGES",
    "UNITS",
    "alarm_text",
    "catalogue",
    "choose",
    "fill",
    "for_browser",
    "has",
    "reason",
    "text",
]

LANGUAGES = ("en", "zh")
DEFAULT = "en"
_FOLDER = Path(__file__).parent / "locales"
BROWSER_SECTIONS = (
    "live",
    "alarm",
    "alarm_short",
    "rhythm",
    "priority",
    "time",
    "bed",
    "wave",
    "viewer",
    "label",
    "reason",
    "said",
    "sound",
    "parameter",
    "consciousness",
    "oxygen",
    "trend",
    "review",
)  # what the scripts need


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


@cache
def catalogue(language: str) -> dict[str, str]:
    """Return all texts of `language`, keys joined by dots."""
    return _flatten(tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8")))


def text(language: str, key: str, **values: object) -> str:
    """Return the text of `key`, or the key itself if there is none."""
    found = catalogue(language).get(key)
    return key if found is None else fill(found, values)


def has(key: str) -> bool:
    """Whether the catalogues have this key."""
    return key in catalogue(DEFAULT)


@cache
def _sayings() -> list[tuple[str, re.Pattern[str]]]:
    """Return the keys of what roles say, each with the English wording as a pattern."""
    found = []
    for key, wording in catalogue(DEFAULT).items():
        if key.startswith("said."):
            found.append((key, _pattern(wording)))
    return found


def _pattern(wording: str) -> re.Pattern[str]:
    parts = re.split(r"\{([a-z]+)\}", wording)
    pattern = "".join(f"(?P<{part}>.+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(pattern, re.DOTALL)


@cache
def _refusals(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Return what the gateway says of what it refuses: the English wording as a pattern, and the words for it.

    What leaves the least open comes first: a wording without slots, then the longest; last what begins with a slot.
    """
    path = _FOLDER / f"refusals.{language}.toml"
    if not path.exists():
        return []
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    order = sorted(told, key=lambda wording: (wording.startswith("{"), wording.count("{"), -len(wording)))
    return [(_pattern(wording), str(told[wording])) for wording in order]


def reason(language: str, told: str) -> str:
    """Return a reason as a role gave it, in the reader's language as far as its words are known; else as it is."""
    for key, pattern in _sayings():
        if said := pattern.fullmatch(told):
            return text(
                language, key, **{n: reason(language, v) if n == "rest" else v for n, v in said.groupdict().items()}
            )
    for pattern, words in _refusals(language):
        if said := pattern.fullmatch(told):
            values = said.groupdict()
            return fill(words, {n: reason(language, v) if n == "rest" else v for n, v in values.items()})
    head, colon, rest = told.partition(": ")
    key = f"reason.{head.lower().replace(' ', '_').replace(chr(39), '')}"
    return f"{text(language, key)}{colon}{reason(language, rest)}" if has(key) else told


def alarm_text(language: str, code: str, args: Mapping[str, object]) -> str:
    """Return what an alarm says. A code we have no words for is shown as it is: never hidden, never invented."""
    if has(f"alarm.{code}"):
        return text(language, f"alarm.{code}", **readable(language, args))
    details = ", ".join(f"{key} {value}" for key, value in args.items())
    return f"{code} ({details})" if details else code


def readable(language: str, args: Mapping[str, object]) -> dict[str, object]:
    """Return an alarm's particulars for reading: names of parameters in words, units as people write them."""
    words = particulars(args)
    name = words.get("parameter")
    if isinstance(name, str) and has(f"parameter.{name}"):
        words["parameter"] = text(language, f"parameter.{name}")
    why = words.get("reason")
    if isinstance(why, str):
        words["reason"] = reason(language, why)
    return words


def for_browser(language: str) -> dict[str, str]:
    """Return the texts that the scripts need."""
    texts = {key: value for key, value in catalogue(language).items() if key.split(".", 1)[0] in BROWSER_SECTIONS}
    if language != DEFAULT:  # what roles say is recognised by its English wording
        texts |= {f"from.{key}": value for key, value in catalogue(DEFAULT).items() if key.startswith("said.")}
    return texts


def choose(*, account: str, cookie: str, accept: str) -> str:
    """Return the language of a reader: what she last chose in this browser, else her account's, else the browser's."""
    for wish in (cookie, account):
        if wish in LANGUAGES:
            return wish
    ranked: list[tuple[float, int, str]] = []
    for position, part in enumerate(accept.split(",")[:20]):
        name, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        ranked.append((-weight, position, name.split("-")[0].lower()))
    return next((name for _, _, name in sorted(ranked) if name in LANGUAGES), DEFAULT)
