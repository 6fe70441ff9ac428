"""The waveform packet: what a wearable or monitor publishes, one packet about once a second.

Responsible for the bytes (documented for device makers in ``docs/protocols/waveform.md``). Not responsible for
transport or meaning. Used by the device SDK (encoding) and by ``clinic.monitor`` (decoding), hence beside the messages.

All integers little-endian. Version 1::

    offset size
    0      4    magic "EWW1"
    4      1    version, 1
    5      1    flags: bit 0 the device's clock is not synchronised, bit 1 last packet before a planned stop
    6      1    number of leads, 1..12
    7      1    lead-off mask of leads 1..8 (bit i: electrode of lead i is off)
    8      1    lead-off mask of leads 9..12
    9      1    reserved, 0
    10     2    samples per lead, 1..4096
    12     4    sequence number, +1 per packet, wraps at 2^32
    16     8    index of the first sample since the device started its stream
    24     8    start time, nanoseconds since the Unix epoch, of the first sample, by the device's clock
    32     4    sampling rate, float32, Hz, 20..2000
    36     4    gain, float32, microvolts per unit, > 0
    40     8*L  lead names, ASCII, padded with NUL (IEEE 11073-10101 short names: I, II, III, aVR, V1, MLII ...)
    ...    2*L*N samples, int16, lead after lead
    end    4    CRC-32 (IEEE 802.3) of everything before it
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAGIC = b"EWW1"
VERSION = 1
MAX_LEADS = 12
MAX_SAMPLES = 4096
MAX_BYTES = 40 + 8 * MAX_LEADS + 2 * MAX_LEADS * MAX_SAMPLES + 4
FLAG_CLOCK_UNSYNCHRONISED = 1
FLAG_LAST = 2

_HEADER = struct.Struct("<4sBBBBBBHIQqff")


class PacketError(ValueError):
    """A waveform packet is malformed; the text says what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class WaveformPacket:
    """One packet of one device.

    Attributes
    ----------
    samples
        int16, shape (leads, samples), in units of `gain` microvolts.
    sequence
        Packet number, modulo 2**32.
    first_sample
        Index of the first sample in the device's stream.
    start_ns
        Device time of the first sample, nanoseconds since the epoch.
    rate_hz
        Sampling rate.
    gain_uv
        Microvolts per unit.
    leads
        Lead names.
    lead_off
        Per lead: is its electrode off.
    """

    samples: NDArray[np.int16]
    sequence: int
    first_sample: int
    start_ns: int
    rate_hz: float
    gain_uv: float
    leads: tuple[str, ...]
    lead_off: tuple[bool, ...]
    flags: int = 0


def encode(packet: WaveformPacket) -> bytes:
    """Return the bytes of `packet`.

    Raises
    ------
    PacketError
        If a field is outside what version 1 allows.
    """
    if packet.samples.ndim != 2:
        raise PacketError("samples must have the shape (leads, samples)")
    leads, count = packet.samples.shape
    if not 1 <= leads <= MAX_LEADS:
        raise PacketError(f"{leads} leads; allowed are 1 to {MAX_LEADS}")
    if len(packet.leads) != leads or len(packet.lead_off) != leads:
        raise PacketError("leads, lead_off and samples disagree about the number of leads")
    if not 1 <= count <= MAX_SAMPLES:
        raise PacketError(f"{count} samples per lead; allowed are 1 to {MAX_SAMPLES}")
    names = b""
    for name in packet.leads:
        raw = name.encode("ascii", "replace")
        if not name.isascii() or not 1 <= len(raw) <= 8 or not all(33 <= byte < 127 for byte in raw):
            raise PacketError(f"lead name {name!r} must have 1 to 8 printable ASCII characters, without spaces")
        names += raw.ljust(8, b"\0")
    _check_ranges(packet.rate_hz, packet.gain_uv, packet.first_sample)
    if not (0 <= packet.flags <= 0xFF and -(2**63) <= packet.start_ns < 2**63):
        raise PacketError("flags must fit in 8 bits and the start time in 64")
    mask = sum(1 << i for i, off in enumerate(packet.lead_off) if off)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        packet.flags,
        leads,
        mask & 0xFF,
        mask >> 8,
        0,
        count,
        packet.sequence & 0xFFFFFFFF,
        packet.first_sample,
        packet.start_ns,
        packet.rate_hz,
        packet.gain_uv,
    )
    body = header + names + packet.samples.astype("<i2", copy=False).tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def decode(data: bytes) -> WaveformPacket:
    """Decode one packet.

    Raises
    ------
    PacketError
        If `data` is truncated, oversized, corrupt, of another version, or outside the allowed ranges.
    """
    size = len(data)
    if size < _HEADER.size + 8 + 2 + 4:
        raise PacketError(f"{size} bytes is too short for a waveform packet")
    if size > MAX_BYTES:
        raise PacketError(f"{size} bytes; the largest waveform packet has {MAX_BYTES}")
    magic, version, flags, leads, mask_low, mask_high, _, count, sequence, first, start, rate, gain = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise PacketError("does not start with the waveform magic 'EWW1'")
    if version != VERSION:
        raise PacketError(f"version {version}; this site understands version {VERSION}")
    if not 1 <= leads <= MAX_LEADS:
        raise PacketError(f"{leads} leads; allowed are 1 to {MAX_LEADS}")
    if not 1 <= count <= MAX_SAMPLES:
        raise PacketError(f"{count} samples per lead; allowed are 1 to {MAX_SAMPLES}")
    expected = _HEADER.size + 8 * leads + 2 * leads * count + 4
    if size != expected:
        raise PacketError(f"{size} bytes, but {leads} leads of {count} samples make {expected}")
    if zlib.crc32(memoryview(data)[:-4]) != int.from_bytes(data[-4:], "little"):
        raise PacketError("the checksum does not match: the packet was damaged on its way")
    _check_ranges(rate, gain, first)
    offset = _HEADER.size
    names: list[str] = []
    for _ in range(leads):
        raw = data[offset : offset + 8].rstrip(b"\0")
        if not raw or not all(33 <= byte < 127 for byte in raw):
            raise PacketError("a lead name is empty or not printable ASCII")
        names.append(raw.decode("ascii"))
        offset += 8
    samples = np.frombuffer(data, dtype="<i2", count=leads * count, offset=offset).reshape(leads, count)
    mask = mask_low | mask_high << 8
    return WaveformPacket(
        samples=samples,
        sequence=sequence,
        first_sample=first,
        start_ns=start,
        rate_hz=rate,
        gain_uv=gain,
        leads=tuple(names),
        lead_off=tuple(bool(mask >> i & 1) for i in range(leads)),
        flags=flags,
    )


def _check_ranges(rate_hz: float, gain_uv: float, first_sample: int) -> None:
    if not (math.isfinite(rate_hz) and 20.0 <= rate_hz <= 2000.0):
        raise PacketError(f"sampling rate {rate_hz} Hz; allowed are 20 to 2000")
    if not (math.isfinite(gain_uv) and 0.0 < gain_uv <= 10_000.0):
        raise PacketError(f"gain {gain_uv} microvolts per unit; allowed are more than 0 up to 10000")
    if not 0 <= first_sample <= 2**62:
        raise PacketError(f"sample index {first_sample} is not plausible")
