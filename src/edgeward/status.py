"""What runs on this machine and how well: for ``edgeward status`` and for scripts."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec

from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError, NoAnswer
from edgeward.bus.role import open_bus
from edgeward.config import Settings
from edgeward.home import Home, read_json
from edgeward.messages import Alarms, Ask, Destinations, Items, ItemsQuery, MessageError, Refused, RoleState, SiteState
from edgeward.privacy.identity import client_context

LISTEN_S = 1.6  # roles and supervisor speak once a second


def live_ports(home: Home) -> dict[str, int]:
    """Return the ports of the site that runs in `home` now, or an empty mapping."""
    site = read_json(home.run / "site.json")
    if not site:
        return {}
    try:
        os.kill(int(site["pid"]), 0)
    except (OSError, ValueError):
        return {}
    return dict(site["ports"])


def with_live_ports(settings: Settings, ports: dict[str, int]) -> Settings:
    """Return the settings with the ports that are really in use."""
    live = settings.model_copy(deep=True)
    live.bus.port = ports.get("bus", live.bus.port)
    live.bus.mqtt_port = ports.get("mqtt", live.bus.mqtt_port)
    live.dicom.port = ports.get("dicom", live.dicom.port)
    live.mllp.port = ports.get("mllp", live.mllp.port)
    live.web.port = ports.get("web", live.web.port)
    live.console.port = ports.get("console", live.console.port)
    return live


# What `gateway.dicom.Receives` says.
_RECEIVES = ("Python (no compiled path: run make setup)", "compiled (no libcrypto: slower)", "compiled")


async def collect(home: Home, settings: Settings) -> dict[str, Any]:
    """Listen to the site for a moment and ask its roles; return what was learned."""
    ports = live_ports(home)
    if not ports and not settings.bus.url:
        return {"running": False, "healthy": False, "home": str(home.root)}
    try:
        bus = await open_bus(
            "operator",
            home,
            with_live_ports(settings, ports),
            client_context(home, "operator"),
            patience_s=3.0,
        )
    except BusError as error:
        return {"running": bool(ports), "healthy": False, "home": str(home.root), "problem": str(error)}
    site: list[SiteState] = []
    roles: dict[str, RoleState] = {}

    async def site_heard(_: str, state: SiteState) -> None:
        site[:] = [state]

    async def role_heard(_: str, state: RoleState) -> None:
        roles[state.role] = state

    try:
        await bus.subscribe(subjects.SITE_STATE, SiteState, site_heard)
        await bus.subscribe(subjects.ROLE_STATE_ALL, RoleState, role_heard)
        await asyncio.sleep(LISTEN_S)
        images, alarms, out = await asyncio.gather(
            ask(bus, subjects.GATEWAY_ITEMS, ItemsQuery(limit=0), Items),
            ask(bus, subjects.MONITOR_ALARMS, Ask(), Alarms),
            ask(bus, subjects.DELIVER_STATUS, Ask(), Destinations),
        )
    finally:
        await bus.close()
    state = site[0] if site else None
    # Where results and alarms do not arrive; what was given up some time ago is `results list`'s to tell.
    down = {one.name: one.reason for one in out.destinations if one.status == "down"} if out else {}
    answers = {"gateway": images, "monitor": alarms, "deliver": out}
    silent = [name for name, answer in answers.items() if answer is None and name in roles]
    healthy = (
        state is not None
        and not down
        and not silent
        and all(value == "running" for value in state.roles.values())
        and all(roles[name].status == "ready" for name in state.roles if name in roles)
        and all(name in roles for name in state.roles if name != "bus")
    )
    return {
        "running": True,
        "healthy": healthy,
        "home": str(home.root),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "ports": ports,
        "site": msgspec.to_builtins(state) if state else None,
        "roles": {name: msgspec.to_builtins(role) for name, role in sorted(roles.items())},
        "images": images.counts if images else None,
        "down": down,
        "silent": silent,
        "alarms": {"active": len(alarms.active), "raised": alarms.raised, "late": alarms.late} if alarms else None,
    }


async def ask(bus: Bus, subject: str, question: Any, kind: Any, timeout_s: float = 2.0) -> Any:
    """Return the answer, or None when there is none."""
    try:
        answer = await bus.request(subject, question, kind | Refused, timeout_s)
    except (NoAnswer, MessageError):
        return None
    return None if isinstance(answer, Refused) else answer


def as_text(found: dict[str, Any]) -> str:
    """Return `found` for a person."""
    if not found["running"]:
        return f"nothing runs in {found['home']}; start it with `edgeward up --home {found['home']}`"
    if "problem" in found:
        return f"the site does not answer: {found['problem']}"
    lines = [f"site {'healthy' if found['healthy'] else 'NEEDS ATTENTION'}   {found['home']}"]
    site = found["site"] or {"roles": {}, "restarts": {}, "reasons": {}, "warnings": [], "memory_mb": {}}
    for name, state in site["roles"].items():
        role = found["roles"].get(name)
        detail = f"{site['memory_mb'].get(name, 0):6.0f} MB"
        if role:
            detail += f"  {role['cpu_percent']:5.1f} % cpu  {role['status']}"
            if "receives" in role["counters"]:
                detail += f"  plain DICOM: {_RECEIVES[role['counters']['receives']]}"
        if site["restarts"].get(name):
            detail += f"  restarted {site['restarts'][name]} times"
        if reason := site["reasons"].get(name) or (role or {}).get("reason"):
            detail += f"  {reason}"
        lines.append(f"  {name:10} {state:10} {detail}")
    lines.append(f"  images     {found['images'] if found['images'] is not None else 'no answer'}")
    lines.append(f"  alarms     {found['alarms'] if found['alarms'] is not None else 'no answer'}")
    lines += [f"  ! {warning}" for warning in site["warnings"]]
    lines += [f"  ! {name} runs, but does not answer" for name in found["silent"]]
    lines += [f"  ! {name} takes nothing: {reason}" for name, reason in found["down"].items()]
    return "\n".join(lines)
