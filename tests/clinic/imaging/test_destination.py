"""One destination's queue: when it tries, waits, gives up; against sinks that fail in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from tests.support.imaging import as_file, breast_image, finding_for, not_analysed, request_for

from edgeward.clinic.imaging import destination as module
from edgeward.clinic.imaging.destination import LONGEST_PAUSE_S, MAX_FAULTS, Destination, Watcher, pause_s
from edgeward.clinic.imaging.ledger import Ledger, LedgerError
from edgeward.clinic.imaging.results import Workshop
from edgeward.clinic.imaging.sink import (
    Interrupted,
    NotTaken,
    Receipt,
    Rejected,
    Result,
    Sink,
    Unreachable,
    require_patient,
)
from edgeward.home import Home
from edgeward.messages import Verdict
from edgeward.privacy.keys import SiteKey

Answer = Callable[[Result, int], None]


class FakeSink(Sink):
    """Confirms what `answer(result, n)` does not raise on; n counts sends from 0."""

    def __init__(self, answer: Answer = lambda result, n: None, takes: tuple[str, ...] = ("sr", "capture")) -> None:
        self.name = "pacs"
        self.takes = frozenset(takes)
        self.answer = answer
        self.held: list[str] = []
        self.sent: list[str] = []
        self.opened = self.probes = self.rests = 0
        self.there = True

    async def open(self) -> bool:
        self.opened += 1
        if not self.there:
            raise Unreachable("refused", connected=False)
        return False

    async def send(self, result: Result) -> Receipt:
        n = len(self.sent)
        self.sent.append(result.uid)
        self.answer(result, n)
        self.held.append(result.uid)
        return Receipt(time.time_ns())

    async def answers(self) -> bool:
        self.probes += 1
        return self.there

    async def rest(self) -> None:
        self.rests += 1

    async def close(self) -> None:
        pass


class Log(Watcher):
    def __init__(self) -> None:
        self.delivered_items: list[str] = []
        self.outcomes: list = []
        self.dead: list[tuple[str, str]] = []
        self.events: list[str] = []

    async def delivered(self, owed, request, outcome) -> None:
        self.delivered_items.append(owed.item_id)
        self.outcomes.append(outcome)

    async def given_up(self, owed, reason) -> None:
        self.dead.append((owed.item_id, reason))

    async def not_taken(self, destination, kinds) -> None:
        self.events.append(f"not taken: {', '.join(sorted(kinds))}")

    async def away(self, destination, reason) -> None:
        self.events.append("away")

    async def back(self, destination) -> None:
        self.events.append("back")

    async def stuck(self, reason) -> None:
        self.events.append("stuck")

    async def unstuck(self) -> None:
        self.events.append("unstuck")


class Bench:
    """A queue with a real ledger, real objects and a fake sink; its pauses are short."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.create()
        self.key = SiteKey.create(self.home) or SiteKey.load(self.home)
        self.ledger = Ledger(self.home.db("deliver"), self.key)
        self.workshop = Workshop()
        self.watcher = Log()
        self.task: asyncio.Task | None = None
        self.thread = ThreadPoolExecutor(1)

    async def call(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)

    def accept(self, item_id: str, **changes) -> None:
        image = changes.pop("image", None) or breast_image(rows=40, columns=50)
        finding = changes.pop("finding", None) or finding_for(image, item_id)
        data = changes.pop("data", None) or as_file(image)
        request = request_for(self.home.vault, self.key, data, finding)
        request = msgspec.structs.replace(request, **changes)
        self.ledger.accept(request, ["pacs"], time.time_ns())

    def start(self, sink: Sink) -> Destination:
        self.queue = Destination(sink, self.ledger, self.workshop.prepare, self.call, self.watcher)
        self.task = asyncio.create_task(self.queue.run())
        return self.queue

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                assert self.task is not None
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.workshop.close()
        self.thread.shutdown()
        self.ledger.close()


@pytest.fixture
async def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "PROBE_EVERY_S", 0.01)
    bench = Bench(tmp_path / "home")
    yield bench
    await bench.close()


def always(error: Exception) -> Answer:
    def answer(result: Result, n: int) -> None:
        raise error

    return answer


async def test_report_goes_before_capture_and_items_in_order(bench):
    sink = FakeSink()
    for n in range(3):
        bench.accept(f"item-{n}")

    bench.start(sink)
    await bench.until(lambda: len(bench.watcher.delivered_items) == 3)

    assert bench.watcher.delivered_items == ["item-0", "item-1", "item-2"]
    assert len(sink.held) == 6
    assert bench.watcher.outcomes[0].uids == sink.held[:2]
    assert {stage.name for stage in bench.watcher.outcomes[0].stages} >= {
        "build_sr",
        "build_capture",
        "associate",
        "send",
    }


async def test_stages_follow_one_another_so_their_sum_explains_the_time(bench):
    slow = FakeSink(lambda result, n: time.sleep(0.05))
    bench.accept("item-1")
    accepted_ns = bench.ledger.due("pacs", time.time_ns()).accepted_ns

    bench.start(slow)
    await bench.until(lambda: bool(bench.watcher.delivered_items))

    outcome = bench.watcher.outcomes[0]
    spent = {stage.name: stage.ms for stage in outcome.stages}
    passed = (time.time_ns() - accepted_ns) / 1e6
    assert list(spent) == ["queue", "associate", "build_sr", "send", "build_capture"]
    assert sum(spent.values()) <= passed
    assert spent["send"] >= 100
    assert {stage.name for stage in outcome.made} >= {"read_header", "make_sr", "make_capture"}


async def test_a_destination_gets_only_what_it_takes(bench):
    sink = FakeSink(takes=("capture",))
    bench.accept("item-1")

    bench.start(sink)
    await bench.until(lambda: bool(bench.watcher.delivered_items))

    assert len(sink.held) == 1


async def test_a_finding_without_analysis_has_a_report_and_no_capture(bench):
    image = breast_image(rows=40, columns=50)
    bench.accept("item-1", image=image, finding=not_analysed(image, "item-1"))
    sink = FakeSink()

    bench.start(sink)
    await bench.until(lambda: bool(bench.watcher.delivered_items))

    assert len(sink.held) == 1
    assert bench.watcher.outcomes[0].note == ""


async def test_an_image_that_cannot_be_decoded_still_gets_its_report(bench):
    image = breast_image(rows=40, columns=50)
    image.PixelData = image.PixelData[:100]
    bench.accept("item-1", image=image)
    sink = FakeSink()

    bench.start(sink)
    await bench.until(lambda: bool(bench.watcher.delivered_items))

    assert len(sink.held) == 1
    assert "no capture" in bench.watcher.outcomes[0].note


async def test_a_new_item_is_sent_as_soon_as_it_comes(bench):
    sink = FakeSink()
    queue = bench.start(sink)
    await bench.until(lambda: queue._awake is not None and bench.task is not None)

    bench.accept("item-1")
    queue.wake()

    await bench.until(lambda: bool(bench.watcher.delivered_items))


async def test_an_absent_destination_is_tried_until_it_is_there_and_nothing_is_lost(bench):
    sink = FakeSink()
    sink.there = False
    for n in range(5):
        bench.accept(f"item-{n}")
    queue = bench.start(sink)
    await bench.until(lambda: sink.opened >= MAX_FAULTS * 3)
    assert queue.reason == "refused"

    sink.there = True
    await bench.until(lambda: len(bench.watcher.delivered_items) == 5)

    assert bench.watcher.dead == []
    assert queue.reason == ""
    assert len(set(sink.held)) == 10


async def test_absence_is_told_once_and_so_is_the_return(bench, monkeypatch):
    monkeypatch.setattr(module, "TELL_AFTER_S", 0.03)
    sink = FakeSink()
    sink.there = False
    bench.accept("item-1")
    bench.start(sink)
    await bench.until(lambda: "away" in bench.watcher.events and sink.opened > 10)

    sink.there = True
    await bench.until(lambda: "back" in bench.watcher.events)

    assert bench.watcher.events == ["away", "back"]


async def test_a_short_absence_is_not_worth_telling(bench):
    sink = FakeSink()
    sink.there = False
    bench.accept("item-1")
    bench.start(sink)
    await bench.until(lambda: sink.opened >= 2)
    sink.there = True
    await bench.until(lambda: bool(bench.watcher.delivered_items))

    assert bench.watcher.events == []


async def test_a_long_pause_ends_when_the_address_answers_again(bench, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 60.0)
    sink = FakeSink()
    sink.there = False
    bench.accept("item-1")
    bench.start(sink)
    await bench.until(lambda: sink.probes >= 2)

    sink.there = True

    await bench.until(lambda: bool(bench.watcher.delivered_items))


async def test_a_refused_item_is_given_up_after_five_tries_and_others_pass(bench):
    refused: list[str] = []

    def answer(result: Result, n: int) -> None:
        if n == 0:
            refused.append(result.uid)
        if result.uid in refused:
            raise Rejected("it refuses the object with status 0xC000")

    sink = FakeSink(answer)
    bench.accept("bad")
    bench.accept("good")

    bench.start(sink)
    await bench.until(lambda: bool(bench.watcher.dead) and bool(bench.watcher.delivered_items))

    assert bench.watcher.dead == [("bad", "sr: it refuses the object with status 0xC000")]
    assert bench.watcher.delivered_items == ["good"]
    assert sink.sent.count(refused[0]) == MAX_FAULTS


async def test_an_item_that_breaks_the_connection_is_blamed_only_if_others_get_through(bench):
    poison: list[str] = []

    def answer(result: Result, n: int) -> None:
        if n == 0:
            poison.append(result.uid)
        if result.uid in poison:
            raise Interrupted("it hung up")

    sink = FakeSink(answer)
    bench.accept("poison")
    queue = bench.start(sink)
    await bench.until(lambda: sink.sent.count(poison[0]) > MAX_FAULTS * 2 if poison else False)
    assert bench.watcher.dead == [], "alone, the destination may be to blame"

    n = 0
    while not bench.watcher.dead:
        n += 1
        bench.accept(f"good-{n}")
        queue.wake()
        await bench.until(lambda n=n: len(bench.watcher.delivered_items) >= n)

    assert [item for item, _ in bench.watcher.dead] == ["poison"]


async def test_a_destination_that_hangs_on_everything_loses_nothing(bench):
    sink = FakeSink(always(Interrupted("it did not answer")))
    for n in range(3):
        bench.accept(f"item-{n}")
    bench.start(sink)
    await bench.until(lambda: len(sink.sent) > 3 * MAX_FAULTS * 2)
    assert bench.watcher.dead == []

    sink.answer = lambda result, n: None
    await bench.until(lambda: len(bench.watcher.delivered_items) == 3)


async def test_an_erased_image_is_a_dead_letter_with_the_reason(bench):
    bench.accept("item-1")
    for file in bench.home.vault.rglob("*.ew"):
        file.unlink()

    bench.start(FakeSink())
    await bench.until(lambda: bool(bench.watcher.dead))

    assert "not in the vault" in bench.watcher.dead[0][1]


async def test_an_unforeseen_error_on_one_item_stays_with_that_item(bench):
    def answer(result: Result, n: int) -> None:
        if n < MAX_FAULTS:
            raise KeyError("Muster^Erika")

    bench.accept("odd")
    bench.start(FakeSink(answer))
    await bench.until(lambda: bool(bench.watcher.dead))

    assert bench.watcher.dead == [("odd", "unforeseen: KeyError")]


async def test_a_ledger_that_cannot_be_written_stops_the_queue_and_not_the_role(bench, monkeypatch):
    sink = FakeSink()
    broken = [True]
    real = bench.ledger.due

    def due(*arguments, **options):
        if broken[0]:
            broken[0] = False
            raise LedgerError("disk full")
        return real(*arguments, **options)

    monkeypatch.setattr(bench.ledger, "due", due)
    bench.accept("item-1")

    bench.start(sink)
    await bench.until(lambda: bool(bench.watcher.delivered_items) and "unstuck" in bench.watcher.events)

    assert bench.watcher.events == ["stuck", "unstuck"]


async def test_the_connection_is_given_back_when_there_is_nothing_to_send(bench, monkeypatch):
    monkeypatch.setattr(module, "REST_AFTER_S", 0.02)
    sink = FakeSink()
    queue = bench.start(sink)

    await bench.until(lambda: sink.rests == 1)
    bench.accept("item-1")
    queue.wake()

    await bench.until(lambda: bool(bench.watcher.delivered_items) and sink.rests == 2)


def test_pauses_double_up_to_half_a_minute():
    assert [pause_s(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert pause_s(7) == pause_s(10**6) == LONGEST_PAUSE_S == 30.0


# ---------------------------------------- order


async def test_results_of_one_study_stay_in_order_behind_one_that_is_refused(bench):
    refused: list[str] = []

    def answer(result: Result, n: int) -> None:
        if n == 0:
            refused.append(result.uid)
        if result.uid in refused:
            raise Rejected("no")

    bench.accept("a-1", study_instance_uid="1.1")
    bench.accept("a-2", study_instance_uid="1.1")
    bench.accept("b-1", study_instance_uid="1.2")
    sink = FakeSink(answer, takes=("sr",))

    bench.start(sink)
    await bench.until(lambda: len(bench.watcher.delivered_items) == 2)

    assert bench.watcher.dead == [("a-1", "sr: no")]
    assert bench.watcher.delivered_items == ["b-1", "a-2"], "another study passes, its own waits"
    assert bench.ledger.due("pacs", time.time_ns()) is None


async def test_a_later_revision_waits_for_the_one_before(bench):
    stubborn = [3]

    def answer(result: Result, n: int) -> None:
        if stubborn[0]:
            stubborn[0] -= 1
            raise Rejected("not yet")

    verdict = Verdict(verdict_id="v", item_id="item-1", finding_id="f-item-1", action="confirm", by="dr", at_ns=2)
    sink = FakeSink(answer, takes=("sr",))
    bench.accept("item-1")
    bench.accept("item-1", revision=1, verdicts=[verdict])

    bench.start(sink)
    await bench.until(lambda: len(bench.watcher.outcomes) == 2)

    assert len(sink.sent) == 5
    assert sink.sent[:4] == [sink.held[0]] * 4


async def test_pictures_do_not_follow_a_verdict(bench):
    verdict = Verdict(verdict_id="v", item_id="item-1", finding_id="f-item-1", action="confirm", by="dr", at_ns=2)
    sink = FakeSink()
    bench.accept("item-1")
    bench.accept("item-1", revision=1, verdicts=[verdict])

    bench.start(sink)
    await bench.until(lambda: len(bench.watcher.outcomes) == 2)

    assert [len(outcome.uids) for outcome in bench.watcher.outcomes] == [2, 1]


async def test_after_an_outage_a_result_in_time_passes_the_backlog_which_still_moves(bench):
    sink = FakeSink(takes=("sr",))
    for n in range(8):
        bench.accept(f"old-{n}", deadline_ns=1)
    for n in range(8):
        bench.accept(f"new-{n}", deadline_ns=time.time_ns() + 60 * 10**9 + n)

    bench.start(sink)
    await bench.until(lambda: len(bench.watcher.delivered_items) == 16)

    order = bench.watcher.delivered_items
    assert sum(item.startswith("new") for item in order[:8]) == 6
    assert [item for item in order if item.startswith("old")] == [f"old-{n}" for n in range(8)]
    assert [item for item in order if item.startswith("new")] == [f"new-{n}" for n in range(8)]


async def test_the_next_result_is_made_while_one_is_being_sent(bench):
    hold = asyncio.Event()

    class Slow(FakeSink):
        async def send(self, result: Result) -> Receipt:
            await hold.wait()
            return await super().send(result)

    sink = Slow(takes=("sr",))
    for n in range(3):
        bench.accept(f"item-{n}")
    bench.start(sink)

    await bench.until(lambda: ("item-1", 0) in bench.workshop._prepared)
    assert not sink.sent
    hold.set()

    await bench.until(lambda: len(bench.watcher.delivered_items) == 3)
    assert len(sink.sent) == 3, "nothing is sent twice for being chosen early"


# ---------------------------------------- part of a result


async def test_what_a_destination_has_already_is_not_sent_again_with_the_rest(bench):
    captures: list[str] = []

    def answer(result: Result, n: int) -> None:
        if result.kind == "capture":
            captures.append(result.uid)
            if len(captures) < 3:
                raise Interrupted("it hung up")

    sink = FakeSink(answer)
    bench.accept("item-1")

    bench.start(sink)
    await bench.until(lambda: bool(bench.watcher.delivered_items))

    assert len(sink.sent) == 4, "the report once, the capture three times"
    assert bench.watcher.outcomes[0].uids == sink.held
    assert len(set(sink.held)) == 2


async def test_a_class_it_does_not_accept_costs_neither_the_report_nor_a_retry(bench):
    def answer(result: Result, n: int) -> None:
        if result.kind == "capture":
            raise NotTaken("it does not accept Secondary Capture Image Storage")

    sink = FakeSink(answer)
    bench.accept("item-1")
    bench.accept("item-2")

    bench.start(sink)
    await bench.until(lambda: len(bench.watcher.delivered_items) == 2)

    assert bench.watcher.dead == []
    assert "does not accept: capture" in bench.watcher.outcomes[0].note
    assert bench.watcher.events == ["not taken: capture"], "told once"
    assert len(sink.sent) == 4, "each once"


async def test_what_a_destination_did_not_accept_can_be_sent_when_it_does(bench):
    taken = {"sr"}

    def answer(result: Result, n: int) -> None:
        if result.kind not in taken:
            raise NotTaken("it does not accept Secondary Capture Image Storage")

    sink = FakeSink(answer)
    bench.accept("item-1")
    bench.accept("item-2", study_instance_uid="1.2")
    queue = bench.start(sink)
    await bench.until(lambda: len(bench.watcher.outcomes) == 2)
    (report,) = [one for one in bench.ledger.untold() if one.item_id == "item-1"]
    bench.ledger.told(report)

    letters = bench.ledger.dead_letters()
    assert [letter.item_id for letter in letters] == ["item-2", "item-1"]
    assert {letter.state for letter in letters} == {"failed"}
    assert "does not accept: capture" in letters[0].reason
    assert (report.state, report.sop_instance_uids) == ("delivered", sink.held[:1]), "the report has arrived"

    taken.add("capture")
    assert bench.ledger.resend(["pacs"], time.time_ns(), item_id="item-1") == 1
    queue.wake()
    await bench.until(lambda: len(bench.watcher.outcomes) == 3)

    assert len(sink.held) == 3, "the report is not sent again"
    assert [letter.item_id for letter in bench.ledger.dead_letters()] == ["item-2"]
    assert bench.watcher.events == ["not taken: capture", "not taken: "], "and the warning goes"
    (again,) = [one for one in bench.ledger.untold() if one.item_id == "item-1"]
    assert (again.state, again.reason) == ("delivered", "")
    assert again.sop_instance_uids == [sink.held[0], sink.held[2]]
    bench.ledger.told(again)
    assert bench.ledger.request("item-1") is None, "its key is kept no longer than it is needed"


async def test_what_a_destination_is_not_to_have_any_more_is_settled_when_it_is_sent_again(bench):
    def answer(result: Result, n: int) -> None:
        if result.kind == "capture":
            raise NotTaken("it does not accept Secondary Capture Image Storage")

    sink = FakeSink(answer)
    bench.accept("item-1")
    queue = bench.start(sink)
    await bench.until(lambda: len(bench.watcher.outcomes) == 1)

    sink.takes = frozenset({"sr"})
    assert bench.ledger.resend(["pacs"], time.time_ns()) == 1
    queue.wake()
    await bench.until(lambda: len(bench.watcher.outcomes) == 2)

    await bench.until(lambda: not bench.ledger.dead_letters())
    assert len(sink.held) == 1, "the report is not sent again"


async def test_what_must_not_be_sent_is_given_up_at_once(bench):
    class Records(FakeSink):
        async def compose(self, request, source):
            require_patient(source)
            return Result("oru", data=b"MSH", identifier="1")

    sink = Records()
    bench.accept("item-1", image=breast_image(rows=40, columns=50, PatientID=""))
    bench.accept("item-2")
    bench.start(sink)
    await bench.until(lambda: bool(bench.watcher.dead) and bool(bench.watcher.delivered_items))

    assert bench.watcher.dead == [("item-1", "the image names no patient: it has no Patient ID")]
    assert bench.watcher.delivered_items == ["item-2"]
    assert len(sink.sent) == 1


async def test_a_destination_that_does_not_accept_the_report_is_not_delivered_to(bench):
    def answer(result: Result, n: int) -> None:
        if result.kind == "sr":
            raise NotTaken("it does not accept Comprehensive SR Storage")

    bench.accept("item-1")

    bench.start(FakeSink(answer))
    await bench.until(lambda: bool(bench.watcher.dead))

    assert "does not accept: sr" in bench.watcher.dead[0][1]


async def test_a_destination_that_replaces_is_not_sent_what_it_has_a_later_revision_of(bench):
    class Replacing(FakeSink):
        replaces = True

    verdict = Verdict(verdict_id="v", item_id="item-1", finding_id="f-item-1", action="confirm", by="dr", at_ns=2)
    bench.accept("item-1")
    bench.ledger.dead(bench.ledger.due("pacs", time.time_ns()), "refused", 5, time.time_ns())
    bench.accept("item-1", revision=1, verdicts=[verdict])
    # As an earlier version left it: it did not settle the one before.
    bench.ledger.confirmed(bench.ledger.due("pacs", time.time_ns()), ["1.2"], time.time_ns(), [])
    sink = Replacing(takes=("sr",))
    assert bench.ledger.resend(["pacs"], time.time_ns()) == 1
    bench.start(sink)
    await bench.until(lambda: len(bench.watcher.outcomes) == 1)

    assert sink.sent == []
    assert "later revision" in bench.watcher.outcomes[0].note


@pytest.mark.parametrize(("takes", "left"), [(("sr",), 0), (("sr", "capture"), 1)])
async def test_a_later_revision_that_arrived_settles_the_dead_letter_of_an_earlier_one(bench, takes, left):
    verdict = Verdict(verdict_id="v", item_id="item-1", finding_id="f-item-1", action="confirm", by="dr", at_ns=2)
    bench.accept("item-1")
    bench.ledger.dead(bench.ledger.due("pacs", time.time_ns()), "refused", 5, time.time_ns())
    bench.accept("item-1", revision=1, verdicts=[verdict])

    bench.start(FakeSink(takes=takes))
    await bench.until(lambda: len(bench.watcher.outcomes) == 1)

    assert len(bench.ledger.dead_letters()) == left, "the pictures come with revision 0 and with no other"
    told = {report.revision: report for report in bench.ledger.untold()}
    assert told[1].state == "delivered"
    assert told[0].state == ("failed" if left else "delivered")
    assert ("later revision" in told[0].reason) is not bool(left)


async def test_what_was_dead_at_a_destination_of_reports_is_settled_from_the_first_verdict_on(bench):
    verdicts = [
        Verdict(verdict_id=f"v{n}", item_id="item-1", finding_id="f-item-1", action="confirm", by="dr", at_ns=n)
        for n in (2, 3)
    ]
    bench.accept("item-1")
    bench.accept("item-1", revision=1, verdicts=verdicts[:1])
    for _ in range(2):
        bench.ledger.dead(bench.ledger.due("pacs", time.time_ns()), "refused", 5, time.time_ns())
    bench.accept("item-1", revision=2, verdicts=verdicts)

    bench.start(FakeSink())
    await bench.until(lambda: len(bench.watcher.outcomes) == 1)

    assert [letter.revision for letter in bench.ledger.dead_letters()] == [0]


async def test_a_destination_may_ask_for_a_longer_pause(bench, monkeypatch):
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(0)

    monkeypatch.setattr(module, "PROBE_EVERY_S", 100.0)

    class Busy(FakeSink):
        async def open(self) -> bool:
            if not self.opened:
                monkeypatch.setattr(module.asyncio, "sleep", sleep)
                self.opened = 1
                raise Unreachable("busy", connected=True, after_s=0.3)
            monkeypatch.setattr(module.asyncio, "sleep", real)
            return False

    bench.accept("item-1")
    bench.start(Busy())
    await bench.until(lambda: bool(bench.watcher.delivered_items))

    assert max(waited) > 0.25
