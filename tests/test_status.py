"""What ``edgeward status`` makes of what a running site says."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest

from edgeward import status
from edgeward.bus import subjects
from edgeward.home import Home
from edgeward.messages import Ask, Destinations, DestinationState, RoleState, SiteState


async def heartbeats(deliver, supervisor) -> None:
    while True:
        now = time.time_ns()
        role = RoleState(role="deliver", node="node1", pid=1, at_ns=now, started_ns=now, status="ready")
        site = SiteState(
            at_ns=now, site="hospital", node="node1", started_ns=now, roles={"deliver": "running"}, restarts={}
        )
        await deliver.publish(subjects.role_state("deliver"), role)
        await supervisor.publish(subjects.SITE_STATE, site)
        await asyncio.sleep(0.1)


def at_work(bus_site) -> Home:
    """Let it look as if the site ran."""
    home: Home = bus_site.home
    home.run.mkdir(parents=True, exist_ok=True)
    (home.run / "site.json").write_text(json.dumps({"pid": os.getpid(), "ports": {"bus": bus_site.settings.bus.port}}))
    return home


@pytest.mark.parametrize(("state", "reason"), [("idle", ""), ("down", "it refuses the message (AE)")])
async def test_a_receiver_that_takes_nothing_needs_attention(bus_site, state, reason):
    home = at_work(bus_site)
    deliver, supervisor = await bus_site.bus("deliver"), await bus_site.bus("supervisor")

    async def answer(_: Ask) -> Destinations:
        return Destinations(destinations=[DestinationState(name="am", takes=["alarm"], status=state, reason=reason)])

    await deliver.serve(subjects.DELIVER_STATUS, Ask, answer, subjects.DELIVERS)
    await deliver.flush()
    beating = asyncio.create_task(heartbeats(deliver, supervisor))
    try:
        found = await status.collect(home, bus_site.settings)
    finally:
        beating.cancel()
    assert found["healthy"] == (state == "idle")
    text = status.as_text(found)
    assert ("NEEDS ATTENTION" in text) == (state == "down")
    assert ("am takes nothing: it refuses the message (AE)" in text) == (state == "down")


async def test_a_role_that_says_that_it_is_well_but_does_not_answer_needs_attention(bus_site):
    home = at_work(bus_site)
    deliver, supervisor = await bus_site.bus("deliver"), await bus_site.bus("supervisor")
    beating = asyncio.create_task(heartbeats(deliver, supervisor))
    try:
        found = await status.collect(home, bus_site.settings)
    finally:
        beating.cancel()
    assert (found["healthy"], found["silent"]) == (False, ["deliver"])
    text = status.as_text(found)
    assert "NEEDS ATTENTION" in text
    assert "deliver runs, but does not answer" in text
