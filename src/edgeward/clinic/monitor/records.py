"""Reads WFDB recordings as a device would send them.

Responsible for turning files of any WFDB format, rate, gain and number of leads into int16 packets, and for saying
clearly what is wrong with a record that cannot be read. Needs the ``evaluate`` extra (wfdb). Not responsible for scores
(``evaluate``) or alarms (``replay``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.state import MAX_LEADS, MAX_RATE_HZ, MIN_RATE_HZ

#: Recordings are sent in microvolts: int16 then covers +-32.7 mV, more than any ECG amplifier.
GAIN_UV = 1.0
_TO_MICROVOLT = {"mv": 1e3, "uv": 1.0, "µv": 1.0, "v": 1e6, "millivolt": 1e3, "microvolt": 1.0, "volt": 1e6}
#: Bytes per sample of the formats that a truncated file is measured by (WFDB signal(5)).
_BYTES = {"8": 1.0, "80": 1.0, "16": 2.0, "61": 2.0, "160": 2.0, "212": 1.5, "310": 4 / 3, "311": 4 / 3, "24": 3.0,
          "32": 4.0}  # fmt: skip


class RecordError(ValueError):
    """A recording cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording.

    Attributes
    ----------
    name : str
    rate_hz : float
    leads : tuple of str
    samples : ndarray, shape (leads, n), int16
        In units of `GAIN_UV`.
    valid : ndarray, shape (leads, n), bool
        False where the file has no value.
    truncated : bool
        The signal file is shorter than its header says.
    """

    name: str
    rate_hz: float
    leads: tuple[str, ...]
    samples: NDArray[np.int16]
    valid: NDArray[np.bool_]
    truncated: bool

    def packets(self, seconds: float = 1.0) -> Iterator[tuple[int, NDArray[np.int16], tuple[bool, ...]]]:
        """Yield ``first_sample, samples, lead_off``; a packet ends early where a lead loses or regains its values."""
        total = self.samples.shape[1]
        size = max(1, round(seconds * self.rate_hz))
        changes = np.flatnonzero((self.valid[:, 1:] != self.valid[:, :-1]).any(axis=0)) + 1
        edges = np.unique(np.concatenate((np.arange(0, total, size), changes, [total])))
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            yield start, np.ascontiguousarray(self.samples[:, start:stop]), tuple((~self.valid[:, start]).tolist())


def stem(path: str | Path) -> Path:
    """Return the record's path without ``.hea``, ``.dat`` or ``.atr``."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in {".hea", ".dat", ".atr"} else path


def _wfdb() -> Any:
    try:
        import wfdb
    except ImportError as error:
        raise RecordError("reading WFDB records needs the extra: pip install 'edgeward[evaluate]'") from error
    return wfdb


def _length_on_disk(header: Any, folder: Path) -> int:
    """Return how many samples per lead the signal files really hold."""
    least = int(header.sig_len or 0) or 2**62
    for name in dict.fromkeys(header.file_name):
        here = [i for i, f in enumerate(header.file_name) if f == name]
        per_frame = sum((header.samps_per_frame or [1] * header.n_sig)[i] for i in here)
        width = _BYTES.get(str(header.fmt[here[0]]))
        if width is None:
            continue
        offset = (header.byte_offset or [0] * header.n_sig)[here[0]] or 0
        size = (folder / name).stat().st_size - offset
        least = min(least, int(size / width / per_frame))
    return least


def read_recording(path: str | Path) -> Recording:
    """Read one WFDB record (path with or without extension).

    Raises
    ------
    RecordError
        If a file is missing or malformed, there is no ECG in it, or the rate is outside 100 to 2000 Hz.
    """
    wfdb = _wfdb()
    base = stem(path)
    if not base.with_name(base.name + ".hea").is_file():
        raise RecordError(f"{base.name}: there is no header file {base}.hea")
    truncated = False
    try:
        header = wfdb.rdheader(str(base))
        if getattr(header, "n_seg", None):
            record = wfdb.rdrecord(str(base), m2s=True)
        else:
            for name in dict.fromkeys(header.file_name or []):
                if not (base.parent / name).is_file():
                    raise RecordError(f"{base.name}: the signal file {name} is missing")
            length = _length_on_disk(header, base.parent)
            truncated = bool(header.sig_len) and length < header.sig_len
            if truncated and length <= 0:
                raise RecordError(f"{base.name}: the signal file is empty")
            record = wfdb.rdrecord(str(base), sampto=length) if truncated else wfdb.rdrecord(str(base))
    except RecordError:
        raise
    except Exception as error:  # wfdb raises whatever its parsing met: IndexError, ValueError, TypeError ...
        raise RecordError(f"{base.name}: cannot be read as a WFDB record ({type(error).__name__}: {error})") from error
    rate = float(record.fs or 0.0)
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        allowed = f"{MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz"
        raise RecordError(f"{base.name}: sampling rate {rate:g} Hz; {allowed} can be analysed")
    factors = [_TO_MICROVOLT.get(str(unit).strip().lower()) for unit in record.units or []]
    chosen = [i for i, factor in enumerate(factors) if factor is not None][:MAX_LEADS]
    if not chosen or record.p_signal is None or len(record.p_signal) == 0:
        raise RecordError(f"{base.name}: there is no signal in volts (units: {record.units})")
    physical = record.p_signal[:, chosen].T * np.array([[factors[i]] for i in chosen], dtype=np.float64)
    valid = np.isfinite(physical)
    physical = np.where(valid, physical, 0.0)
    for lead, good in enumerate(valid):  # a large constant offset would not fit into int16
        middle = float(np.median(physical[lead, good])) if good.any() else 0.0
        if abs(middle) > 10_000.0:
            physical[lead] -= middle
    samples = np.clip(np.rint(physical / GAIN_UV), -32768, 32767).astype(np.int16)
    names = tuple(str(record.sig_name[i] or f"lead{i + 1}") for i in chosen)
    return Recording(base.name, rate, names, samples, valid, truncated)


def read_annotations(path: str | Path) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """Return sample indices, symbols and auxiliary notes of a record's ``.atr`` file.

    Raises
    ------
    RecordError
        If the file is missing or malformed.
    """
    base = stem(path)
    if not base.with_name(base.name + ".atr").is_file():
        raise RecordError(f"{base.name}: there is no annotation file {base.name}.atr")
    try:
        notes = _wfdb().rdann(str(base), "atr")
    except Exception as error:
        raise RecordError(f"{base.name}: the annotations cannot be read ({type(error).__name__}: {error})") from error
    aux = [str(a).strip("\x00") for a in notes.aux_note] if notes.aux_note else [""] * len(notes.sample)
    return np.asarray(notes.sample, dtype=np.int64), list(notes.symbol), aux
