"""JSON twins of the pages, for scripts, behind the same login; and the texts that our own scripts need."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from edgeward.console import access, languages
from edgeward.console.access import Visitor, console_of
from edgeward.console.filters import Filter
from edgeward.console.pages import system
from edgeward.console.pages.worklist import searched
from edgeward.console.wire import bed_view
from edgeward.messages import ItemSummary

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
MAX_ITEMS = 200
IDENTITY = (
    "patient_name",
    "patient_id",
    "patient_birth_date",
    "patient_sex",
    "study_description",
    "accession_number",
    "study_date",
    "study_time",
)  # free text and what points at a person; who is not a clinician gets none of it


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)


def item_json(item: ItemSummary, *, identity: bool) -> dict[str, Any]:
    """Return an item as JSON; without identity for who may not see it."""
    plain: dict[str, Any] = _plain(item)
    if not identity:
        for key in IDENTITY:
            plain.pop(key, None)
        for verdict in plain.get("verdicts", []):
            verdict.pop("comment", None)
    return plain


@router.get("/api/items")
async def items(request: Request, visitor: Anybody, limit: int = 50) -> JSONResponse:
    """Worklist rows; the address takes the filters of the worklist that the journal knows."""
    wish = Filter.read(request.query_params)
    text = searched(console_of(request), visitor, wish.find)
    if text is None:
        raise HTTPException(404)
    answer = await console_of(request).site.items(wish.query(text=text, limit=min(max(1, limit), MAX_ITEMS)))
    rows = [item_json(item, identity=visitor.clinician) for item in answer.items]
    return JSONResponse({"items": rows, "counts": answer.counts, "total": answer.total})


@router.get("/api/beds")
async def beds(request: Request, visitor: Anybody) -> JSONResponse:  # noqa: ARG001
    """Numerics of all beds, and whether they are live."""
    watch = console_of(request).watch
    age = watch.beds_age_s()
    rows = [bed_view(bed) for bed in watch.beds.beds] if watch.beds else []
    return JSONResponse({"live": watch.beds_live(), "age_ms": None if age is None else round(age * 1000), "beds": rows})


@router.get("/api/system")
async def state(request: Request, visitor: Anybody) -> JSONResponse:  # noqa: ARG001
    """Roles, budgets, devices, journal and quarantine."""
    found = await system.gather(console_of(request))
    roles = [
        {"role": v.name, "node": v.node, "status": v.status, "reason": v.reason, "restarts": v.restarts}
        | {"age_s": v.age_s, "state": _plain(v.state)}
        for v in found["roles"]
    ]
    return JSONResponse(
        {
            "roles": roles,
            "site": _plain(found["site"]),
            "warnings": found["warnings"],
            "devices": _plain(found["devices"]),
            "quarantine": _plain(found["quarantine"]),
            "counts": found["counts"],
            "destinations": _plain(found["destinations"]),
            "dead_letters": _plain(found["dead_letters"]),
        }
    )


@router.get("/texts/{build}/{language}.json")
async def texts(build: str, language: str) -> Response:  # noqa: ARG001 - the build is in the address for the cache
    """Texts for the scripts. Public: the login page is in the same languages."""
    chosen = language if language in languages.LANGUAGES else languages.DEFAULT
    return JSONResponse(languages.for_browser(chosen), headers={"cache-control": "public, max-age=31536000, immutable"})
