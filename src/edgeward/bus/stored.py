"""What MQTT clients publish with QoS 1 or 2, from the server's own store: it waits there for a role that is away.

The NATS server answers such a message (PUBACK) once it is in its stream ``$MQTT_msgs``, and lets go of it at once if
no consumer wants it. A durable consumer makes the answer a promise: the message stays until it was taken and said to be
kept. Responsible for that consumer. The usual way of a message, in memory, stays beside it: it is faster, and needs no
store. Not responsible for telling that both ways brought the same (`TwoWays` helps).

The stream belongs to the server, which makes it when the first MQTT client comes; it is never created here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edgeward.bus import lean  # noqa: F401

# isort: split

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from edgeward.bus.client import Bus

_log = logging.getLogger("edgeward.bus.stored")

STREAM = "$MQTT_msgs"
_PREFIX = "$MQTT.msgs."
_QOS = "Nmqtt-Pub"  # header that the server adds to what came by MQTT
AT_ONCE = 256
WAIT_S = 5.0
ACK_WAIT_S = 30.0
PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of the store. `at_ns`: when the server took it, wall clock."""

    subject: str
    data: bytes
    at_ns: int


async def subscribe(bus: Bus, subject: str, handler: Callable[[str, bytes, bool], None]) -> None:
    """Call `handler` with subject, payload, and whether the server's store has it too, in order."""

    async def receive(message: Msg) -> None:
        try:
            handler(message.subject, message.data, (message.headers or {}).get(_QOS, "0") != "0")
        except Exception:
            _log.exception("handler of %s failed", subject)

    await bus.client.subscribe(subject, cb=receive)


async def follow(bus: Bus, name: str, subject: str, keep: Callable[[list[Stored]], Awaitable[bool]]) -> None:
    """Give `keep` what is stored under `subject`, oldest first, until cancelled.

    What it answers with True is gone from the store; anything else comes again after half a minute.

    Parameters
    ----------
    name
        Of the consumer. It outlasts the process: what comes while nobody follows waits.
    """
    told = False
    while True:
        try:
            await _follow(bus, name, subject, keep)
        except (nats.errors.Error, OSError) as error:
            if not told and not isinstance(error, nats.js.errors.NotFoundError):  # no device has come yet
                _log.warning("the store of %s cannot be followed: %s", subject, error or type(error).__name__)
                told = True
        await asyncio.sleep(PAUSE_S)


async def _follow(bus: Bus, name: str, subject: str, keep: Callable[[list[Stored]], Awaitable[bool]]) -> None:
    stream = bus.client.jetstream()
    config = ConsumerConfig(
        durable_name=name,
        filter_subject=_PREFIX + subject,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=4 * AT_ONCE,
    )
    await stream.add_consumer(STREAM, config)
    waiting = await stream.pull_subscribe_bind(name, STREAM)
    try:
        while True:
            try:
                messages = await waiting.fetch(AT_ONCE, timeout=WAIT_S)
            except (nats.errors.TimeoutError, TimeoutError):
                continue
            found = [
                Stored(
                    one.subject.removeprefix(_PREFIX), one.data, round(one.metadata.timestamp.timestamp() * 1e6) * 1000
                )
                for one in messages
            ]
            if await keep(found):
                for one in messages:
                    await one.ack()
            else:
                await asyncio.sleep(PAUSE_S)
    finally:
        if bus.connected:
            await waiting.unsubscribe()


class TwoWays:
    """Tells what came in memory from what only the store has. Bounded: of the latest 100,000.

    The same bytes may be meant twice, so they are counted.
    """

    MOST = 100_000

    def __init__(self) -> None:
        self._ahead: OrderedDict[bytes, int] = OrderedDict()  # came so many times more often in memory

    def in_memory(self, subject: str, data: bytes) -> bool:
        """Take one that came in memory and is stored; return whether it is new."""
        return self._count(subject, data, 1) > 0

    def from_store(self, subject: str, data: bytes) -> bool:
        """Take one that came from the store; return whether it is new."""
        return self._count(subject, data, -1) < 0

    def _count(self, subject: str, data: bytes, step: int) -> int:
        key = hashlib.blake2b(data, digest_size=16, key=subject.encode()[:64]).digest()
        count = self._ahead.pop(key, 0) + step
        if count:
            self._ahead[key] = count
            if len(self._ahead) > self.MOST:
                self._ahead.popitem(last=False)
        return count
