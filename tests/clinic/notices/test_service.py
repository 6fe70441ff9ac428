"""Notices on a real bus, to real receivers: brought once, in order, tried again, given up in time, kept through crashes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from aiosmtpd.controller import Controller
from tests.clinic.notices.test_messages import notice
from tests.support.deliver import until
from tests.support.fhir import fhir_server
from tests.support.hl7 import acknowledge, receiver
from tests.support.site import free_port

from edgeward.bedside import NoticeReport
from edgeward.bus import subjects
from edgeward.clinic.imaging.sink import Unreachable
from edgeward.clinic.notices import receivers as kinds
from edgeward.clinic.notices import service
from edgeward.clinic.notices.receivers import MailReceiver, WebhookReceiver, sign
from edgeward.clinic.notices.service import MAX_REFUSALS, open_notices
from edgeward.clinic.notices.store import NoticeStore
from edgeward.config import Contact, Pcd04, Smtp
from edgeward.messages import Message, Ok, Refused
from edgeward.privacy.keys import SiteKey


class Monitor:
    """Hands notices over and hears what became of them."""

    def __init__(self, site) -> None:
        self.site, self.reports = site, []

    @property
    def reasons(self):
        """The last reason of each receiver: a report that was not answered in time is made again."""
        return {report.receiver: report.reason for report in self.reports}

    async def start(self) -> Monitor:
        self.bus = await self.site.bus("monitor")
        await self.bus.serve(subjects.MONITOR_NOTICE, NoticeReport, self._heard, subjects.MONITORS)
        return self

    async def _heard(self, report: NoticeReport) -> Message:
        self.reports.append(report)
        return Ok()

    async def tell(self, told) -> None:
        assert await self.bus.request(subjects.DELIVER_NOTICE, told, Ok | Refused, 10) == Ok()


@contextlib.asynccontextmanager
async def running(site, **settings):
    for name, value in settings.items():
        setattr(site.settings, name, value)
    context = await site.context("deliver")
    notices = open_notices(context)
    await notices.start()
    await context.bus.flush()
    try:
        yield notices
    finally:
        await notices.stop()
        await context.bus.close()


class Hook:
    """A webhook that answers as told."""

    def __init__(self, status: int = 204) -> None:
        self.status, self.bodies, self.headers = status, [], []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                hook.headers.append(dict(self.headers))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/alarm"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:
        if address.startswith("nobody"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope) -> str:
        self.mails.append(envelope.content)
        return "250 OK"


def pcd04(his, **changes) -> Pcd04:
    return Pcd04(**{"name": "manager", "host": "127.0.0.1", "port": his.port, "timeout_s": 5.0, **changes})


async def test_an_alarm_manager_gets_every_transition_once_and_in_order(bus_site):
    monitor = await Monitor(bus_site).start()
    with receiver(check=False) as his:
        async with running(bus_site, pcd04=[pcd04(his)]):
            for number, phase in enumerate(("start", "update", "acknowledge", "end"), 1):
                await monitor.tell(notice(phase, number))
            await monitor.tell(notice("end", 4))  # monitor did not hear our answer
            await until(lambda: len(his.received) >= 4)
    phases = [line.split(b"|")[5] for data in his.received for line in data.split(b"\r") if b"EVENT_PHASE" in line]
    assert phases == [b"start", b"continue", b"continue", b"end"]
    assert monitor.reports == [], "a system's queue is not a person who was not reached"


async def test_what_an_alarm_manager_does_not_want_is_not_sent(bus_site):
    monitor = await Monitor(bus_site).start()
    with receiver(check=False) as his:
        async with running(bus_site, pcd04=[pcd04(his, priorities=["medium"])]) as notices:
            await monitor.tell(notice())
            assert (await notices.states())[0].waiting == 0


async def test_an_alarm_manager_that_was_away_gets_all_of_it_afterwards(bus_site):
    monitor = await Monitor(bus_site).start()
    with receiver(check=False) as his:
        his.stop()
        async with running(bus_site, pcd04=[pcd04(his)]) as notices:
            for number in range(1, 21):
                await monitor.tell(notice("update", number))
            state = (await notices.states())[0]
            assert (state.waiting, state.confirmed) == (20, 0)
            his.start()
            await until(lambda: len(his.latest()) == 20)


async def test_a_refused_notice_is_a_dead_letter_and_the_next_one_goes_out(bus_site):
    monitor = await Monitor(bus_site).start()
    with receiver(
        check=False, reply=lambda data, n: acknowledge(data, "AR" if n < MAX_REFUSALS else "AA", error="102")
    ) as his:
        async with running(bus_site, pcd04=[pcd04(his)]) as notices:
            await monitor.tell(notice("start", 1))
            await monitor.tell(notice("end", 2))
            await until(lambda: notices._context.stats.counters.get("notices_delivered", 0) == 1)
            state = (await notices.states())[0]
            assert (state.dead, state.confirmed, state.status) == (1, 1, "idle")


@pytest.mark.parametrize("code", ["AE", "AR", "CE"])
async def test_a_manager_that_refuses_in_passing_gets_the_alarm_all_the_same(bus_site, code: str):
    monitor = await Monitor(bus_site).start()
    with receiver(check=False, reply=lambda data, n: acknowledge(data, code if n == 0 else "AA")) as his:
        async with running(bus_site, pcd04=[pcd04(his)]) as notices:
            await monitor.tell(notice("start", 1))
            await until(lambda: notices._context.stats.counters.get("notices_delivered", 0) == 1)
            state = (await notices.states())[0]
            assert (state.dead, state.confirmed, state.status) == (0, 1, "idle")


async def test_a_manager_that_refuses_everything_is_said_to_and_holds_nothing_up(bus_site):
    monitor = await Monitor(bus_site).start()
    with receiver(check=False, reply=lambda data, n: acknowledge(data, "AE")) as his:
        async with running(bus_site, pcd04=[pcd04(his)]) as notices:
            for number in range(1, 11):
                await monitor.tell(notice("update", number))
            await until(lambda: notices._context.stats.counters.get("notices_failed", 0) == 10)
            assert len(his.received) == MAX_REFUSALS + 9  # only the first was asked for again
            state = (await notices.states())[0]
            assert (state.dead, state.confirmed, state.status) == (10, 0, "down")
            assert "AE" in state.reason
            assert any("AE" in warning for warning in notices._context.stats.warnings)


async def test_a_fhir_server_holds_one_observation_per_alarm(bus_site):
    monitor = await Monitor(bus_site).start()
    with fhir_server() as emr:
        async with running(bus_site, fhir=[emr.settings("emr", alarms=True)]):
            await monitor.tell(notice("start", 1))
            await monitor.tell(notice("end", 2, state="ended", present=False))
            await until(lambda: len(emr.transactions) == 2)
        (held,) = emr.of("Observation")
        assert held["status"] == "final"
        assert emr.problems == []


async def test_a_contact_is_told_by_a_signed_webhook_and_monitor_hears_it(bus_site, hook: Hook, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    monitor = await Monitor(bus_site).start()
    contact = Contact(name="resident", webhook=hook.url, secret_file=str(secret))
    async with running(bus_site, contact=[contact]):
        await monitor.tell(notice("escalate", contacts=("resident",)))
        await until(lambda: bool(monitor.reports))
    (report,) = monitor.reports
    assert (report.receiver, report.state) == ("resident", "delivered")
    at_s = int(hook.headers[0]["Edgeward-Signature"].split(",")[0].removeprefix("t="))
    assert hook.headers[0]["Edgeward-Signature"] == sign(hook.bodies[0], "s3cret", at_s)


async def test_one_channel_that_works_is_enough(bus_site, hook: Hook):
    monitor = await Monitor(bus_site).start()
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        hook.status = 403
        contact = Contact(name="resident", webhook=hook.url, email="resident@hospital.example")
        smtp = Smtp(host="127.0.0.1", port=controller.port, security="plain")
        async with running(bus_site, contact=[contact], smtp=smtp):
            await monitor.tell(notice("escalate", contacts=("resident",)))
            await until(lambda: bool(monitor.reports))
    finally:
        controller.stop()
    assert [report.state for report in monitor.reports] == ["delivered"]
    assert b"Nobody has acknowledged it yet" in box.mails[0]


async def test_monitor_hears_when_nobody_was_reached(bus_site, hook: Hook):
    monitor = await Monitor(bus_site).start()
    hook.status = 404
    contacts = [Contact(name="resident", webhook=hook.url), Contact(name="deaf")]
    async with running(bus_site, contact=contacts):
        await monitor.tell(notice("escalate", contacts=("resident", "deaf")))
        await until(lambda: len(monitor.reports) == 2)
    assert {report.receiver: report.state for report in monitor.reports} == {"resident": "failed", "deaf": "failed"}


async def test_a_webhook_that_is_not_there_is_given_up_in_time(bus_site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(WebhookReceiver, "patience_s", 0.5)
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.1)
    monitor = await Monitor(bus_site).start()
    contact = Contact(name="resident", webhook=f"http://127.0.0.1:{free_port()}/")
    async with running(bus_site, contact=[contact]):
        await monitor.tell(notice("escalate", contacts=("resident",)))
        await until(lambda: bool(monitor.reports))
    assert monitor.reports[0].state == "failed"
    assert "cannot connect" in monitor.reports[0].reason


async def test_a_webhook_that_never_ends_its_answer_is_cut_off(bus_site, monkeypatch: pytest.MonkeyPatch):
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"HTTP/1.1 2")
                await writer.drain()
                await asyncio.sleep(0.05)

    monkeypatch.setattr(kinds, "WEBHOOK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(WebhookReceiver, "patience_s", 0.5)
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(service, "LONGEST_PAUSE_S", 0.01)
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monitor = await Monitor(bus_site).start()
    async with running(bus_site, contact=[Contact(name="resident", webhook=f"http://127.0.0.1:{port}/")]):
        await monitor.tell(notice("escalate", contacts=("resident",)))
        await until(lambda: bool(monitor.reports))
    server.close()
    assert monitor.reports[0].state == "failed"


async def test_a_gateway_that_starts_anew_is_tried_for_as_long_as_a_person_is(
    bus_site, hook: Hook, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(service, "LONGEST_PAUSE_S", 0.01)
    monitor = await Monitor(bus_site).start()
    hook.status = 503
    async with running(bus_site, contact=[Contact(name="resident", webhook=hook.url)]):
        await monitor.tell(notice("escalate", contacts=("resident",)))
        await until(lambda: len(hook.bodies) > 2 * service.MAX_FAULTS)
        hook.status = 204
        await until(lambda: bool(monitor.reports))
    assert monitor.reports[0].state == "delivered"


async def test_a_notice_that_cannot_be_sent_ends_no_others(bus_site, hook: Hook):
    monitor = await Monitor(bus_site).start()
    contacts = [Contact(name="nowhere", webhook="http://127.0.0.1:99999/"), Contact(name="resident", webhook=hook.url)]
    async with running(bus_site, contact=contacts):
        for number in (1, 2):
            await monitor.tell(notice("escalate", number, contacts=("nowhere", "resident")))
        await until(lambda: len(monitor.reports) == 4)
    told = sorted((report.receiver, report.state) for report in monitor.reports)
    assert told == [("nowhere", "failed")] * 2 + [("resident", "delivered")] * 2
    assert all("127.0.0.1" not in report.reason for report in monitor.reports)


async def test_why_there_is_no_tls_is_said(bus_site):
    files = bus_site.home.identity / "roles"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files / "console.pem", files / "console.key")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    contact = Contact(name="c", webhook=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    receiver = WebhookReceiver(contact, "site")
    with pytest.raises(Unreachable, match="certificate is not trusted"):
        await receiver.send(notice("start"))
    await receiver.close()
    server.close()
    receiver = MailReceiver(Contact(name="c", email="a@b.example"), Smtp(host="127.0.0.1", ca="/nowhere.pem"), "site")
    with pytest.raises(Unreachable, match="authority cannot be read"):
        await receiver.send(notice("start"))


async def test_mail_that_is_refused_and_a_server_that_is_not_set_are_failures(bus_site):
    monitor = await Monitor(bus_site).start()
    controller = Controller(Mailbox(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        smtp = Smtp(host="127.0.0.1", port=controller.port, security="plain")
        async with running(bus_site, contact=[Contact(name="gone", email="nobody@hospital.example")], smtp=smtp):
            await monitor.tell(notice("escalate", contacts=("gone",)))
            await until(lambda: "gone" in monitor.reasons)
        async with running(bus_site, contact=[Contact(name="unset", email="a@hospital.example")], smtp=Smtp()):
            await monitor.tell(notice("escalate", 2, contacts=("unset",)))
            await until(lambda: "unset" in monitor.reasons)
    finally:
        controller.stop()
    assert "status 550" in monitor.reasons["gone"]
    assert "no mail server" in monitor.reasons["unset"]


async def test_a_notice_that_comes_while_the_role_stops_is_refused_and_no_error(bus_site, caplog):
    monitor = await Monitor(bus_site).start()
    with receiver(check=False) as his:
        async with running(bus_site, pcd04=[pcd04(his)]) as notices:
            taken = [asyncio.create_task(monitor.tell(notice("update", number))) for number in range(1, 9)]
            await taken[0]
            await notices.stop()

            answer = await monitor.bus.request(subjects.DELIVER_NOTICE, notice("end", 9), Ok | Refused, 10)
            await asyncio.gather(*taken, return_exceptions=True)
    assert isinstance(answer, Refused)
    assert "stopping" in answer.reason
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


async def test_what_was_accepted_survives_a_restart(bus_site):
    monitor = await Monitor(bus_site).start()
    with receiver(check=False) as his:
        his.stop()
        async with running(bus_site, pcd04=[pcd04(his)]):
            await monitor.tell(notice())
        his.start()
        async with running(bus_site, pcd04=[pcd04(his)]):
            await until(lambda: len(his.received) == 1)


@pytest.mark.parametrize("first", ["delivered", "failed"])
def test_who_was_reached_by_one_channel_was_reached_in_whichever_order_the_channels_end(bus_site, tmp_path, first):
    store = NoticeStore(tmp_path / "notices.db", SiteKey.load(bus_site.home))
    told = notice("escalate", contacts=("resident",))
    store.accept(told, [("resident/webhook", "resident"), ("resident/email", "resident")], 1)
    reports = []
    for channel, state in (
        ("resident/webhook", first),
        ("resident/email", "failed" if first == "delivered" else "delivered"),
    ):
        owed = store.next(channel)
        assert owed is not None
        store.settle(owed, state, "", 5)
        reports += store.untold()
        for report in store.untold():
            store.told(report)
    store.prune(6)
    assert [(report.receiver, report.state) for report in reports] == [("resident", "delivered")]
    assert store.tally() == {}, "nothing is kept for ever"
    store.close()


def test_killed_while_accepting_and_settling_nothing_accepted_is_lost(bus_site, tmp_path: Path):
    """The child says what it took over and what it settled; whatever it said must be so in the file."""
    path = tmp_path / "notices.db"
    program = textwrap.dedent(
        f"""
        import itertools, sys
        from pathlib import Path
        from edgeward.bedside import Notice
        from edgeward.clinic.notices.store import NoticeStore
        from edgeward.home import Home
        from edgeward.messages import Alarm, AlarmPriority
        from edgeward.privacy.keys import SiteKey
        alarm = Alarm(
            alarm_id="bed-7-3", device_id="patch-7", code="asystole", priority=AlarmPriority.HIGH, technical=False,
            latching=True, state="raised", present=True, raised_ns=1, at_ns=1,
        )
        store = NoticeStore(Path({str(path)!r}), SiteKey.load(Home(Path({str(bus_site.home.path)!r}))))
        first = int(sys.argv[1])
        for number in itertools.count(first):
            told = Notice(notice_id=f"bed-7-3/{{number}}", phase="update", alarm=alarm, at_ns=number)
            store.accept(told, [("a", ""), ("b/webhook", "b")], number)
            print("took", number, flush=True)
            if number % 3 == 0:
                owed = store.next("a")
                store.settle(owed, "delivered", "", number)
                print("settled", owed.notice.notice_id.split("/")[1], flush=True)
        """
    )
    took, settled = set(), set()

    def note(line: str) -> None:
        kind, _, number = line.partition(" ")
        if number.endswith("\n"):  # what the kill cut short was not said
            (took if kind == "took" else settled).add(int(number))

    for turn in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(turn * 1_000_000)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        assert child.stdout is not None
        for line in child.stdout:
            note(line)
            if len(took) >= 40 * (turn + 1):
                break
        os.kill(child.pid, signal.SIGKILL)
        for line in child.stdout.read().splitlines(keepends=True):
            note(line)
        child.wait()
    store = NoticeStore(path, SiteKey.load(bus_site.home))
    held = store.tally()
    assert held["b/webhook"].waiting >= len(took)
    assert held["a"].waiting + held["a"].delivered == held["b/webhook"].waiting
    assert held["a"].delivered >= len(settled)
    assert held["b/webhook"].waiting - len(took) <= 3, "at most the one each child had not yet said"
    store.close()


def test_what_is_settled_leaves_no_text_in_the_file(bus_site, tmp_path: Path):
    path = tmp_path / "notices.db"
    store = NoticeStore(path, SiteKey.load(bus_site.home))
    store.accept(notice(), [("a", "")], time.time_ns())
    owed = store.next("a")
    assert owed is not None
    store.settle(owed, "delivered", "", time.time_ns())
    assert store.next("a") is None
    store.close()
    assert "Bed 7" not in path.read_bytes().decode("latin-1")
