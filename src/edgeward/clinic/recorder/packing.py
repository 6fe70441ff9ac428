"""Waveform packets in a block: from about 550 bytes each to about 200, and back to the very same bytes.

Responsible for the content of a block of waveforms. Packets of the same layout lie together: their headers column by
column, the samples as differences from the one before, low bytes and high bytes apart, all under Zstandard. The CRC of
each packet is left out and reckoned anew. Not responsible for encryption or files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import imagecodecs
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeward import waveform
from edgeward.messages import decoder

BLOCK_BYTES = 64 << 10  # packets of about so many bytes share a block
_LEVEL = 1
_VERSIONS = (waveform.VERSION, waveform.VERSION_CHANNELS)
_LARGEST = max(waveform.MAX_BYTES, waveform.MAX_BYTES_CHANNELS)

Arrival = tuple[str, int, bytes]
"""Source, time of arrival (ns since the epoch), packet."""


class PackingError(ValueError):
    """A block is not what `pack` wrote."""


class _Group(msgspec.Struct, array_like=True):
    """Packets of one size and one length of header."""

    size: int  # of a packet
    header: int
    sources: list[int]  # index of each packet's source
    received: bytes  # int64 each, differences
    order: bytes  # uint32 each: place among all packets of the block


class _Block(msgspec.Struct, array_like=True):
    names: list[str]
    groups: list[_Group]


_block = decoder(_Block)


def blocks(arrivals: Sequence[Arrival]) -> list[tuple[str, bytes]]:
    """Sort `arrivals` by source and pack them; return the first source of each block, and the block.

    A source is never in two blocks.
    """
    ordered = sorted(arrivals, key=lambda arrival: arrival[0])  # stable: per source as they came
    result: list[tuple[str, bytes]] = []
    part: list[Arrival] = []
    size = 0
    for arrival in ordered:
        if size >= BLOCK_BYTES and arrival[0] != part[-1][0]:
            result.append((part[0][0], pack(part)))
            part, size = [], 0
        part.append(arrival)
        size += len(arrival[2])
    if part:
        result.append((part[0][0], pack(part)))
    return result


def samples_offset(packet: bytes) -> int:
    """Return where the samples of a waveform packet begin; 0 if it is not an intact one.

    Only what packing needs is looked at: ``waveform.read`` holds the rules, and is applied when a strip is read.
    """
    if not packet.startswith(waveform.MAGIC) or not 16 <= len(packet) <= _LARGEST:
        return 0
    version, count = packet[4], packet[6]
    offset = 40 + 8 * count if version == waveform.VERSION else 24 + 40 * count
    rest = len(packet) - offset - 4
    if version not in _VERSIONS or rest <= 0 or rest % 2:
        return 0
    return offset if zlib.crc32(memoryview(packet)[:-4]) == int.from_bytes(packet[-4:], "little") else 0


def pack(arrivals: Sequence[Arrival]) -> bytes:
    """Pack intact packets (`samples_offset` is not 0)."""
    names: dict[str, int] = {}
    layouts: dict[tuple[int, int], list[int]] = {}
    for place, (source, _, packet) in enumerate(arrivals):
        names.setdefault(source, len(names))
        layouts.setdefault((len(packet), samples_offset(packet)), []).append(place)
    groups: list[_Group] = []
    body: list[bytes] = []
    for (size, header), places in layouts.items():
        received = np.array([arrivals[place][1] for place in places], dtype="<i8")
        groups.append(
            _Group(
                size,
                header,
                [names[arrivals[place][0]] for place in places],
                np.diff(received, prepend=0).tobytes(),
                np.array(places, dtype="<u4").tobytes(),
            )
        )
        packets = np.frombuffer(b"".join(arrivals[place][2] for place in places), dtype=np.uint8)
        body.append(_packed(packets.reshape(len(places), size), header))
    head = msgspec.msgpack.encode(_Block(list(names), groups))
    return bytes(imagecodecs.zstd_encode(struct.pack("<I", len(head)) + head + b"".join(body), level=_LEVEL))


def unpack(block: bytes, source: str | None = None) -> list[Arrival]:
    """Return the packets of a block as they arrived, of one source or of all.

    Raises
    ------
    PackingError
        If `block` is not one.
    """
    try:
        data = bytes(imagecodecs.zstd_decode(block))
        (size,) = struct.unpack_from("<I", data)
        head = _block.decode(data[4 : 4 + size])
        found: list[tuple[int, Arrival]] = []
        offset = 4 + size
        for group in head.groups:
            count = len(group.sources)
            received = np.cumsum(np.frombuffer(group.received, dtype="<i8"))
            order = np.frombuffer(group.order, dtype="<u4")
            wanted = [i for i, name in enumerate(group.sources) if source is None or head.names[name] == source]
            length = count * (group.size - 4)
            if wanted:
                matrix = _unpacked(data[offset : offset + length], count, group, wanted)
                for row, i in enumerate(wanted):
                    packet = matrix[row].tobytes()
                    packet += struct.pack("<I", zlib.crc32(packet))
                    found.append((int(order[i]), (head.names[group.sources[i]], int(received[i]), packet)))
            offset += length
    except (imagecodecs.ZstdError, msgspec.MsgspecError, struct.error, ValueError, IndexError) as error:
        raise PackingError(f"a block of waveforms cannot be read: {error}") from error
    return [arrival for _, arrival in sorted(found, key=lambda entry: entry[0])]


def _packed(packets: NDArray[np.uint8], header: int) -> bytes:
    samples = np.ascontiguousarray(packets[:, header:-4]).view("<i2")
    change = samples.copy()
    change[:, 1:] -= samples[:, :-1]  # modulo 2^16, as the way back
    folded = ((change << 1) ^ (change >> 15)).view(np.uint8).reshape(-1, 2)
    return np.ascontiguousarray(packets[:, :header].T).tobytes() + np.ascontiguousarray(folded.T).tobytes()


def _unpacked(data: bytes, count: int, group: _Group, wanted: list[int]) -> NDArray[np.uint8]:
    """Return the wanted packets, without their CRC."""
    split = count * group.header
    heads = np.frombuffer(data[:split], dtype=np.uint8).reshape(group.header, count).T[wanted]
    planes = np.frombuffer(data[split:], dtype=np.uint8).reshape(2, count, -1)[:, wanted]
    folded = planes[0].astype(np.uint16) | (planes[1].astype(np.uint16) << 8)
    change = (folded >> 1) ^ (np.uint16(0) - (folded & 1))
    samples = np.cumsum(change, axis=1, dtype=np.uint16)
    return np.concatenate([heads, samples.astype("<u2").view(np.uint8)], axis=1)
