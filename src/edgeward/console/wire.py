"""What the browser gets: beds and alarms as JSON, traces as binary frames. Codes and numbers, no prose.

Responsible for the shape only. Binary frames are traces, little-endian::

    offset size
    0      1    1, the version
    1      1    length of the device id, d
    2      1    length of the lead's name, l
    3      1    number of beats, b
    4      4    sampling rate, float32, Hz
    8      8    index of the first sample, float64
    16     8*b  indices of beats, float64
    ...    d, l names, UTF-8, then padding to an even length
    ...    2*n  samples, int16, microvolts

Times are milliseconds since the Unix epoch, because a browser's numbers hold no nanoseconds.
"""

from __future__ import annotations

import struct
from typing import Any

from edgeward.bedside import Strip, Trend
from edgeward.console.watch import alarm_bed, alarm_order, bed_id_of
from edgeward.messages import Alarm, Bed, News2, Trace, VitalState

_HEAD = struct.Struct("<BBBBfd")


def pack_trace(trace: Trace) -> bytes:
    """Return the binary frame of one stretch of trace."""
    device = trace.device_id.encode()[:255]
    lead = trace.lead.encode()[:255]
    beats = trace.beats[-255:]
    head = _HEAD.pack(1, len(device), len(lead), len(beats), trace.rate_hz, float(trace.start))
    names = device + lead
    if len(names) % 2:
        names += b"\0"
    return head + struct.pack(f"<{len(beats)}d", *map(float, beats)) + names + trace.samples


def ms(at_ns: int) -> int:
    """Return nanoseconds as milliseconds."""
    return at_ns // 1_000_000


def alarm_view(alarm: Alarm) -> dict[str, Any]:
    """Return an alarm."""
    return {
        "id": alarm.alarm_id,
        "bed": alarm_bed(alarm),
        "device": alarm.device_id,
        "label": alarm.label,
        "ward": alarm.ward,
        "code": alarm.code,
        "priority": alarm.priority.value,
        "technical": alarm.technical,
        "latching": alarm.latching,
        "present": alarm.present,
        "ended": alarm.state == "ended",
        "acknowledged": alarm.acknowledged,
        "by": alarm.by,
        "args": alarm.args,
        "raised": ms(alarm.raised_ns),
        "late": alarm.late,
        "level": alarm.level,
        "told": alarm.told,
        "members": alarm.members,
        "paused": ms(alarm.audio_paused_until_ns),
    }


def vital_view(vital: VitalState) -> dict[str, Any]:
    """Return one value. A stale one is marked, so that the browser shows dashes."""
    return {
        "p": vital.parameter,
        "v": vital.value,
        "unit": vital.unit,
        "at": ms(vital.at_ns),
        "age": round(vital.age_ms),
        "stale": vital.stale,
        "q": vital.quality,
        "source": vital.source_id,
        "low": vital.low,
        "high": vital.high,
        "pr": vital.priority,
        "bound": vital.bound,
    }


def news2_view(score: News2) -> dict[str, Any]:
    """Return the early warning score."""
    return {
        "total": score.total,
        "at_least": score.at_least,
        "scores": score.scores,
        "missing": score.missing,
        "stale": score.stale,
        "scale2": score.scale2,
        "response": score.response,
    }


def bed_view(bed: Bed) -> dict[str, Any]:
    """Return a bed, its alarms the most urgent first."""
    return {
        "id": bed_id_of(bed),
        "source": bed.device_id,
        "label": bed.label,
        "ward": bed.ward,
        "sources": bed.sources,
        "hr": bed.heart_rate,
        "quality": bed.quality,
        "width": bed.beat_width_ms,
        "vpm": bed.ventricular_per_min,
        "rhythm": bed.rhythm,
        "age": bed.age_ms,
        "stale": bed.stale,
        "off": bed.lead_off,
        "packets": bed.packets,
        "missing": bed.missing,
        "alarms": [alarm_view(alarm) for alarm in sorted(bed.alarms, key=alarm_order)],
        "vitals": [vital_view(vital) for vital in bed.vitals],
        "news2": news2_view(bed.news2) if bed.news2 else None,
        "offset": bed.clock_offset_ms,
        "drift": bed.clock_drift_ppm,
        "paused": ms(bed.audio_paused_until_ns),
        "standby": bed.standby,
        "lead": bed.lead,
    }


def strip_view(strip: Strip) -> dict[str, Any]:
    """Return recorded channels; samples are little-endian int16 in base64."""
    import base64

    return {
        "source": strip.source_id,
        "kept_since": ms(strip.kept_since_ns),
        "channels": [
            {
                "name": channel.name,
                "unit": channel.unit,
                "rate": channel.rate_hz,
                "start": channel.start_ns / 1e6,
                "gain": channel.gain,
                "offset": channel.offset,
                "missing": channel.missing,
                "samples": base64.b64encode(channel.samples).decode(),
            }
            for channel in strip.channels
        ],
    }


def trend_view(trend: Trend) -> dict[str, Any]:
    """Return trends."""
    return {
        "bed": trend.bed_id,
        "interval": trend.interval_ms,
        "series": [
            {
                "p": series.parameter,
                "unit": series.unit,
                "at": [ms(at_ns) for at_ns in series.at_ns],
                "low": series.low,
                "mean": series.mean,
                "high": series.high,
            }
            for series in trend.series
        ],
    }
