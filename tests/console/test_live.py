"""The fan-out: nobody waits for a slow browser, and what is dropped is said."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from typing import Any, cast

import httpx
import numpy as np
import pytest
import websockets

from edgeward.bus import subjects
from edgeward.console import live, render
from edgeward.console.live import MAX_EVENTS, MAX_TRACES, Connection, pack_trace
from edgeward.console.sessions import Sessions
from edgeward.console.watch import Watch
from edgeward.messages import AlarmPriority, Trace, Wave
from tests.console.conftest import Served, csrf
from tests.support.synthetic import make_alarm, make_item


class Browser:
    """A socket that may be slow."""

    def __init__(self, stuck: bool = False) -> None:
        self.sent: list[Any] = []
        self.free = asyncio.Event()
        if not stuck:
            self.free.set()

    async def send_text(self, data: str) -> None:
        await self.free.wait()
        self.sent.append(json.loads(data))

    async def send_bytes(self, data: bytes) -> None:
        await self.free.wait()
        self.sent.append(data)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.sent.append(("closed", code))


async def pumped(connection: Connection) -> None:
    task = asyncio.create_task(connection.pump())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_of_a_state_only_the_latest_is_sent() -> None:
    browser = Browser()
    connection = Connection(browser, "s")
    for i in range(100):
        connection.put_latest("beds", json.dumps({"k": "beds", "i": i}))

    await pumped(connection)

    assert browser.sent == [{"k": "beds", "i": 99}]


async def test_too_many_events_become_one_resync() -> None:
    browser = Browser()
    connection = Connection(browser, "s")
    for i in range(MAX_EVENTS + 5):
        connection.put_event(json.dumps({"k": "item", "i": i}))

    await pumped(connection)

    assert browser.sent[-1] == {"k": "resync"}
    assert len(browser.sent) < 10
    assert connection.dropped == MAX_EVENTS


async def test_the_oldest_traces_are_dropped_and_events_go_first() -> None:
    browser = Browser()
    connection = Connection(browser, "s")
    for i in range(MAX_TRACES + 3):
        connection.put_trace(str(i).encode())
    connection.put_event('{"k":"alarm"}')

    await pumped(connection)

    assert browser.sent[0] == {"k": "alarm"}
    assert browser.sent[1] == b"3"
    assert len(browser.sent) == 1 + MAX_TRACES


async def test_a_browser_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SEND_TIMEOUT_S", 0.05)
    connection = Connection(Browser(stuck=True), "s")
    connection.put_event("{}")

    with pytest.raises(TimeoutError):
        await connection.pump()


async def test_who_looks_at_what_is_told_to_all_and_ends_with_the_socket(served: Served) -> None:
    admin = await served.logged_in()
    nurse = await served.person(admin, "nurse", "clinician")

    def open_socket(client: httpx.AsyncClient) -> Any:
        cookie = f"edgeward={client.cookies['edgeward']}"
        return websockets.connect(
            served.url.replace("http", "ws") + "/live", origin=served.url, additional_headers={"cookie": cookie}
        )  # type: ignore[arg-type]

    async def told(socket: Any) -> dict[str, list[str]]:
        while True:
            message = json.loads(await asyncio.wait_for(socket.recv(), 30))
            if message["k"] == "presence":
                return dict(message["items"])

    async with open_socket(admin) as watching:
        async with open_socket(nurse) as looking:
            await looking.send('{"item": "item-1"}')
            assert await told(watching) == {"item-1": ["nurse"]}
            async with open_socket(admin) as late:
                assert await told(late) == {"item-1": ["nurse"]}, "told at once to who comes later"
            await looking.send('{"item": "<script>"}')
            assert await told(watching) == {}
            await looking.send('{"item": "item-2"}')
            assert await told(watching) == {"item-2": ["nurse"]}
        assert await told(watching) == {}
    for client in (admin, nurse):
        await client.aclose()


def read_frame(frame: bytes) -> tuple[dict[str, Any], list[list[int]]]:
    """Read a frame as the page does; return its head and the samples of each trace."""
    version, _, size = struct.unpack_from("<BBH", frame)
    assert version == 2
    head = json.loads(frame[4 : 4 + size])
    samples = np.frombuffer(frame[4 + size :], dtype="<i2").tolist()
    assert (4 + size) % 2 == 0, "an array of samples begins at an even place"
    found = []
    for wave in head["w"]:
        found.append(samples[: wave["c"]])
        samples = samples[wave["c"] :]
    assert samples == []
    return head, found


def test_a_trace_frame_can_be_read_back() -> None:
    samples = np.array([1, -2, 32767, -32768], dtype="<i2")
    pleth = Wave(
        name="Pleth", kind="pleth", unit="1", rate_hz=100.0, at_s=12.5, samples=samples[:3].tobytes(), gain=0.5
    )
    chest = Wave(name="V", rate_hz=125.0, at_s=12.0, samples=samples[:2].tobytes(), state="off")
    before = Wave(name="II", rate_hz=125.0, at_s=9.0, samples=samples[:1].tobytes())
    trace = Trace(
        device_id="bed-7", rate_hz=125.0, start=2**40, lead="II", samples=samples.tobytes(), beats=[2**40 + 1],
        at_s=12.0, waves=[pleth, chest, before], offers=[("II", "ecg"), ("V", "ecg"), ("Pleth", "pleth")],
    )  # fmt: skip

    head, found = read_frame(pack_trace(trace, {"pleth"}))

    assert (head["d"], head["lead"], head["b"]) == ("bed-7", "II", [12.008])
    assert head["o"] == [["II", "ecg"], ["V", "ecg"], ["Pleth", "pleth"]]
    assert [(wave["n"], wave["t"]) for wave in head["w"]] == [("II", 9.0), ("II", 12.0), ("Pleth", 12.5)]
    assert found == [[1], samples.tolist(), samples[:3].tolist()]
    assert (head["w"][2]["k"], head["w"][2]["u"], head["w"][2]["g"], head["w"][2]["z"]) == ("pleth", "1", 0.5, 0.0)
    assert [wave["n"] for wave in read_frame(pack_trace(trace, {"*"}))[0]["w"]] == ["II", "II", "Pleth", "V"]
    assert [wave["n"] for wave in read_frame(pack_trace(trace))[0]["w"]] == ["II", "II"]


def test_a_trace_of_a_former_monitor_and_one_without_an_ecg_can_be_shown() -> None:
    old = Trace(device_id="bed-7", rate_hz=100.0, start=200, lead="II", samples=b"\1\0", beats=[150])
    pleth = Wave(name="Pleth", kind="pleth", unit="1", rate_hz=100.0, at_s=3.0, samples=b"\2\0")
    none = Trace(device_id="bed-8", rate_hz=0.0, start=0, lead="", samples=b"", waves=[pleth])

    head, found = read_frame(pack_trace(old))
    other, others = read_frame(pack_trace(none, {"*"}))

    assert (head["w"][0]["t"], head["b"], found) == (2.0, [1.5], [[1]])
    assert ([wave["n"] for wave in other["w"]], other["b"], others) == (["Pleth"], [], [[2]])


async def connected(served: Served, cookie: str, **wish: object) -> websockets.ClientConnection:
    socket = await websockets.connect(
        served.url.replace("http", "ws") + "/live",
        additional_headers={"cookie": f"edgeward={cookie}", "origin": served.url},
    )
    if wish:
        await socket.send(json.dumps(wish))
    return socket


async def until(socket: websockets.ClientConnection, wanted: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            data = await socket.recv()
            if isinstance(data, bytes):
                if wanted == "trace":
                    return data
            elif json.loads(data)["k"] == wanted:
                return json.loads(data)


async def test_a_browser_gets_pulse_numerics_alarms_findings_and_only_the_traces_it_sees(served: Served) -> None:
    admin = await served.logged_in()
    socket = await connected(served, admin.cookies["edgeward"], beds=True, view=["bed-01"])

    tick = await until(socket, "tick")
    beds = await until(socket, "beds")
    trace = await until(socket, "trace")
    await served.hospital.raise_alarm(
        "bed-02", make_alarm("bed-02", "asystole", AlarmPriority.HIGH, args={"seconds": 4.0})
    )
    alarm = await until(socket, "alarm")
    item, jpeg = make_item(40)
    await served.hospital.add(item, jpeg)
    finding = await until(socket, "finding")

    assert tick["bus"] is True
    assert [bed["id"] for bed in beds["beds"]] == ["bed-01", "bed-02", "bed-03", "bed-04"]
    assert read_frame(trace)[0]["d"] == "bed-01"
    assert served.hospital.viewing == {"bed-01"}
    assert alarm["alarm"]["code"] == "asystole"
    assert finding == {"k": "finding", "item": item.item_id}, "no identity on the wire that all browsers share"
    await socket.close()
    await admin.aclose()


async def test_each_screen_gets_the_traces_it_wants_and_the_monitor_is_asked_for_all_of_them(served: Served) -> None:
    admin = await served.logged_in()
    cookie = admin.cookies["edgeward"]
    served.hospital.patients[0].leads = ("II", "V")
    served.hospital.patients[0].sensors = (("Pleth", "pleth", "1"),)
    wall = await connected(served, cookie, view=["bed-01", "bed-02"])
    one = await connected(served, cookie, view=["bed-01"], waves=["*"])
    other = await connected(served, cookie, view=["bed-01"], waves=["pleth", "", "x" * 99])

    async def names(socket: websockets.ClientConnection, wanted: list[str]) -> None:
        while True:
            head, _ = read_frame(await until(socket, "trace"))
            if head["d"] == "bed-01" and [wave["n"] for wave in head["w"]] == wanted:
                return

    async with asyncio.timeout(20):
        await names(one, ["II", "V", "Pleth"])
        await names(other, ["II", "Pleth"])
        await names(wall, ["II"])
        # A screen also gets what only another has asked for so far: its own wish may still be on its way.
        while served.hospital.wishes != {"bed-01": ["*", "pleth"]}:
            await asyncio.sleep(0.02)
    for socket in (wall, one, other):
        await socket.close()
    await admin.aclose()


async def test_a_malformed_message_or_wish_disturbs_nobody(served: Served) -> None:
    admin = await served.logged_in()
    socket = await connected(served, admin.cookies["edgeward"])
    for wish in ("", "[]", "{", '{"view": 5}', '{"view": ["a b", "*", "' + "x" * 100 + '"]}', '{"beds": "yes"}'):
        await socket.send(wish)
    monitor = served.hospital.buses["monitor"]
    await monitor._client.publish(subjects.STATE_BEDS, b"\xc1garbage")
    await monitor._client.publish(subjects.trace("bed-01"), b"")
    await socket.send(json.dumps({"beds": True, "view": ["bed-01"]}))

    assert await until(socket, "beds")
    assert await until(socket, "trace")
    await socket.close()
    await admin.aclose()


async def test_a_foreign_page_cannot_open_the_socket(served: Served) -> None:
    admin = await served.logged_in()
    cookie = admin.cookies["edgeward"]
    address = served.url.replace("http", "ws") + "/live"

    for headers in ({"origin": "http://evil.example"}, {}, {"origin": "null"}):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(address, additional_headers={"cookie": f"edgeward={cookie}", **headers})
        assert refused.value.response.status_code == 403
    await admin.aclose()


async def test_without_a_session_the_socket_is_closed_with_a_reason(served: Served) -> None:
    socket = await connected(served, "invented")

    with pytest.raises(websockets.ConnectionClosedError) as closed:
        await socket.recv()

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, live.LOG_IN_FIRST)
    assert f'event.reason === "{live.LOG_IN_FIRST}"' in (render.STATIC / "js/link.js").read_text()


async def test_a_login_that_runs_out_closes_the_socket_and_says_that_nobody_logged_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page tells the two apart: one screen goes dark, the other must not go silent."""
    admin = await served.logged_in()
    socket = await connected(served, admin.cookies["edgeward"])
    await until(socket, "tick")

    monkeypatch.setattr(Sessions, "alive", lambda *_: False)

    with pytest.raises(websockets.ConnectionClosedError) as closed:
        await until(socket, "never")
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, live.SESSION_OVER)
    script = (render.STATIC / "js/link.js").read_text()
    assert f'event.reason === "{live.SESSION_OVER}"' in script
    await admin.aclose()


async def test_a_page_that_logged_out_is_told_so_also_while_another_is_slow_to_close() -> None:
    """It would stay as one whose login ran out: the pulse must not be first."""

    class Slow(Browser):
        async def close(self, code: int = 1000, reason: str | None = None) -> None:
            self.sent.append(reason)
            await asyncio.sleep(0.3)

    alive = {"a"}
    watch = Watch(clock=time.monotonic, connected=lambda: True)
    hub = live.Hub(cast("Any", None), watch, alive.__contains__, lambda _: None, "build")
    pages = [Slow() for _ in range(5)]
    for page in pages:
        hub.join(page, "a")
    pulse = asyncio.create_task(hub.pulse())
    await asyncio.sleep(0.01)

    alive.clear()
    closing = asyncio.create_task(hub.close_sessions(["a"]))
    for _ in range(10):  # the pulse comes round while they are being closed
        hub._view_changed.set()
        await asyncio.sleep(0.05)
    await closing
    pulse.cancel()
    await asyncio.gather(pulse, return_exceptions=True)

    assert [page.sent for page in pages] == [["logged out"]] * 5
    assert hub.count == 0


async def test_logging_out_closes_the_socket(served: Served) -> None:
    admin = await served.logged_in()
    socket = await connected(served, admin.cookies["edgeward"])
    await until(socket, "tick")

    await admin.post("/logout", data={"csrf": await csrf(admin)})

    with pytest.raises(websockets.ConnectionClosedError) as closed:
        await until(socket, "never")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401
    await admin.aclose()


async def test_the_pulse_tells_a_silent_monitor(served: Served) -> None:
    admin = await served.logged_in()
    socket = await connected(served, admin.cookies["edgeward"])
    while not (await until(socket, "tick"))["beds_live"]:
        pass

    served.hospital.beds_running = False

    async with asyncio.timeout(30):
        while (tick := await until(socket, "tick"))["beds_live"]:
            pass
    assert tick["bus"] is True
    assert tick["beds_age"] >= 2000
    await socket.close()
    await admin.aclose()


async def test_the_pulse_tells_a_lost_bus(served: Served) -> None:
    admin = await served.logged_in()
    socket = await connected(served, admin.cookies["edgeward"])
    await until(socket, "tick")

    await served.hospital.site.kill_bus()

    async with asyncio.timeout(30):
        while (await until(socket, "tick"))["bus"]:
            pass
    health = await admin.get("/healthz")
    assert (health.status_code, health.json()) == (503, {"ok": False})
    page = await admin.get("/images", headers={"accept": "text/html"})
    assert page.status_code == 503

    await served.hospital.site.start_bus()

    async with asyncio.timeout(30):
        while not (await until(socket, "tick"))["beds_live"]:
            pass
    assert (await admin.get("/healthz")).json() == {"ok": True}
    await socket.close()
    await admin.aclose()
