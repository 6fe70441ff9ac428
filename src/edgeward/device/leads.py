"""More ECG leads for a recording that has one: what a monitor with several electrodes would show of the same beats.

Responsible for leads that look plausible side by side and obey Einthoven's law (the limb leads follow from I and II).
They are made, not measured: a lead is the recording's fast part (QRS), the same a quarter of a turn on, and its slow
part (P, T), in the proportions usual for it. They never count in a quoted accuracy of detection on patients.
"""

from __future__ import annotations

import numpy as np

from edgeward.device.recordings import Recording, Signal

#: Shares of the fast, the turned and the slow part in each lead, after the shape of a normal ECG: V1 rS with a flat T,
#: V2 rS with an upright one, transition in V3 and V4, V5 and V6 like II.
_PARTS: dict[str, tuple[float, float, float]] = {
    "II": (1.0, 0.0, 1.0),
    "I": (0.62, 0.10, 0.70),
    "V": (-0.55, 0.45, 0.65),
    "V1": (-0.60, 0.40, -0.15),
    "V2": (-0.75, 0.65, 1.10),
    "V3": (0.15, 0.80, 1.25),
    "V4": (1.05, 0.45, 1.15),
    "V5": (1.10, 0.15, 1.00),
    "V6": (0.90, 0.05, 0.80),
}
TWO = ("II", "V")
EIGHT = ("II", "I", "V1", "V2", "V3", "V4", "V5", "V6")
"""What a 12-lead cable measures: III, aVR, aVL and aVF follow from I and II. II first: the rhythm is read from it."""
_SLOW_S = 0.11  # a moving mean this long leaves P and T, and little of a QRS
_TURN_S = 0.02


def with_leads(recording: Recording, names: tuple[str, ...]) -> Recording:
    """Return a recording of one lead with `names` instead, the first of them as it was recorded.

    Raises
    ------
    KeyError
        If a name is none of those known here.
    """
    own = recording.samples[0].astype(np.float64)
    slow = _mean(_mean(own, round(_SLOW_S * recording.rate_hz)), round(_SLOW_S * recording.rate_hz / 2))
    fast = own - slow
    # A loop in the frontal or horizontal plane seen a quarter of a turn on: steep where the other is high, and as high.
    turned = np.gradient(_mean(fast, max(1, round(_TURN_S * recording.rate_hz))))
    turned *= float(np.quantile(np.abs(fast), 0.999)) / max(float(np.quantile(np.abs(turned), 0.999)), 1e-9)
    rows = [own]
    for name in names[1:]:
        a, b, c = _PARTS[name]
        rows.append(a * fast + b * turned + c * (slow - slow.mean()))
    units = np.clip(np.rint(np.stack(rows)), -32_767, 32_767).astype(np.int16)
    return Recording(recording.name, units, recording.rate_hz, recording.gain_uv, names)


def _mean(signal: Signal, width: int) -> Signal:
    """Moving mean of a loop: it has no ends."""
    width = max(1, width)
    padded = np.concatenate((signal[-width:], signal, signal[:width]))
    total = np.cumsum(np.concatenate(([0.0], padded)))
    means = (total[width:] - total[:-width]) / width
    first = width - (width - 1) // 2
    return np.asarray(means[first : first + signal.size])
