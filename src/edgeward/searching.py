"""What people type to find somebody, compared with what DICOM and HL7 write.

Responsible for comparing words with names and numbers. Not responsible for what is searched.
"""

from __future__ import annotations

from collections.abc import Iterable

_BETWEEN = str.maketrans(dict.fromkeys("^=,()\u3001\uff0c\uff08\uff09", " "))


def words(text: str) -> list[str]:
    """Return the words of what somebody typed, as `mentions` wants them."""
    return _plain(text).split()


def mentions(name: str, others: Iterable[str], wanted: Iterable[str]) -> bool:
    """Return whether every word occurs in a person's name (PN, PS3.5, 6.2) or in one of the other texts."""
    text = _plain("\n".join([name, *others, _unbroken(name)]))
    return all(word in text for word in wanted)


def _plain(text: str) -> str:
    """Return text as it is compared: without case, and with whatever may stand between the parts of a name as spaces.

    That is what DICOM puts there (PS3.5, 6.2), and what the pages show instead: commas and brackets.
    """
    return text.casefold().translate(_BETWEEN)


def _unbroken(name: str) -> str:
    """Return the groups of a name that are not Latin as they are written and shown: without anything in between."""
    groups = (group for group in name.split("=") if not group.isascii())
    return "\n".join("".join(group.replace("^", " ").split()) for group in groups)
