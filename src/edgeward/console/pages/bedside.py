"""Settings of one bed, and what a person enters there by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response
from markupsafe import Markup
from starlette.datastructures import FormData

from edgeward.bedside import BedInfo, Numerics, Paced, ParameterLimit, SetBed
from edgeward.clinic.monitor.rules import RULES
from edgeward.console import access, render
from edgeward.console.access import Visitor, audit, console_of, form_of
from edgeward.console.bedform import (
    CHOSEN,
    ENTERED,
    SIDES,
    Errors,
    fingerprint,
    limited,
    place_fingerprint,
    read_entry,
    read_limits,
)
from edgeward.console.pages.beds import done_of, known_bed
from edgeward.console.site import Unavailable
from edgeward.parameters import PARAMETERS

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Clinician = Annotated[Visitor, Depends(access.clinician)]
Caretaker = Annotated[Visitor, Depends(access.caretaker)]
MAX_FIELDS = 250  # a field per side, priority and delay of every parameter
MAX_NAME = 64


def plain(form: FormData) -> dict[str, str]:
    """Return the last text of each field."""
    return {key: value for key, value in form.multi_items() if isinstance(value, str)}


def marking(errors: Errors | None) -> Callable[[str], Markup]:
    """Return what marks a wrong field for the eye and for a screen reader: attributes of its input."""
    wrong = errors.fields if errors else {}

    def mark(name: str) -> Markup:
        if name not in wrong:
            return Markup()
        return Markup(' aria-invalid="true" aria-describedby="e-{0}"').format(name)

    return mark


def switchable() -> list[str]:
    """Return the alarms that may be switched off at a bed."""
    return sorted(code for code, rule in RULES.items() if not rule.fixed)


async def info_of(request: Request, bed_id: str) -> BedInfo:
    """Return a bed's settings.

    Raises
    ------
    HTTPException
        404 if the monitor knows no such bed.
    Unavailable
        If it does not answer.
    """
    known_bed(bed_id)
    try:
        return await console_of(request).site.bed(bed_id)
    except Unavailable as error:
        if error.refused:
            raise HTTPException(404) from error
        raise


def show(
    request: Request,
    info: BedInfo,
    *,
    typed: dict[str, str] | None = None,
    errors: Errors | None = None,
    problem: str = "",
    reason: str = "",
) -> Response:
    """Show the settings; after a refusal with what was typed and what is wrong with it."""
    settings = info.settings

    def value(name: str, side: str) -> str:
        if typed is not None and f"{name}.{side}" in typed:
            return typed[f"{name}.{side}"]
        limit = settings.limits.get(name, info.defaults.get(name, ParameterLimit()))
        found: Any = getattr(limit, side)
        return "" if found is None else found if isinstance(found, str) else f"{found:g}"

    return render.page(
        request,
        "bed_settings.html",
        status=409 if problem == "changed" else 400 if problem or errors else 200,
        id=settings.bed_id,
        info=info,
        names=limited(info),
        none=ParameterLimit(),
        sides=SIDES,
        units={name: parameter.unit for name, parameter in PARAMETERS.items()},
        value=value,
        typed=typed or {},
        errors=errors.fields if errors else {},
        wrong=marking(errors),
        problem=problem,
        problem_reason=reason,
        seen=fingerprint(settings),
        seen_place=place_fingerprint(settings),
        switchable=switchable(),
        done=done_of(request),
    )


@router.get("/beds/{bed_id}/settings")
async def settings(request: Request, visitor: Anybody, bed_id: str) -> Response:  # noqa: ARG001 - guards the page
    """Show limits with the profile's defaults marked, place, sources, and who changed what."""
    return show(request, await info_of(request, bed_id))


async def change(request: Request, visitor: Visitor, info: BedInfo, wish: SetBed, *, done: str, what: str) -> Response:
    """Hand a change to the monitor; show the page again with its reason if it refuses."""
    bed_id = wish.bed_id
    try:
        await console_of(request).site.set_bed(wish)
    except Unavailable as error:
        audit(visitor, f"{what} refused", bed=bed_id, reason=error.reason)
        if not error.refused:
            raise
        return show(request, info, problem="refused", reason=error.reason)
    audit(visitor, what, bed=bed_id)
    if done == "removed":
        return RedirectResponse(access.local_path("/beds"), status_code=303)
    path = f"/beds/{bed_id}/settings" if done != "discharged" else f"/beds/{bed_id}"
    return RedirectResponse(access.local_path(f"{path}?done={done}"), status_code=303)


@router.post("/beds/{bed_id}/limits")
async def limits(request: Request, visitor: Clinician, bed_id: str) -> Response:
    """Change alarm limits."""
    form = await form_of(request, visitor, fields=MAX_FIELDS)
    await info_of(request, bed_id)  # there is such a bed
    # Who else changes them in this moment must be seen, too: between the look and the change nobody comes.
    async with console_of(request).editing.setdefault(bed_id, asyncio.Lock()):
        return await _limits(request, visitor, form, bed_id)


async def _limits(request: Request, visitor: Visitor, form: FormData, bed_id: str) -> Response:
    typed = plain(form)
    info = await info_of(request, bed_id)
    wish, rhythm, errors = read_limits(typed, info)
    disabled = [code for code in switchable() if code in form.getlist("disabled")]
    off = disabled if "switches" in typed and set(disabled) != set(info.settings.disabled) else None
    if errors:
        return show(request, info, typed=typed, errors=errors)
    if typed.get("seen", "") != fingerprint(info.settings):
        # Somebody else changed them since this page was made: what was typed stays, but she looks again first.
        return show(request, info, typed=typed, problem="changed")
    paced = typed.get("paced", info.settings.paced)
    if paced not in get_args(Paced):
        raise HTTPException(400)
    change_wish = SetBed(
        bed_id=bed_id,
        by=visitor.user.name,
        at_ns=time.time_ns(),
        limits=wish or None,
        rhythm=rhythm or None,
        disabled=off,
        paced=cast("Paced", paced) if paced != info.settings.paced else None,
    )
    return await change(request, visitor, info, change_wish, done="limits", what="alarm limits changed")


@router.post("/beds/{bed_id}/place")
async def place(request: Request, visitor: Caretaker, bed_id: str) -> Response:
    """Change label, ward, profile and what the bed consists of."""
    form = await form_of(request, visitor, fields=MAX_FIELDS)
    await info_of(request, bed_id)  # there is such a bed
    async with console_of(request).editing.setdefault(bed_id, asyncio.Lock()):
        return await _place(request, visitor, form, bed_id)


async def _place(request: Request, visitor: Visitor, form: FormData, bed_id: str) -> Response:
    typed = plain(form)
    info = await info_of(request, bed_id)
    now = info.settings
    if typed.get("seen", "") != place_fingerprint(now):
        # Every field of an older page would set something back, also what she has not touched: she begins with what
        # is there now, and nothing of hers is shown as if it were.
        return show(request, info, problem="changed")
    sources = [str(s) for s in form.getlist("source") if str(s) in now.sources]
    added = typed.get("add", "").strip()
    errors = Errors()
    if added and added not in info.free_sources:
        errors.add("add", "bedside.error.no_such_source")
    elif added:
        sources.append(added)
    if len(typed.get("label", "").strip()) > MAX_NAME:
        errors.add("label", "bedside.error.too_long", n=MAX_NAME)
    profile = typed.get("profile", now.profile)
    if profile not in (*info.profiles, now.profile):
        errors.add("profile", "bedside.error.choose")
    ward = typed.get("ward", now.ward).strip()
    if ward not in ("", now.ward, *info.wards):
        errors.add("ward", "bedside.error.choose")
    if errors:
        return show(request, info, typed=typed, errors=errors)
    label = typed.get("label", now.label).strip()
    scale2 = "spo2_scale2" in typed

    clinical = visitor.clinician  # profile and scale decide on alarms: an engineer may not change them
    wish = SetBed(
        bed_id=bed_id,
        by=visitor.user.name,
        at_ns=time.time_ns(),
        label=label if label != now.label else None,
        ward=ward if ward != now.ward else None,
        sources=sources if sources != now.sources else None,
        profile=profile if clinical and profile != now.profile else None,
        spo2_scale2=scale2 if clinical and scale2 != now.spo2_scale2 else None,
    )
    return await change(request, visitor, info, wish, done="place", what="bed changed")


@router.post("/beds/{bed_id}/standby")
async def standby(request: Request, visitor: Clinician, bed_id: str) -> Response:
    """Put a bed on standby, or watch it again."""
    form = await form_of(request, visitor)
    on = form.get("standby") == "1"
    info = await info_of(request, bed_id)
    wish = SetBed(bed_id=bed_id, by=visitor.user.name, at_ns=time.time_ns(), standby=on)
    return await change(
        request,
        visitor,
        info,
        wish,
        done="standby" if on else "resumed",
        what="standby begun" if on else "standby ended",
    )


@router.post("/beds/{bed_id}/discharge")
async def discharge(request: Request, visitor: Clinician, bed_id: str) -> Response:
    """The patient left: alarms end, values and own limits are forgotten. The box must be ticked."""
    form = await form_of(request, visitor)
    info = await info_of(request, bed_id)
    if form.get("sure") != "1":
        errors = Errors()
        errors.add("sure", "bedside.error.confirm")
        return show(request, info, errors=errors)
    wish = SetBed(bed_id=bed_id, by=visitor.user.name, at_ns=time.time_ns(), discharged=True)
    return await change(request, visitor, info, wish, done="discharged", what="patient discharged")


@router.post("/beds/{bed_id}/remove")
async def remove(request: Request, visitor: Clinician, bed_id: str) -> Response:
    """Take a bed away of which nothing comes. The box must be ticked."""
    form = await form_of(request, visitor)
    info = await info_of(request, bed_id)
    if form.get("remove") != "1":
        errors = Errors()
        errors.add("remove", "bedside.error.confirm")
        return show(request, info, errors=errors)
    wish = SetBed(bed_id=bed_id, by=visitor.user.name, at_ns=time.time_ns(), removed=True)
    return await change(request, visitor, info, wish, done="removed", what="bed removed")


# ---------------------------------------- entered by hand


def _entry(request: Request, bed_id: str, typed: dict[str, str], errors: Errors | None, reason: str = "") -> Response:
    bed = console_of(request).watch.bed(bed_id)
    return render.page(
        request,
        "observations.html",
        status=400 if errors or reason else 200,
        id=bed_id,
        bed=bed,
        names=ENTERED,
        choices=CHOSEN,
        units={name: parameter.unit for name, parameter in PARAMETERS.items()},
        last={vital.parameter: vital for vital in bed.vitals} if bed else {},
        typed=typed,
        errors=errors.fields if errors else {},
        reason_text=reason,
        done=done_of(request),
    )


@router.get("/beds/{bed_id}/observations")
async def observations(request: Request, visitor: Clinician, bed_id: str) -> Response:  # noqa: ARG001
    """Show the form for what is observed by a person: NEWS2's inputs."""
    known_bed(bed_id)
    if console_of(request).watch.bed(bed_id) is None:
        raise HTTPException(404)
    return _entry(request, bed_id, {}, None)


@router.post("/beds/{bed_id}/observations")
async def enter(request: Request, visitor: Clinician, bed_id: str) -> Response:
    """Hand entered values to the monitor."""
    known_bed(bed_id)
    console = console_of(request)
    typed = plain(await form_of(request, visitor))
    bed = console.watch.bed(bed_id)
    if bed is None:
        raise HTTPException(404)
    now_ns = time.time_ns()
    vitals, errors = read_entry(typed, now_ns)
    if errors:
        return _entry(request, bed_id, typed, errors)
    # A value belongs to a source; the bed's own name is one unless its sources were assigned otherwise.
    source = bed_id if bed_id in bed.sources or not bed.sources else bed.sources[0]
    numerics = Numerics(
        source_id=source,
        device_id=source,
        protocol="manual",
        received_ns=now_ns,
        sent_ns=now_ns,
        vitals=vitals,
        by=visitor.user.name,
    )
    try:
        await console.site.enter(numerics)
    except Unavailable as error:
        audit(visitor, "observations refused", bed=bed_id, reason=error.reason)
        if not error.refused:
            raise
        return _entry(request, bed_id, typed, None, error.reason)
    audit(visitor, "observations entered", bed=bed_id, count=len(vitals))
    return RedirectResponse(access.local_path(f"/beds/{bed_id}?done=entered"), status_code=303)
