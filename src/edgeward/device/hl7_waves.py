"""The waves of a simulated bedside monitor as HL7 v2 messages: ORU^R01 with sample arrays (OBX of type NA).

Responsible for the patient behind them (the same heart in ECG, pleth and arterial line) and for the form of the
messages, one a second, after the IHE PCD Waveform Content Module (rev. 1.3). Pure: time is passed in. Not responsible
for sending (``bedside_monitor``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgeward.device.leads import TWO, with_leads
from edgeward.device.recordings import Recording
from edgeward.device.sensors import Sensors
from edgeward.device.stream import WaveformStream, between
from edgeward.device.vital_signs import Place, stamp, wave_head
from edgeward.hl7 import er7
from edgeward.waveform import Channel, Kind, read

#: Reference identifier, number, and place in the device's tree (VMD.channel) of what a channel measures.
_LEADS = {"II": ("MDC_ECG_ELEC_POTL_II", 131330, "1.7.4"), "V": ("MDC_ECG_ELEC_POTL_V", 131415, "1.7.5")}
_KINDS = {
    Kind.PLETH: ("MDC_PULS_OXIM_PLETH", 150452, "1.3.1"),
    Kind.ABP: ("MDC_PRESS_BLD_ART_ABP", 150036, "1.13.1"),
    Kind.RESPIRATION: ("MDC_IMPED_TTHOR", 151780, "1.14.1"),
}
_UNITS: dict[Kind, tuple[str, str, str]] = {
    Kind.ECG: ("266419", "MDC_DIM_MICRO_VOLT", "MDC"),
    Kind.PLETH: ("262656", "MDC_DIM_DIMLESS", "MDC"),
    Kind.ABP: ("266016", "MDC_DIM_MMHG", "MDC"),
    Kind.RESPIRATION: ("Ohm", "Ohm", "UCUM"),
}
_PER_SECOND = ("264608", "MDC_DIM_PER_SEC", "MDC")
_PACKET_S = 1.0


@dataclass(slots=True)
class Waves:
    """The waves of one patient, second by second.

    Attributes
    ----------
    recording
        The heart: a loop of ECG of one lead.
    offset
        From which sample of the loop on.
    seed
        The same seed gives the same patient.
    """

    recording: Recording
    offset: int
    seed: int
    _stream: WaveformStream | None = field(default=None)

    def due_s(self) -> float:
        """Return when the next message is complete, seconds since the epoch; 0 before the first."""
        if self._stream is None:
            return 0.0
        ahead = (self._stream.position + self._stream.packet_samples) / self._stream.recording.rate_hz
        return self._stream.start_ns / 1e9 + ahead

    def begin(self, at_s: float) -> None:
        """Begin to measure."""
        recording = with_leads(self.recording, TWO)
        rng = np.random.default_rng(self.seed)
        sensors = Sensors(recording, self.offset, rng.spawn(1)[0], artery=True)
        size = between(_PACKET_S, recording.rate_hz)
        self._stream = WaveformStream(recording, self.offset, size, round(at_s * 1e9), rng, sensors=sensors)

    def message(self, now_s: float, place: Place, control: str) -> str:
        """Return the next second as a message.

        Raises
        ------
        RuntimeError
            If it has not begun.
        """
        if self._stream is None:
            raise RuntimeError("it has not begun to measure")
        packet = read(self._stream.next_bytes()[0])
        lines = wave_head(now_s, place, control)
        number = 0
        rows: list[tuple[Channel, int, str]] = []
        if packet.ecg is not None:
            for name, row in zip(packet.ecg.leads, packet.ecg.samples, strict=True):
                channel = Channel(name=name, kind=Kind.ECG, rate_hz=packet.ecg.rate_hz, gain=packet.ecg.gain_uv)
                rows.append((channel, packet.ecg.first_sample, "^".join(map(str, row.tolist()))))
        rows += [(one.channel, one.first_sample, "^".join(map(str, one.samples.tolist()))) for one in packet.others]
        for channel, first, samples in rows:
            known = _LEADS.get(channel.name) if channel.kind is Kind.ECG else _KINDS[channel.kind]
            if known is None:
                continue
            name, code, tree = known
            at_s = self._stream.start_ns / 1e9 + first / channel.rate_hz
            unit = _UNITS[channel.kind]
            sub = f"{tree}.{code}"
            number += 3
            # The numbers are separated by the delimiter itself: `segment` would escape it.
            array = er7.segment(
                "OBX", str(number - 2), "NA", (str(code), name, "MDC"), sub, "@", unit, "", "", "", "", "R", "", "",
                stamp(at_s),
            )  # fmt: skip
            lines.append(array.replace("|@|", f"|{samples}|"))
            for extra, (attribute, value, own) in enumerate(
                (
                    (
                        ("0", "MDC_ATTR_SAMP_RATE", "MDC"),
                        f"{channel.rate_hz:g}",
                        _PER_SECOND,
                    ),
                    (("2327", "MDC_ATTR_NU_MSMT_RES", "MDC"), f"{channel.gain:.10g}", unit),
                ),
                start=1,
            ):
                lines.append(
                    er7.segment(
                        "OBX", str(number - 2 + extra), "NM", attribute, f"{sub}.{extra}", value, own,
                        "", "", "", "", "R",
                    )
                )  # fmt: skip
        return er7.join(lines)
