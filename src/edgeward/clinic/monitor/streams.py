"""What the packets of an ECG say of their stream, and the compiled way that usual packets take, many at a time.

Responsible for the book of all streams (sequence, sample index, arrival, pace, clock: one row per patient) and for
taking packets of version 1 that follow their predecessors and look like them. Such a packet is checked in full, its
checksum too. Whatever is not usual (a gap, a copy, another rate, a damaged packet) is left to ``intake``, which says
what is the matter with it. Not responsible for the signal (``kernel``) or for what anything means.
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.waveform import FLAG_CLOCK_UNSYNCHRONISED, MAX_LEADS, MAX_SAMPLES, WaveformPacket

#: The pace of a stream is the best it was within this time and the same time before.
PACE_NS = 30_000_000_000
#: A stream that is so much behind what was there began anew: a device keeps at most so much of what it could not send.
ANEW_S = 30.0
BURST_NS = 2_000_000_000

STREAM = np.dtype(
    [
        ("sequence", "i8"),  # of the newest packet; -1: none
        ("next_sample", "i8"),  # stream index after it
        ("received_ns", "i8"),  # its arrival
        ("packets", "i8"),
        ("missing", "i8"),
        ("missing_ns", "i8"),  # last loss
        ("loss_s", "f8"),  # signal lost lately: fades within a minute
        ("loss_packets", "i8"),  # lost without a minute's peace between them
        ("refused", "i8"),  # repeated or too late
        ("left_out", "i8"),  # not looked at, because monitoring was behind
        ("silence_ns", "i8"),  # for so long nothing may come
        ("lost", "i1"),  # told that nothing comes
        ("losing", "i1"),  # told that packets are missing
        ("resting", "i1"),  # said that it stops: its silence is no alarm
        ("fresh", "i1"),  # its numbers are not yet looked at
        # -- what its packets look like
        ("plain", "i1"),  # the last one was of version 1, and there is nothing beside the ECG
        ("held", "i1"),  # packets wait for one that is missing
        ("unsynchronised", "i1"),
        ("leads", "i4"),
        ("rate_bits", "u4"),
        ("gain_bits", "u4"),
        ("names", "u1", (8 * MAX_LEADS,)),
        # -- its pace: when packets arrive, against the index of their samples
        ("rate", "f8"),
        ("packet_ns", "i8"),  # how much of the signal one packet carries
        ("pace_next", "i8"),
        ("best", "i8"),  # arrival less stream time, ns
        ("has_before", "i1"),
        ("before", "i8"),  # the best of the span before
        ("span", "i8"),  # when this span began; 0: no packet yet
        ("faster", "i8"),  # the best of the last moments
        ("faster_since", "i8"),
        # -- its device's clock (``clocks``), as far as it says whether one more look at it would change anything
        ("calm", "i1"),
        ("passed", "i1"),  # it showed something that nothing followed from, and that ``clocks`` does not know
        ("device_ns", "i8"),  # what it showed last
        ("base_ns", "i8"),
        ("base_seen", "i8"),
        ("slope", "f8"),
        ("slack", "i8"),  # divisor of the time since the base; 0: no slack
        ("bucket_end", "i8"),
        ("bucket_best", "i8"),
    ]
)

_AHEAD_NS = 250_000_000  # as in ``clocks``
_BEHIND_NS = 2_000_000_000
_HEADER = 40
_INDEX_MOST = 2**62  # as in ``waveform``


def new_stream(book: NDArray[Any], row: int, rate_hz: float, now_ns: int) -> None:
    """Begin a row of the book: nothing came yet, silence counts from now on."""
    stream = np.zeros(1, dtype=STREAM)
    stream["sequence"] = -1
    stream["received_ns"] = now_ns
    stream["rate"] = rate_hz
    book[row] = stream[0]


def new_pace(book: NDArray[Any], row: int) -> None:
    """Begin the pace of a stream anew."""
    for name in ("packet_ns", "pace_next", "best", "has_before", "before", "span", "faster", "faster_since"):
        book[row][name] = 0


def describe(book: NDArray[Any], row: int, packet: WaveformPacket) -> None:
    """Write down what a packet of version 1 looks like, so that its successors are known by it."""
    stream = book[row]
    stream["plain"] = 1
    stream["unsynchronised"] = packet.flags & FLAG_CLOCK_UNSYNCHRONISED
    stream["leads"] = len(packet.leads)
    stream["rate_bits"] = np.float32(packet.rate_hz).view(np.uint32)
    stream["gain_bits"] = np.float32(packet.gain_uv).view(np.uint32)
    names = b"".join(name.encode("ascii").ljust(8, b"\0") for name in packet.leads)
    stream["names"][: len(names)] = np.frombuffer(names, dtype=np.uint8)


def _crc_tables() -> NDArray[np.uint32]:
    """Return the tables of CRC-32 for eight bytes at a time (Kounavis and Berry 2005)."""
    tables = np.zeros((8, 256), dtype=np.uint32)
    for value in range(256):
        rest = value
        for _ in range(8):
            rest = rest >> 1 ^ (0xEDB88320 if rest & 1 else 0)
        tables[0, value] = rest
    for step in range(1, 8):
        before = tables[step - 1]
        tables[step] = tables[0, before & 0xFF] ^ before >> np.uint32(8)
    return tables


_CRC = _crc_tables()


@njit(cache=True)
def crc32(data: NDArray[np.uint8], first: int, end: int, tables: NDArray[np.uint32]) -> int:
    """Return the CRC-32 (IEEE 802.3) of ``data[first:end]``."""
    crc = np.uint32(0xFFFFFFFF)
    at = first
    while at + 8 <= end:
        low = crc ^ (
            np.uint32(data[at])
            | np.uint32(data[at + 1]) << np.uint32(8)
            | np.uint32(data[at + 2]) << np.uint32(16)
            | np.uint32(data[at + 3]) << np.uint32(24)
        )
        crc = (
            tables[7, low & np.uint32(0xFF)]
            ^ tables[6, low >> np.uint32(8) & np.uint32(0xFF)]
            ^ tables[5, low >> np.uint32(16) & np.uint32(0xFF)]
            ^ tables[4, low >> np.uint32(24)]
            ^ tables[3, data[at + 4]]
            ^ tables[2, data[at + 5]]
            ^ tables[1, data[at + 6]]
            ^ tables[0, data[at + 7]]
        )
        at += 8
    while at < end:
        crc = tables[0, (crc ^ np.uint32(data[at])) & np.uint32(0xFF)] ^ crc >> np.uint32(8)
        at += 1
    return int(crc ^ np.uint32(0xFFFFFFFF))


@njit(cache=True)
def _number(data: NDArray[np.uint8], at: int, size: int) -> int:
    """Return the little-endian number of `size` bytes, 8 at most."""
    value = np.uint64(0)
    for k in range(size):
        value |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return int(np.int64(value))


@njit(cache=True)
def take_pace(book: Any, row: int, first: int, samples: int, received_ns: int) -> None:
    """Take the arrival of a packet: a stream that waited is behind its own pace.

    What is faster than ever before counts only after a while: a burst must not make its own beginning late.
    """
    s = book[row]
    seen = received_ns - np.int64(np.rint((first + samples) / s.rate * 1e9))
    # A copy, or one that was overtaken, is no new stream: it must not hide that the stream is behind.
    anew = first == 0 or first < s.pace_next - ANEW_S * s.rate
    s.packet_ns = np.int64(np.rint(samples / s.rate * 1e9))
    if s.span == 0 or anew:
        s.best = seen
        s.has_before = 0
        s.span = received_ns
        s.faster = seen
        s.faster_since = received_ns
    elif received_ns - s.span > PACE_NS:
        s.before = s.best
        s.has_before = 1
        s.best = seen
        s.span = received_ns
    if received_ns - s.faster_since > BURST_NS:
        s.best = min(s.best, s.faster)
        s.faster = seen
        s.faster_since = received_ns
    elif seen < s.faster:
        s.faster = seen
    s.pace_next = first + samples if anew else max(s.pace_next, first + samples)


@njit(cache=True)
def behind_ns(book: Any, row: int, sample: int, now_ns: int) -> int:
    """Return how long ago `sample` should have been here, its packet's own length allowed for."""
    s = book[row]
    best = min(s.best, s.before) if s.has_before == 1 else s.best
    return now_ns - best - np.int64(np.rint(sample / s.rate * 1e9)) - s.packet_ns


@njit(cache=True)
def _is_calm(book: Any, row: int, device_ns: int, arrival_ns: int) -> bool:
    """Return whether one more look at a device's clock changes nothing (``clocks.Clock.observe``)."""
    s = book[row]
    if s.calm == 0 or arrival_ns >= s.bucket_end:
        return False
    seen = device_ns - arrival_ns
    if seen > s.bucket_best:
        return False
    line = s.base_seen
    if s.slope != 0.0:
        line += np.int64(np.rint(s.slope * (arrival_ns - s.base_ns)))
    slack = abs(arrival_ns - s.base_ns) // s.slack if s.slack > 0 else 0
    if seen > line or seen < line - slack - _BEHIND_NS:
        return False
    return not (device_ns < s.device_ns - _AHEAD_NS and seen < line - _AHEAD_NS)


@njit(cache=True)
def _is_usual(book: Any, row: int, data: NDArray[np.uint8], at: int, size: int, tables: NDArray[np.uint32]) -> bool:
    """Return whether a packet is whole, looks like the one before, and follows it."""
    s = book[row]
    if s.plain == 0 or s.lost == 1 or s.resting == 1 or s.held == 1 or s.sequence < 0:
        return False
    leads = s.leads
    head = _HEADER + 8 * leads
    if size < head + 2 * leads + 4:
        return False
    if not (data[at] == 0x45 and data[at + 1] == 0x57 and data[at + 2] == 0x57 and data[at + 3] == 0x31):
        return False
    if data[at + 4] != 1 or data[at + 5] != s.unsynchronised or data[at + 6] != leads:
        return False
    samples = _number(data, at + 10, 2)
    if samples < 1 or samples > MAX_SAMPLES or size != head + 2 * leads * samples + 4:
        return False
    if _number(data, at + 12, 4) != (s.sequence + 1) % 4294967296 or _number(data, at + 16, 8) != s.next_sample:
        return False
    if s.next_sample > _INDEX_MOST:
        return False
    if _number(data, at + 32, 4) != s.rate_bits or _number(data, at + 36, 4) != s.gain_bits:
        return False
    for k in range(8 * leads):
        if data[at + _HEADER + k] != s.names[k]:
            return False
    return crc32(data, at, at + size - 4, tables) == _number(data, at + size - 4, 4)


@njit(cache=True)
def take_usual(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    rows: NDArray[np.int64],
    begin: int,
    received_ns: int,
    book: Any,
    tables: NDArray[np.uint32],
    flat: NDArray[np.int16],
    used: int,
    blocks: Any,
    arrived: NDArray[np.int64],
    count: int,
    looks: NDArray[np.int64],
    leave_ns: int,
) -> tuple[int, int, int]:
    """Take packets into the queue, from packet `begin` on, up to the first that is not usual.

    Parameters
    ----------
    data : ndarray of uint8
        All packets, one after the other.
    starts : ndarray, shape (n + 1,)
        Where each begins, and the last ends.
    rows : ndarray, shape (n,)
        Row of each packet's stream in `book`; -1: not known.
    flat, blocks, arrived
        The queue (``queue``), with room for all packets; `used` samples and `count` blocks are in it.
    looks : ndarray, shape (n,)
        Set to what the device's clock showed, where that has to be looked at; 0 where not.
    leave_ns
        Packets that are further behind their stream's pace are counted, and their signal is not looked at; 0: none.

    Returns
    -------
    tuple of int
        The first packet that is not usual (n: none), and the new `used` and `count`.
    """
    for i in range(begin, rows.size):
        row = rows[i]
        at, size = starts[i], starts[i + 1] - starts[i]
        looks[i] = 0
        if row < 0 or not _is_usual(book, row, data, at, size, tables):
            return i, used, count
        s = book[row]
        samples = _number(data, at + 10, 2)
        first = s.next_sample
        s.packets += 1
        s.fresh = 1
        s.sequence = (s.sequence + 1) % 4294967296
        s.next_sample = first + samples
        s.received_ns = max(s.received_ns, received_ns)
        if leave_ns > 0 and s.span > 0 and behind_ns(book, row, first + samples, received_ns) + s.packet_ns > leave_ns:
            s.left_out += 1
            s.missing += 1
            take_pace(book, row, first, samples, received_ns)
            continue
        block = blocks[count]
        block.patient = row
        block.offset = used
        block.samples = samples
        block.first = first
        block.off_mask = _number(data, at + 7, 2) & ((1 << s.leads) - 1)
        arrived[count] = received_ns
        count += 1
        place = at + _HEADER + 8 * s.leads
        for k in range(s.leads * samples):
            flat[used + k] = np.int16(
                np.uint16(data[place + 2 * k]) | np.uint16(data[place + 2 * k + 1]) << np.uint16(8)
            )
        used += s.leads * samples
        take_pace(book, row, first, samples, received_ns)
        start_ns = _number(data, at + 24, 8)
        if start_ns > 0:
            device_ns = start_ns + np.int64(np.rint(samples / s.rate * 1e9))
            if _is_calm(book, row, device_ns, received_ns):
                s.device_ns = device_ns
                s.passed = 1
            else:
                s.calm = 0
                looks[i] = device_ns
    return rows.size, used, count


def crc_tables() -> NDArray[np.uint32]:
    """Return what `take_usual` reckons checksums with."""
    return _CRC
