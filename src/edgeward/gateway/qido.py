"""QIDO-RS: what is in the vault, searched by attributes (PS3.18, 10.6).

Responsible for reading a query, matching it and writing DICOM JSON. Not responsible for who may ask (``gateway.web``)
or for the rows (``privacy.catalogue``). A key that cannot be matched is refused, never ignored: the answer would show
records that were not asked for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeward.gateway import requested
from edgeward.gateway.accept import model_wanted
from edgeward.gateway.matching import BadKey, Match, matcher
from edgeward.gateway.multipart import body_end
from edgeward.gateway.native_xml import xml_multipart, xml_part
from edgeward.gateway.requested import Details, Requested
from edgeward.privacy.catalogue import EXAMINED, Catalogue, Entry, Level

MOST = 5000  # results in one answer
_KEYS = 64  # of one query
_PLAIN = ("accept", "limit", "offset", "fuzzymatching", "includefield", "emptyvaluematching", "multiplevaluematching")
# Keys that the database answers by itself.
_COLUMNS = {
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "SOPClassUID": "sop_class_uid",
    "Modality": "modality",
    "ModalitiesInStudy": "modalities_in_study",
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute that can be returned, and matched where `matched` says so."""

    keyword: str
    level: Level
    value: Callable[[Entry], Any]
    always: bool = True  # returned without being asked for
    matched: bool = True

    @property
    def tag(self) -> str:
        """Eight hexadecimal digits."""
        return f"{tag_for_keyword(self.keyword):08X}"

    @property
    def vr(self) -> str:
        """Value representation."""
        return str(dictionary_VR(self.keyword))


# PS3.18, Tables 10.6.3-3 to 10.6.3-5, as far as the gateway knows them.
ATTRIBUTES = (
    Attribute("StudyDate", "study", lambda e: e.identity.study_date),
    Attribute("StudyTime", "study", lambda e: e.identity.study_time),
    Attribute("AccessionNumber", "study", lambda e: e.identity.accession_number),
    Attribute("InstanceAvailability", "study", lambda _: "ONLINE", matched=False),
    Attribute("ModalitiesInStudy", "study", lambda e: list(e.modalities)),
    Attribute("SOPClassesInStudy", "study", lambda e: list(e.sop_classes), always=False, matched=False),
    Attribute("ReferringPhysicianName", "study", lambda e: e.identity.referring_physician),
    Attribute("StudyDescription", "study", lambda e: e.identity.study_description),
    Attribute("PatientName", "study", lambda e: e.identity.patient_name),
    Attribute("PatientID", "study", lambda e: e.identity.patient_id),
    Attribute("IssuerOfPatientID", "study", lambda e: e.identity.issuer_of_patient_id, always=False),
    Attribute("PatientBirthDate", "study", lambda e: e.identity.birth_date),
    Attribute("PatientSex", "study", lambda e: e.identity.patient_sex),
    Attribute("StudyInstanceUID", "study", lambda e: e.study_instance_uid),
    Attribute("StudyID", "study", lambda e: e.identity.study_id),
    Attribute("NumberOfStudyRelatedSeries", "study", lambda e: e.series, matched=False),
    Attribute("NumberOfStudyRelatedInstances", "study", lambda e: e.instances, matched=False),
    Attribute("Modality", "series", lambda e: e.modality),
    Attribute("SeriesDescription", "series", lambda e: e.identity.series_description),
    Attribute("SeriesInstanceUID", "series", lambda e: e.series_instance_uid),
    Attribute("SeriesNumber", "series", lambda e: _integer(e.identity.series_number)),
    Attribute("BodyPartExamined", "series", lambda e: e.identity.body_part, always=False),
    Attribute("NumberOfSeriesRelatedInstances", "series", lambda e: e.instances, matched=False),
    Attribute("SOPClassUID", "instance", lambda e: e.sop_class_uid),
    Attribute("SOPInstanceUID", "instance", lambda e: e.sop_instance_uid),
    Attribute("AvailableTransferSyntaxUID", "instance", lambda e: e.transfer_syntax_uid, matched=False),
    Attribute("InstanceNumber", "instance", lambda e: _integer(e.identity.instance_number)),
    Attribute("Rows", "instance", lambda e: max(0, e.rows) or None, matched=False),
    Attribute("Columns", "instance", lambda e: max(0, e.columns) or None, matched=False),
    Attribute("NumberOfFrames", "instance", lambda e: e.frames if e.frames > 0 and e.rows > 0 else None, matched=False),
)
_BY_KEYWORD = {attribute.keyword: attribute for attribute in ATTRIBUTES}
# Of each object: they may differ within a study that names several patients.
_OF_PATIENT = {attribute.keyword for attribute in ATTRIBUTES if attribute.level == "study" and attribute.matched}
_OF_PATIENT -= _COLUMNS.keys()
_LEVELS: dict[Level, tuple[Level, ...]] = {
    "study": ("study",),
    "series": ("study", "series"),
    "instance": ("study", "series", "instance"),
}
# Counts are of what a row stands for: a row of a series does not know how many the study has.
_COUNTS: dict[str, Level] = {
    "NumberOfStudyRelatedSeries": "study",
    "NumberOfStudyRelatedInstances": "study",
    "ModalitiesInStudy": "study",
    "SOPClassesInStudy": "study",
    "NumberOfSeriesRelatedInstances": "series",
}


@dataclass(slots=True)
class Query:
    """A search as it was asked for."""

    level: Level
    uids: dict[str, list[str]] = field(default_factory=dict)
    matches: list[tuple[Attribute, Match]] = field(default_factory=list)
    requested: Requested = field(default_factory=Requested)
    included: set[str] = field(default_factory=set)
    everything: bool = False
    limit: int = MOST
    offset: int = 0
    by_patient: bool = True  # a study or series that names several patients is listed for each
    warnings: list[str] = field(default_factory=list)

    def takes(self, entry: Entry) -> bool:
        """Return whether an entry fulfils all conditions."""
        return all(_matches(attribute, match, entry) for attribute, match in self.matches)


class Qido:
    """Answers searches.

    Parameters
    ----------
    details
        Reads what only the object itself says.
    threads
        Where blocking work is done.
    """

    def __init__(self, catalogue: Catalogue, details: Details, threads: Executor) -> None:
        self._catalogue, self._details, self._threads = catalogue, details, threads

    async def studies(self, request: Request) -> Response:
        """Serve ``GET studies``."""
        return await self._search(request, "study")

    async def series(self, request: Request) -> Response:
        """Serve ``GET series`` and ``GET studies/{study}/series``."""
        return await self._search(request, "series")

    async def instances(self, request: Request) -> Response:
        """Serve ``GET instances`` and those below a study or series."""
        return await self._search(request, "instance")

    async def _search(self, request: Request, level: Level) -> Response:
        model = model_wanted(request)
        query = read_query(level, request.query_params.multi_items(), request.path_params)
        found, more = await asyncio.get_running_loop().run_in_executor(self._threads, self._look, query)
        root = f"{request.base_url}dicomweb"
        headers = {}
        if more:
            query.warnings.append("there are additional results that can be requested")
        if query.warnings:
            headers["Warning"] = ", ".join(f'299 {request.url.hostname}: "{text}"' for text in query.warnings)
        if not found:
            return Response(status_code=204, headers=headers)
        within = "study" in request.path_params
        body = [dict(sorted((shown(entry, query, root, within) | said).items())) for entry, said in found]
        if model == "json":
            return JSONResponse(body, headers=headers, media_type="application/dicom+json")
        boundary = secrets.token_hex(16)
        parts = b"".join(xml_part(boundary, one) for one in body) + body_end(boundary)
        return Response(parts, headers=headers, media_type=xml_multipart(boundary))

    def _look(self, query: Query) -> tuple[list[tuple[Entry, dict[str, Any]]], bool]:
        """Return the page that was asked for, with what only the objects say, and whether there is more."""
        last, details = query.offset + query.limit, query.requested
        found: list[tuple[Entry, dict[str, Any]]] = []
        matching = examined = opened = 0
        # Without conditions on sealed values the database needs to give no more rows than the page has.
        rows = EXAMINED if query.matches or details.asked else last + 1
        for entry in self._catalogue.search(query.level, query.uids, rows, by_patient=query.by_patient):
            examined += 1
            if not query.takes(entry):
                continue
            more: dict[str, Any] = {}
            if details.asked or (details.told and matching >= query.offset):
                if opened >= requested.MOST:
                    return found, True
                opened += 1
                dataset = self._details.of(entry)
                if not details.takes(dataset):
                    continue
                more = requested.shown(dataset)
            matching += 1
            if matching > last:
                return found, True
            if matching > query.offset:
                found.append((entry, more))
        return found, examined >= EXAMINED


def read_query(level: Level, parameters: list[tuple[str, str]], path: dict[str, Any]) -> Query:
    """Return the search that a request asks for.

    Raises
    ------
    HTTPException
        400 if it cannot be understood or a key cannot be matched.
    """
    query = Query(level)
    for name, column in (("study", "study_instance_uid"), ("series", "series_instance_uid")):
        if name in path:
            query.uids[column] = [path[name]]
    if len(parameters) > _KEYS:
        raise HTTPException(400, f"there are more than {_KEYS} parameters")
    for name, value in parameters:
        if name in _PLAIN:
            _plain_parameter(query, name, value)
        elif not _requested(query, name, value):
            _key(query, name, value)
    if query.level != "study" and (query.everything or query.included & {requested.SEQUENCE, *requested.PERFORMED}):
        query.requested.told = True
    # Below a study, each series once: unless the answer tells, or a key asks, whose it is.
    query.by_patient = "study" not in path or query.everything or bool(query.included & _OF_PATIENT)
    return query


def _requested(query: Query, name: str, value: str) -> bool:
    """Take a key that only the object itself answers; return whether it is one. A study has none of these."""
    inner, plain = requested.key_in_sequence(name), _keyword(name)
    keyword = inner or (plain if plain in requested.PERFORMED else "")
    if not keyword or query.level == "study":
        return False
    try:
        match = matcher(str(dictionary_VR(keyword)), value)
    except BadKey as error:
        raise HTTPException(400, f"{keyword}: {error}") from None
    query.requested.told = True
    if match is not None:
        (query.requested.items if inner else query.requested.performed)[keyword] = match
    return True


def _plain_parameter(query: Query, name: str, value: str) -> None:
    if name == "accept":  # a header as a parameter (PS3.18, 8.3.3): already read
        return
    if name in ("limit", "offset"):
        if not value.isascii() or not value.isdigit() or len(value) > 9:
            raise HTTPException(400, f"{name} must be a whole number")
        if name == "limit":
            query.limit = min(int(value), MOST)
        else:
            query.offset = int(value)
    elif name == "fuzzymatching":
        if value.lower() not in ("true", "false"):
            raise HTTPException(400, "fuzzymatching must be true or false")
        if value.lower() == "true":
            query.warnings.append(
                "the fuzzymatching parameter is not supported: only literal matching has been performed"
            )
    elif name == "includefield":
        for one in value.split(","):
            query.everything = query.everything or one == "all"
            query.included.add(_keyword(one) or one)
    elif value.lower() != "false":
        raise HTTPException(400, f"{name} is not supported")


def _key(query: Query, name: str, value: str) -> None:
    keyword = _keyword(name)
    attribute = _BY_KEYWORD.get(keyword)
    if not keyword:
        raise HTTPException(400, "a parameter is neither a keyword nor a tag of the DICOM dictionary")
    try:
        match = matcher(attribute.vr if attribute else str(dictionary_VR(keyword)), value)
    except BadKey as error:
        raise HTTPException(400, f"{keyword}: {error}") from None
    query.included.add(keyword)
    if match is None:
        return
    if attribute is None or not attribute.matched or attribute.level not in _LEVELS[query.level]:
        supported = ", ".join(a.keyword for a in ATTRIBUTES if a.matched and a.level in _LEVELS[query.level])
        raise HTTPException(400, f"{keyword} cannot be matched here; what can: {supported}")
    if keyword in _COLUMNS and not set("*?") & set(value):
        column, wanted = _COLUMNS[keyword], value.replace("\\", ",").split(",")
        known = query.uids.get(column)
        query.uids[column] = [one for one in wanted if one in known] or [""] if known else wanted
        return
    query.matches.append((attribute, match))


def _keyword(name: str) -> str:
    """Return the keyword of an attribute given by keyword or by tag, or an empty string."""
    if len(name) == 8 and all(digit in "0123456789abcdefABCDEF" for digit in name):
        return str(keyword_for_tag(int(name, 16)))
    return name if tag_for_keyword(name) is not None else ""


def _matches(attribute: Attribute, match: Match, entry: Entry) -> bool:
    value = attribute.value(entry)
    values = value if isinstance(value, list) else [value]
    return any(match("" if one is None else str(one)) for one in values)


def shown(entry: Entry, query: Query, root: str, in_study: bool) -> dict[str, Any]:
    """Return an entry in the DICOM JSON model (PS3.18, Annex F).

    Below a study that the request names (`in_study`), the attributes of the study are not told again.
    """
    result: dict[str, Any] = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
    for attribute in ATTRIBUTES:
        if attribute.level not in _LEVELS[query.level] or _COUNTS.get(attribute.keyword, query.level) != query.level:
            continue
        usual = attribute.always and (attribute.level == query.level or not in_study or "UID" in attribute.keyword)
        if not (usual or query.everything or attribute.keyword in query.included):
            continue
        result[attribute.tag] = _element(attribute.vr, attribute.value(entry))
    if query.level == "study" or entry.series_instance_uid:  # else there is no path to it
        result["00081190"] = {"vr": "UR", "Value": [_url(entry, query.level, root)]}
    return result


def _url(entry: Entry, level: Level, root: str) -> str:
    url = f"{root}/studies/{entry.study_instance_uid}"
    if level != "study":
        url += f"/series/{entry.series_instance_uid}"
    if level == "instance":
        url += f"/instances/{entry.sop_instance_uid}"
    return url


def _element(vr: str, value: Any) -> dict[str, Any]:
    values = [one for one in (value if isinstance(value, list) else [value]) if one not in (None, "")]
    if not values:
        return {"vr": vr}
    if vr == "PN":
        groups = ("Alphabetic", "Ideographic", "Phonetic")
        values = [
            {name: group for name, group in zip(groups, str(one).split("="), strict=False) if group} for one in values
        ]
    return {"vr": vr, "Value": values}


def _integer(text: str) -> int | None:
    try:
        return int(text.strip())
    except ValueError:
        return None
