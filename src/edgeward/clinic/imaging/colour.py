"""The colour space of our overlays: an sRGB profile for presentation states of colour images.

Responsible for an ICC profile of the class that DICOM wants (PS3.3 C.11.15: input device, ``scnr``), made here from
the numbers of IEC 61966-2-1, so that it carries nobody's rights and 500 bytes instead of 60,000.
"""

from __future__ import annotations

import struct
from functools import lru_cache

# sRGB primaries and white, adapted to the D50 of the profile connection space (Bradford; IEC 61966-2-1, ICC.1:2022).
_WHITE_D50 = (0.9642, 1.0, 0.8249)
_PRIMARIES = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.71410),
}
_ADAPTATION = (1.04788, 0.02292, -0.05022, 0.02959, 0.99048, -0.01708, -0.00925, 0.01508, 0.75168)  # D65 to D50
_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # parametric curve type 3
_MADE = (2026, 1, 1, 0, 0, 0)


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """Return the profile (ICC.1 version 4.3, matrix and tone curve), of even length."""
    curve = b"para" + struct.pack(">4xHxx5i", 3, *map(_fixed, _CURVE))
    tags = {
        b"desc": _text("sRGB"),
        b"cprt": _text("CC0"),
        b"wtpt": _xyz(_WHITE_D50),
        b"chad": b"sf32" + struct.pack(">4x9i", *map(_fixed, _ADAPTATION)),
        **{name: _xyz(value) for name, value in _PRIMARIES.items()},
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = [struct.pack(">I", len(tags))], b""
    start, placed = 128 + 4 + 12 * len(tags), {}
    for name, value in tags.items():
        if value not in placed:  # equal values are stored once
            placed[value] = start + len(body)
            body += value + b"\0" * (-len(value) % 4)
        table.append(struct.pack(">4sII", name, placed[value], len(value)))
    rest = b"".join(table) + body
    header = struct.pack(
        ">I4sI4s4s4s6H4s4sI4s4sQI3i4s16s28x",
        128 + len(rest),
        b"\0\0\0\0",  # no preferred colour management module
        0x04300000,
        b"scnr",
        b"RGB ",
        b"XYZ ",
        *_MADE,
        b"acsp",
        b"\0\0\0\0",
        0,
        b"\0\0\0\0",
        b"\0\0\0\0",
        0,
        0,  # perceptual
        *map(_fixed, _WHITE_D50),
        b"\0\0\0\0",
        b"\0" * 16,
    )
    return header + rest


def _fixed(value: float) -> int:
    return round(value * 65536)  # s15Fixed16Number


def _xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *map(_fixed, value))


def _text(value: str) -> bytes:
    encoded = value.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded
