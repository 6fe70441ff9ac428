"""Waves of a simulated monitor as HL7: the site's own reader finds in them what the patient's heart did."""

from __future__ import annotations

import itertools

import hl7apy.parser
import numpy as np
import pytest
from tests.support.wearable import ecg

from edgeward.device.bedside_monitor import invented
from edgeward.device.hl7_waves import Waves
from edgeward.device.recordings import Recording, seamless
from edgeward.gateway.mllp import Sender
from edgeward.gateway.pcd01 import Pcd01
from edgeward.hl7 import er7
from edgeward.hl7.acknowledgement import Outcome
from edgeward.waveform import Kind, read

BEGIN = 1_760_000_000.0
PLACE = invented(0, 1, "ICU")[0]


def heart() -> Recording:
    return Recording("test", seamless(ecg(30, 75).reshape(1, -1), 250.0), 250.0, 1.0, ("II",))


class Door:
    """The gateway's reader, and the packets that it made."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.handler = Pcd01(self, str, self.publish)  # type: ignore[arg-type]

    def count(self, name: str, n: int = 1) -> None:
        pass

    async def once(self, _: bytes, work) -> bool:
        await work()
        return True

    async def give(self, numerics) -> None:
        pass

    async def publish(self, _: str, packet: bytes) -> None:
        self.packets.append(packet)


async def test_seconds_follow_each_other_in_every_channel():
    waves, door = Waves(heart(), 0, 7), Door()
    waves.begin(BEGIN)
    for number in range(5):
        assert waves.due_s() == pytest.approx(BEGIN + number + 1)
        text = waves.message(waves.due_s(), PLACE, str(number))
        answer = await door.handler.take(er7.parse(text), Sender("gw", ""), 0)
        assert answer.outcome is Outcome.ACCEPTED

    packets = [read(data) for data in door.packets]
    first = packets[0]
    assert first.ecg is not None
    assert first.ecg.leads == ("II", "V")
    assert {one.channel.kind for one in first.others} == {Kind.PLETH, Kind.ABP, Kind.RESPIRATION}
    assert [one.ecg.first_sample for one in packets] == [0, 250, 500, 750, 1000]
    for earlier, later in itertools.pairwise(packets):
        ends = {one.channel.name: one.first_sample + one.samples.size for one in earlier.others}
        assert {one.channel.name: one.first_sample for one in later.others} == ends
    lead = np.concatenate([one.ecg.samples[0] * one.ecg.gain_uv for one in packets])
    assert np.abs(lead - heart().stretch(0, 1250)[0]).max() <= 0.5
    line = np.concatenate(
        [b.samples * b.channel.gain for one in packets for b in one.others if b.channel.kind is Kind.ABP]
    )
    assert 40 < line.min() < line.max() < 190


def test_another_reader_understands_the_message():
    waves = Waves(heart(), 0, 7)
    waves.begin(BEGIN)
    text = waves.message(BEGIN + 1, PLACE, "1")

    message = hl7apy.parser.parse_message(text.replace("\r\n", "\r"), find_groups=False)

    arrays = [one for one in message.obx if one.obx_2.value == "NA"]
    assert [one.obx_3.value.split("^")[1] for one in arrays][:3] == [
        "MDC_ECG_ELEC_POTL_II", "MDC_ECG_ELEC_POTL_V", "MDC_PULS_OXIM_PLETH",
    ]  # fmt: skip
    assert len(arrays[0].obx_5.value.split("^")) == 250
    assert message.obr.obr_4.value.startswith("69121^MDC_OBS_WAVE_CTS")


def test_nothing_is_told_before_it_began():
    waves = Waves(heart(), 0, 7)
    assert waves.due_s() == 0.0
    with pytest.raises(RuntimeError, match="begun"):
        waves.message(BEGIN, PLACE, "1")
