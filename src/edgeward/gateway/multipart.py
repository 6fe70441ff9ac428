"""multipart/related bodies (RFC 2046, 5.1; RFC 2387): taken apart while they arrive, and written.

Responsible for boundaries and part headers, in bounded memory whatever the size of a part. Not responsible for what the
parts mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z/]+"
_PARAMETER = re.compile(rf';\s*({_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_NAME}|[^\s;,"]+))\s*')
# RFC 2046, 5.1.1 allows 70 characters; Orthanc writes 73.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,199}[0-9A-Za-z'()+_,\-./:=?]")
_HEADERS = 16 << 10  # bytes of the headers of one part
_PREAMBLE = 64 << 10  # bytes before the first boundary


class MultipartError(ValueError):
    """The body is not what its Content-Type says; the text says why."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type and its parameters; names are lower case."""

    name: str
    parameters: dict[str, str]


def media_type(text: str) -> MediaType:
    """Return what a Content-Type header, or one range of an Accept header, says.

    Raises
    ------
    MultipartError
        If it cannot be read.
    """
    name, semicolon, rest = text.partition(";")
    rest = (semicolon + rest).rstrip()
    parameters: dict[str, str] = {}
    at = 0
    while at < len(rest):
        found = _PARAMETER.match(rest, at)
        if found is None:
            if not rest[at:].strip("; \t"):
                break
            raise MultipartError("the media type cannot be read")
        value = found[2] if found[2] is not None else found[3]
        parameters.setdefault(found[1].lower(), re.sub(r"\\(.)", r"\1", value))
        at = found.end()
    name = name.strip().lower()
    if not re.fullmatch(_NAME, name) or "/" not in name:
        raise MultipartError("the media type cannot be read")
    return MediaType(name, parameters)


@dataclass(frozen=True, slots=True)
class PartBegin:
    """A part begins. Names of headers are lower case."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """The next bytes of the part."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


Event = PartBegin | PartData | PartEnd


class Splitter:
    """Takes a body apart, piece by piece.

    Holds at most the headers of one part or as many bytes as a boundary has.

    Parameters
    ----------
    boundary
        The parameter of the Content-Type.

    Raises
    ------
    MultipartError
        If the boundary is none; later from `feed` and `finish`, if the body is malformed or truncated.
    """

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise MultipartError("the boundary is missing or malformed")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._held = bytearray(b"\r\n")  # the first boundary may stand at the very beginning
        self._state = "preamble"  # preamble | boundary | headers | data | epilogue
        self._skipped = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes and yield what they bring."""
        self._held += data
        while True:
            before = (self._state, len(self._held))
            if self._state in ("preamble", "data"):
                yield from self._until_boundary()
            elif self._state == "boundary":
                self._after_boundary()
            elif self._state == "headers":
                yield from self._headers()
            else:
                self._held.clear()
            if (self._state, len(self._held)) == before or not self._held:
                return

    def finish(self) -> None:
        """Say that the body has ended."""
        if self._state != "epilogue":
            raise MultipartError("the body is truncated: its last boundary is missing")

    def _until_boundary(self) -> Iterator[Event]:
        inside = self._state == "data"
        at = self._held.find(self._delimiter)
        end = at if at >= 0 else max(0, len(self._held) - len(self._delimiter) + 1)
        if end:
            if inside:
                yield PartData(bytes(memoryview(self._held)[:end]))
            else:
                self._skipped += end
                if self._skipped > _PREAMBLE:
                    raise MultipartError("the first boundary is missing")
            del self._held[:end]
        if at >= 0:
            del self._held[: len(self._delimiter)]
            self._state = "boundary"
            if inside:
                yield PartEnd()

    def _after_boundary(self) -> None:
        if self._held.startswith(b"--"):
            self._state = "epilogue"
            return
        end = self._held.find(b"\r\n")
        if end < 0:
            if len(self._held) > 256:
                raise MultipartError("something follows a boundary on its line")
            return
        if bytes(self._held[:end]).strip(b" \t"):
            raise MultipartError("something follows a boundary on its line")
        del self._held[:end]  # the line's end stays: headers may be none
        self._state = "headers"

    def _headers(self) -> Iterator[Event]:
        end = self._held.find(b"\r\n\r\n")
        if end > _HEADERS or (end < 0 and len(self._held) > _HEADERS):
            raise MultipartError("the headers of a part are too long")
        if end < 0:
            return
        headers: dict[str, str] = {}
        # A line that begins with a blank goes on with the one before it (RFC 5322, 2.2.3).
        for line in re.sub(rb"\r\n[ \t]+", b" ", bytes(self._held[2:end])).split(b"\r\n") if end else []:
            name, colon, value = line.partition(b":")
            if not colon or not name.strip():
                raise MultipartError("a header of a part cannot be read")
            headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
        del self._held[: end + 4]
        self._state = "data"
        yield PartBegin(headers)


def part_head(boundary: str, headers: dict[str, str]) -> bytes:
    """Return what stands before the content of a part of a body that we write."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"\r\n--{boundary}\r\n{lines}\r\n".encode("ascii")


def body_end(boundary: str) -> bytes:
    """Return what stands after the last part."""
    return f"\r\n--{boundary}--\r\n".encode("ascii")
