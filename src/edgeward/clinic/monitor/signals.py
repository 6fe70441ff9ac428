"""All signals of a site that are not an ECG: packets in, numbers and conditions out.

Responsible for which channel sits in which row, for sequence numbers, for handing everything queued to the compiled
kernel at once, and for putting what the channels of one source say together. Pure apart from its memory: the caller
passes the time in. Not responsible for transport, alarms (``alarms``) or ECG (``bank``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.conditions import ConditionEvent, ValueSink
from edgeward.clinic.monitor.crosscheck import Pulses
from edgeward.clinic.monitor.signals_kernel import BLOCK, EVENTS_PER_TICK, TRANSITION, advance_all
from edgeward.clinic.monitor.signals_state import (
    APNEA,
    ARTERIAL,
    BEATS,
    DISCONNECTED,
    FAMILY,
    GAS,
    NO_PULSE,
    OFF,
    POOR,
    PULSE,
    RING,
    SIGNAL,
    new_signal,
)
from edgeward.waveform import MAX_CHANNELS, Block, Channel, Kind, SignalPacket

SEQUENCE = 2**32
RESTART_BEHIND = 64  # a packet this far behind is not a late one: the device has started again
GAP_MOST_S = 6 * 3600.0
BLOCKS_AT_ONCE = 1024
_QUEUE_MOST = 1 << 22
#: A number that is gone for this long is withdrawn; shorter, the last one stands and ages.
ABSENT_NS = 8_000_000_000
_CODES = {OFF: "sensor_off", DISCONNECTED: "sensor_off", POOR: "pulse_noisy", NO_PULSE: "no_pulse", APNEA: "apnea"}
_FIELDS = ("pulse_rate", "systolic", "diastolic", "mean", "breath_rate", "end_tidal")


@dataclass(frozen=True, slots=True)
class SignalLimits:
    """How long without a pulse or a breath is a condition, and without a packet.

    Raises
    ------
    ValueError
        If a value is outside its range.
    """

    no_pulse_s: float = 8.0  # 5 to 20
    apnea_s: float = 20.0  # 10 to 40
    silence_s: float = 4.0  # 1.5 to 10

    def __post_init__(self) -> None:
        for name, low, high in (("no_pulse_s", 5.0, 20.0), ("apnea_s", 10.0, 40.0), ("silence_s", 1.5, 10.0)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are {low:g} to {high:g}")


class SignalValue(msgspec.Struct, frozen=True):
    """One number measured from a signal, in the unit of its parameter; None: there is none now."""

    source_id: str
    parameter: str  # a name of `edgeward.parameters`
    value: float | None
    quality: float
    received_ns: int


@dataclass(frozen=True, slots=True)
class ChannelNumerics:
    """What is known of one channel now. None: no value.

    Attributes
    ----------
    quality
        0..1.
    amplitude
        Of a pulse, in the channel's unit.
    perfusion
        Amplitude relative to what is usual for this patient and sensor (1: as usual). It is not the oximeter's
        perfusion index, which needs the unfiltered light.
    pulses_seen
        Since the channel began.
    damped
        The pulse pressure has shrunk and the mean has not: look at the line.
    """

    channel: Channel
    quality: float
    pulse_rate: float | None
    amplitude: float | None
    perfusion: float | None
    systolic: float | None
    diastolic: float | None
    mean: float | None
    breath_rate: float | None
    end_tidal: float | None
    pulses_seen: int
    damped: bool
    flush: bool


@dataclass(slots=True)
class _Source:
    source_id: str
    limits: SignalLimits
    rows: dict[str, int] = field(default_factory=dict)  # channel name -> row
    channels: tuple[Channel, ...] = ()  # of the last packet: the usual packet looks the same
    places: list[int] = field(default_factory=list)  # their rows
    sequence: int = -1
    expected: tuple[str, int] = ("", 0)  # first channel of the last packet, and its next index
    last_received_ns: int = 0
    has_ecg: bool = False
    resting: bool = False
    lost: bool = False
    present: dict[str, set[int]] = field(default_factory=dict)  # code -> rows that say so
    told: dict[str, str] = field(default_factory=dict)  # code -> channels named in it
    values: dict[str, int] = field(default_factory=dict)  # parameter -> when it was there last
    packets: int = 0
    refused: int = 0


class SignalBank:
    """Channels as arrays.

    Parameters
    ----------
    limits : SignalLimits, optional
        Of sources without their own.
    """

    def __init__(self, limits: SignalLimits | None = None) -> None:
        self._limits = limits or SignalLimits()
        self._sources: dict[str, _Source] = {}
        self._rows = np.zeros(16, dtype=SIGNAL)
        self._traces = np.zeros((16, RING), dtype=np.float32)
        self._owners: list[_Source | None] = []
        self._channels: list[Channel] = []
        self._free: list[int] = []
        self._queue: list[tuple[int, int, int, int, NDArray[np.int16], int]] = []
        self._queued = 0
        self._pending: list[ConditionEvent] = []

    def __contains__(self, source_id: object) -> bool:
        """Whether the source has sent signals."""
        return source_id in self._sources

    @property
    def source_ids(self) -> list[str]:
        """Sources in the order of their first packet."""
        return list(self._sources)

    # ------------------------------------------------------------------ packets

    def push(self, source_id: str, packet: SignalPacket, *, received_ns: int) -> None:
        """Queue the channels of one packet that are not ECG. A repeated or overtaken packet is counted and not used.

        Raises
        ------
        ValueError
            If a channel cannot be read (sampled too slowly), or the source has sent too many different ones.
        """
        source = self._sources.get(source_id)
        if source is None:
            if not packet.others:
                return
            source = self._sources[source_id] = _Source(source_id, self._limits, has_ecg=packet.ecg is not None)
        source.packets += 1
        source.last_received_ns = max(source.last_received_ns, received_ns)
        source.resting = False
        if packet.ecg is not None:
            source.has_ecg = True
        if source.lost:
            source.lost = False
            self._pending.append(ConditionEvent(source_id, "signal_lost", False, received_ns, received_ns))
        if source.sequence >= 0:
            ahead = (packet.sequence - source.sequence + SEQUENCE // 2) % SEQUENCE - SEQUENCE // 2
            if ahead <= -RESTART_BEHIND or self._began_anew(source, packet, ahead):
                self._restart(source, received_ns)
            elif ahead <= 0:
                source.refused += 1
                return
        source.sequence = packet.sequence
        channels = tuple([block.channel for block in packet.others])
        if channels != source.channels:
            source.places = [self._place(source, channel, received_ns) for channel in channels]
            source.channels = channels
        if packet.others:
            block = packet.others[0]
            source.expected = (block.channel.name, block.first_sample + block.samples.size)
        for row, block in zip(source.places, packet.others, strict=True):
            samples = block.samples
            self._queue.append((row, samples.size, block.first_sample, block.state, samples, received_ns))
            self._queued += samples.size
        if self._queued > _QUEUE_MOST:
            told = self.process(received_ns)  # takes what is pending with it
            self._pending += told

    def leave_out(self, source_id: str, packet: SignalPacket, received_ns: int) -> None:
        """Take it that a packet came whose signal is not looked at: to the signal it is a gap."""
        source = self._sources.get(source_id)
        if source is None:
            return
        source.packets += 1
        source.last_received_ns = max(source.last_received_ns, received_ns)
        source.sequence = packet.sequence
        if packet.others:
            block = packet.others[0]
            source.expected = (block.channel.name, block.first_sample + block.samples.size)

    def sequence(self, source_id: str) -> int:
        """Return the sequence number of a source's newest packet, -1 if there was none."""
        source = self._sources.get(source_id)
        return source.sequence if source else -1

    def _began_anew(self, source: _Source, packet: SignalPacket, ahead: int) -> bool:
        if not packet.others:
            return False
        block: Block = packet.others[0]
        name, expected = source.expected
        if block.channel.name != name:
            return False
        jump = (block.first_sample - expected) / block.channel.rate_hz
        if ahead <= 0:
            return block.first_sample == 0 and packet.sequence == 0 and expected > block.samples.size
        return abs(jump) > GAP_MOST_S or (jump < 0 and block.first_sample + block.samples.size <= expected)

    def _restart(self, source: _Source, now_ns: int) -> None:
        """Begin a source's signals anew; conditions of the old stream are over unless the new one shows them."""
        if self._queue:
            told = self.process(now_ns)
            self._pending += told
        for channel_row in source.rows.values():
            self._begin(channel_row, self._channels[channel_row], source)
        for code in list(source.present):
            source.present[code] = set()
            self._pending += self._tell(source, code, now_ns, now_ns)
        source.sequence = -1

    def _place(self, source: _Source, channel: Channel, now_ns: int) -> int:
        known = source.rows.get(channel.name)
        if known is not None:
            if self._channels[known] != channel:
                told = self.process(now_ns) if self._queue else []
                self._pending += told
                self._begin(known, channel, source)
            return known
        if len(source.rows) >= 2 * MAX_CHANNELS:
            raise ValueError(f"more than {2 * MAX_CHANNELS} different channels in one stream")
        new = new_signal(channel, no_pulse_s=source.limits.no_pulse_s, apnea_s=source.limits.apnea_s)
        if self._free:
            row = self._free.pop()
        else:
            row = len(self._owners)
            self._owners.append(None)
            self._channels.append(channel)
            while len(self._rows) <= row:
                self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
                self._traces = np.concatenate((self._traces, np.zeros_like(self._traces)))
        self._rows[row] = new[0]
        self._traces[row] = 0.0
        self._owners[row] = source
        self._channels[row] = channel
        source.rows[channel.name] = row
        return row

    def _begin(self, row: int, channel: Channel, source: _Source) -> None:
        self._rows[row] = new_signal(channel, no_pulse_s=source.limits.no_pulse_s, apnea_s=source.limits.apnea_s)[0]
        self._traces[row] = 0.0
        self._channels[row] = channel

    def process(self, now_ns: int) -> list[ConditionEvent]:
        """Take everything queued through the kernel; return the conditions that began or ended, in order."""
        queue, self._queue, self._queued = self._queue, [], 0
        events, self._pending = self._pending, []
        for start in range(0, len(queue), BLOCKS_AT_ONCE):
            part = queue[start : start + BLOCKS_AT_ONCE]
            rows, sizes, firsts, states, arrays, received = zip(*part, strict=True)
            blocks = np.zeros(len(part), dtype=BLOCK)
            blocks["row"], blocks["samples"], blocks["first"], blocks["state"] = rows, sizes, firsts, states
            blocks["offset"] = np.cumsum(blocks["samples"]) - blocks["samples"]
            ticks = int((blocks["samples"] // self._rows["hop"][blocks["row"]]).sum()) + 2 * len(part)
            out = np.empty(ticks * EVENTS_PER_TICK, dtype=TRANSITION)
            found = advance_all(self._rows, self._traces, np.concatenate(arrays), blocks, out)
            for told in out[:found]:
                block = int(told["block"])
                events += self._take(told, firsts[block] + sizes[block], received[block], now_ns)
        return events

    def _take(self, told: Any, end: int, received_ns: int, now_ns: int) -> list[ConditionEvent]:
        row = int(told["row"])
        source = self._owners[row]
        if source is None:
            return []
        code = _CODES[int(told["condition"])]
        rows = source.present.setdefault(code, set())
        if told["on"]:
            rows.add(row)
        elif code != "sensor_off" or not self._rows[row]["active"][[OFF, DISCONNECTED]].any():
            rows.discard(row)
        rate = self._channels[row].rate_hz
        onset_ns = received_ns - round((end - float(told["onset"])) / rate * 1e9)
        return self._tell(source, code, now_ns, received_ns, row=row, told=told, onset_ns=onset_ns)

    def _tell(
        self,
        source: _Source,
        code: str,
        now_ns: int,
        received_ns: int,
        *,
        row: int = -1,
        told: Any = None,
        onset_ns: int = 0,
    ) -> list[ConditionEvent]:
        """Return what changes for the source as a whole, now that one of its channels has changed."""
        rows = source.present.get(code, set())
        if code == "no_pulse" and rows and self._pulse_elsewhere(source, rows):
            rows = set()
        if code == "apnea" and rows and self._breathing_elsewhere(source, rows):
            rows = set()
        names = ", ".join(sorted(self._channels[r].name for r in rows))
        before = source.told.get(code, "")
        if names == before:
            return []
        source.told[code] = names
        end = ConditionEvent(source.source_id, code, False, now_ns, received_ns)
        if not names:
            return [end]
        args: dict[str, float | str] = {"channels": names}
        if code == "sensor_off" and any(self._rows[r]["active"][DISCONNECTED] for r in rows):
            args["reason"] = "disconnected"
        if told is not None and code in {"no_pulse", "apnea"}:
            args["seconds"] = round((float(told["decisive"]) - float(told["onset"])) / self._channels[row].rate_hz, 1)
        begin = ConditionEvent(
            source.source_id,
            code,
            True,
            now_ns,
            received_ns,
            onset_sample=int(told["onset"]) if told is not None else -1,
            decisive_sample=int(told["decisive"]) if told is not None else -1,
            onset_ns=onset_ns,
            args=args,
        )
        return [end, begin] if before else [begin]

    def _pulse_elsewhere(self, source: _Source, rows: set[int]) -> bool:
        """Return whether another channel of the source shows good pulses now."""
        for row in source.rows.values():
            c = self._rows[row]
            if row not in rows and c["family"] <= ARTERIAL and c["kind"] != Kind.PAP and c["used"]:
                age = (int(c["next_index"]) - float(c["anchor"])) / float(c["rate"])
                if c["quality"] >= 0.5 and c["good_run"] >= 3 and age < 3.0:
                    return True
        return False

    def _breathing_elsewhere(self, source: _Source, rows: set[int]) -> bool:
        """Return whether the capnogram shows breaths, which then says more than the impedance."""
        for row in source.rows.values():
            c = self._rows[row]
            if row not in rows and c["family"] == GAS and c["active"][OFF] == 0 and c["count"] >= 3:
                return True
        return False

    # ------------------------------------------------------------------ time

    def tick(self, now_ns: int) -> list[ConditionEvent]:
        """Take the passing of time: a source without ECG that falls silent is lost (``bank`` watches the others).

        What another channel hides (`no_pulse`, `apnea`) is looked at again too. Call it at least twice a second.
        """
        events, self._pending = self._pending, []
        for source in self._sources.values():
            for code in ("no_pulse", "apnea"):
                if source.present.get(code):
                    events += self._tell(source, code, now_ns, now_ns)
            if source.has_ecg or source.resting or source.lost:
                continue
            silent_s = (now_ns - source.last_received_ns) / 1e9
            if silent_s < -1.0:  # the clock was set back
                source.last_received_ns = now_ns
            elif silent_s >= source.limits.silence_s:
                source.lost = True
                events.append(
                    ConditionEvent(
                        source.source_id, "signal_lost", True, now_ns, now_ns, args={"seconds": round(silent_s, 1)}
                    )
                )
        return events

    def rest(self, source_id: str) -> None:
        """Take a source's word that it stops on purpose: its silence is no alarm until it sends again."""
        if source_id in self._sources:
            self._sources[source_id].resting = True

    def remove(self, source_id: str, now_ns: int) -> list[ConditionEvent]:
        """Stop monitoring a source; whatever held of it is over."""
        events = self.process(now_ns)
        source = self._sources.pop(source_id, None)
        if source is None:
            return events
        for code, names in source.told.items():
            if names:
                events.append(ConditionEvent(source_id, code, False, now_ns, now_ns))
        for row in source.rows.values():
            self._owners[row] = None
            self._rows[row] = np.zeros(1, dtype=SIGNAL)[0]
            self._free.append(row)
        return events

    # ------------------------------------------------------------------ numbers

    def take_values(self) -> list[SignalValue]:
        """Return the numbers of all channels judged since the last call, about one set a second and source.

        Where two channels measure one parameter, the better believed one speaks; arterial pressure before pleth, CO2
        before impedance, when both are good.
        """
        count = len(self._owners)
        fresh = np.flatnonzero(self._rows["fresh"][:count])
        if not fresh.size:
            return []
        part = self._rows[fresh]
        self._rows["fresh"][fresh] = 0
        columns = [part[name].tolist() for name in _FIELDS]
        best: dict[tuple[str, str], tuple[float, float, float, int]] = {}
        for row, family, kind, quality, rate, systolic, diastolic, mean, breaths, tidal in zip(
            fresh.tolist(),
            part["family"].tolist(),
            part["kind"].tolist(),
            part["quality"].tolist(),
            *columns,
            strict=True,
        ):
            source = self._owners[row]
            if source is None:
                continue
            name = source.source_id
            found: tuple[tuple[str, float], ...]
            if family == PULSE:
                found = (("pulse_rate", rate),)
            elif kind == Kind.ABP:
                found = (
                    ("pulse_rate", rate),
                    ("abp_systolic", systolic),
                    ("abp_diastolic", diastolic),
                    ("abp_mean", mean),
                )
            elif kind == Kind.CVP:
                found = (("cvp_mean", mean),)
            elif kind == Kind.RESPIRATION:
                found = (("respiratory_rate", breaths),)
            elif kind == Kind.CO2:
                found = (("respiratory_rate", breaths), ("etco2", tidal))
            else:
                continue
            weight = quality + (0.5 if kind in {Kind.ABP, Kind.CO2} and quality >= 0.5 else 0.0)
            for parameter, value in found:
                score = -1.0 if math.isnan(value) else weight
                known = best.get((name, parameter))
                if known is None or score > known[0]:
                    best[name, parameter] = (score, value, quality, row)
        values = []
        for (name, parameter), (score, value, quality, row) in best.items():
            source = self._sources[name]
            at = source.last_received_ns
            if score >= 0.0:
                source.values[parameter] = at
                values.append(SignalValue(name, parameter, value, quality, at))
            elif parameter in source.values and (
                at - source.values[parameter] > ABSENT_NS or self._rows[row]["active"][OFF]
            ):
                values.append(SignalValue(name, parameter, None, 0.0, at))
        return values

    def give_values(self, sink: ValueSink) -> None:
        """Hand `take_values` to `sink`."""
        for value in self.take_values():
            sink.update(
                value.source_id,
                value.parameter,
                value.value,
                at_ns=value.received_ns,
                received_ns=value.received_ns,
                quality=value.quality,
            )

    def numerics(self, source_id: str) -> list[ChannelNumerics]:
        """Return what is known of each channel of a source.

        Raises
        ------
        KeyError
            If the source has sent no signals.
        """

        def value(c: Any, name: str) -> float | None:
            number = float(c[name])
            return None if math.isnan(number) else number

        told = []
        for row in self._sources[source_id].rows.values():
            c = self._rows[row]
            told.append(
                ChannelNumerics(
                    channel=self._channels[row],
                    quality=float(c["quality"]),
                    pulse_rate=value(c, "pulse_rate"),
                    amplitude=value(c, "amplitude"),
                    perfusion=value(c, "perfusion"),
                    systolic=value(c, "systolic"),
                    diastolic=value(c, "diastolic"),
                    mean=value(c, "mean"),
                    breath_rate=value(c, "breath_rate"),
                    end_tidal=value(c, "end_tidal"),
                    pulses_seen=int(c["count"]) if c["family"] <= ARTERIAL else 0,
                    damped=bool(c["damped"] >= 20),
                    flush=bool(c["flush"] > 0),
                )
            )
        return told

    def pulses(self, source_id: str) -> list[Pulses]:
        """Return the recent pulses of each channel of a source that has them, for `crosscheck`.

        Times are seconds since the stream of the source began, as are those of its ECG.
        """
        source = self._sources.get(source_id)
        if source is None:
            return []
        found = []
        for name, row in source.rows.items():
            c = self._rows[row]
            if c["family"] > ARTERIAL or c["kind"] == Kind.PAP or not c["started"]:
                continue
            count = int(c["count"])
            order = np.arange(max(0, count - BEATS), count) % BEATS
            rate = float(c["rate"])
            found.append(
                Pulses(
                    name=name,
                    times_s=c["times"][order] / rate,
                    amplitudes=c["amplitudes"][order].copy(),
                    qualities=c["qualities"][order].copy(),
                    seen_from_s=int(c["start_raw"]) / rate,
                    now_s=int(c["next_index"]) / rate,
                    quality=float(c["quality"]),
                    arterial=bool(c["family"] == ARTERIAL),
                )
            )
        return found

    def statistics(self) -> dict[str, int]:
        """Return counts over all sources: sources, channels, packets, refused."""
        return {
            "sources": len(self._sources),
            "channels": sum(owner is not None for owner in self._owners),
            "packets": sum(s.packets for s in self._sources.values()),
            "refused": sum(s.refused for s in self._sources.values()),
        }


def warm_up() -> None:
    """Compile the kernels, or load them from the cache, by taking one block through a bank."""
    bank = SignalBank()
    channel = Channel(name="warm-up", kind=Kind.PLETH, rate_hz=50.0, gain=1.0)
    block = Block(channel, 0, np.zeros(50, dtype=np.int16), 0)
    bank.push("warm-up", SignalPacket(0, 0, 0, None, (block,)), received_ns=0)
    bank.process(0)


assert set(FAMILY) == set(Kind) - {Kind.ECG}
