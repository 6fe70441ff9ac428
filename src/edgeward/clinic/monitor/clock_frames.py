"""What compiled code needs to know of devices' clocks: within what bounds one more look at a clock changes nothing.

Responsible for the fields of the book of streams that say so (``streams.STREAM``), and for telling a clock what it
showed while nobody had to look. Not responsible for what a clock's time is worth (``clocks``).
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeward.clinic.monitor.clocks import Clock, Clocks
from edgeward.clinic.monitor.seats import Seats
from edgeward.waveform import FLAG_CLOCK_UNSYNCHRONISED, SignalPacket


class ClockFrames:
    """The clocks of devices that send waveforms.

    Parameters
    ----------
    clocks : Clocks
    seats : Seats
        With the book of streams.
    rows : mapping
        Source to the row of its ECG in the book; it may change.
    """

    def __init__(self, clocks: Clocks, seats: Seats, rows: Mapping[str, int]) -> None:
        self._clocks = clocks
        self._seats = seats
        self._rows = rows
        clocks.before_look = self._tell_clock

    def observe(self, source_id: str, packet: SignalPacket, received_ns: int) -> None:
        """Learn of the device's clock: its packet is sent when the last sample is taken."""
        ecg = packet.ecg
        if ecg is not None:
            length_s = ecg.samples.shape[1] / ecg.rate_hz
        else:
            length_s = max((b.samples.size / b.channel.rate_hz for b in packet.others), default=0.0)
        synchronised = not packet.flags & FLAG_CLOCK_UNSYNCHRONISED
        self.look(source_id, packet.start_ns + round(length_s * 1e9), received_ns, synchronised=synchronised)

    def look(self, source_id: str, device_ns: int, received_ns: int, *, synchronised: bool) -> None:
        """Look at a device's clock, and write into the book within what the next looks are not needed."""
        self._clocks.observe(source_id, device_ns, received_ns, synchronised=synchronised)
        row = self._rows.get(source_id)
        clock = self._clocks.get(source_id)
        frame = clock.frame() if clock is not None else None
        if row is None or frame is None:
            return
        stream = self._seats.book[row]
        stream["base_ns"], stream["base_seen"], stream["slope"], stream["slack"] = frame[:4]
        stream["bucket_end"], stream["bucket_best"] = frame[4:]
        stream["device_ns"], stream["calm"] = device_ns, 1

    def _tell_clock(self, source_id: str, clock: Clock) -> None:
        """Before a clock is looked at: tell it what it showed while nobody had to look."""
        row = self._rows.get(source_id)
        if row is None:
            return
        stream = self._seats.book[row]
        if stream["passed"]:
            clock.passed(int(stream["device_ns"]))
        stream["passed"] = stream["calm"] = 0
