"""All signals of a site that are not an ECG: packets in, numbers and conditions out.

Responsible for one packet at a time, for handing everything queued to the compiled kernel at once, and for putting what
the channels of one source say together. Pure apart from its memory: the caller passes the time in. Which channel sits
in which row is ``signals_rows``, what is read off is ``signals_readings``, what numbers of packets mean ``numbering``.
Not responsible for transport, alarms (``alarms``) or ECG (``bank``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import signals_readings
from edgeward.clinic.monitor.conditions import ConditionEvent, ValueSink
from edgeward.clinic.monitor.crosscheck import Pulses
from edgeward.clinic.monitor.numbering import RESTART_BEHIND, began_anew, steps_ahead
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

BLOCKS_AT_ONCE = 1024
_QUEUE_MOST = 1 << 22
SHOWN_MOST = 512  # blocks of a source that wait for a screen
#: So long a channel may be away, also after a restart if something is assumed of it; then it is no longer sent.
ASSUMED_S = 10.0
_ASSUMED = {"sensor_off": OFF, "pulse_noisy": POOR, "no_pulse": NO_PULSE, "apnea": APNEA}
#: What is measured by the sensor of a channel: while it is off, that is not missed.
_PULSE = ("pulse_rate", "spo2", "perfusion_index")
_MEASURES: dict[Kind, tuple[str, ...]] = {
    Kind.PLETH: _PULSE,
    Kind.PLETH_RED: _PULSE,
    Kind.PLETH_INFRARED: _PULSE,
    Kind.RESPIRATION: ("respiratory_rate",),
    Kind.ABP: ("abp_systolic", "abp_diastolic", "abp_mean", "pulse_rate"),
    Kind.CVP: ("cvp_mean",),
    Kind.CO2: ("etco2", "respiratory_rate"),
}
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
        self._looked_at: dict[str, deque[Block]] = {}
        self._assumed: dict[str, dict[str, set[str]]] = {}  # of sources that have not sent yet
        self._were_lost: set[str] = set()
        self._expected: dict[str, int] = {}  # since when
        self._sent_before: set[str] = set()

    def __contains__(self, source_id: object) -> bool:
        """Whether the source has sent signals."""
        return source_id in self._kept.sources

    def knows(self, source_id: str) -> bool:
        """Return whether the source sends signals, or did so before a restart."""
        return source_id in self._kept.sources or source_id in self._sent_before

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
            source = self._kept.sources[source_id] = Source(
                source_id,
                self._limits,
                has_ecg=packet.ecg is not None,
                assumed=self._assumed.pop(source_id, {}),
                lost=source_id in self._were_lost,
                began_ns=received_ns,
            )
            self._were_lost.discard(source_id)
            self._expected.pop(source_id, None)
            source.told = {code: ", ".join(sorted(names)) for code, names in source.assumed.items()}
        source.packets += 1
        source.last_received_ns = max(source.last_received_ns, received_ns)
        source.resting = False
        if packet.ecg is not None:
            source.has_ecg = True
        if source.lost:
            source.lost = False
            self._pending.append(ConditionEvent(source_id, "signal_lost", False, received_ns, received_ns))
        if source.sequence >= 0:
            ahead = steps_ahead(packet.sequence, source.sequence)
            if self._began_anew(source, packet, ahead):
                self._restart(source, received_ns)
            elif ahead <= 0:
                source.refused += 1
                return
        source.sequence = packet.sequence
        channels = tuple([block.channel for block in packet.others])
        if channels != source.channels:
            source.places = [self._place(source, channel, received_ns) for channel in channels]
            source.channels = channels
            gone = set(source.rows.values()) - set(source.places)
            source.left = {row: source.left.get(row, received_ns) for row in gone}
        if packet.others:
            block = packet.others[0]
            source.expected = (block.channel.name, block.first_sample + block.samples.size)
        if (shown := self._looked_at.get(source_id)) is not None:
            shown.extend(packet.others)
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

    @staticmethod
    def _began_anew(source: Source, packet: SignalPacket, ahead: int) -> bool:
        name, expected = source.expected
        if not packet.others or packet.others[0].channel.name != name:  # nothing to hold its samples against
            return ahead <= -RESTART_BEHIND
        block: Block = packet.others[0]
        return began_anew(
            ahead,
            block.first_sample,
            block.samples.size,
            sequence=packet.sequence,
            expected=expected,
            rate_hz=block.channel.rate_hz,
        )

    def _restart(self, source: Source, now_ns: int) -> None:
        """Begin a source's signals anew; conditions of the old stream are over unless the new one shows them."""
        if self._queue:
            told = self.process(now_ns)
            self._pending += told
        for channel_row in source.rows.values():
            self._kept.begin(channel_row, self._kept.channels[channel_row], source)
        source.assumed = {}
        for code in {*source.present, *source.told}:
            source.present[code] = set()
            self._pending += self._tell(source, code, now_ns, now_ns)
        source.sequence = -1

    def _place(self, source: Source, channel: Channel, now_ns: int) -> int:
        known = source.rows.get(channel.name)
        if known is None:
            row = self._kept.add(source, channel)
            for code, names in source.assumed.items():
                if channel.name in names:
                    names.discard(channel.name)
                    source.present.setdefault(code, set()).add(row)
            self._go_on(source, row)
            return row
        if self._kept.channels[known] != channel:
            told = self.process(now_ns) if self._queue else []
            self._pending += told
            self._kept.begin(known, channel, source)
            self._go_on(source, known)
        return known

    def _go_on(self, source: Source, row: int) -> None:
        """Let what is told of a channel hold although its signal begins anew: the signal tells when it is over."""
        for code, rows in source.present.items():
            if row in rows:
                self._kept.rows[row]["active"][_ASSUMED[code]] = 1

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
        unseen = source.assumed.get(code, set())
        if code == "no_pulse" and rows and self._pulse_elsewhere(source, rows):
            rows, unseen = set(), set()
        if code == "apnea" and rows and self._breathing_elsewhere(source, rows):
            rows, unseen = set(), set()
        names = ", ".join(sorted({*(self._kept.channels[r].name for r in rows), *unseen}))
        before = source.told.get(code, "")
        if names == before:
            return []
        source.told[code] = names
        end = ConditionEvent(source.source_id, code, False, now_ns, received_ns)
        if not names:
            return [end]
        args: dict[str, float | str] = {"channels": names}
        if code == "sensor_off":
            measured = {one for r in rows for one in _MEASURES.get(self._kept.channels[r].kind, ())}
            args["parameters"] = " ".join(sorted(measured))
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
        events += self._still_away(now_ns)
        for source in self._kept.sources.values():
            if source.left or source.assumed:
                events += self._no_longer_sent(source, now_ns)
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

    def assume(self, source_id: str, code: str, channels: Collection[str] = ()) -> None:
        """Take a condition as holding that held before a restart, of these channels, so that its end will be told.

        The source must not yet have sent. Codes that are not told here are left alone.
        """
        if code == "signal_lost":
            self._were_lost.add(source_id)
            self._expected.pop(source_id, None)
        elif code in _ASSUMED:
            self._assumed.setdefault(source_id, {}).setdefault(code, set()).update(channels)

    def expect(self, source_id: str, now_ns: int, *, missed: bool = True) -> None:
        """Take it that a source without ECG sent before a restart; if it is `missed`, its silence counts from now."""
        if missed:
            self._expected[source_id] = now_ns
        self._sent_before.add(source_id)

    def _still_away(self, now_ns: int) -> list[ConditionEvent]:
        events: list[ConditionEvent] = []
        for source_id, since_ns in list(self._expected.items()):
            silent_s = (now_ns - since_ns) / 1e9
            if silent_s >= self._limits.silence_s:
                self.assume(source_id, "signal_lost")
                args: dict[str, float | str] = {"seconds": round(silent_s, 1)}
                events.append(ConditionEvent(source_id, "signal_lost", True, now_ns, now_ns, args=args))
        return events

    def _no_longer_sent(self, source: Source, now_ns: int) -> list[ConditionEvent]:
        """Tell the end of what held of channels that do not come any more, or was assumed of them."""
        events: list[ConditionEvent] = []
        for row in [row for row, since_ns in source.left.items() if now_ns - since_ns >= ASSUMED_S * 1e9]:
            source.left[row] = now_ns  # and not at each tick from now on
            held = [code for code, rows in source.present.items() if row in rows]
            if held:
                self._kept.begin(row, self._kept.channels[row], source)
            for code in held:
                source.present[code].discard(row)
                events += self._tell(source, code, now_ns, now_ns)
        if source.assumed and now_ns - source.began_ns >= ASSUMED_S * 1e9:
            left, source.assumed = source.assumed, {}
            for code, names in left.items():
                if names:
                    events += self._tell(source, code, now_ns, now_ns)
        return events

    def rest(self, source_id: str) -> None:
        """Take a source's word that it stops on purpose: its silence is no alarm until it sends again."""
        if source_id in self._kept.sources:
            self._kept.sources[source_id].resting = True
        self._expected.pop(source_id, None)

    def tell_again(self, source_id: str) -> None:
        """Tell anew that a pulse or breaths are missing, if they are: what was told was taken back (a discharge)."""
        source = self._kept.sources.get(source_id)
        if source is None:
            return
        for code in ("no_pulse", "apnea"):
            for row in source.present.pop(code, ()):
                self._kept.rows[row]["active"][_ASSUMED[code]] = 0
            source.told.pop(code, None)
            source.assumed.pop(code, None)

    def remove(self, source_id: str, now_ns: int) -> list[ConditionEvent]:
        """Stop monitoring a source; whatever held of it is over."""
        events = self.process(now_ns)
        for waiting in (self._assumed, self._expected):
            waiting.pop(source_id, None)
        for one in (self._were_lost, self._sent_before):
            one.discard(source_id)
        source = self._kept.sources.pop(source_id, None)
        if source is None:
            return events
        for code, names in source.told.items():
            if names:
                events.append(ConditionEvent(source_id, code, False, now_ns, now_ns))
        self._kept.remove(source)
        return events

    # ------------------------------------------------------------------ screens

    def look(self, source_ids: Iterable[str]) -> None:
        """Keep what comes of these sources until it is taken by `take_blocks`, and of no others."""
        self._looked_at = {one: self._looked_at.get(one, deque(maxlen=SHOWN_MOST)) for one in source_ids}

    def channels(self, source_id: str) -> tuple[Channel, ...]:
        """Return the channels of the last packet of a source; none if it sent no signals."""
        source = self._kept.sources.get(source_id)
        return source.channels if source else ()

    def take_blocks(self, source_id: str) -> list[tuple[Block, float, str]]:
        """Return, once, what has come of a source that is looked at: as it came, for a screen to draw.

        With each block the quality of its channel, 0 to 1, and why it shows nothing: ``off``, ``disconnected`` or "".
        """
        shown, source = self._looked_at.get(source_id), self._kept.sources.get(source_id)
        if not shown or source is None:
            return []
        found = []
        while shown:
            block = shown.popleft()
            row = self._kept.rows[source.rows[block.channel.name]]
            why = "off" if row["active"][OFF] else "disconnected" if row["active"][DISCONNECTED] else ""
            found.append((block, float(row["quality"]), why))
        return found

    # ------------------------------------------------------------------ numbers

    def take_values(self) -> list[SignalValue]:
        """Return the numbers of all channels judged since the last call; see `signals_readings.take_values`."""
        return signals_readings.take_values(self._kept)

    def give_values(self, sink: ValueSink, but: Collection[str] = ()) -> None:
        """Hand `take_values` to `sink`, those of the sources `but` excepted."""
        for value in self.take_values():
            if value.source_id in but:
                continue
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

    def newest(self, source_id: str) -> tuple[int, float]:
        """Return when the newest packet of a source came, and how far its signals were read, in seconds of its stream.

        Raises
        ------
        KeyError
            If the source has sent no signals.
        """
        source = self._kept.sources[source_id]
        ends = [int(c["next_index"]) / float(c["rate"]) for c in (self._kept.rows[row] for row in source.rows.values())]
        return source.last_received_ns, max(ends, default=0.0)

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
