"""Sample arrays in HL7 messages: from what monitors send to what the monitor of patients sees."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.gateway.pcd01 import obr, obx, oru
from tests.support import signals
from tests.support.monitoring import Site
from tests.support.wearable import ecg

from edgeward.bedside import Numerics
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.gateway.handover import NotTaken
from edgeward.gateway.mllp import Sender
from edgeward.gateway.pcd01 import Pcd01, read
from edgeward.hl7 import er7
from edgeward.hl7.acknowledgement import Answer, Outcome
from edgeward.waveform import FLAG_LAST, MISSING, Kind, SignalPacket
from edgeward.waveform import read as packet_of

START = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
S = 1_000_000_000
ECG_II = ("131330^MDC_ECG_ELEC_POTL_II^MDC", "1.7.6.131330", "266418^MDC_DIM_MILLI_VOLT^MDC")
PLETH = ("150452^MDC_PULS_OXIM_PLETH^MDC", "1.3.1.150452", "262656^MDC_DIM_DIMLESS^MDC")
ABP = ("150036^MDC_PRESS_BLD_ART_ABP^MDC", "1.13.1.150036", "262656^MDC_DIM_DIMLESS^MDC")


def stamp(seconds: float) -> str:
    return (START + dt.timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%S.%f")[:-3] + "+0000"


def wave(
    channel: tuple[str, str, str], samples: Iterable[object], *, rate: float | None = 250, at: float = 0.0,
    resolution: str = "", none: str = "",
) -> list[str]:  # fmt: skip
    code, sub, unit = channel
    text = "^".join(str(one) for one in samples)
    found = [obx("w", text, kind="NA", code=code, sub=sub, unit=unit, at=stamp(at))]
    if rate is not None:
        found.append(obx("a", rate, code="0^MDC_ATTR_SAMP_RATE^MDC", sub=f"{sub}.1", unit="264608^MDC_DIM_PER_SEC^MDC"))
    if resolution:
        value, own = resolution.split(" ")
        found.append(obx("a", value, code="2327^MDC_ATTR_NU_MSMT_RES^MDC", sub=f"{sub}.2", unit=own))
    if none:
        found.append(obx("a", none, code="262196^MDC_EVT_INOP^MDC", sub=f"{sub}.3"))
    return found


class Door:
    """The handler, and what it gave."""

    def __init__(self) -> None:
        self.numerics: list[Numerics] = []
        self.raw: list[tuple[str, bytes]] = []
        self.counts: dict[str, int] = {}
        self.away = False
        self.handler = Pcd01(self, str, self.publish)  # type: ignore[arg-type]

    def count(self, name: str, n: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + n

    async def once(self, _: bytes, work) -> bool:
        await work()
        return True

    async def give(self, numerics: list[Numerics]) -> None:
        if self.away:
            raise NotTaken("the monitor does not answer")
        self.numerics += numerics

    async def publish(self, source_id: str, packet: bytes) -> None:
        self.raw.append((source_id, packet))

    async def send(self, *segments: str) -> Answer:
        return await self.handler.take(er7.parse(oru(*segments)), Sender("gw", ""), 0)

    @property
    def packets(self) -> list[SignalPacket]:
        return [packet_of(data) for _, data in self.raw]


@pytest.fixture
def door() -> Door:
    return Door()


def microvolts(packets: list[SignalPacket], lead: int = 0) -> NDArray[np.float64]:
    return np.concatenate([one.ecg.samples[lead] * one.ecg.gain_uv for one in packets])


async def test_millivolts_with_fractions_arrive_as_they_were(door):
    line = ecg(3, 72) / 1000.0
    for second in range(3):
        part = line[second * 250 : (second + 1) * 250]
        answer = await door.send(*wave(ECG_II, (f"{one:.4f}" for one in part), at=second))
        assert answer.outcome is Outcome.ACCEPTED
    assert np.abs(microvolts(door.packets) - line * 1000).max() <= 0.5
    assert [(one.sequence, one.ecg.first_sample) for one in door.packets] == [(0, 0), (1, 250), (2, 500)]
    assert (door.packets[0].ecg.leads, door.packets[0].ecg.rate_hz) == (("II",), 250.0)
    assert door.packets[1].start_ns == round((START.timestamp() + 1) * S)
    assert {source for source, _ in door.raw} == {"gw-ICU-1-2"}
    assert [(one.source_id, one.device_id, one.vitals) for one in door.numerics] == [("gw-ICU-1-2", "gw", [])] * 3


async def test_whole_numbers_are_worth_their_resolution_and_the_special_one_is_none(door):
    ints = [0, 100, -100, 32767, 400]
    channel = (ECG_II[0], ECG_II[1], "262656^MDC_DIM_DIMLESS^MDC")
    await door.send(*wave(channel, ints * 50, resolution="0.0025 266418^MDC_DIM_MILLI_VOLT^MDC", none="32767"))
    found = door.packets[0].ecg
    assert found.samples[0][:5].tolist() == [0, 250, -250, MISSING, 1000]
    await door.send(*wave(ABP, [1600, 2400] * 125, resolution="0.0625 266016^MDC_DIM_MMHG^MDC"))
    (block,) = door.packets[1].others
    assert (block.channel.kind, block.channel.unit) == (Kind.ABP, "mm[Hg]")
    values = block.samples * block.channel.gain + block.channel.offset
    assert values[:2].tolist() == pytest.approx([100.0, 150.0], abs=0.03)


async def test_jitter_of_the_time_stamps_makes_no_gap_and_a_real_gap_is_one(door):
    rng = np.random.default_rng(1)
    for second in range(60):
        await door.send(*wave(ECG_II, [0] * 250, at=second * 1.0002 + rng.uniform(-0.02, 0.02)))
    assert [one.ecg.first_sample for one in door.packets] == [250 * n for n in range(60)]
    await door.send(*wave(ECG_II, [0] * 250, at=65.0))
    assert abs(door.packets[-1].ecg.first_sample - 65 * 250) < 25


async def test_what_comes_a_second_time_is_left_out_and_a_clock_set_back_begins_anew(door):
    for at in (0.0, 1.0, 1.0, 0.0, 1.5):
        await door.send(*wave(ECG_II, (n / 1000 for n in range(250)), at=at))
    assert [(one.ecg.first_sample, one.ecg.samples.shape[1]) for one in door.packets] == [
        (0, 250),
        (250, 250),
        (500, 125),
    ]
    assert door.packets[-1].ecg.samples[0][0] == 125, "microvolts"
    assert door.counts["hl7_samples_repeated"] == 250 + 250 + 125
    await door.send(*wave(ECG_II, range(250), at=-3600))
    assert (door.packets[-1].ecg.first_sample, door.packets[-1].sequence) == (0, 3)


async def test_leads_and_other_channels_of_one_time_are_one_packet_and_long_ones_several(door):
    lead_i = ("131329^MDC_ECG_LEAD_I^MDC", "1.1.1.1001", ECG_II[2])
    # As some monitors write it: the name says III, the number is another lead's.
    lead_iii = ("131331^MDC_ECG_LEAD_III^MDC", "1.1.1.1003", ECG_II[2])
    await door.send(*wave(PLETH, range(1000, 1375), rate=125), *wave(lead_i, [0.1] * 750), *wave(lead_iii, [0.2] * 750))
    assert [(one.ecg.leads, one.others[0].channel.name) for one in door.packets] == [(("I", "III"), "PLETH")] * 3
    assert [one.others[0].first_sample for one in door.packets] == [0, 125, 250]
    values = [b.samples * b.channel.gain + b.channel.offset for one in door.packets for b in one.others]
    assert np.concatenate(values).tolist() == pytest.approx(list(range(1000, 1375)), abs=0.5)
    assert len({one.others[0].channel for one in door.packets}) == 1


async def test_the_scale_of_a_pleth_stays_and_other_numbers_are_taken_too(door):
    rng = np.random.default_rng(2)
    for second in range(20):
        await door.send(*wave(PLETH, (f"{one:.5f}" for one in rng.normal(0.5, 0.2, 125)), rate=125, at=second))
    assert len({one.others[0].channel for one in door.packets}) == 1


async def test_a_lead_without_any_sample_is_off_and_a_snippet_ends_the_stream(door):
    lead_i = ("131329^MDC_ECG_ELEC_POTL_I^MDC", "9", "262656^MDC_DIM_DIMLESS^MDC")
    bounded = obr(stamp(0)).replace("182777000^monitoring of patient^SCT", "69122^MDC_OBS_WAVE_NONCTS^MDC")
    off = {"none": "32767", "resolution": "0.001 mV"}
    await door.send(bounded, *wave(ECG_II, [0.1] * 250), *wave(lead_i, [32767] * 250, **off))
    await door.send(obr(stamp(1)), *wave(ECG_II, [0.1] * 250, at=1), *wave(lead_i, [32767, 5] * 125, at=1, **off))
    assert [one.ecg.lead_off for one in door.packets] == [(True, False), (False, False)]
    assert [bool(one.flags & FLAG_LAST) for one in door.packets] == [True, False]


@pytest.mark.parametrize(
    ("segments", "text"),
    [
        (wave(ECG_II, [1] * 250, rate=None), "no sampling rate"),
        (wave(ECG_II, [1] * 250, rate=0), "sampled at 0 Hz"),
        (wave(ECG_II, [1] * 250, rate=50), "sampled at 50 Hz"),
        (wave(ECG_II, [1] * 250, rate=1e9), "sampled at 1e+09 Hz"),
        (wave((ECG_II[0], "1", "262656^MDC_DIM_DIMLESS^MDC"), [1] * 250), "unit that is not read: MDC_DIM_DIMLESS"),
        (wave((ECG_II[0], "1", "x^MDC_DIM_CELSIUS^MDC"), [1] * 250), "unit that is not read: MDC_DIM_CELSIUS"),
        (wave((ECG_II[0], "1", "\xe4\xf6" * 40), [1] * 250), "unit that is not read: none"),
        (wave(ECG_II, ["Lead II"]), "no number"),
        (wave(ECG_II, [""]), "no number"),
        (wave(ECG_II, ["nan", "inf", "-inf"]), "no number"),
        (wave(ECG_II, [1] * 70_000, rate=2000), "more than 60000 samples"),
        (wave(ECG_II, [1] * 50_000, rate=250), "longer than 60 s"),
        (wave(ECG_II, [1] * 250) + wave(ECG_II, [1] * 250), "stands twice"),
        (wave(ECG_II, [1] * 250) + wave(("131329^MDC_ECG_LEAD_I^MDC", "2", "mV"), [1] * 200), "one rate and length"),
    ],
)  # fmt: skip
async def test_a_bad_waveform_is_a_clear_error_and_the_numerics_are_taken(door, segments, text):
    answer = await door.send(*segments, obx("hr", 70))
    assert answer.outcome is Outcome.ERROR
    assert text in answer.text
    assert "everything else of the message was taken" in answer.text
    assert answer.partly, "the system page must not say that nothing was kept"
    assert [vital.value for vital in door.numerics[0].vitals] == [70]
    assert door.raw == []
    assert (await door.send(*segments, obx("hr", 70))).outcome is Outcome.ERROR, "sent again it is the same"
    assert (await door.send(*wave(ECG_II, [1] * 250))).outcome is Outcome.ACCEPTED, "it disturbs nothing"


@pytest.mark.parametrize("mark", ["flag TEST", "flag DEMO", "flag INV", "status X", "status D", "training"])
async def test_what_is_no_patients_signal_is_accepted_and_looked_at_by_nobody(door, mark):
    array, rate = wave(ECG_II, [0.1] * 250)
    fields = array.split("|")
    kind, _, word = mark.partition(" ")
    if kind != "training":
        fields[8 if kind == "flag" else 11] = word
    text = oru("|".join(fields), rate)
    if kind == "training":
        text = text.replace("|P|2.6", "|T|2.6")
    assert (await door.handler.take(er7.parse(text), Sender("gw", ""), 0)).outcome is Outcome.ACCEPTED
    assert (door.raw, door.counts["hl7_waveforms_no_value"]) == ([], 1)


async def test_while_the_monitor_is_away_the_sender_keeps_the_duty(door):
    door.away = True
    answer = await door.send(*wave(ECG_II, [1] * 250))
    assert answer.outcome is Outcome.ERROR
    assert "send it again later" in answer.text
    assert door.raw == []


def test_the_period_and_numbers_alone_are_read():
    text = oru(
        obx("w", "1^2^3", kind="NA", code="131330", sub="7", unit="mV", at=stamp(0)),
        obx("a", 4, code="MDC_ATTR_TIME_PD_SAMP", sub="7", unit="MDC_DIM_MILLI_SEC"),
    )
    (array,) = read(er7.parse(text), "gw", 0, str).waves["gw-ICU-1-2"]
    assert (array.name, array.kind, array.said) == ("II", Kind.ECG, {"period": (4.0, "MDC_DIM_MILLI_SEC")})


async def test_an_asystole_in_hl7_waveforms_is_an_alarm_and_a_rate_is_shown(door):
    site = Site()
    intake = Intake(site.clock, Limits(), lambda source, _: site.beds.add_source(source))
    line = np.concatenate([ecg(20, 72), ecg(10, 0, seed=1)]) / 1000.0
    beats = np.arange(0.4, 20, 60.0 / 72)
    pleth = signals.pleth([signals.Pulse(float(at) + 0.2) for at in beats], 30.0)
    rate = round(len(pleth) / 30)
    raised: list[str] = []
    for second in range(30):
        site.hands.pass_s(1)
        await door.send(
            *wave(ECG_II, (f"{one:.4f}" for one in line[second * 250 : (second + 1) * 250]), at=second),
            *wave(PLETH, pleth[second * rate : (second + 1) * rate].tolist(), rate=rate, at=second),
        )
        for source, packet in door.raw:
            intake.wave(source, packet, site.clock.now_ns())
        door.raw.clear()
        told = site.engine.take(intake.process()) + site.engine.take(intake.tick()) + site.engine.tick()
        raised += [one.change.alarm.code for one in told if one.change.new]
        if second == 18:
            assert abs(intake.watch.values("gw-ICU-1-2")["heart_rate"].value - 72) <= 2
            assert abs(intake.watch.values("gw-ICU-1-2")["pulse_rate"].value - 72) <= 3
            assert set(raised) <= {"clock_offset"}, "this test's clock is not the messages'"
    assert "asystole" in raised
