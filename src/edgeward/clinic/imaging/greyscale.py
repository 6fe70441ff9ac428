"""How a grey image turns its stored values into brightness, in a form that another object can repeat.

Responsible for reading the modality and VOI transformations of an image (PS3.3 C.11.1, C.11.2) and for nothing that is
done with them: a presentation state replaces those of the image by its own (PS3.4 N.2), so it must repeat them or the
picture changes. Colour images have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_MAX_ENTRIES = 1 << 16


@dataclass(frozen=True, slots=True)
class Table:
    """One look-up table: `first` is the value that the first entry stands for; `data` has 16 bits an entry."""

    entries: int
    first: int
    bits: int
    signed: bool  # of `first`
    data: bytes  # little endian
    kind: str  # Modality LUT Type; empty for a VOI LUT


@dataclass(frozen=True, slots=True)
class Grey:
    """The grey-scale transformations of an image. A table comes before the numbers that say the same."""

    rescale: tuple[float, float, str] | None = None  # slope, intercept, type
    modality: Table | None = None
    window: tuple[float, float, str] | None = None  # centre, width, function
    voi: Table | None = None


def read_grey(dataset: Dataset) -> Grey | None:
    """Return the transformations of `dataset`, or None if it has tables that are malformed.

    Malformed numbers are as good as absent: viewers ignore them as well.
    """
    try:
        modality, voi = _table(dataset, "ModalityLUTSequence"), _table(dataset, "VOILUTSequence")
    except Exception:  # pydicom raises whatever the malformed value provokes
        return None
    return Grey(rescale=_rescale(dataset), modality=modality, window=_window(dataset), voi=voi)


def _rescale(dataset: Dataset) -> tuple[float, float, str] | None:
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope is None or intercept is None or slope == 0:
        return None
    return slope, intercept, _word(dataset, "RescaleType") or "US"  # unspecified, PS3.3 C.11.1.1.2


def _window(dataset: Dataset) -> tuple[float, float, str] | None:
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    function = _word(dataset, "VOILUTFunction")
    function = function if function in _FUNCTIONS else "LINEAR"
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return centre, width, function


def _table(dataset: Dataset, keyword: str) -> Table | None:
    sequence = dataset.get(keyword)
    if not sequence:
        return None
    item = sequence[0]
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or _MAX_ENTRIES
    data = _words(item.LUTData, entries, little=_is_little(dataset))
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    if not 1 <= entries <= _MAX_ENTRIES or not 8 <= bits <= 16 or not -(2**15) <= first < 2**16:
        raise ValueError("a look-up table with an impossible descriptor")
    if signed and first >= 2**15:
        first -= 2**16
    kind = _word(item, "ModalityLUTType") or "US" if keyword == "ModalityLUTSequence" else ""
    return Table(entries, first, bits, first < 0, data, kind)


def _words(value: Any, entries: int, *, little: bool) -> bytes:
    if isinstance(value, bytes):
        data = value
        if not little and len(data) == 2 * entries:  # pydicom swaps numbers, not OW
            data = b"".join(data[k : k + 2][::-1] for k in range(0, len(data), 2))
    else:
        numbers = value if isinstance(value, MultiValue | list | tuple) else [value]
        data = b"".join((int(v) & 0xFFFF).to_bytes(2, "little") for v in numbers)
    if len(data) in (entries, entries + 1):  # 8 bits an entry, packed: seen, though PS3.3 C.11.1.1 wants 16
        data = b"".join(bytes((v, 0)) for v in data[:entries])
    if len(data) != 2 * entries:
        raise ValueError("a look-up table with too few or too many entries")
    return data


def _is_little(dataset: Dataset) -> bool:
    return dataset.original_encoding[1] is not False


def _number(dataset: Dataset, keyword: str) -> float | None:
    try:
        value: Any = dataset.get(keyword)
        if isinstance(value, MultiValue | list | tuple):
            value = value[0]
        number = float(value)
    except Exception:  # as in read_grey
        return None
    return number if math.isfinite(number) and abs(number) < 1e12 else None


def _word(dataset: Dataset, keyword: str) -> str:
    try:
        return str(dataset.get(keyword) or "").strip()[:16].upper()
    except Exception:  # as in read_grey
        return ""
