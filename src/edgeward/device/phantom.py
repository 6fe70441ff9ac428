"""Tissue-mimicking breast-ultrasound phantoms with a lesion of known contour, for the built-in demonstration.

Responsible for synthetic B-mode images in the style of a linear probe: skin, fat, fibroglandular tissue, muscle,
fully developed speckle, time-gain compensation, and a lesion whose outline is known exactly. Not responsible for DICOM
or sending (see the ultrasound simulator). These images show that the chain works; they never count in a quoted
accuracy.

Speckle is the envelope of a complex circular Gaussian field filtered with the probe's point spread function, which
gives Rayleigh statistics (Wagner et al. 1983, IEEE Trans. Sonics Ultrason. 30:156); lesion appearance follows the ACR
BI-RADS ultrasound descriptors (shape, orientation, margin, posterior features).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["benign", "malignant", "normal"]
Field = NDArray[np.float32]

_DYNAMIC_RANGE_DB = 58.0  # a usual B-mode setting
_WIDTH_MM = 45.0  # typical field of view of a linear breast probe


@dataclass(frozen=True, slots=True)
class Phantom:
    """One synthetic frame.

    Attributes
    ----------
    image : uint8 array (rows, columns), grey
    mask : bool array (rows, columns), true inside the lesion; all false for ``normal``
    kind : the class that was drawn
    spacing_mm : distance between pixel centres as (row, column), millimetres
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    kind: Kind
    spacing_mm: tuple[float, float]


def phantom(seed: int, rows: int = 480, columns: int = 640, kind: Kind = "benign") -> Phantom:
    """Draw one phantom; the same arguments give the same pixels.

    Parameters
    ----------
    seed : any non-negative integer
    rows, columns : size in pixels, 96 to 4096 each
    kind : ``benign`` (smooth, wider than tall, enhancement behind), ``malignant`` (irregular, spiculated, taller than
        wide, shadow behind) or ``normal`` (no lesion)

    Raises
    ------
    ValueError
        for an unknown kind or a size outside the range
    """
    if kind not in ("benign", "malignant", "normal"):
        raise ValueError(f"unknown phantom kind {kind!r}: use benign, malignant or normal")
    if not (96 <= rows <= 4096 and 96 <= columns <= 4096):
        raise ValueError(f"phantom size {rows}x{columns} is outside 96..4096 pixels")
    rng = np.random.default_rng([seed, ("benign", "malignant", "normal").index(kind)])
    mm = _WIDTH_MM * float(rng.uniform(0.85, 1.15)) / columns
    y = (np.arange(rows, dtype=np.float32) * mm)[:, None]
    x = (np.arange(columns, dtype=np.float32) * mm)[None, :]
    tissue_db, glandular = _tissue(rng, y, x, mm)
    mask = np.zeros((rows, columns), dtype=bool)
    if kind != "normal":
        tissue_db, mask = _add_lesion(rng, tissue_db, glandular, y=y, x=x, kind=kind)
    depth = y / float(y[-1, 0])
    tissue_db = (
        tissue_db + _gain_curve(rng, depth) + 2.5 * _smooth_noise(rng, (rows, columns), 0.7 * rows, 0.05 * columns)
    )
    envelope = _speckle(rng, rows, columns, mm, depth)
    decibel = tissue_db + 20.0 * np.log10(envelope + 1e-4)
    top = float(rng.uniform(7.0, 13.0))
    grey = np.clip((decibel + _DYNAMIC_RANGE_DB - top) / _DYNAMIC_RANGE_DB, 0.0, 1.0) ** float(rng.uniform(1.3, 1.9))
    return Phantom((255.0 * grey + 0.5).astype(np.uint8), mask, kind, (mm, mm))


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_rows: float, sigma_columns: float) -> Field:
    """Gaussian noise with unit variance, low-passed to the given standard deviations in pixels (periodic)."""
    spectrum = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    fy = np.fft.fftfreq(shape[0])[:, None]
    fx = np.fft.rfftfreq(shape[1])[None, :]
    spectrum *= np.exp(-2.0 * np.pi**2 * ((sigma_rows * fy) ** 2 + (sigma_columns * fx) ** 2))
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, shape).astype(np.float32)
    return np.asarray(field / (float(field.std()) + 1e-9), dtype=np.float32)


def _wavy(rng: np.random.Generator, x: Field, mean: float, amplitude: float) -> Field:
    """A gently curved layer boundary over the width, millimetres, shape (1, columns)."""
    width = float(x[0, -1])
    curve = np.full_like(x, mean)
    for harmonic in (0.5, 1.0, 1.7, 2.9):
        phase = float(rng.uniform(0, 2 * np.pi))
        curve += (amplitude * float(rng.normal()) / (1.0 + harmonic)) * np.sin(2 * np.pi * harmonic * x / width + phase)
    return curve


def _tissue(rng: np.random.Generator, y: Field, x: Field, mm: float) -> tuple[Field, tuple[float, float]]:
    """Layered echogenicity in decibels, and the depth range (millimetres) of the glandular layer."""
    shape, depth = (y.shape[0], x.shape[1]), float(y[-1, 0])
    skin = _wavy(rng, x, float(rng.uniform(0.8, 1.8)), 0.15)
    fat = _wavy(rng, x, depth * float(rng.uniform(0.14, 0.30)), 0.05 * depth)
    gland = _wavy(rng, x, depth * float(rng.uniform(0.58, 0.74)), 0.05 * depth)
    fascia = gland + float(rng.uniform(1.0, 2.5))
    wall = fascia + depth * float(rng.uniform(0.12, 0.2)) + 0.3 * np.sin(x / 4.0)
    texture = _smooth_noise(rng, shape, 0.5 / mm, 1.6 / mm)
    coarse = _smooth_noise(rng, shape, 1.8 / mm, 5.0 / mm)
    # Connective septa: bright where a smooth field, sheared by the layers, crosses zero.
    ridge = _smooth_noise(rng, shape, 1.1 / mm, 4.0 / mm)
    septa = np.exp(-((ridge / 0.09) ** 2)).astype(np.float32)
    streak = _smooth_noise(rng, shape, 0.22 / mm, 4.5 / mm)
    bright = float(rng.uniform(-5.0, -1.0))
    db = bright - 12.0 + 2.0 * texture + 9.0 * septa  # subcutaneous fat
    db = np.where(y > fat, bright + 2.0 * texture + 2.0 * coarse + 2.5 * streak + 4.0 * septa, db)
    db = np.where(y > gland, bright - 9.0 + 1.0 * texture + 5.0 * septa, db)
    db = np.where(y > fascia, bright - 7.0 + 4.5 * streak, db)
    db = np.where(y > wall, bright - 16.0 + 2.0 * texture, db)
    db = np.where(y < skin, 3.0, db)
    for edge, height, thickness in ((skin, 5.0, 0.25), (fascia, 9.0, 0.3), (wall, 12.0, 0.45)):
        db = db + height * np.exp(-(((y - edge) / thickness) ** 2))
    return db.astype(np.float32), (float(fat.mean()), float(gland.mean()))


def _outline(rng: np.random.Generator, angle: Field, kind: Kind) -> tuple[Field, float, float]:
    """Relative radius at each angle, and the half axes (row, column) in millimetres."""
    size = float(rng.uniform(3.6, 6.4))
    lobes = np.zeros_like(angle)
    if kind == "benign":
        flat = float(rng.uniform(1.35, 1.9))
        for harmonic in (2, 3, 4):
            lobes += 0.035 * float(rng.normal()) * np.cos(harmonic * angle + float(rng.uniform(0, 6.3)))
        return 1.0 + lobes, size / np.sqrt(flat), size * np.sqrt(flat)
    tall = float(rng.uniform(1.1, 1.4))
    for harmonic in (2, 3, 5, 7, 11):
        lobes += 0.07 * float(rng.normal()) * np.cos(harmonic * angle + float(rng.uniform(0, 6.3)))
    for _ in range(int(rng.integers(5, 10))):  # spicules and angular corners
        where, width = float(rng.uniform(-np.pi, np.pi)), float(rng.uniform(0.06, 0.14))
        away = np.angle(np.exp(1j * (angle - where))).astype(np.float32)
        lobes += float(rng.uniform(0.12, 0.32)) * np.exp(-np.abs(away) / width)
    return 1.0 + np.clip(lobes, -0.3, 0.45), size * np.sqrt(tall), size / np.sqrt(tall)


def _add_lesion(
    rng: np.random.Generator, db: Field, layer: tuple[float, float], *, y: Field, x: Field, kind: Kind
) -> tuple[Field, NDArray[np.bool_]]:
    """Lower the echogenicity inside the outline and add rim and posterior features."""
    width, depth = float(x[0, -1]), float(y[-1, 0])
    centre_x = width * float(rng.uniform(0.28, 0.72))
    centre_y = float(np.clip(rng.uniform(layer[0] + 1.0, layer[1] - 2.0), 0.25 * depth, 0.62 * depth))
    tilt = float(rng.normal(0.0, 0.12))
    dy, dx = y - centre_y, x - centre_x
    u, v = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    relative, half_y, half_x = _outline(rng, np.arctan2(v, u).astype(np.float32), kind)
    # A shallow or narrow frame would cut the lesion: it shrinks to fit, tilt and spicules included.
    reach = 1.1 * float(relative.max())
    room_y, room_x = min(centre_y, depth - centre_y) - 0.5, min(centre_x, width - centre_x) - 0.5
    limit = min(1.0, room_y / (reach * max(half_y, 0.3 * half_x)), room_x / (reach * max(half_x, 0.3 * half_y)))
    half_y, half_x = half_y * limit, half_x * limit
    radius = np.sqrt((v / half_y) ** 2 + (u / half_x) ** 2) / relative
    mask = np.asarray(radius <= 1.0)
    behind = np.exp(-((dx / (0.75 * half_x)) ** 4)) / (1.0 + np.exp(-(dy - 0.7 * half_y) / (0.2 * half_y)))
    if kind == "benign":
        inside = float(rng.uniform(-24.0, -17.0)) + 1.2 * _smooth_noise(rng, db.shape, 12, 20)
        db = db + float(rng.uniform(3.0, 6.0)) * behind
        edge = 1.0 / (1.0 + np.exp(np.minimum((radius - 1.0) / 0.02, 50.0)))
        rim = float(rng.uniform(2.0, 5.0)) * np.exp(-(((radius - 1.05) / 0.035) ** 2))
        for side in (-1.0, 1.0):  # refraction at the edges
            db = db - 4.0 * np.exp(-(((dx - side * 0.98 * half_x) / 0.5) ** 2)) * (dy > 0)
    else:
        inside = float(rng.uniform(-22.0, -16.0)) + 2.8 * _smooth_noise(rng, db.shape, 8, 12)
        db = db - float(rng.uniform(8.0, 14.0)) * behind * (radius > 1.0)
        edge = 1.0 / (1.0 + np.exp(np.minimum((radius - 1.0) / 0.06, 50.0)))
        rim = float(rng.uniform(1.5, 4.0)) * np.exp(-(((radius - 1.18) / 0.13) ** 2))
    return np.asarray(db * (1 - edge) + inside * edge + rim, dtype=np.float32), mask


def _gain_curve(rng: np.random.Generator, depth: Field) -> Field:
    """Residual attenuation after time-gain compensation, decibels over relative depth, shape (rows, 1)."""
    loss = float(rng.uniform(4.0, 16.0))
    steps = np.interp(depth[:, 0], np.linspace(0, 1, 8), rng.normal(0, 1.0, 8))
    return np.asarray(steps[:, None] - loss * depth**1.6, dtype=np.float32)


def _speckle(rng: np.random.Generator, rows: int, columns: int, mm: float, depth: Field) -> Field:
    """Compounded Rayleigh envelope with mean-square one; the lateral resolution widens with depth."""
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :]
    white = rng.standard_normal((rows, columns), dtype=np.float32) + 1j * rng.standard_normal(
        (rows, columns), dtype=np.float32
    )
    spectrum = np.fft.fft2(white)
    axial = float(rng.uniform(0.07, 0.10)) / mm
    near, far = (float(lateral) / mm for lateral in (rng.uniform(0.10, 0.14), rng.uniform(0.2, 0.28)))
    fields = []
    for lateral in (near, far):
        field = np.fft.ifft2(spectrum * np.exp(-2.0 * np.pi**2 * ((axial * fy) ** 2 + (lateral * fx) ** 2)))
        fields.append(field / np.sqrt(np.mean(np.abs(field) ** 2)))
    power = np.abs(fields[0] * np.sqrt(1.0 - depth) + fields[1] * np.sqrt(depth)).astype(np.float32) ** 2
    # Spatial compounding: far-apart copies are independent looks; three of them are a usual scanner setting.
    looks = (
        power + np.roll(power, (rows // 3, columns // 5), (0, 1)) + np.roll(power, (-rows // 4, columns // 2), (0, 1))
    )
    return np.asarray(np.sqrt(looks / 3.0), dtype=np.float32)
