"""What the browser gets: beds and alarms as JSON, traces as binary frames. Codes and numbers, no prose.

Responsible for the shape only. Binary frames are traces, little-endian::

    offset size
    0      1    2, the version
    1      1    reserved, 0
    2      2    length of the head, h
    4      h    head, JSON, padded with spaces to an even length
    ...    2*n  samples, int16: those of the leading ECG lead, then those of each wave in the order of the head

The head: ``d`` source, ``lead`` the leading lead, ``o`` name and kind of all that the source sends, ``b`` when beats
were, ``w`` the traces, what belongs to the leading lead first: ``n`` name, ``k`` kind, ``u`` unit, ``r`` Hz, ``t`` time
of the first sample, ``c`` samples, ``g`` gain, ``z`` offset, ``s`` state, ``q`` quality. Times in it are seconds since
the stream of the source began.

Other times are milliseconds since the Unix epoch, because a browser's numbers hold no nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any

import msgspec

from edgeward.bedside import Strip, Trend
from edgeward.console.watch import alarm_bed, alarm_order, bed_id_of
from edgeward.messages import Alarm, Bed, MessageError, News2, Trace, VitalState, Wave, wanted

_HEAD = struct.Struct("<BBH")
MOST_HEAD = 0xFFFF


def pack_trace(trace: Trace, wishes: Collection[str] = ()) -> bytes:
    """Return the binary frame of one stretch of trace, with those of its waves that were wished for."""
    start_s = trace.at_s if trace.at_s is not None else trace.start / trace.rate_hz if trace.rate_hz else 0.0
    waves = [one for one in trace.waves if one.name == trace.lead or wanted(one.name, one.kind, wishes)]
    if trace.rate_hz:
        leading = Wave(
            name=trace.lead,
            rate_hz=trace.rate_hz,
            at_s=start_s,
            samples=trace.samples,
            state=trace.state,
            quality=trace.quality,
        )
        # What is left of it from before a gap comes first: the newest stretch says how it is now.
        waves = [one for one in waves if one.name == trace.lead] + [
            leading,
            *(one for one in waves if one.name != trace.lead),
        ]
    head = {
        "d": trace.device_id,
        "lead": trace.lead,
        "o": trace.offers,
        "b": [round(start_s + (beat - trace.start) / trace.rate_hz, 4) for beat in trace.beats if trace.rate_hz],
        "w": [
            {
                "n": one.name,
                "k": one.kind,
                "u": one.unit,
                "r": one.rate_hz,
                "t": round(one.at_s, 6),
                "c": len(one.samples) // 2,
                "g": one.gain,
                "z": one.offset,
                "s": one.state,
                "q": one.quality,
            }
            for one in waves
        ],
    }
    text = msgspec.json.encode(head)
    text += b" " * (len(text) % 2)
    if len(text) > MOST_HEAD:
        raise MessageError(f"the head of a trace has {len(text)} bytes; at most {MOST_HEAD} fit")
    return _HEAD.pack(2, 0, len(text)) + text + b"".join(one.samples[: len(one.samples) // 2 * 2] for one in waves)


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
        "age": score.age_ms,
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
        "alarmsOff": bed.alarms_off,
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
                "kind": channel.kind,
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
