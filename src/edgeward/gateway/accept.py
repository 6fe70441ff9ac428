"""What a client accepts, in the terms of DICOMweb (PS3.18, 8.7).

Pure, but for reading the request's header. Responsible for media types and transfer syntaxes of answers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request

from edgeward.gateway.multipart import MediaType, MultipartError, media_type

_RANGES = 32
_LONGEST = 4096
_COMMA = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')  # not within quotes

# PS3.18, Table 8.7.3-2 and following: media types of compressed frames.
_COMPRESSED = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The media ranges of a request, the preferred ones first; and those that it does not take (``q=0``)."""

    ranges: tuple[MediaType, ...]
    refused: tuple[MediaType, ...] = ()

    def any_of(self, *names: str) -> bool:
        """Whether one of these media types is accepted."""
        return self.best_of(*names) is not None

    def best_of(self, *names: str) -> str | None:
        """Return which of these media types is wanted most (RFC 9110, 12.5.1), or None if none is accepted.

        What names a type more exactly counts for it. Of two wanted alike the one that the client names first is taken,
        and where it names none, the first of `names`.
        """
        found = []
        for place, name in enumerate(names):
            kinds = [(_exactness(one.name, name), number, one) for number, one in enumerate(self.ranges)]
            kinds += [(_exactness(one.name, name), len(kinds), one) for one in self.refused]
            exactness, number, one = max(kinds, key=lambda row: (row[0], -row[1]), default=(0, 0, None))
            if one is not None and exactness and _weight(one) > 0.0:
                found.append((-_weight(one), number, place, name))
        return min(found)[3] if found else None


@dataclass(frozen=True, slots=True)
class Syntaxes:
    """Transfer syntaxes in which objects are accepted, and whether one may come without a multipart around it."""

    allowed: frozenset[str]
    single: bool

    def takes(self, transfer_syntax_uid: str) -> bool:
        """Whether an object in this transfer syntax is accepted."""
        return "*" in self.allowed or transfer_syntax_uid in self.allowed


@dataclass(frozen=True, slots=True)
class FrameType:
    """The media type of frames, with its parameters, and whether one frame may come without a multipart around it."""

    name: str
    single: bool


def accepted(request: Request) -> Accepted:
    """Return what a request accepts: its ``accept`` parameter, else its header, else anything.

    Raises
    ------
    HTTPException
        400 if it cannot be read.
    """
    text = request.query_params.get("accept") or ",".join(request.headers.getlist("accept")) or "*/*"
    parts = _COMMA.split(text) if len(text) <= _LONGEST else []
    if not parts or len(parts) > _RANGES:
        raise HTTPException(400, "the Accept header is too long")
    try:
        ranges = [media_type(part) for part in parts if part.strip()]
    except MultipartError:
        raise HTTPException(400, "the Accept header cannot be read") from None
    weighed = sorted(((-_weight(one), number, one) for number, one in enumerate(ranges)), key=lambda row: row[:2])
    return Accepted(
        tuple(one for weight, _, one in weighed if weight < 0), tuple(one for weight, _, one in weighed if not weight)
    )


def model_wanted(request: Request) -> Literal["json", "xml"]:
    """Return in which model a client takes attributes (PS3.18, 8.7.3.2 and F); JSON where it does not mind.

    In XML there is one document per object, so its answer is a multipart, also for a client that names none.

    Raises
    ------
    HTTPException
        406 if it takes neither.
    """
    wanted = multipart_parts(accepted(request), "application/dicom+xml")
    best = wanted.best_of("application/dicom+json", "application/json", "application/dicom+xml")
    if best is None:
        raise HTTPException(
            406, 'the answer is application/dicom+json or multipart/related; type="application/dicom+xml"'
        )
    return "xml" if best.endswith("xml") else "json"


def dicom_syntaxes(kinds: Accepted, *, single: bool) -> Syntaxes:
    """Return in which transfer syntaxes a client takes objects.

    A client that names none is given objects as they are stored. (PS3.18, 8.7.3.5.2 would have them transcoded to
    Explicit VR Little Endian; the vault gives out what it was given.)

    Raises
    ------
    HTTPException
        406 if it does not take application/dicom.
    """
    allowed = set[str]()
    alone = False
    for one in kinds.ranges:
        inner = one.parameters.get("type", "application/dicom").lower()
        multipart = one.name in ("*/*", "multipart/*", "multipart/related") and _covers(inner, "application/dicom")
        lone = single and one.name in ("application/dicom", "application/*") and not allowed
        if not (multipart or lone):
            continue
        alone = alone or lone
        allowed.add(one.parameters.get("transfer-syntax", "*"))
    if not allowed:
        raise HTTPException(406, 'objects are given as multipart/related; type="application/dicom"')
    return Syntaxes(frozenset(allowed), alone)


def multipart_parts(kinds: Accepted, usual: str = "*/*") -> Accepted:
    """Return what a client accepts of what comes together in a multipart: the types of its parts.

    Without a multipart in it, the types of the parts themselves count: several can only come so.

    Parameters
    ----------
    usual
        The type of the parts of a multipart that names none.
    """

    def inner(ranges: tuple[MediaType, ...]) -> tuple[MediaType, ...]:
        return tuple(
            MediaType(one.parameters.get("type", usual).lower(), one.parameters)
            if one.name in ("multipart/related", "multipart/*")
            else one
            for one in ranges
        )

    return Accepted(inner(kinds.ranges), inner(kinds.refused))


def frame_type(kinds: Accepted, transfer_syntax_uid: str, *, single: bool) -> FrameType | None:
    """Return as what frames in this transfer syntax are given, or None if the client does not take them."""
    compressed = _COMPRESSED.get(transfer_syntax_uid)
    for one in kinds.ranges:
        if one.parameters.get("transfer-syntax", "*") not in ("*", transfer_syntax_uid):
            continue
        if one.name in ("*/*", "multipart/*", "multipart/related"):
            wanted, alone = one.parameters.get("type", "*/*").lower(), False
        elif single:
            wanted, alone = one.name, True
        else:
            continue
        for name in (compressed, _OCTETS):
            if name is not None and _covers(wanted, name):
                return FrameType(f"{name}; transfer-syntax={transfer_syntax_uid}", alone)
    return None


def _covers(wanted: str, name: str) -> bool:
    return wanted in ("*/*", name) or wanted == f"{name.partition('/')[0]}/*"


def _exactness(wanted: str, name: str) -> int:
    if not _covers(wanted, name):
        return 0
    return 1 if wanted == "*/*" else 2 if wanted.endswith("/*") else 3


def _weight(one: MediaType) -> float:
    try:
        weight = float(one.parameters.get("q", "1"))
    except ValueError:
        return 1.0
    return min(1.0, max(0.0, weight)) if math.isfinite(weight) else 1.0
