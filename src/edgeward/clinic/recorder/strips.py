"""From packets as they arrived to a strip that can be drawn: a row of samples per channel, holes where nothing came.

Responsible for order (by sample index), for holes, and for where the samples lie in site time. Pure; no I/O.

A device counts its samples from the beginning of its stream. Site time of a sample is reckoned from the arrivals: no
sample arrives before it was taken, so the packet that came soonest after its last sample says where index 0 lies. That
leaves the shortest time on the way, some milliseconds, unaccounted for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeward import waveform
from edgeward.bedside import StripChannel
from edgeward.clinic.recorder.packing import Arrival

LONGEST_S = 300.0  # StripQuery: at most five minutes
LATE_S = 40.0  # a device sends at most the last 30 s late, in packets of at most 4 s (docs/protocols/waveform.md)
MOST_SAMPLES = 3_000_000  # 6 MB: a message of the bus has at most 8
MISSING = -32768
_APART_S = 120.0  # arrivals that disagree so much: the site's clock was set, or the device began anew
_SECOND = 1e9

Signature = tuple[tuple[str, str, float, float, float, str], ...]
"""Name, unit, rate, gain, offset and kind of each channel."""


@dataclass
class _Stretch:
    """Packets of one stream with one set of channels, whose arrivals agree."""

    signature: Signature
    zero_ns: float  # site time of index 0
    newest: int  # first sample of the first channel of the last packet
    pieces: list[tuple[int, int, NDArray[np.int16]]] = field(default_factory=list)  # channel, first sample, samples


def strip(
    arrivals: Iterable[Arrival], start_ns: int, end_ns: int, wanted: Sequence[str] = ()
) -> tuple[list[StripChannel], int]:
    """Return the channels of one source between two times, and how many packets could not be read.

    A stream that began anew, or changed its channels, gives one more row of the same name, each with its own start.

    Parameters
    ----------
    arrivals
        Packets of the source, in the order of arrival.
    start_ns, end_ns
        Site time, nanoseconds since the epoch.
    wanted
        Names of channels; empty: all.
    """
    stretches: list[_Stretch] = []
    unreadable = 0
    for _, received_ns, data in arrivals:
        try:
            packet = waveform.read(data)
        except waveform.PacketError:
            unreadable += 1
            continue
        _take(stretches, packet, received_ns)
    rows = [
        (stretch, number)
        for stretch in stretches
        for number, channel in enumerate(stretch.signature)
        if not wanted or channel[0] in wanted
    ]
    seconds = min((end_ns - start_ns) / _SECOND, LONGEST_S)
    total = sum(stretch.signature[number][2] for stretch, number in rows) * seconds
    if total > MOST_SAMPLES:
        seconds *= MOST_SAMPLES / total
    end_ns = start_ns + round(seconds * _SECOND)
    found = [_row(stretch, number, start_ns, end_ns) for stretch, number in rows]
    return [row for row in found if row is not None], unreadable


def _take(stretches: list[_Stretch], packet: waveform.SignalPacket, received_ns: int) -> None:
    signature: list[tuple[str, str, float, float, float, str]] = []
    pieces: list[tuple[int, int, NDArray[np.int16]]] = []
    ecg = packet.ecg
    if ecg is not None:
        for lead, samples in zip(ecg.leads, ecg.samples, strict=True):
            pieces.append((len(signature), ecg.first_sample, samples))
            signature.append((lead, "uV", ecg.rate_hz, ecg.gain_uv, 0.0, "ecg"))
    for block in packet.others:
        channel = block.channel
        pieces.append((len(signature), block.first_sample, block.samples))
        kind = channel.kind.name.lower()
        signature.append((channel.name, channel.unit, channel.rate_hz, channel.gain, channel.offset, kind))
    _, first, samples = pieces[0]
    zero_ns = received_ns - (first + samples.size) / signature[0][2] * _SECOND
    key = tuple(signature)
    last = stretches[-1] if stretches else None
    begins = packet.sequence == 0 and first == 0 and last is not None and last.newest > 0
    if last is None or begins or last.signature != key or abs(zero_ns - last.zero_ns) > _APART_S * _SECOND:
        last = _Stretch(key, zero_ns, first)
        stretches.append(last)
    last.zero_ns = min(last.zero_ns, zero_ns)
    last.newest = first
    last.pieces += pieces


def _row(stretch: _Stretch, number: int, start_ns: int, end_ns: int) -> StripChannel | None:
    name, unit, rate, gain, offset, kind = stretch.signature[number]
    first = max(0, int(np.ceil((start_ns - stretch.zero_ns) / _SECOND * rate)))
    end = int(np.ceil((end_ns - stretch.zero_ns) / _SECOND * rate))
    pieces = [(at, samples) for channel, at, samples in stretch.pieces if channel == number]
    pieces = [(at, samples) for at, samples in pieces if at < end and at + samples.size > first]
    if not pieces:
        return None
    first = max(first, min(at for at, _ in pieces))
    end = min(end, max(at + samples.size for at, samples in pieces))
    row = np.full(end - first, MISSING, dtype="<i2")
    for at, samples in pieces:
        a, b = max(at, first), min(at + samples.size, end)
        part = samples[a - at : b - at]
        # The lowest number is our sign for a hole; in an ECG it is a value, one step beside the next.
        row[a - first : b - first] = np.maximum(part, MISSING + 1) if unit == "uV" else part
    return StripChannel(
        name=name,
        unit=unit,
        rate_hz=rate,
        start_ns=round(stretch.zero_ns + first / rate * _SECOND),
        gain=gain,
        offset=offset,
        samples=row.tobytes(),
        missing=MISSING,
        kind=kind,
    )
