"""The waveform packet: what a wearable or monitor publishes, one packet about once a second.

Responsible for the bytes (documented for device makers in ``docs/protocols/waveform.md``). Not responsible for
transport or meaning. Used by the device SDK (encoding) and by ``clinic`` (decoding), hence beside the messages.

Version 1 carries ECG leads of one rate. Version 2 carries channels of any kind, each with its own rate. `read` takes
both and gives the ECG apart from the rest. All integers little-endian. Version 1::

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

Version 2::

    0      4    magic "EWW1"
    4      1    version, 2
    5      1    flags, as in version 1
    6      1    number of channels, 1..24
    7      1    reserved, 0
    8      4    sequence number
    12     4    reserved, 0
    16     8    start time of the first channel's first sample, as in version 1
    24     40*C one description per channel, ECG channels first:
                0  8  name, as a lead name     8  1  kind (`Kind`)             9  3  reserved, 0
                12 4  rate, float32, Hz        16 4  gain, float32, > 0        20 4  offset, float32
                24 8  index of its first sample since the stream began, at its own rate
                32 2  number of samples        34 1  state (`STATE_OFF` ...)   35 5  reserved, 0
    ...    2*N  samples, int16, channel after channel; value = sample * gain + offset in the unit of the kind
    end    4    CRC-32
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

MAGIC = b"EWW1"
VERSION = 1
VERSION_CHANNELS = 2
MAX_LEADS = 12
MAX_SAMPLES = 4096
MAX_BYTES = 40 + 8 * MAX_LEADS + 2 * MAX_LEADS * MAX_SAMPLES + 4
FLAG_CLOCK_UNSYNCHRONISED = 1
FLAG_LAST = 2

MAX_CHANNELS = 24
MAX_BYTES_CHANNELS = 24 + 40 * MAX_CHANNELS + 2 * MAX_CHANNELS * MAX_SAMPLES + 4
MISSING = -32768
"""Version 2: this sample has no value. (An ECG that stands at this end of its range counts as saturated.)"""
STATE_OFF = 1
"""The sensor is off, disconnected or not applied."""
STATE_CALIBRATING = 2
"""A pressure is being zeroed or calibrated; the samples are no measurement."""
STATE_POOR = 4
"""The device itself does not trust the signal."""

_HEADER = struct.Struct("<4sBBBBBBHIQqff")
_HEADER_2 = struct.Struct("<4sBBBBIIq")
_FIXED = struct.Struct("<8sB3sfff")
_MOVING = struct.Struct("<QHB5s")
_DESCRIPTION = _FIXED.size + _MOVING.size
_NO_RESERVE_3, _NO_RESERVE_5 = bytes(3), bytes(5)
_KNOWN_MOST = 4096


class Kind(IntEnum):
    """What a channel measures; the kind decides the unit of its values (`UNITS`)."""

    ECG = 1
    PLETH = 2  # one photoplethysmogram, as the oximeter shows it
    PLETH_RED = 3
    PLETH_INFRARED = 4
    RESPIRATION = 5  # impedance pneumogram
    ABP = 6  # arterial blood pressure, invasive
    CVP = 7
    PAP = 8
    ICP = 9
    CO2 = 10


UNITS: dict[Kind, str] = {
    Kind.ECG: "uV",
    Kind.PLETH: "1",
    Kind.PLETH_RED: "1",
    Kind.PLETH_INFRARED: "1",
    Kind.RESPIRATION: "Ohm",
    Kind.ABP: "mm[Hg]",
    Kind.CVP: "mm[Hg]",
    Kind.PAP: "mm[Hg]",
    Kind.ICP: "mm[Hg]",
    Kind.CO2: "mm[Hg]",
}
"""UCUM unit of a channel's values."""


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


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change about a channel within a stream.

    Attributes
    ----------
    name
        1 to 8 printable ASCII characters, different for each channel of a device.
    kind
        What it measures.
    rate_hz
        Its own sampling rate, 1 to 2000 (ECG 20 to 2000).
    gain, offset
        Value = sample x `gain` + `offset`, in ``UNITS[kind]``. An ECG has no offset.
    """

    name: str
    kind: Kind
    rate_hz: float
    gain: float
    offset: float = 0.0

    @property
    def unit(self) -> str:
        """UCUM unit of the values."""
        return UNITS[self.kind]


class Block(msgspec.Struct, frozen=True, eq=False):
    """The samples of one channel in one packet.

    Attributes
    ----------
    channel
        Which channel.
    first_sample
        Index of the first sample since the stream began, at the channel's rate. Index 0 of all channels is one moment.
    samples
        int16, shape (samples,); `MISSING` where there is no value.
    state
        Bits `STATE_OFF`, `STATE_CALIBRATING`, `STATE_POOR`.
    """

    channel: Channel
    first_sample: int
    samples: NDArray[np.int16]
    state: int = 0


class SignalPacket(msgspec.Struct, frozen=True, eq=False):
    """One packet of either version, split into what the ECG monitor reads and the rest.

    Attributes
    ----------
    sequence, start_ns, flags
        As in `WaveformPacket`.
    ecg
        The ECG leads; None if the packet has none.
    others
        The other channels, in the order of the packet.
    """

    sequence: int
    start_ns: int
    flags: int
    ecg: WaveformPacket | None
    others: tuple[Block, ...] = ()


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


# ---------------------------------------- version 2


def encode_channels(blocks: tuple[Block, ...], *, sequence: int, start_ns: int, flags: int = 0) -> bytes:
    """Return the bytes of a version 2 packet.

    Parameters
    ----------
    blocks
        ECG channels first; these have one rate, gain, first sample and number of samples.

    Raises
    ------
    PacketError
        If a field is outside what version 2 allows.
    """
    if not 1 <= len(blocks) <= MAX_CHANNELS:
        raise PacketError(f"{len(blocks)} channels; allowed are 1 to {MAX_CHANNELS}")
    if not (0 <= flags <= 0xFF and -(2**63) <= start_ns < 2**63):
        raise PacketError("flags must fit in 8 bits and the start time in 64")
    parts = [_HEADER_2.pack(MAGIC, VERSION_CHANNELS, flags, len(blocks), 0, sequence & 0xFFFFFFFF, 0, start_ns)]
    for block in blocks:
        channel, samples = block.channel, block.samples
        if samples.ndim != 1 or samples.dtype != np.int16:
            raise PacketError("samples of a channel must be one row of int16")
        if not (channel.name.isascii() and len(channel.name) <= 8):
            raise PacketError(f"channel name {channel.name!r} must have 1 to 8 printable ASCII characters")
        try:
            parts.append(
                _FIXED.pack(
                    channel.name.encode(), channel.kind, _NO_RESERVE_3, channel.rate_hz, channel.gain, channel.offset
                )
                + _MOVING.pack(block.first_sample, samples.size, block.state, _NO_RESERVE_5)
            )
        except (struct.error, OverflowError) as error:
            raise PacketError(f"channel {channel.name!r} has a value that does not fit: {error}") from error
        _known(parts[-1][: _FIXED.size])
    parts += [block.samples.astype("<i2", copy=False).tobytes() for block in blocks]
    body = b"".join(parts)
    data = body + zlib.crc32(body).to_bytes(4, "little")
    read(data)  # one place holds the rules
    return data


def read(data: bytes) -> SignalPacket:
    """Decode a packet of version 1 or 2, the ECG apart from the other channels.

    Raises
    ------
    PacketError
        If `data` is truncated, oversized, corrupt, of another version, or outside the allowed ranges.
    """
    if len(data) < 5 or data[4] != VERSION_CHANNELS:
        packet = decode(data)
        return SignalPacket(packet.sequence, packet.start_ns, packet.flags, packet)
    size = len(data)
    if size < _HEADER_2.size + _DESCRIPTION + 2 + 4:
        raise PacketError(f"{size} bytes is too short for a waveform packet")
    if size > MAX_BYTES_CHANNELS:
        raise PacketError(f"{size} bytes; the largest waveform packet of version 2 has {MAX_BYTES_CHANNELS}")
    magic, _, flags, count, reserved, sequence, reserved_2, start_ns = _HEADER_2.unpack_from(data)
    if magic != MAGIC:
        raise PacketError("does not start with the waveform magic 'EWW1'")
    if not 1 <= count <= MAX_CHANNELS:
        raise PacketError(f"{count} channels; allowed are 1 to {MAX_CHANNELS}")
    at = _HEADER_2.size + _DESCRIPTION * count
    if size < at + 2 * count + 4:
        raise PacketError(f"{size} bytes is too short for {count} channels")
    if zlib.crc32(memoryview(data)[:-4]) != int.from_bytes(data[-4:], "little"):
        raise PacketError("the checksum does not match: the packet was damaged on its way")
    if reserved or reserved_2:
        raise PacketError("a reserved field of the header is not 0")
    samples = np.frombuffer(data, dtype="<i2", count=(size - at - 4) // 2, offset=at)
    blocks: list[Block] = []
    taken = 0
    for place in range(_HEADER_2.size, at, _DESCRIPTION):
        middle = place + _FIXED.size
        channel = _CHANNELS.get(data[place:middle]) or _known(data[place:middle])
        first, length, state, rest = _MOVING.unpack_from(data, middle)
        if not 1 <= length <= MAX_SAMPLES:
            raise PacketError(f"{length} samples in a channel; allowed are 1 to {MAX_SAMPLES}")
        if first > 2**62:
            raise PacketError(f"sample index {first} is not plausible")
        if state > 7 or rest != _NO_RESERVE_5:
            raise PacketError("a reserved bit of a channel's state is not 0")
        blocks.append(Block(channel, first, samples[taken : taken + length], state))
        taken += length
    if size != at + 2 * taken + 4:
        raise PacketError(f"{size} bytes, but {count} channels of {taken} samples make {at + 2 * taken + 4}")
    if count > 1 and len({block.channel.name for block in blocks}) != count:
        raise PacketError("two channels have the same name")
    leads = 0
    while leads < count and blocks[leads].channel.kind == Kind.ECG:
        leads += 1
    if any(block.channel.kind == Kind.ECG for block in blocks[leads:]):
        raise PacketError("the ECG channels must come first")
    ecg = _ecg(blocks[:leads], samples, sequence, start_ns, flags) if leads else None
    return SignalPacket(sequence, start_ns, flags, ecg, tuple(blocks[leads:]))


def _ecg(blocks: list[Block], samples: NDArray[np.int16], sequence: int, start_ns: int, flags: int) -> WaveformPacket:
    """Return ECG blocks as a packet of version 1 would hold them."""
    first = blocks[0]
    length = first.samples.size
    if len(blocks) > MAX_LEADS:
        raise PacketError(f"{len(blocks)} ECG channels; allowed are {MAX_LEADS}")
    for block in blocks[1:]:
        if (
            block.first_sample != first.first_sample
            or block.samples.size != length
            or block.channel.rate_hz != first.channel.rate_hz
            or block.channel.gain != first.channel.gain
        ):
            raise PacketError("ECG channels must have the same rate, gain, first sample and number of samples")
    return WaveformPacket(
        samples=samples[: len(blocks) * length].reshape(len(blocks), length),
        sequence=sequence,
        first_sample=first.first_sample,
        start_ns=start_ns,
        rate_hz=first.channel.rate_hz,
        gain_uv=first.channel.gain,
        leads=tuple(block.channel.name for block in blocks),
        lead_off=tuple(bool(block.state & STATE_OFF) for block in blocks),
        flags=flags,
    )


_CHANNELS: dict[bytes, Channel] = {}
"""Descriptions met before: they repeat in every packet of a device."""


def _known(raw: bytes) -> Channel:
    """Return the channel described by `raw`, checked; keep it for the next packet."""
    name_raw, code, rest, rate, gain, offset = _FIXED.unpack(raw)
    name_raw = name_raw.rstrip(b"\0")
    if not name_raw or not all(33 <= byte < 127 for byte in name_raw):
        raise PacketError("a channel name is empty or not printable ASCII")
    if code not in Kind._value2member_map_ or rest != _NO_RESERVE_3:
        raise PacketError(f"kind {code} is not one that version 2 knows, or a reserved field is not 0")
    kind = Kind(code)
    if kind == Kind.ECG:
        _check_ranges(rate, gain, 0)
        if offset != 0.0:
            raise PacketError("an ECG channel has no offset")
    if not (math.isfinite(rate) and 1.0 <= rate <= 2000.0):
        raise PacketError(f"sampling rate {rate} Hz; allowed are 1 to 2000")
    if not (math.isfinite(gain) and 0.0 < gain <= 10_000.0):
        raise PacketError(f"gain {gain} per unit; allowed are more than 0 up to 10000")
    if not (math.isfinite(offset) and abs(offset) <= 1e9):
        raise PacketError(f"offset {offset}; allowed are -1e9 to 1e9")
    channel = Channel(name=name_raw.decode("ascii"), kind=kind, rate_hz=rate, gain=gain, offset=offset)
    if len(_CHANNELS) >= _KNOWN_MOST:  # a hostile device must not fill the memory with names
        _CHANNELS.clear()
    _CHANNELS[raw] = channel
    return channel
