"""What an operator asks a running site from the command line: destinations, dead letters, orders, what was set aside.

Responsible for the questions and for showing the answers. Not responsible for arguments and exit codes (``cli``).
"""

from __future__ import annotations

import getpass
import time
from typing import Any

import msgspec

from edgeward.bus import subjects
from edgeward.bus.client import BusError, NoAnswer
from edgeward.bus.role import open_bus
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.messages import (
    Ask,
    Destinations,
    Message,
    MessageError,
    Orders,
    OrdersQuery,
    QuarantineList,
    Refused,
    Resend,
    Resent,
)
from edgeward.privacy.identity import client_context
from edgeward.status import live_ports, with_live_ports

_PATIENCE_S = 3.0
_ANSWER_S = 10.0


class Away(Exception):
    """The site, or the role that would know, does not answer."""


class Declined(Exception):
    """The role understood and refuses; the text says why."""


async def _ask(home: Home, settings: Settings, subject: str, question: Message, kind: Any) -> Any:
    ports = live_ports(home)
    if not ports and not settings.bus.url:
        raise Away(f"nothing runs in {home.root}; start it with `edgeward up --home {home.root}`")
    try:
        bus = await open_bus(
            "operator",
            home,
            with_live_ports(settings, ports),
            client_context(home, "operator"),
            patience_s=_PATIENCE_S,
        )
    except BusError as error:
        raise Away(f"the site does not answer: {error}") from error
    try:
        answer = await bus.request(subject, question, kind | Refused, _ANSWER_S)
    except (NoAnswer, MessageError) as error:
        raise Away(f"the role that would know does not answer: {error}") from error
    finally:
        await bus.close()
    if isinstance(answer, Refused):
        raise Declined(answer.reason)
    return answer


async def destinations(home: Home, settings: Settings) -> Destinations:
    """Return the destinations of results and the dead letters.

    Raises
    ------
    Away, Declined
        See there.
    """
    return await _ask(home, settings, subjects.DELIVER_STATUS, Ask(), Destinations)  # type: ignore[no-any-return]


async def resend(home: Home, settings: Settings, destination: str, item_id: str) -> Resent:
    """Put dead letters back into their queues; empty arguments mean any."""
    request = Resend(by=f"operator {getpass.getuser()}", destination=destination, item_id=item_id)
    return await _ask(home, settings, subjects.DELIVER_RESEND, request, Resent)  # type: ignore[no-any-return]


async def orders(home: Home, settings: Settings, status: str, text: str, limit: int) -> Orders:
    """Return the order book."""
    query = OrdersQuery(status=status, text=text, limit=limit)
    return await _ask(home, settings, subjects.GATEWAY_ORDERS, query, Orders)  # type: ignore[no-any-return]


async def quarantine(home: Home, settings: Settings) -> QuarantineList:
    """Return what was refused or set aside."""
    return await _ask(home, settings, subjects.GATEWAY_QUARANTINE, Ask(), QuarantineList)  # type: ignore[no-any-return]


def plain(answer: Message) -> Any:
    """Return an answer as what JSON can hold."""
    return msgspec.to_builtins(answer)


def destinations_text(found: Destinations) -> str:
    """Return destinations and dead letters for a person."""
    if not found.destinations:
        return "no destination is configured; results stay here. See [[pacs]], [[fhir]] and [[hl7]] in edgeward.toml"
    lines = [
        f"{one.name:16} {one.status:8} waiting {one.waiting:6} confirmed {one.confirmed:8} dead {one.dead:5}"
        f"  {','.join(one.takes)}" + (f"\n{'':17}{one.reason}" if one.reason else "")
        for one in found.destinations
    ]
    if found.dead:
        lines.append("\ndead letters (`edgeward results resend` tries them again):")
        lines += [f"  {dead.item_id}  {dead.destination:16} {dead.reason}" for dead in found.dead]
    return "\n".join(lines)


def orders_text(found: Orders, *, chosen: bool = False) -> str:
    """Return the order book for a person, without identity: a terminal has a scroll-back.

    `chosen`: not all were asked for, so that there may be others.
    """
    if not found.orders and chosen:
        return "no such orders"
    if not found.orders:
        return "no orders; send HL7 v2 orders to the MLLP port or FHIR ServiceRequests to the HTTPS port"
    return "\n".join(
        f"{order.scheduled[:12]:12} {order.status:12} {order.modality:4} {order.accession_number:18} {order.procedure}"
        for order in found.orders
    )


def quarantine_text(found: QuarantineList) -> str:
    """Return what was set aside for a person."""
    if not found.entries:
        return "nothing was refused or set aside"
    lines = []
    for entry in found.entries:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at_ns / 1e9))
        lines.append(f"{at}  {entry.where:8} {entry.peer:18} {entry.count:5} x  {entry.reason}")
        if entry.what_to_do:
            lines.append(f"{'':21}what to do: {entry.what_to_do}")
        if entry.item_id:
            lines.append(f"{'':21}item: {entry.item_id}")
    return "\n".join(lines)
