"""A picture is asked of an engine for whoever asks the gateway, and without one there is a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import structs
from tests.gateway.webdoor import EngineBus
from tests.privacy.test_journal import new_item
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.bus.client import NoAnswer
from edgeward.gateway import rendering as rendering_module
from edgeward.gateway.rendering import Renderer
from edgeward.messages import FrameQuery, Message, MessageError, Refused, Rendered, RenderRequest
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault, read


@dataclass
class Room:
    journal: Journal
    vault: FileVault
    engine: EngineBus
    renderer: Renderer

    def admit(self, number: int = 1, **changes: object) -> str:
        item, _ = self.journal.admit(new_item(number, stored=self.vault.put(b"object"), **changes))
        return item.item_id


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    key = SiteKey(bytes(32))
    journal, vault, engine = Journal(tmp_path / "journal.db", key), FileVault(tmp_path / "vault", key), EngineBus()
    yield Room(journal, vault, engine, Renderer(engine, journal, vault))  # type: ignore[arg-type]
    journal.close()


async def test_the_engine_gets_the_right_to_read_that_object_and_the_wishes(room: Room) -> None:
    item = room.admit(rows=10, columns=10, frames=9)

    answer = await room.renderer.answer(
        FrameQuery(item_id=item, frame=8, window_center=10, window_width=20, max_width=300, media_type="image/png")
    )

    assert isinstance(answer, Rendered)
    (asked,) = room.engine.asked
    assert read(asked.object.path, asked.object.data_key) == b"object"
    assert (asked.frame, asked.window_center, asked.window_width, asked.max_width, asked.media_type) == (
        8,
        10,
        20,
        300,
        "image/png",
    )


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"item_id": "nobody"}, "no such item"),
        ({"frame": 9}, "no frame 10"),
        ({"frame": -1}, "no frame"),
        ({"window_width": 0.0, "window_center": 1.0}, "above 0"),
        ({"window_width": float("nan")}, "above 0"),
        ({"max_width": -1}, "at most"),
        ({"max_width": 10**6}, "at most"),
    ],
)
async def test_what_makes_no_sense_is_refused_without_asking(room: Room, query: dict, reason: str) -> None:
    item = room.admit(rows=10, frames=9)

    answer = await room.renderer.answer(FrameQuery(**{"item_id": item} | query))

    assert isinstance(answer, Refused)
    assert reason in answer.reason
    assert room.engine.asked == []


async def test_what_is_no_image_or_was_erased_is_refused_with_that_reason(room: Room) -> None:
    report, erased = room.admit(1, rows=0), room.admit(2, rows=10)
    room.journal._db.write(lambda db: db.execute("UPDATE items SET wrapped_key = NULL WHERE item_id = ?", (erased,)))

    answers = [await room.renderer.answer(FrameQuery(item_id=item)) for item in (report, erased)]

    assert [answer.reason for answer in answers] == ["the object is not an image", "the object was erased"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Refused(reason="the pixel data is truncated"), "the pixel data is truncated"),
        (NoAnswer("nobody"), "no engine drew it in time: try again"),
        (MessageError("odd"), "something else than a picture"),
    ],
)
async def test_the_reason_of_the_engine_is_passed_on(room: Room, said: object, reason: str) -> None:
    room.engine.answer = said

    answer = await room.renderer.answer(FrameQuery(item_id=room.admit(rows=10)))

    assert isinstance(answer, Refused)
    assert reason in answer.reason


async def test_engines_are_not_asked_for_more_than_a_few_at_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering_module, "ANSWER_S", 0.5)
    never, item = asyncio.Event(), room.admit(rows=10)
    working = most = 0

    async def request(*_: object) -> Message:
        nonlocal working, most
        working += 1
        most = max(most, working)
        try:
            await never.wait()
        finally:
            working -= 1
        raise AssertionError

    room.engine.request = request  # type: ignore[assignment,method-assign]

    answers = await asyncio.gather(*(room.renderer.answer(FrameQuery(item_id=item)) for _ in range(30)))

    assert most == rendering_module.AT_ONCE
    assert {answer.reason for answer in answers} == {"too many pictures are asked for at once: try again"}  # type: ignore[union-attr]


async def test_over_the_bus_the_console_asks_and_an_engine_draws(bus_site: TestSite) -> None:
    engine, gateway, console = [await bus_site.bus(role) for role in ("engine", "gateway", "console")]
    key = SiteKey.load(bus_site.home)
    journal, vault = Journal(bus_site.home.db("journal"), key), FileVault(bus_site.home.vault, key)
    item, _ = journal.admit(new_item(1, stored=vault.put(b"object"), rows=10))
    drawn = await EngineBus().request(
        "", RenderRequest(object=vault.reference(item.object_id, item.wrapped_key, 1)), None, 0
    )

    async def draw(request: RenderRequest) -> Message:
        return structs.replace(drawn, data=read(request.object.path, request.object.data_key))

    await engine.serve(subjects.RENDER_ANY, RenderRequest, draw, subjects.ENGINES)
    await gateway.serve(subjects.GATEWAY_FRAME, FrameQuery, Renderer(gateway, journal, vault).answer, subjects.GATEWAYS)
    await engine.flush()
    await gateway.flush()

    answer = await console.request(subjects.GATEWAY_FRAME, FrameQuery(item_id=item.item_id), Rendered | Refused, 10)

    assert isinstance(answer, Rendered)
    assert answer.data == b"object"
    journal.close()
