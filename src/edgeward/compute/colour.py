"""Colour samples of any photometric interpretation to RGB of 8 bits (PS3.3 C.7.6.3.1.2, C.7.6.3.1.5, C.7.9.2).

Responsible for palettes, plain and segmented, for YBR and for reducing depth. Not responsible for grey scale
(``greyscale.py``) or for reading samples (``image.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from edgeward.compute.codestream import DecodeError

_NAMES = ("Red", "Green", "Blue")
_MAX_ENTRIES = 65_536


def to_rgb(values: NDArray[Any], photometric: str, bits: int) -> NDArray[np.uint8]:
    """Return samples (rows, columns, 3) as RGB of 8 bits.

    Parameters
    ----------
    values : unsigned samples
    photometric : "YBR_FULL", "YBR_PARTIAL", or anything else for RGB
    bits : bits per sample that are in use
    """
    samples = _eight_bits(values, bits)
    if photometric == "YBR_FULL":
        return _full(samples)
    if photometric == "YBR_PARTIAL":
        return _partial(samples)
    return np.ascontiguousarray(samples)


def apply_palette(values: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    """Return indices (rows, columns) as RGB of 8 bits.

    Raises
    ------
    DecodeError
        If the palette is missing, or shorter than it says.
    """
    first = None
    tables = []
    for name in _NAMES:
        descriptor = dataset.get(f"{name}PaletteColorLookupTableDescriptor")
        if descriptor is None or len(descriptor) != 3:
            raise DecodeError("the object has no complete colour palette")
        entries, start, bits = (int(v) for v in descriptor)
        entries = entries & 0xFFFF or _MAX_ENTRIES  # 0 stands for 65536
        table = _table(dataset, name, entries, bits)
        first = start if first is None else first
        tables.append(table)
    if len({len(table) for table in tables}) != 1:
        raise DecodeError("the tables of the colour palette differ in length")
    start = first or 0
    if values.dtype.kind == "u" and start < 0:
        start &= 0xFFFF
    palette = np.stack(tables, axis=1)
    # Palettes of 16 bits are the rule; entries that only use the low byte are a common mistake.
    tones = np.asarray(palette >> 8 if int(palette.max(initial=0)) > 255 else palette, np.uint8)
    index = np.clip(values.astype(np.int64) - start, 0, len(palette) - 1)
    return np.asarray(tones[index])


def _table(dataset: Dataset, name: str, entries: int, bits: int) -> NDArray[np.uint16]:
    if bits not in (8, 16):
        raise DecodeError(f"a palette of {bits} bits per entry is not defined")
    little = dataset.original_encoding[1] is not False
    plain = dataset.get(f"{name}PaletteColorLookupTableData")
    if plain is not None:
        data = _bytes(plain)
        if bits == 8 and len(data) < 2 * entries:  # packed two in a word; in big endian they change places
            if not little:
                data = np.frombuffer(data[: len(data) & ~1], np.uint16).byteswap().tobytes()
            table: NDArray[Any] = np.frombuffer(data, np.uint8)
        else:
            table = np.frombuffer(data[: len(data) & ~1], "<u2" if little else ">u2")
        if len(table) < entries:
            raise DecodeError(f"truncated: {len(table)} of {entries} entries of a palette")
        return table[:entries].astype(np.uint16)
    segmented = dataset.get(f"Segmented{name}PaletteColorLookupTableData")
    if segmented is None:
        raise DecodeError("the object has no complete colour palette")
    data = _bytes(segmented)
    if bits == 8:
        words = np.frombuffer(data, np.uint8)
        if not little:
            words = np.frombuffer(data[: len(data) & ~1], np.uint16).byteswap().view(np.uint8)
    else:
        words = np.frombuffer(data[: len(data) & ~1], "<u2" if little else ">u2")
    return _expand(words.tolist(), entries, bits)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise DecodeError("the colour palette is not readable")
    return value


def _expand(words: list[int], entries: int, bits: int) -> NDArray[np.uint16]:
    """Expand a segmented table (PS3.3 C.7.9.2); stops when `entries` are there, whatever else the data promise."""
    out: list[int] = []

    def run(position: int, stop: int | None) -> int:
        """Expand from `position`; at most `stop` segments. Return where it ended."""
        done = 0
        while position + 1 < len(words) and len(out) < entries and (stop is None or done < stop):
            code, length = words[position], words[position + 1]
            position += 2
            if code == 0:  # discrete
                out.extend(words[position : position + length])
                position += length
            elif code == 1 and position < len(words) and out:  # linear
                last, end = out[-1], words[position]
                out.extend(np.rint(np.linspace(last, end, length + 1)[1:]).astype(int).tolist())
                position += 1
            elif code == 2 and stop is None and position < len(words):  # indirect: `length` segments at an offset
                width = 4 if bits == 8 else 2
                low = words[position : position + width]
                target = sum(part << (8 if bits == 8 else 16) * i for i, part in enumerate(low))
                position += width
                run(target if bits == 8 else target // 2, length)
            else:
                raise DecodeError("the segmented colour palette is damaged")
            done += 1
        return position

    run(0, None)
    if len(out) < entries:
        raise DecodeError(f"truncated: {len(out)} of {entries} entries of a segmented palette")
    return np.asarray(out[:entries], np.uint16)


def _eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    if values.dtype == np.uint8 and bits == 8:
        return values
    if bits > 8:
        return (values >> (bits - 8)).astype(np.uint8)
    return np.asarray(values.astype(np.uint32) * 255 // ((1 << bits) - 1), np.uint8)


_CHROMA = np.arange(256) - 128
_RED, _BLUE = (np.rint(k * _CHROMA).astype(np.int16) for k in (1.402, 1.772))
_GREEN_CB, _GREEN_CR = (np.rint(-k * 65536 * _CHROMA).astype(np.int32) for k in (0.344136, 0.714136))


def _full(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """YBR_FULL to RGB, to the nearest integer."""
    y = samples[..., 0].astype(np.int16)
    cb, cr = samples[..., 1], samples[..., 2]
    rgb = np.empty(samples.shape, np.int16)
    np.add(y, _RED[cr], out=rgb[..., 0])
    np.add(y, (_GREEN_CB[cb] + _GREEN_CR[cr] + 32768) >> 16, out=rgb[..., 1], casting="unsafe")
    np.add(y, _BLUE[cb], out=rgb[..., 2])
    return np.asarray(rgb.clip(0, 255), np.uint8)


def _partial(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """YBR_PARTIAL (ITU-R BT.601 studio range) to RGB."""
    y, cb, cr = np.moveaxis(samples.astype(np.float32), 2, 0)
    y, cb, cr = (y - 16) * (255 / 219), (cb - 128) * (255 / 224), (cr - 128) * (255 / 224)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    return np.asarray(np.clip(rgb + 0.5, 0, 255), np.uint8)
