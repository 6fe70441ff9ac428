"""Many small messages at once: the same messages, in the same order, however the bytes arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError
from tests.support.site import TestSite

from edgeward.bus import bulk
from edgeward.bus.bulk import BulkParser


class Client:
    """What the parser needs of a connection, and what it was given."""

    def __init__(self) -> None:
        self.stats = {"in_msgs": 0, "in_bytes": 0}
        self.seen: list[Any] = []
        self._sid = 6

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.seen.append(("other", subject.decode(), data))

    async def _process_ping(self) -> None:
        self.seen.append("ping")

    async def _process_pong(self) -> None:
        self.seen.append("pong")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.seen.append(("info", info["server_id"]))

    async def _process_err(self, text: str) -> None:
        self.seen.append(("error", text))


class Reading:
    def took(self, size: int) -> None:
        assert size >= 0


def parser() -> tuple[BulkParser, Client]:
    client = Client()
    made = BulkParser(client, Reading())  # type: ignore[arg-type]
    made.add_next(lambda batch: client.seen.extend(("wave", subject, data) for subject, data in batch))
    return made, client


PIECES: list[tuple[bytes, Any]] = [
    (b"MSG raw.wave.a 7 5\r\nhello\r\n", ("wave", "raw.wave.a", b"hello")),
    (b"MSG raw.wave.b 7 0\r\n\r\n", ("wave", "raw.wave.b", b"")),
    (b"MSG raw.wave.c 7 answer.here 12\r\nMSG a 7 2\r\nx\r\n", ("wave", "raw.wave.c", b"MSG a 7 2\r\nx")),
    (b"HMSG raw.wave.d 7 30 34\r\nNATS/1.0\r\nNmqtt-Pub:0-------\r\nEWW1\r\n", ("wave", "raw.wave.d", b"EWW1")),
    (b"MSG work.x 3 2\r\nhi\r\n", ("other", "work.x", b"hi")),
    (b"HMSG work.y 3 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", ("other", "work.y", b"hi")),
    (b"PING\r\n", "ping"),
    (b"PONG\r\n", "pong"),
    (b"+OK\r\n", None),
    (b'INFO {"server_id": "S"}\r\n', ("info", "S")),
    (b"-ERR 'permissions violation'\r\n", ("error", "'permissions violation'")),
]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_message_goes_its_way_in_order_however_the_bytes_are_cut(data):
    chosen = data.draw(st.lists(st.integers(0, len(PIECES) - 1), max_size=25))
    stream = b"".join(PIECES[k][0] for k in chosen)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    made, client = parser()

    async def feed() -> None:
        for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            await made.parse(stream[a:b])

    asyncio.run(feed())
    assert client.seen == [PIECES[k][1] for k in chosen if PIECES[k][1] is not None]
    waves = [PIECES[k][1] for k in chosen if k <= 3]
    assert client.stats == {"in_msgs": len(waves), "in_bytes": sum(len(one[2]) for one in waves)}


@pytest.mark.parametrize(
    "broken",
    [
        b"MSG raw.wave.a 7 many\r\nhello\r\n",
        b"MSG raw.wave.a 7 -9\r\nhello\r\n",
        b"MSG 7\r\n",
        b"HMSG raw.wave.a 7 9 4\r\nhello\r\n",
        b"HMSG raw.wave.a 7 -1 4\r\nhello\r\n",
        b"NONSENSE\r\n",
        b"x" * (1 << 20),
    ],
)
async def test_what_is_not_the_protocol_is_an_error_of_the_connection(broken):
    made, _ = parser()
    with pytest.raises(ProtocolError):
        await made.parse(broken)


async def test_a_new_connection_begins_with_nothing_of_the_old_one():
    made, client = parser()
    await made.parse(b"MSG raw.wave.a 7 5\r\nhel")
    made.reset()
    await made.parse(b"MSG raw.wave.b 7 2\r\nok\r\n")
    assert client.seen == [("wave", "raw.wave.b", b"ok")]


def test_a_library_that_keeps_its_parser_elsewhere_is_refused():
    with pytest.raises(RuntimeError, match="nats-py"):
        bulk.install(object())  # type: ignore[arg-type]


async def test_on_a_real_bus_nothing_is_lost_or_disordered_also_after_the_server_was_away(bus_site: TestSite):
    sender, receiver = await bus_site.bus("monitor"), await bus_site.bus("console")
    got: list[tuple[str, bytes]] = []
    calls = 0

    def take(batch: bulk.Batch) -> None:
        nonlocal calls
        calls += 1
        got.extend(batch)

    await receiver.subscribe_bulk("state.trace.*", take)
    await receiver.flush()

    async def send(first: int, count: int) -> None:
        for number in range(first, first + count):
            await sender._client.publish(f"state.trace.w{number % 7}", b"%d" % number)
        await sender.flush()
        async with asyncio.timeout(20):
            while len(got) < first + count:
                await receiver.flush()
                await asyncio.sleep(0.01)

    await send(0, 3000)
    assert calls < 1000
    await bus_site.kill_bus()
    await bus_site.start_bus()
    async with asyncio.timeout(30):
        while not (sender.connected and receiver.connected):
            await asyncio.sleep(0.02)
    await receiver.flush()
    await send(3000, 500)
    assert got == [(f"state.trace.w{number % 7}", b"%d" % number) for number in range(3500)]
