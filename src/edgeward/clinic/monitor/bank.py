"""All monitored patients of a site: packets in, conditions out.

Responsible for one packet at a time and what its number says, for silence, and for handing everything queued to the
compiled kernel at once. Pure apart from its memory: the caller passes the time in. Who sits in which row is ``seats``;
what numbers mean is ``numbering``; usual packets come by ``streams``; what the kernel tells is put into words by
``transitions``, what is read off by ``readings``. Not responsible for alarms (``alarms``), transport, decoding or
publishing (``role``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import numbering, readings, snapshots, streams
from edgeward.clinic.monitor.beat_model import BeatModel, shipped
from edgeward.clinic.monitor.candidate import SHIPPED, Network
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.electrodes import CODE as LEAD_SWAPPED
from edgeward.clinic.monitor.electrodes import Electrodes
from edgeward.clinic.monitor.kernel import BEAT, advance, new_room
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.patient import ASYSTOLE, BRADY, TACHY, TRANSITION, VF, VT
from edgeward.clinic.monitor.queue import Queue
from edgeward.clinic.monitor.readings import Board, Numerics
from edgeward.clinic.monitor.seats import Seats
from edgeward.clinic.monitor.state import MAX_LEADS, Tuning
from edgeward.clinic.monitor.transitions import CODES, as_event

__all__ = ["MonitorBank", "Numerics", "warm_up"]

#: The packets-missing alarm ends after this long without a loss.
MISSING_CLEAR_NS = 60_000_000_000
BLOCKS_AT_ONCE = 256
_EVENTS_PER_HOP = 48
_QUEUE_MOST = 1 << 22  # samples queued before `push` processes by itself
_LETHAL = [ASYSTOLE, VF, VT, BRADY, TACHY]


class MonitorBank:
    """Patients as arrays.

    Parameters
    ----------
    limits : Limits, optional
        Limits of patients enrolled without their own.
    collect_beats : bool
        Keep every beat for `take_beats` (evaluation, training).
    model : BeatModel, optional
        Judges beats instead of the one that ships (cross-validation).
    tuning : Tuning, optional
        Other parameters of the QRS detector (selection).
    network : Network, optional
        Tells QRS from noise instead of the one that ships (cross-validation).
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        collect_beats: bool = False,
        model: BeatModel | None = None,
        tuning: Tuning | None = None,
        network: Network | None = None,
    ) -> None:
        self._model = model if model is not None else shipped()
        self._limits = limits or Limits()
        self.seats = Seats(tuning)
        self._queue = Queue()
        self._electrodes = Electrodes()
        self._pending: list[ConditionEvent] = []
        self._collect = collect_beats
        self._network = network if network is not None else SHIPPED
        self._room = new_room()
        self._beats: list[NDArray[Any]] = []
        self._no_beats = np.zeros(0, dtype=BEAT)
        self._out = np.empty(0, dtype=TRANSITION)
        self._crc = streams.crc_tables()

    # ------------------------------------------------------------------ who

    @property
    def device_ids(self) -> list[str]:
        """Devices in the order of their first packet."""
        return list(self.seats.patients)

    def __contains__(self, device_id: object) -> bool:
        """Whether the device is enrolled."""
        return device_id in self.seats.patients

    def row(self, device_id: str) -> int:
        """Return a device's row in the book of streams.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        return self.seats.patients[device_id].row

    def enrol(
        self,
        device_id: str,
        *,
        rate_hz: float,
        leads: tuple[str, ...],
        gain_uv: float,
        limits: Limits | None = None,
        now_ns: int = 0,
    ) -> None:
        """Make room for a device, or start its signal anew if it is known; conditions that hold go on holding.

        Parameters
        ----------
        rate_hz : float
            100 to 2000.
        leads : tuple of str
            1 to 12 names.
        gain_uv : float
            Microvolts per unit, more than 0.
        now_ns : int
            From now on silence counts.

        Raises
        ------
        ValueError
            If rate, gain or the number of leads is outside its range.
        """
        known = self.seats.patients.get(device_id)
        if known is not None and self._queue:
            told = self.process(now_ns)  # takes what is pending with it
            self._pending += told
        given = limits or (known.limits if known is not None else self._limits)
        self.seats.enrol(device_id, rate_hz=rate_hz, leads=leads, gain_uv=gain_uv, limits=given, now_ns=now_ns)

    def set_limits(self, device_id: str, limits: Limits) -> None:
        """Change the limits of a patient; they hold from the next sample on.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        self.seats.set_limits(self.seats.patients[device_id], limits)

    # ------------------------------------------------------------------ packets

    def push(
        self,
        device_id: str,
        samples: NDArray[np.int16],
        *,
        first_sample: int,
        sequence: int,
        received_ns: int,
        lead_off: tuple[bool, ...] = (),
    ) -> None:
        """Queue one packet. A repeated packet, or one overtaken by its successors, is counted and not used.

        Parameters
        ----------
        samples : ndarray, shape (leads, n), int16
        first_sample : int
            Stream index of the first sample.
        sequence : int
            Packet number, modulo 2**32.
        received_ns : int
            When it arrived, by this machine's clock.
        lead_off : tuple of bool, optional
            Per lead: is its electrode off.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        ValueError
            If shape or type of `samples` do not fit the enrolment.
        """
        patient = self.seats.patients[device_id]
        if samples.ndim != 2 or samples.shape[0] != len(patient.leads) or samples.dtype != np.int16:
            raise ValueError(
                f"samples have shape {samples.shape} and type {samples.dtype}; "
                f"this device is enrolled with {len(patient.leads)} leads of int16"
            )
        if samples.shape[1] == 0:
            raise ValueError("a packet without samples")
        if first_sample < 0:
            raise ValueError(f"sample index {first_sample} is negative")
        stream = self.seats.book[patient.row]
        stream["packets"] += 1
        stream["resting"] = 0
        stream["received_ns"] = max(int(stream["received_ns"]), received_ns)
        if stream["lost"]:
            stream["lost"] = 0
            self._pending.append(ConditionEvent(device_id, "signal_lost", False, received_ns, received_ns))
        expected, before = int(stream["next_sample"]), int(stream["sequence"])
        if before >= 0:
            ahead = numbering.steps_ahead(sequence, before)
            if numbering.began_anew(
                ahead, first_sample, samples.shape[1], sequence=sequence, expected=expected, rate_hz=patient.rate_hz
            ):
                self.enrol(device_id, rate_hz=patient.rate_hz, leads=patient.leads, gain_uv=patient.gain_uv,
                           now_ns=received_ns)  # fmt: skip
            elif ahead <= 0:
                stream["refused"] += 1
                return
            elif ahead > 1:
                stream["missing"] += ahead - 1
                lost_s = max(0.0, (first_sample - expected) / patient.rate_hz)
                worth_telling = numbering.lose(stream, ahead - 1, lost_s, received_ns)
                if worth_telling and not stream["losing"]:
                    stream["losing"] = 1
                    self._pending.append(
                        ConditionEvent(
                            device_id,
                            "packets_missing",
                            True,
                            received_ns,
                            received_ns,
                            onset_sample=expected,
                            decisive_sample=first_sample,
                            args={"count": float(stream["loss_packets"])},
                        )
                    )
        stream["sequence"] = sequence
        stream["next_sample"] = first_sample + samples.shape[1]
        mask = sum(1 << i for i, off in enumerate(lead_off) if off)
        self._queue.put(patient.row, samples, first_sample, mask, received_ns)
        self._keep_small(received_ns)

    def take_usual(
        self,
        data: NDArray[np.uint8],
        starts: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        begin: int,
        received_ns: int,
        looks: NDArray[np.int64],
        leave_ns: int = 0,
    ) -> int:
        """Queue packets as they came, up to the first that is not usual; see `streams.take_usual`.

        Returns
        -------
        int
            The first packet that was not taken; their number if all were.
        """
        queue = self._queue
        queue.make_room(int(starts[-1] - starts[begin]) // 2, len(rows) - begin)
        at, queue.used, queue.count = streams.take_usual(
            data,
            starts,
            rows,
            begin,
            received_ns,
            self.seats.book,
            self._crc,
            queue.flat,
            queue.used,
            queue.blocks,
            queue.arrived,
            queue.count,
            looks,
            leave_ns,
        )
        self._keep_small(received_ns)
        return int(at)

    def _keep_small(self, now_ns: int) -> None:
        if self._queue.used > _QUEUE_MOST:
            told = self.process(now_ns)  # takes what is pending with it
            self._pending += told

    def process(self, now_ns: int) -> list[ConditionEvent]:
        """Take everything queued through the kernel; return the conditions that began or ended, in order."""
        events, self._pending = self._pending, []
        queue, seats = self._queue, self.seats
        if not queue:
            return events
        flat = queue.flat[: queue.used]
        for start in range(0, queue.count, BLOCKS_AT_ONCE):
            part = queue.blocks[start : min(start + BLOCKS_AT_ONCE, queue.count)]
            hops = int((part["samples"] // np.maximum(seats.rows["hop"][part["patient"]], 1)).sum()) + 2 * len(part)
            if self._out.size < hops * _EVENTS_PER_HOP:
                self._out = np.empty(hops * _EVENTS_PER_HOP, dtype=TRANSITION)
            told = np.zeros(hops * 8 * MAX_LEADS, dtype=BEAT) if self._collect else self._no_beats
            found, heard = advance(
                seats.rows,
                seats.channels,
                seats.traces,
                seats.bands,
                flat,
                part,
                self._out,
                told,
                self._model,
                self._network,
                self._room,
            )
            if heard:
                self._beats.append(told[:heard].copy())
            for one in self._out[:found]:
                block = part[int(one["block"])]
                events.append(
                    as_event(
                        one,
                        seats.by_row[int(one["patient"])],
                        end=int(block["first"]) + int(block["samples"]),
                        received_ns=int(queue.arrived[start + int(one["block"])]),
                        now_ns=now_ns,
                    )
                )
        queue.clear()
        return events

    # ------------------------------------------------------------------ time

    def tick(self, now_ns: int) -> list[ConditionEvent]:
        """Take the passing of time: silence is a condition, and losses are forgotten; return what began or ended.

        Call it at least twice a second. `now_ns` may be any clock that also gives `received_ns`; a step backwards
        delays nothing but this condition.
        """
        events, self._pending = self._pending, []
        book = self.seats.book[: len(self.seats.by_row)]
        silent = now_ns - book["received_ns"]
        # The clock was set back: count from now, or silence would stay unseen for that long.
        book["received_ns"][silent < -1_000_000_000] = now_ns
        quiet = (silent >= book["silence_ns"]) & (book["resting"] == 0) & (book["lost"] == 0)
        since = now_ns - book["missing_ns"]
        whole = (book["losing"] != 0) & ((since < 0) | (since >= MISSING_CLEAR_NS))
        for row in np.flatnonzero(quiet | whole).tolist():
            device_id = self.seats.by_row[row].device_id
            if quiet[row]:
                book[row]["lost"] = 1
                seconds = round(int(silent[row]) / 1e9, 1)
                events.append(ConditionEvent(device_id, "signal_lost", True, now_ns, now_ns, args={"seconds": seconds}))
            if whole[row]:
                book[row]["losing"] = 0
                events.append(ConditionEvent(device_id, "packets_missing", False, now_ns, now_ns))
        seats = self.seats
        return events + self._electrodes.look(now_ns, seats.patients.values(), seats.rows, seats.channels, seats.traces)

    def rest(self, device_id: str) -> None:
        """Take a device's word that it stops on purpose: its silence is no alarm until it sends again.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        self.seats.book[self.row(device_id)]["resting"] = 1

    def remove(self, device_id: str) -> None:
        """Stop monitoring a device. Its row stays reserved until the next start.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        self._electrodes.forget(device_id)
        stream = self.seats.book[self.seats.patients.pop(device_id).row]
        stream["resting"], stream["losing"] = 1, 0

    def assume(self, device_id: str, codes: Collection[str]) -> None:
        """Take conditions as holding that held before a restart, so that their end will be told.

        The device must be enrolled and not yet have sent. Codes that this bank does not tell are left alone.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        patient = self.seats.patients[device_id]
        stream = self.seats.book[patient.row]
        stream["lost"] = "signal_lost" in codes
        stream["losing"] = "packets_missing" in codes  # its last loss is long ago: it ends with the next tick
        if LEAD_SWAPPED in codes:
            self._electrodes.assume(device_id)
        for condition, code in CODES.items():
            if code in codes:
                self.seats.rows[patient.row]["active"][condition] = 1

    def tell_again(self, device_id: str) -> None:
        """Tell lethal rhythms anew that still hold: what was told of them was taken back (a discharge).

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        self.seats.rows[self.seats.patients[device_id].row]["active"][_LETHAL] = 0

    # ------------------------------------------------------------------ starting again

    def snapshot(self, device_id: str) -> bytes:
        """Return everything that the signal has taught about a patient, about 25 kB a lead.

        A bank that resumes from it and is given the packets that followed goes on exactly as this one does. Packets
        still queued are not in it: call `process` first. Only the same version can read it.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        RuntimeError
            If packets are queued.
        """
        if self._queue:
            raise RuntimeError("packets are queued; a snapshot without them would lose them: call process first")
        return snapshots.snapshot(self.seats, device_id)

    def resume(self, device_id: str, state: bytes) -> None:
        """Put back what `snapshot` gave; the device must be enrolled with the same rate and leads. Limits stay.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        ValueError
            If the state is of another version, or of a device with another rate or number of leads.
        """
        snapshots.resume(self.seats, device_id, state)

    # ------------------------------------------------------------------ numbers and pictures

    def numerics(self, device_id: str, now_ns: int) -> Numerics:
        """Return the numbers of a patient.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        return self.numerics_of([device_id], now_ns)[0]

    def numerics_of(self, device_ids: Sequence[str], now_ns: int) -> list[Numerics]:
        """Return the numbers of many patients, in their order.

        Raises
        ------
        KeyError
            If a device is not enrolled.
        """
        board = Board(self.seats)
        rows = [self.row(device_id) for device_id in device_ids]
        board.look(rows, now_ns)
        return [board.numerics(row) for row in rows]

    def fresh(self) -> NDArray[np.intp]:
        """Return the rows of the patients who sent since the last call."""
        fresh = self.seats.book["fresh"]
        rows = np.flatnonzero(fresh)
        fresh[rows] = 0
        return rows

    def trace(
        self, device_id: str, seconds: float = 2.0, *, since: int | None = None
    ) -> tuple[float, int, str, NDArray[np.int16], list[int]]:
        """Return the recent display trace of the lead listened to.

        Parameters
        ----------
        seconds : float
            How much, at most; about 8 s are kept.
        since : int, optional
            Index (at the returned rate) from which to return, instead of `seconds`.

        Returns
        -------
        rate_hz : float
            125 to 250 for any device.
        start : int
            Index of the first sample at that rate.
        lead : str
        samples : ndarray, int16
            Microvolts, 0.5 - 40 Hz.
        beats : list of int
            Indices, at that rate, of the most recent beats (at most 16).

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        return readings.trace(self.seats, device_id, seconds, since=since)

    def recent_beats(self, device_id: str) -> NDArray[np.float64]:
        """Return the stream indices of the most recent beats of a patient, oldest first, at most `HISTORY`.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        return readings.recent_beats(self.seats, device_id)

    def take_beats(self) -> NDArray[Any]:
        """Return and forget the collected beats, dtype `BEAT`."""
        beats, self._beats = self._beats, []
        return np.concatenate(beats) if beats else self._no_beats.copy()

    def statistics(self) -> dict[str, int]:
        """Return counts over all patients: packets, missing, refused, left out."""
        book = self.seats.book[: len(self.seats.by_row)]
        counts = {name: int(book[name].sum()) for name in ("packets", "missing", "refused", "left_out")}
        return {"patients": len(book), **counts}


def warm_up() -> None:
    """Compile the kernels, or load them from the cache, by taking one second of silence through a bank."""
    bank = MonitorBank()
    bank.enrol("warm-up", rate_hz=250.0, leads=("I",), gain_uv=1.0)
    bank.push("warm-up", np.zeros((1, 250), dtype=np.int16), first_sample=0, sequence=0, received_ns=0)
    bank.process(0)
    none = np.zeros(1, dtype=np.int64)
    bank.take_usual(np.zeros(0, dtype=np.uint8), none, none[:0], begin=0, received_ns=0, looks=none[:0])
