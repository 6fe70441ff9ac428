"""Traces for screens: each once, in one clock, nothing across a gap, nothing for those whom nobody looks at."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from tests.support.wearable import ecg

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.screens import VIEW_S, Screens
from edgeward.clinic.monitor.signals import SHOWN_MOST, SignalBank
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.traces import Traces
from edgeward.messages import MessageError, Trace, Viewing, Wave, decode, encode
from edgeward.waveform import MISSING, STATE_CALIBRATING, STATE_OFF, Block, Channel, Kind, SignalPacket

RATE = 250.0
SECOND = 1_000_000_000
PLETH = Channel(name="Pleth", kind=Kind.PLETH, rate_hz=100.0, gain=0.5, offset=2.0)
ART = Channel(name="ART", kind=Kind.ABP, rate_hz=1000.0, gain=0.1)


class Looked:
    """One patient with two leads, a pleth and an arterial line, and somebody who looks at it."""

    def __init__(self, *, look: bool = True) -> None:
        self.bank, self.signals = MonitorBank(), SignalBank()
        self.bank.enrol("bed-1", rate_hz=RATE, leads=("II", "V"), gain_uv=1.0, now_ns=0)
        self.traces = Traces(self.bank, self.signals)
        self.number = 0
        self.signal = ecg(40, 75)
        if look:
            self.signals.look(["bed-1"])

    def second(self, number: int | None = None, *, off: tuple[bool, bool] = (False, False), state: int = 0, missing: bool = False) -> None:  # fmt: skip
        """Let one second pass: the ECG, and a pulse in the other channels."""
        at = self.number if number is None else number
        self.number = at + 1
        piece = self.signal[at * 250 : at * 250 + 250]
        self.bank.push(
            "bed-1",
            np.stack((piece, -piece)),
            first_sample=at * 250,
            sequence=at,
            received_ns=at * SECOND,
            lead_off=off,
        )
        pulse = np.rint(500 * np.sin(2 * np.pi * 1.25 * (at + np.arange(100) / 100))).astype(np.int16)
        if missing:
            pulse[40:60] = MISSING
        line = np.full(1000, 800 + at, dtype=np.int16)
        if missing:
            line[10] = MISSING
        blocks = (Block(PLETH, at * 100, pulse, state), Block(ART, at * 1000, line, state))
        self.signals.push("bed-1", SignalPacket(at, 0, 0, None, blocks), received_ns=at * SECOND)
        self.bank.process(at * SECOND)
        self.signals.process(at * SECOND)

    def read(self, *wishes: str) -> Trace:
        found = self.traces.read("bed-1", wishes)
        assert found is not None
        return found


def waves(trace: Trace, name: str) -> list[Wave]:
    return [wave for wave in trace.waves if wave.name == name]


def test_only_what_was_wished_for_comes_and_everything_is_offered() -> None:
    one = Looked()
    one.second()

    assert [w.name for w in one.read().waves] == []
    one.second()
    assert [w.name for w in one.read("pleth").waves] == ["Pleth"]
    one.second()
    trace = one.read("V", "ART")
    assert [w.name for w in trace.waves] == ["ART", "V"]
    one.second()
    assert {w.name for w in one.read("*").waves} == {"V", "Pleth", "ART"}
    assert trace.offers == [("II", "ecg"), ("V", "ecg"), ("Pleth", "pleth"), ("ART", "abp")]
    assert trace.lead == "II"


def test_every_sample_comes_once_and_says_when_it_was() -> None:
    one = Looked()
    seen: dict[str, list[tuple[float, float]]] = {"II": [], "V": [], "Pleth": []}
    for _ in range(6):
        one.second()
        trace = one.read("*")
        leading = Wave(name="II", rate_hz=trace.rate_hz, at_s=trace.at_s or 0.0, samples=trace.samples)
        for wave in [leading, *trace.waves]:
            if wave.name in seen:
                values = np.frombuffer(wave.samples, "<i2") * wave.gain + wave.offset
                seen[wave.name] += [(wave.at_s + i / wave.rate_hz, float(v)) for i, v in enumerate(values)]

    for name, rows in seen.items():
        steps = np.diff([at for at, _ in rows])
        assert steps == pytest.approx(np.full(len(steps), 1 / (100.0 if name == "Pleth" else 125.0))), name
    # The R wave lies where the device measured it, whatever the filters delay; the other lead's at the same moment.
    shown = dict.fromkeys(("II", "V"), 0.0)
    for name in shown:
        rows = [(at, v if name == "II" else -v) for at, v in seen[name] if 3.2 < at < 4.0]
        shown[name] = max(rows, key=lambda row: row[1])[0]
    truth = (int(np.argmax(one.signal[800:1000])) + 800) / RATE
    assert shown["II"] == pytest.approx(truth, abs=0.009)
    assert shown["V"] == pytest.approx(truth, abs=0.009)
    assert max(v for _, v in seen["Pleth"]) == pytest.approx(252.0, abs=1.0)


def test_beats_of_the_leading_lead_stand_on_their_r_waves() -> None:
    one = Looked()
    for _ in range(8):
        one.second()
    trace = one.read()

    assert trace.at_s is not None
    times = [trace.at_s + (beat - trace.start) / trace.rate_hz for beat in trace.beats]
    truth = [0.4 + 0.8 * k for k in range(10)]
    assert len(times) >= 6
    assert all(min(abs(at - t) for t in truth) < 0.012 for at in times)


def test_what_was_lost_is_a_gap_in_time_and_what_came_before_it_is_not_lost_too() -> None:
    one = Looked()
    for _ in range(3):
        one.second()
    one.read("*")
    one.second()
    one.second(8)

    trace = one.read("*")

    before = waves(trace, "II")
    assert len(before) == 1, "what came before the gap"
    end = before[0].at_s + len(before[0].samples) / 2 / before[0].rate_hz
    assert before[0].at_s < 3.1
    assert end < 4.1
    assert trace.at_s is not None
    assert trace.at_s == pytest.approx(8.0, abs=0.1)
    assert [w.at_s for w in waves(trace, "Pleth")] == [3.0, 8.0]
    assert [w.at_s for w in waves(trace, "V")] == [before[0].at_s, trace.at_s]


def test_two_gaps_between_two_looks_are_two_gaps() -> None:
    one = Looked()
    for _ in range(3):
        one.second()
    one.read()
    for number in (3, 6, 9):
        one.second(number)

    (before,) = waves(one.read(), "II")

    values = np.frombuffer(before.samples, "<i2")
    times = before.at_s + np.arange(values.size) / before.rate_hz
    assert np.all(values[(times > 4.1) & (times < 5.9)] == MISSING)
    assert np.all(values[(times > 6.0) & (times < 6.9)] != MISSING)


def test_a_lead_that_is_off_shows_nothing_and_says_why() -> None:
    one = Looked()
    for _ in range(3):
        one.second()
    one.read("*")
    one.second(off=(False, True))

    trace = one.read("*")

    assert (waves(trace, "V")[-1].state, waves(trace, "V")[-1].samples) == ("off", b"")
    assert trace.state == ""
    assert len(trace.samples) == 250


@pytest.mark.parametrize(
    ("state", "said", "size"), [(0, "", 200), (STATE_OFF, "off", 0), (STATE_CALIBRATING, "calibrating", 200)]
)
def test_a_sensor_says_why_it_shows_nothing(state: int, said: str, size: int) -> None:
    one = Looked()
    one.second(state=state)

    (pleth,) = waves(one.read("*"), "Pleth")

    assert (pleth.state, len(pleth.samples)) == (said, size)


def test_missing_samples_stay_missing_and_a_fast_channel_is_thinned() -> None:
    one = Looked()
    one.second(missing=True)

    trace = one.read("*")

    pleth = np.frombuffer(waves(trace, "Pleth")[0].samples, "<i2")
    assert np.flatnonzero(pleth == MISSING).tolist() == list(range(40, 60))
    (line,) = waves(trace, "ART")
    values = np.frombuffer(line.samples, "<i2")
    assert (line.rate_hz, values.size) == (250.0, 250)
    assert np.flatnonzero(values == MISSING).tolist() == [2]
    assert set(values.tolist()) == {800, MISSING}


def test_a_stream_that_begins_anew_is_sent_from_its_beginning() -> None:
    one = Looked()
    for _ in range(5):
        one.second()
    one.read("*")
    one.bank.enrol("bed-1", rate_hz=RATE, leads=("II", "V"), gain_uv=1.0, now_ns=0)
    one.second(0)

    trace = one.read("*")

    assert trace.at_s is not None
    assert trace.at_s < 0.1
    assert len(trace.samples) == 250
    assert waves(trace, "Pleth")[-1].at_s == 0.0


def test_nothing_is_kept_of_a_source_that_nobody_looks_at_and_little_of_one_that_nobody_reads() -> None:
    alone, watched = Looked(look=False), Looked()
    for one in (alone, watched):
        for _ in range(3):
            one.second()
    assert alone.signals.take_blocks("bed-1") == []
    assert len(watched.signals.take_blocks("bed-1")) == 6
    assert watched.signals.take_blocks("bed-1") == []
    watched.second()
    watched.signals.look([])
    assert watched.signals.take_blocks("bed-1") == []
    watched.signals.look(["bed-1"])
    for number in range(4, SHOWN_MOST):
        block = Block(PLETH, number * 100, np.zeros(1, dtype=np.int16), 0)
        for part in range(2):
            packet = SignalPacket(2 * number + part, 0, 0, None, (block,))
            watched.signals.push("bed-1", packet, received_ns=number * SECOND)
    assert len(watched.signals.take_blocks("bed-1")) == SHOWN_MOST


def test_a_source_without_an_ecg_has_its_waves_and_one_without_signals_nothing() -> None:
    signals = SignalBank()
    traces = Traces(MonitorBank(), signals)
    signals.look(["bed-2"])
    block = Block(PLETH, 0, np.zeros(100, dtype=np.int16), 0)
    signals.push("bed-2", SignalPacket(0, 0, 0, None, (block,)), received_ns=0)

    trace = traces.read("bed-2", {"*"})

    assert trace is not None
    assert (trace.rate_hz, trace.lead, [w.name for w in trace.waves]) == (0.0, "", ["Pleth"])
    assert traces.read("bed-3") is None


def test_messages_of_a_former_version_are_still_read() -> None:
    """Both ways: a new field has a default, and an old reader passes over what it does not know."""

    class OldViewing(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="viewing.1"):
        device_ids: list[str]

    class OldTrace(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="trace.1"):
        device_id: str
        rate_hz: float
        start: int
        lead: str
        samples: bytes
        beats: list[int] = []

    old = OldTrace(device_id="a", rate_hz=250.0, start=7, lead="II", samples=b"\0\0", beats=[7])
    new = Trace(device_id="a", rate_hz=250.0, start=7, lead="II", samples=b"\0\0", at_s=1.0, waves=[])

    read = decode(Trace, msgspec.msgpack.encode(old))
    assert (read.at_s, read.waves, read.beats) == (None, [], [7])
    assert decode(Viewing, msgspec.msgpack.encode(OldViewing(device_ids=["a"]))).waves == {}
    assert msgspec.msgpack.decode(encode(new), type=OldTrace).samples == b"\0\0"
    assert msgspec.msgpack.decode(encode(Viewing(device_ids=["a"], waves={"a": ["*"]})), type=OldViewing).device_ids == ["a"]  # fmt: skip
    with pytest.raises(MessageError):
        decode(Viewing, msgspec.msgpack.encode({"t": "viewing.1", "device_ids": ["a"], "waves": ["*"]}))


async def test_a_view_that_is_not_renewed_is_over_and_nothing_is_kept_for_it() -> None:
    now = [100.0]
    intake = Intake(SiteClock(), Limits(), lambda *_: None)
    screens = Screens(None, beds=None, engine=None, intake=intake, shown=None, clock=SiteClock(), tell=lambda _: None)  # type: ignore[arg-type]
    screens._loop = SimpleNamespace(time=lambda: now[0])  # type: ignore[assignment]
    block = Block(PLETH, 0, np.zeros(100, dtype=np.int16), 0)

    def packet(sequence: int) -> None:
        intake.signals.push("bed-1", SignalPacket(sequence, 0, 0, None, (block,)), received_ns=sequence)
        screens.came(["bed-1", "bed-2"])

    await screens.view("", Viewing(device_ids=["bed-1"], waves={"bed-1": ["pleth"], "bed-3": ["*"]}))
    packet(0)
    assert screens.watched() == ["bed-1"]
    assert len(intake.signals.take_blocks("bed-1")) == 1
    now[0] += VIEW_S / 2
    await screens.view("", Viewing(device_ids=["bed-1"]))
    now[0] += VIEW_S / 2 + 0.1
    await screens.view("", Viewing(device_ids=[]))
    packet(1)
    assert screens.watched() == ["bed-1"], "its ECG is still looked at"
    assert intake.signals.take_blocks("bed-1") == [], "its other traces are not"
    now[0] += VIEW_S
    packet(2)
    assert screens.watched() == []
