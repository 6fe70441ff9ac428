"""HL7 v2 messages in the vertical bar encoding (ER7; HL7 v2.5.1, chapter 2.5 to 2.7).

Responsible for taking a message apart and putting one together: delimiters, escapes, segments, fields, repetitions,
components. Not responsible for what a field means, for character sets (``hl7.charset``) or framing (``hl7.frames``).

The reader is lenient in form (line ends, missing trailing fields, segments it does not know) and strict in what would
change the meaning: without a usable header nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

NULL = '""'  # a field that is to be emptied (2.5.3.3)
_MOST_SEGMENTS = 10_000
_NAME = re.compile(r"^[A-Z][A-Z0-9]{2}$")

Value = str | tuple[str, ...] | list["str | tuple[str, ...]"]
"""A field to write: text, a tuple of components, or a list of repetitions of these."""


class NotHl7(ValueError):
    """The text is not a message in this encoding; the reason never quotes it."""


@dataclass(frozen=True, slots=True)
class Delimiters:
    """MSH-1 and MSH-2."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @classmethod
    def of(cls, text: str) -> Delimiters:
        """Read them from the beginning of a header segment (MSH, FHS or BHS).

        Raises
        ------
        NotHl7
            If they are missing or cannot be told apart.
        """
        if len(text) < 8:
            raise NotHl7("the header segment is too short")
        separator = text[3]
        characters = text[4:].split(separator, 1)[0][:5]
        if len(characters) < 2:
            raise NotHl7("the header segment does not name the encoding characters")
        found = (separator, *characters[:4], *"^~\\&"[len(characters) :])[:5]
        if len(set(found)) < 5 or any(letter.isalnum() or letter.isspace() for letter in found):
            raise NotHl7("the encoding characters are not usable")
        return cls(*found)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment. Fields are counted as the standard does, from 1; in a header, field 1 is the separator itself."""

    name: str
    raw: tuple[str, ...] = field(repr=False)  # raw[n] is field n; raw[0] is the name
    delimiters: Delimiters = field(repr=False, default=Delimiters())

    def present(self, number: int) -> bool:
        """Whether a field holds anything, also the explicit null."""
        return bool(self._field(number))

    def repetitions(self, number: int) -> int:
        """Return how many repetitions a field has; 0 if it is empty."""
        text = self._field(number)
        return text.count(self.delimiters.repetition) + 1 if text else 0

    def text(self, number: int, component: int = 1, repetition: int = 1, subcomponent: int = 1) -> str:
        """Return one value without its escapes, without blanks around it; empty if it is not there or null."""
        return self._unescape(self._raw(number, component, repetition, subcomponent)).strip()

    def null(self, number: int) -> bool:
        """Whether a field is the explicit null, which asks for its value to be emptied."""
        return self._field(number) == NULL

    def _field(self, number: int) -> str:
        return self.raw[number] if 0 < number < len(self.raw) else ""

    def _raw(self, number: int, component: int, repetition: int, subcomponent: int) -> str:
        text = self._field(number)
        if self.name in ("MSH", "FHS", "BHS") and number <= 2:
            return text
        for separator, wanted in (
            (self.delimiters.repetition, repetition),
            (self.delimiters.component, component),
            (self.delimiters.subcomponent, subcomponent),
        ):
            parts = text.split(separator, wanted)  # no further: a field may hold a million of them
            text = parts[wanted - 1] if wanted <= len(parts) else ""
        return "" if text == NULL else text

    def _unescape(self, text: str) -> str:
        escape = self.delimiters.escape
        if escape not in text:
            return text
        parts = text.split(escape)
        out = [parts[0]]
        # Between two escape characters stands a sequence; an unpaired one is text.
        index = 1
        while index < len(parts):
            if index + 1 >= len(parts):
                out.append(escape + parts[index])
                break
            out.append(self._escaped(parts[index]))
            out.append(parts[index + 1])
            index += 2
        return "".join(out)

    def _escaped(self, sequence: str) -> str:
        d = self.delimiters
        known = {"F": d.field, "S": d.component, "T": d.subcomponent, "R": d.repetition, "E": d.escape, "P": "#"}
        if sequence in known:
            return known[sequence]
        if sequence.startswith("X") and len(sequence) % 2 and len(sequence) > 1:
            try:
                data = bytes.fromhex(sequence[1:])
            except ValueError:
                return ""
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError:
                return data.decode("latin-1")
        if sequence.startswith((".br", ".sp", ".ce")):
            return "\n"
        return ""  # highlighting, other formatting, local and character set sequences carry no text


@dataclass(frozen=True, slots=True)
class Message:
    """A message: its segments in order, the header first."""

    segments: tuple[Segment, ...]
    charset: str = ""  # as used on the wire, for the answer

    @property
    def header(self) -> Segment:
        """MSH."""
        return self.segments[0]

    @property
    def code(self) -> str:
        """Message code, such as ``ORM`` (MSH-9.1)."""
        return self.header.text(9, 1).upper()

    @property
    def event(self) -> str:
        """Trigger event, such as ``O01`` (MSH-9.2)."""
        return self.header.text(9, 2).upper()

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.header.text(10)

    @property
    def version(self) -> str:
        """Version id, such as ``2.5.1`` (MSH-12.1)."""
        return self.header.text(12)

    def first(self, name: str) -> Segment | None:
        """Return the first segment of that name, or None."""
        return next((segment for segment in self.segments if segment.name == name), None)

    def groups(self, name: str) -> list[tuple[Segment, ...]]:
        """Return the runs of segments that begin with a segment of that name and end before the next one."""
        found: list[list[Segment]] = []
        for segment in self.segments:
            if segment.name == name:
                found.append([segment])
            elif found:
                found[-1].append(segment)
        return [tuple(group) for group in found]


def parse(text: str, charset: str = "") -> Message:
    """Take a message apart.

    Raises
    ------
    NotHl7
        If it has no usable header, or a line that is no segment.
    """
    text = text.lstrip("\ufeff\r\n\t ")
    if not text.startswith(("MSH", "FHS", "BHS")):
        raise NotHl7("it does not begin with a header segment (MSH)")
    delimiters = Delimiters.of(text)
    lines = [line.strip("\n") for line in text.split("\r")] if "\r" in text else text.split("\n")
    segments = []
    for number, line in enumerate(lines, 1):
        if not line.strip("\0 \t"):
            continue
        if number > _MOST_SEGMENTS:
            raise NotHl7(f"it has more than {_MOST_SEGMENTS} segments")
        parts = line.split(delimiters.field)
        if not _NAME.match(parts[0]):
            raise NotHl7(f"line {number} is not a segment")
        if parts[0] in ("MSH", "FHS", "BHS"):
            parts.insert(1, delimiters.field)
        segments.append(Segment(parts[0], tuple(parts), delimiters))
    if sum(segment.name == "MSH" for segment in segments) > 1 and segments[0].name == "MSH":
        raise NotHl7("it holds more than one message")
    return Message(tuple(segments), charset)


def escape(text: str) -> str:
    """Return `text` as it may stand in a component written with the usual delimiters."""
    return "".join(_ESCAPES.get(letter, letter) if letter >= " " else _control(letter) for letter in text)


_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}


def _control(letter: str) -> str:
    return "\\.br\\" if letter == "\n" else " "


def segment(name: str, *values: Value) -> str:
    """Return a segment with the usual delimiters; `values` are its fields from 1 (MSH: from 3), escaped here."""
    fields = [_field(value) for value in values]
    while fields and not fields[-1]:
        fields.pop()
    start = f"{name}|^~\\&" if name == "MSH" else name
    return "|".join([start, *fields])


def _field(value: Value) -> str:
    if isinstance(value, list):
        return "~".join(_field(one) for one in value)
    if isinstance(value, tuple):
        return "^".join(escape(component) for component in value).rstrip("^")
    return escape(value)


def join(segments: Iterable[str]) -> str:
    """Return segments as a message: each ends with a carriage return (2.5.1)."""
    return "".join(f"{one}\r" for one in segments)


def find(segments: Sequence[Segment], name: str) -> Segment | None:
    """Return the first segment of that name in a group, or None."""
    return next((one for one in segments if one.name == name), None)
