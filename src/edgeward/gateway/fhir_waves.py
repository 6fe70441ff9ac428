"""Waveforms in FHIR R4 Observations: SampledData in, the arrays that waveform packets are made of out.

Responsible for which channel a SampledData is, its rate, unit, scale and missing samples. Pure: not responsible for the
numerics of the same Observation (``fhir_vitals``), for HTTP (``fhir_vital_routes``), nor for indices and packets
(``pcd01_waves``, which does them for HL7 v2 as well).

Reference: FHIR R4, 2.24.0.9. A sample is worth ``data x factor + origin``, in the unit of the origin; ``E`` is
an error, ``U`` and ``L`` are above and below what can be measured. The first sample was taken at ``effectiveDateTime``,
``effectiveInstant`` or the start of ``effectivePeriod``.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edgeward.gateway.fhir_elements import FhirError
from edgeward.gateway.fhir_vitals import MDC_SYSTEMS, UCUM, coded, instant
from edgeward.gateway.pcd01_waves import MOST_SAMPLES, Array, channel_named
from edgeward.waveform import MAX_CHANNELS, Kind

_NOT_PATIENTS = ("entered-in-error", "cancelled", "registered")
_NO_SAMPLE = frozenset("EUL")


def arrays(resource: dict[str, Any]) -> tuple[list[Array], int]:
    """Return the waveforms of an Observation that has been read for its numerics, and how many are none of ours.

    Raises
    ------
    FhirError
        If one of ours cannot be used.
    """
    if resource.get("status") in _NOT_PATIENTS:
        return [], 0
    parts = [(resource, "Observation"), *((one, "Observation.component") for one in coded(resource, "component"))]
    sampled = [(part, where) for part, where in parts if isinstance(part.get("valueSampledData"), dict)]
    found: list[Array] = []
    unknown = 0
    for part, where in sampled:
        channel = next((one for one in map(_channel, coded(part.get("code"), "coding")) if one), None)
        if channel is None:
            unknown += 1
            continue
        at_ns = _began(resource)
        if not at_ns:
            raise FhirError(
                422, "required", "a waveform needs the time of its first sample", "Observation.effective[x]"
            )
        if len(found) >= MAX_CHANNELS:
            raise FhirError(413, "too-costly", f"more than {MAX_CHANNELS} waveforms", "Observation.component")
        data = part["valueSampledData"]
        values, period_ms, unit = _read(data, f"{where}.valueSampledData")
        array = Array(*channel, "", values, unit, at_ns, bounded=False)
        array.said["period"] = period_ms, "ms"
        found.append(array)
    return found, unknown


def _channel(coding: dict[str, Any]) -> tuple[str, Kind] | None:
    if coding.get("system") not in MDC_SYSTEMS:
        return None
    code = str(coding.get("code", ""))
    return channel_named("", code.upper()) or channel_named(code, "")


def _began(resource: dict[str, Any]) -> int:
    period = resource.get("effectivePeriod")
    start = period.get("start") if isinstance(period, dict) else None
    texts = (resource.get("effectiveDateTime"), resource.get("effectiveInstant"), start)
    return next((at_ns for at_ns in map(instant, texts) if at_ns), 0)


def _read(data: dict[str, Any], where: str) -> tuple[NDArray[np.float64], float, str]:
    """Return samples (nan: none) in the unit of the origin, ms between two of them, and that unit."""
    if data.get("dimensions", 1) != 1:
        raise FhirError(422, "not-supported", "samples of more than one dimension are not read", f"{where}.dimensions")
    period, factor = data.get("period"), data.get("factor", 1)
    if not _is_number(period) or not 0 < period <= 1e6:
        raise FhirError(422, "value", "the period is missing, or is none", f"{where}.period")
    if not _is_number(factor) or not factor:
        raise FhirError(422, "value", "the factor is no number but 0", f"{where}.factor")
    raw_origin = data.get("origin")
    origin: dict[str, Any] = raw_origin if isinstance(raw_origin, dict) else {}
    base = origin.get("value", 0)
    if not _is_number(base):
        raise FhirError(422, "value", "the value of the origin must be a number", f"{where}.origin.value")
    text = data.get("data")
    words = text.split(" ", MOST_SAMPLES) if isinstance(text, str) and text else []
    if not words or len(words) > MOST_SAMPLES:
        reason = f"a waveform has {'more than ' + str(MOST_SAMPLES) if words else 'no'} samples"
        raise FhirError(413 if words else 422, "value", reason, f"{where}.data")
    try:
        values = np.array([np.nan if word in _NO_SAMPLE else float(word) for word in words if word])
    except ValueError:
        raise FhirError(422, "value", "a sample is neither a number nor E, U or L", f"{where}.data") from None
    values[~np.isfinite(values)] = np.nan
    values = values * factor + base
    code = str(origin.get("code") or "") if origin.get("system") in (UCUM, *MDC_SYSTEMS, None) else ""
    return values, float(period), code or str(origin.get("unit") or "")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
