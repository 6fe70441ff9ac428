"""All signals of a site that are not an ECG: packets in, numbers and conditions out.

Responsible for sequence numbers, for handing everything queued to the compiled kernel at once, and for putting what the
channels of one source say together. Pure apart from its memory: the caller passes the time in. Which channel sits in
which row is ``signals_rows``, what is read off is ``signals_readings``. Not responsible for transport, alarms
(``alarms``) or ECG (``bank``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import signals_readings
from edgeward.clinic.monitor.conditions import ConditionEvent, ValueSink
from edgeward.clinic.monitor.crosscheck import Pulses
from edgeward.clinic.monitor.signals_kernel import BLOCK, EVENTS_PER_TICK, TRANSITION, advance_all
from edgeward.clinic.monitor.signals_readings import ChannelNumerics, SignalValue
from edgeward.clinic.monitor.signals_rows import SignalLimits, SignalRows, Source
from edgeward.clinic.monitor.signals_state import (
    APNEA,
    ARTERIAL,
    DISCONNECTED,
    FAMILY,
    GAS,
    NO_PULSE,
    OFF,
    POOR,
)
from edgeward.waveform import Block, Channel, Kind, SignalPacket

__all__ = ["ChannelNumerics", "SignalBank", "SignalLimits", "SignalValue", "warm_up"]

SEQUENCE = 2**32
RESTART_BEHIND = 64  # a packet this far behind is not a late one: the device has started again
GAP_MOST_S = 6 * 3600.0
BLOCKS_AT_ONCE = 1024
_QUEUE_MOST = 1 << 22
_CODES = {OFF: "sensor_off", DISCONNECTED: "sensor_off", POOR: "pulse_noisy", NO_PULSE: "no_pulse", APNEA: "apnea"}


class SignalBank:
    """Channels as arrays.

    Parameters
    ----------
    limits : SignalLimits, optional
        Of sources without their own.
    """

    def __init__(self, limits: SignalLimits | None = None) -> None:
        self._limits = limits or SignalLimits()
        self._kept = SignalRows()
        self._queue: list[tuple[int, int, int, int, NDArray[np.int16], int]] = []
        self._queued = 0
        self._pending: list[ConditionEvent] = []

    def __contains__(self, source_id: object) -> bool:
        """Whether the source has sent signals."""
        return source_id in self._kept.sources

    @property
    def source_ids(self) -> list[str]:
        """Sources in the order of their first packet."""
        return list(self._kept.sources)

    # ------------------------------------------------------------------ packets

    def push(self, source_id: str, packet: SignalPacket, *, received_ns: int) -> None:
        """Queue the channels of one packet that are not ECG. A repeated or overtaken packet is counted and not used.

        Raises
        ------
        ValueError
            If a channel cannot be read (sampled too slowly), or the source has sent too many different ones.
        """
        source = self._kept.sources.get(source_id)
        if source is None:
            if not packet.others:
                return
            source = self._kept.sources[source_id] = Source(source_id, self._limits, has_ecg=packet.ecg is not None)
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
        source = self._kept.sources.get(source_id)
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
        source = self._kept.sources.get(source_id)
        return source.sequence if source else -1

    def _began_anew(self, source: Source, packet: SignalPacket, ahead: int) -> bool:
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

    def _restart(self, source: Source, now_ns: int) -> None:
        """Begin a source's signals anew; conditions of the old stream are over unless the new one shows them."""
        if self._queue:
            told = self.process(now_ns)
            self._pending += told
        for channel_row in source.rows.values():
            self._kept.begin(channel_row, self._kept.channels[channel_row], source)
        for code in list(source.present):
            source.present[code] = set()
            self._pending += self._tell(source, code, now_ns, now_ns)
        source.sequence = -1

    def _place(self, source: Source, channel: Channel, now_ns: int) -> int:
        known = source.rows.get(channel.name)
        if known is None:
            return self._kept.add(source, channel)
        if self._kept.channels[known] != channel:
            told = self.process(now_ns) if self._queue else []
            self._pending += told
            self._kept.begin(known, channel, source)
        return known

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
            ticks = int((blocks["samples"] // self._kept.rows["hop"][blocks["row"]]).sum()) + 2 * len(part)
            out = np.empty(ticks * EVENTS_PER_TICK, dtype=TRANSITION)
            found = advance_all(self._kept.rows, self._kept.traces, np.concatenate(arrays), blocks, out)
            for told in out[:found]:
                block = int(told["block"])
                events += self._take(told, firsts[block] + sizes[block], received[block], now_ns)
        return events

    def _take(self, told: Any, end: int, received_ns: int, now_ns: int) -> list[ConditionEvent]:
        row = int(told["row"])
        source = self._kept.owners[row]
        if source is None:
            return []
        code = _CODES[int(told["condition"])]
        rows = source.present.setdefault(code, set())
        if told["on"]:
            rows.add(row)
        elif code != "sensor_off" or not self._kept.rows[row]["active"][[OFF, DISCONNECTED]].any():
            rows.discard(row)
        rate = self._kept.channels[row].rate_hz
        onset_ns = received_ns - round((end - float(told["onset"])) / rate * 1e9)
        return self._tell(source, code, now_ns, received_ns, row=row, told=told, onset_ns=onset_ns)

    def _tell(
        self,
        source: Source,
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
        names = ", ".join(sorted(self._kept.channels[r].name for r in rows))
        before = source.told.get(code, "")
        if names == before:
            return []
        source.told[code] = names
        end = ConditionEvent(source.source_id, code, False, now_ns, received_ns)
        if not names:
            return [end]
        args: dict[str, float | str] = {"channels": names}
        if code == "sensor_off" and any(self._kept.rows[r]["active"][DISCONNECTED] for r in rows):
            args["reason"] = "disconnected"
        if told is not None and code in {"no_pulse", "apnea"}:
            args["seconds"] = round(
                (float(told["decisive"]) - float(told["onset"])) / self._kept.channels[row].rate_hz, 1
            )
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

    def _pulse_elsewhere(self, source: Source, rows: set[int]) -> bool:
        """Return whether another channel of the source shows good pulses now."""
        for row in source.rows.values():
            c = self._kept.rows[row]
            if row not in rows and c["family"] <= ARTERIAL and c["kind"] != Kind.PAP and c["used"]:
                age = (int(c["next_index"]) - float(c["anchor"])) / float(c["rate"])
                if c["quality"] >= 0.5 and c["good_run"] >= 3 and age < 3.0:
                    return True
        return False

    def _breathing_elsewhere(self, source: Source, rows: set[int]) -> bool:
        """Return whether the capnogram shows breaths, which then says more than the impedance."""
        for row in source.rows.values():
            c = self._kept.rows[row]
            if row not in rows and c["family"] == GAS and c["active"][OFF] == 0 and c["count"] >= 3:
                return True
        return False

    # ------------------------------------------------------------------ time

    def tick(self, now_ns: int) -> list[ConditionEvent]:
        """Take the passing of time: a source without ECG that falls silent is lost (``bank`` watches the others).

        What another channel hides (`no_pulse`, `apnea`) is looked at again too. Call it at least twice a second.
        """
        events, self._pending = self._pending, []
        for source in self._kept.sources.values():
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
        if source_id in self._kept.sources:
            self._kept.sources[source_id].resting = True

    def remove(self, source_id: str, now_ns: int) -> list[ConditionEvent]:
        """Stop monitoring a source; whatever held of it is over."""
        events = self.process(now_ns)
        source = self._kept.sources.pop(source_id, None)
        if source is None:
            return events
        for code, names in source.told.items():
            if names:
                events.append(ConditionEvent(source_id, code, False, now_ns, now_ns))
        self._kept.remove(source)
        return events

    # ------------------------------------------------------------------ numbers

    def take_values(self) -> list[SignalValue]:
        """Return the numbers of all channels judged since the last call; see `signals_readings.take_values`."""
        return signals_readings.take_values(self._kept)

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
        return signals_readings.numerics(self._kept, source_id)

    def pulses(self, source_id: str) -> list[Pulses]:
        """Return the recent pulses of each channel of a source that has them, for `crosscheck`.

        Times are seconds since the stream of the source began, as are those of its ECG.
        """
        return signals_readings.pulses(self._kept, source_id)

    def statistics(self) -> dict[str, int]:
        """Return counts over all sources: sources, channels, packets, refused."""
        return {
            "sources": len(self._kept.sources),
            "channels": sum(owner is not None for owner in self._kept.owners),
            "packets": sum(s.packets for s in self._kept.sources.values()),
            "refused": sum(s.refused for s in self._kept.sources.values()),
        }


def warm_up() -> None:
    """Compile the kernels, or load them from the cache, by taking one block through a bank."""
    bank = SignalBank()
    channel = Channel(name="warm-up", kind=Kind.PLETH, rate_hz=50.0, gain=1.0)
    block = Block(channel, 0, np.zeros(50, dtype=np.int16), 0)
    bank.push("warm-up", SignalPacket(0, 0, 0, None, (block,)), received_ns=0)
    bank.process(0)


assert set(FAMILY) == set(Kind) - {Kind.ECG}
