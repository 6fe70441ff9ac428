"""Which channel of which source sits in which row, of all signals that are not an ECG.

Responsible for the arrays, for making room and giving it back, and for what is kept of a source beside its rows. Not
responsible for packets and conditions (``signals``) or for what is read off (``signals_readings``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgeward.clinic.monitor.signals_state import ARTERIAL, BREATH, PEERS, RING, SIGNAL, new_signal
from edgeward.waveform import MAX_CHANNELS, Channel


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


@dataclass(slots=True)
class Source:
    """What is kept of one source beside its rows."""

    source_id: str
    limits: SignalLimits
    rows: dict[str, int] = field(default_factory=dict)  # channel name -> row
    channels: tuple[Channel, ...] = ()  # of the last packet: the usual packet looks the same
    places: list[int] = field(default_factory=list)  # their rows
    left: dict[int, int] = field(default_factory=dict)  # rows of channels that are not among them -> since when
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
    assumed: dict[str, set[str]] = field(default_factory=dict)  # code -> channels of which it held before a restart
    began_ns: int = 0  # arrival of its first packet


class SignalRows:
    """Sources, their channels, and the arrays.

    Attributes
    ----------
    rows : ndarray of `signals_state.SIGNAL`
    traces : ndarray
    owners : list
        Per row its source; None: free.
    channels : list of Channel
    """

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.rows = np.zeros(16, dtype=SIGNAL)
        self.traces = np.zeros((16, RING), dtype=np.float32)
        self.owners: list[Source | None] = []
        self.channels: list[Channel] = []
        self._free: list[int] = []

    def add(self, source: Source, channel: Channel) -> int:
        """Make room for a channel; return its row.

        Raises
        ------
        ValueError
            If it cannot be read (sampled too slowly), or the source has sent too many different ones.
        """
        if len(source.rows) >= 2 * MAX_CHANNELS:
            raise ValueError(f"more than {2 * MAX_CHANNELS} different channels in one stream")
        new = new_signal(channel, no_pulse_s=source.limits.no_pulse_s, apnea_s=source.limits.apnea_s)
        if self._free:
            row = self._free.pop()
        else:
            row = len(self.owners)
            self.owners.append(None)
            self.channels.append(channel)
            while len(self.rows) <= row:
                self.rows = np.concatenate((self.rows, np.zeros_like(self.rows)))
                self.traces = np.concatenate((self.traces, np.zeros_like(self.traces)))
        self.rows[row] = new[0]
        self.traces[row] = 0.0
        self.owners[row] = source
        self.channels[row] = channel
        source.rows[channel.name] = row
        self._pair(source)
        return row

    def begin(self, row: int, channel: Channel, source: Source) -> None:
        """Begin the signal of a channel anew."""
        self.rows[row] = new_signal(channel, no_pulse_s=source.limits.no_pulse_s, apnea_s=source.limits.apnea_s)[0]
        self.traces[row] = 0.0
        self.channels[row] = channel
        self._pair(source)

    def _pair(self, source: Source) -> None:
        """Show each breathing channel of a source the pulses beside it."""
        held = sorted(source.rows.values())
        pulses = [row for row in held if self.rows[row]["family"] <= ARTERIAL][:PEERS]
        peers = pulses + [-1] * (PEERS - len(pulses))
        for row in held:
            if self.rows[row]["family"] == BREATH:
                self.rows[row]["peers"] = peers

    def remove(self, source: Source) -> None:
        """Give the rows of a source back."""
        for row in source.rows.values():
            self.owners[row] = None
            self.rows[row] = np.zeros(1, dtype=SIGNAL)[0]
            self._free.append(row)
