"""Waveforms in HL7 v2 messages: sample arrays (OBX of type NA) in, waveform packets out.

Responsible for which channel an array is, its sampling rate, unit and missing samples, and for turning arrays with
times into packets with indices, so that they go the same way as a wearable's (``waveform``). Not responsible for the
rest of the message (``pcd01``) nor for what is seen in the signal.

Reference: IHE PCD Waveform Content Module (WCM), rev. 1.3, and what monitors send. Where things are looked for:

============ =================================================================================================
channel       OBX-3: reference identifier of IEEE 11073-10101 (``MDC_ECG_ELEC_POTL_II``), else its number
samples       OBX-5: numbers between component (or repetition) separators; what is empty or no number is missing
unit          OBX-6; of a resolution, that attribute's own
time          OBX-14, else OBR-7, else MSH-7: of the first sample
rate          attribute ``MDC_ATTR_SAMP_RATE`` (per s), or ``MDC_ATTR_TIME_PD_SAMP`` (s, ms or us)
resolution    attribute ``MDC_ATTR_NU_MSMT_RES``: what one unit of the samples is worth
no sample     attribute ``MDC_EVT_INOP``: the number that stands for none (monitors send 32767)
============ =================================================================================================

An attribute is an OBX whose OBX-4 is the array's, or begins with it and a dot.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeward.hl7.acknowledgement import Code
from edgeward.hl7.er7 import Segment
from edgeward.waveform import (
    FLAG_LAST,
    MAX_CHANNELS,
    MAX_LEADS,
    MISSING,
    STATE_OFF,
    Block,
    Channel,
    Kind,
    PacketError,
    encode_channels,
)

ARRAY = "NA"
MOST_SAMPLES = 60_000  # of one array: a minute at 1000 Hz
LONGEST_S = 60.0
MOST_STREAMS = 10_000
PACKET_S = 1.0
#: Times in messages are rounded, and clocks drift: an array that begins this close to the end of the last follows it.
JOIN_S = 0.25
#: An array that begins this long before the end of the last is a stream that began anew, not one that came late.
ANEW_S = 60.0

_ATTRIBUTES = {
    "MDC_ATTR_SAMP_RATE": "rate",
    "MDC_ATTR_TIME_PD_SAMP": "period",
    "MDC_ATTR_NU_MSMT_RES": "resolution",
    "MDC_EVT_INOP": "none",
}
_UNBOUNDED = re.compile(r"^(?!.*NONCTS).*(CTS|CONTINUOUS|UNBOUND)", re.IGNORECASE)
_BOUNDED = re.compile(r"NONCTS|BOUNDED|SNIPPET", re.IGNORECASE)

# Leads of IEEE 11073-10101: MDC_ECG_LEAD_x and MDC_ECG_ELEC_POTL_x, 2 x 65,536 + 256 + number of the lead.
_LEADS = {"I": 1, "II": 2, "V1": 3, "V2": 4, "V3": 5, "V4": 6, "V5": 7, "V6": 8, "III": 61, "aVR": 62, "aVL": 63,
          "aVF": 64}  # fmt: skip
_LEAD = re.compile(r"MDC_ECG_(?:ELEC_POTL|LEAD)_(\w+)")
_LEAD_NAMES = {name.upper(): name for name in _LEADS} | {"V": "V", "MCL": "MCL", "MCL1": "MCL1", "C": "V"}
_LEAD_NUMBERS = {131328 + number: name for name, number in _LEADS.items()} | {131328: "ECG"}
_OTHERS: dict[str, tuple[int, str, Kind]] = {
    "MDC_PULS_OXIM_PLETH": (150452, "PLETH", Kind.PLETH),
    "MDC_PRESS_BLD_ART": (150032, "ART", Kind.ABP),
    "MDC_PRESS_BLD_ART_ABP": (150036, "ABP", Kind.ABP),
    "MDC_PRESS_BLD_AORT": (150028, "AO", Kind.ABP),
    "MDC_PRESS_BLD_ART_FEMORAL": (0, "FAP", Kind.ABP),
    "MDC_PRESS_BLD_ART_UMB": (150060, "UAP", Kind.ABP),
    "MDC_PRESS_BLD_ART_PULM": (150044, "PAP", Kind.PAP),
    "MDC_PRESS_BLD_VEN_CENT": (150084, "CVP", Kind.CVP),
    "MDC_PRESS_INTRA_CRAN": (153608, "ICP", Kind.ICP),
    "MDC_RESP": (151552, "RESP", Kind.RESPIRATION),
    "MDC_IMPED_TTHOR": (151780, "RESP", Kind.RESPIRATION),
    "MDC_CONC_AWAY_CO2": (0, "CO2", Kind.CO2),
    "MDC_AWAY_CO2": (151696, "CO2", Kind.CO2),
}
_OTHER_NUMBERS = {number: (name, kind) for number, name, kind in _OTHERS.values() if number}

_MMHG_PA = 133.322387415
_VOLT = {"uV": 1.0, "µV": 1.0, "mV": 1e3, "V": 1e6, "nV": 1e-3, "MDC_DIM_MICRO_VOLT": 1.0, "MDC_DIM_MILLI_VOLT": 1e3,
         "MDC_DIM_X_VOLT": 1e6, "MDC_DIM_VOLT": 1e6, "MDC_DIM_NANO_VOLT": 1e-3, "266419": 1.0, "266418": 1e3,
         "266400": 1e6}  # fmt: skip
_PRESSURE = {"mm[Hg]": 1.0, "mmHg": 1.0, "MDC_DIM_MMHG": 1.0, "266016": 1.0, "kPa": 1000 / _MMHG_PA,
             "MDC_DIM_KILO_PASCAL": 1000 / _MMHG_PA, "265987": 1000 / _MMHG_PA, "cm[H2O]": 98.0665 / _MMHG_PA,
             "MDC_DIM_CM_H2O": 98.0665 / _MMHG_PA, "266048": 98.0665 / _MMHG_PA}  # fmt: skip
_PLAIN = {"": 1.0, "1": 1.0, "MDC_DIM_DIMLESS": 1.0, "262656": 1.0, "%": 1.0, "MDC_DIM_PERCENT": 1.0, "262688": 1.0}
_OHM = {"Ohm": 1.0, "mOhm": 1e-3, "MDC_DIM_X_OHM": 1.0, "MDC_DIM_OHM": 1.0, "MDC_DIM_MILLI_OHM": 1e-3} | _PLAIN
_UNITS = {Kind.ECG: _VOLT, Kind.PLETH: _PLAIN, Kind.RESPIRATION: _OHM}  # others are pressures
_PER_S = {"": 1.0, "MDC_DIM_PER_SEC": 1.0, "264608": 1.0, "MDC_DIM_HZ": 1.0, "264640": 1.0, "Hz": 1.0, "/s": 1.0,
          "1/s": 1.0, "MDC_DIM_PER_MIN": 1 / 60, "/min": 1 / 60}  # fmt: skip
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "MDC_DIM_SEC": 1.0, "264320": 1.0, "MDC_DIM_MILLI_SEC": 1e-3,
            "264338": 1e-3, "MDC_DIM_MICRO_SEC": 1e-6, "264339": 1e-6}  # fmt: skip
#: What one unit of a packet is worth where the message has fractions: 1 uV; pressures to +-1638 mm[Hg].
_GAIN = {Kind.ECG: 1.0, Kind.ABP: 0.05, Kind.PAP: 0.05, Kind.CVP: 0.05, Kind.ICP: 0.05, Kind.CO2: 0.01}
_SLOWEST_HZ = {Kind.ECG: 100.0, Kind.PLETH: 20.0, Kind.ABP: 40.0, Kind.PAP: 40.0, Kind.CVP: 4.0, Kind.ICP: 4.0,
               Kind.RESPIRATION: 10.0, Kind.CO2: 10.0}  # fmt: skip


class Unusable(ValueError):
    """A waveform cannot be used; the text says which and why, `where` is the field."""

    def __init__(self, where: str, text: str, code: Code = Code.DATA_TYPE) -> None:
        super().__init__(text)
        self.where, self.code = where, code


@dataclass(slots=True)
class Array:
    """One sample array as the message says it."""

    name: str
    kind: Kind
    sub_id: str
    values: NDArray[np.float64]  # nan: missing
    unit: str
    at_ns: int
    bounded: bool
    said: dict[str, tuple[float, str]] = field(default_factory=dict)  # attribute -> value and unit


def channel_of(obx: Segment) -> tuple[str, Kind] | None:
    """Return name and kind of the channel that OBX-3 stands for; None if it is none of ours."""
    for first in (1, 4):
        if found := channel_named(obx.text(3, first), obx.text(3, first + 1).upper()):
            return found
    return None


def channel_named(number: str, reference: str) -> tuple[str, Kind] | None:
    """Return name and kind of the channel of a code of IEEE 11073-10101; its number counts alone only."""
    for word in (reference, number.upper()):
        if found := _OTHERS.get(word):
            return found[1], found[2]
        if (lead := _LEAD.fullmatch(word)) and lead[1] in _LEAD_NAMES:
            return _LEAD_NAMES[lead[1]], Kind.ECG
        if word == "MDC_ECG_ELEC_POTL":
            return "ECG", Kind.ECG
    if not reference and number.isascii() and number.isdigit() and len(number) < 10:
        if name := _LEAD_NUMBERS.get(int(number)):
            return name, Kind.ECG
        if other := _OTHER_NUMBERS.get(int(number)):
            return other
    return None


def samples_of(obx: Segment) -> NDArray[np.float64]:
    """Return the numbers of OBX-5; nan for what is none.

    Raises
    ------
    Unusable
        If there are none, or too many.
    """
    text = obx.raw[5] if len(obx.raw) > 5 else ""
    parts = text.replace(obx.delimiters.repetition, obx.delimiters.component).split(
        obx.delimiters.component, MOST_SAMPLES
    )
    if len(parts) > MOST_SAMPLES:
        raise Unusable("OBX-5", f"a waveform has more than {MOST_SAMPLES} samples")
    try:
        found = np.array(parts, dtype=np.float64)
    except ValueError:
        found = np.array([_number(part) for part in parts])
    found[~np.isfinite(found)] = np.nan
    if np.isnan(found).all():
        raise Unusable("OBX-5", "a waveform has no number in it")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


class Arrays:
    """The waveforms of one place in one message."""

    def __init__(self) -> None:
        self.found: list[Array] = []

    def take(self, obx: Segment, at_ns: int, about: str) -> bool:
        """Take an array; False if its channel is none of ours.

        Parameters
        ----------
        about
            OBR-4: whether it is a piece of a stream, or a snippet that nothing follows.

        Raises
        ------
        Unusable
            If it holds no samples, or there are too many channels.
        """
        channel = channel_of(obx)
        if channel is None:
            return False
        name, kind = channel
        if not at_ns:
            raise Unusable("OBX-14", f"the waveform {name} has no time", Code.FIELD_MISSING)
        if len(self.found) >= 4 * MAX_CHANNELS:
            raise Unusable("OBX", f"more than {4 * MAX_CHANNELS} waveforms for one place")
        unit = next((text for text in (obx.text(6, part) for part in (2, 1, 5, 4)) if text), "")
        bounded = bool(_BOUNDED.search(about)) and not _UNBOUNDED.search(about)
        self.found.append(Array(name, kind, obx.text(4), samples_of(obx), unit, at_ns, bounded))
        return True

    def attribute(self, obx: Segment) -> bool:
        """Take an attribute of an array before it; False if it is none."""
        name = next((word for word in (obx.text(3, 2).upper(), obx.text(3, 1).upper()) if word in _ATTRIBUTES), "")
        array = next((one for one in reversed(self.found) if _belongs(obx.text(4), one.sub_id)), None)
        if not name or array is None:
            return False
        value = _number(obx.text(5))
        if np.isfinite(value):
            unit = next((text for text in (obx.text(6, part) for part in (2, 1, 5, 4)) if text), "")
            array.said[_ATTRIBUTES[name]] = value, unit
        return True


def _belongs(sub_id: str, to: str) -> bool:
    return sub_id == to or (bool(to) and sub_id.startswith(to + "."))


@dataclass(slots=True)
class _Stream:
    """Where a source's stream is."""

    origin_ns: int  # the device's time of index 0 of all channels
    sequence: int = 0
    next_index: dict[str, int] = field(default_factory=dict)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)  # gain and offset of arbitrary units


class Streams:
    """Turns arrays with times into packets with indices, source by source. Pure apart from its memory."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    def packets(self, source_id: str, arrays: list[Array]) -> tuple[list[bytes], int]:
        """Return the packets of a message, in order, and how many samples came a second time and were left out.

        Raises
        ------
        Unusable
            If an array cannot be used; there is no packet of it then.
        """
        read = [(array, _rate(array), _values(array)) for array in arrays]
        _check(read)
        start_ns = min(array.at_ns for array in arrays)
        stream = self._streams.get(source_id)
        if stream is not None and _anew(stream, read):
            stream = _Stream(start_ns, stream.sequence)
        elif stream is None:
            stream = _Stream(start_ns)
        pieces, repeated, ends = _pieces(stream, read)
        packets = []
        for second in sorted(pieces):
            # ECG first, as the packet asks for it; the rest by name, so that every packet looks the same.
            blocks = sorted(pieces[second], key=lambda one: (one.channel.kind is not Kind.ECG, one.channel.name))
            flags = FLAG_LAST if all(array.bounded for array in arrays) and second == max(pieces) else 0
            first = blocks[0]
            begin_ns = stream.origin_ns + round(first.first_sample / first.channel.rate_hz * 1e9)
            try:
                packets.append(encode_channels(tuple(blocks), sequence=stream.sequence, start_ns=begin_ns, flags=flags))
            except PacketError as error:
                raise Unusable("OBX", str(error)) from error
            stream.sequence = (stream.sequence + 1) % 2**32
        stream.next_index |= ends
        self._streams[source_id] = stream
        self._streams.move_to_end(source_id)
        if len(self._streams) > MOST_STREAMS:
            self._streams.popitem(last=False)
        return packets, repeated


_Read = tuple[Array, float, tuple[NDArray[np.float64], bool]]


def _rate(array: Array) -> float:
    if "rate" in array.said:
        value, unit = array.said["rate"]
        rate = value * _PER_S.get(unit, np.nan)
    elif "period" in array.said:
        value, unit = array.said["period"]
        rate = 1.0 / (value * _SECONDS.get(unit, np.nan)) if value > 0 else np.nan
    else:
        raise Unusable(
            "OBX-4", f"the waveform {array.name} has no sampling rate (MDC_ATTR_SAMP_RATE)", Code.FIELD_MISSING
        )
    least, most = _SLOWEST_HZ[array.kind], 2000.0
    if not least <= rate <= most:  # not a number either
        raise Unusable("OBX-5", f"the waveform {array.name} is sampled at {rate:g} Hz; read is {least:g} to {most:g}")
    if array.values.size > LONGEST_S * rate:
        raise Unusable("OBX-5", f"the waveform {array.name} is longer than {LONGEST_S:g} s")
    return rate


def _values(array: Array) -> tuple[NDArray[np.float64], bool]:
    """Return samples, and whether they are in the kind's own unit (else in units nobody said)."""
    values = array.values
    if "none" in array.said:
        values = np.where(values == array.said["none"][0], np.nan, values)
    known = _UNITS.get(array.kind, _PRESSURE)
    unit = array.unit
    whole = np.nan_to_num(values)
    if "resolution" in array.said and bool((whole == np.rint(whole)).all()):
        # Samples with fractions are scaled already, whatever the resolution says.
        resolution, own = array.said["resolution"]
        values = values * resolution
        unit = own if own and own not in _PLAIN else unit
    factor = known.get(unit)
    if factor is None or (unit in _PLAIN and known is not _PLAIN and known is not _OHM):
        raise Unusable("OBX-6", f"the waveform {array.name} has a unit that is not read: {_quoted(unit)}")
    return values * factor, unit not in _PLAIN


def _quoted(unit: str) -> str:
    return unit if unit.isascii() and unit.isprintable() and 0 < len(unit) <= 32 else "none, or not a word"


def _check(read: list[_Read]) -> None:
    names = [array.name for array, _, _ in read]
    if len(set(names)) < len(names):
        raise Unusable("OBX-3", "one channel stands twice in a message for one time", Code.DUPLICATE_KEY)
    if len(read) > MAX_CHANNELS:
        raise Unusable("OBX", f"{len(read)} waveforms at once; read are {MAX_CHANNELS}")
    leads = [(array.at_ns, rate, array.values.size) for array, rate, _ in read if array.kind is Kind.ECG]
    if len(leads) > MAX_LEADS or len(set(leads)) > 1:
        raise Unusable("OBX", f"ECG leads of one time must have one rate and length, at most {MAX_LEADS} of them")


def _clock_of(array: Array) -> str:
    """Return whose count of samples holds for a channel: ECG leads have one together."""
    return "" if array.kind is Kind.ECG else array.name


def _index(stream: _Stream, array: Array, rate: float) -> int:
    return round((array.at_ns - stream.origin_ns) * rate / 1e9)


def _anew(stream: _Stream, read: list[_Read]) -> bool:
    """Return whether the device's clock was set back, or a channel has another rate or begins before the stream."""
    return any(
        (index := _index(stream, array, rate)) < 0
        or index + array.values.size < stream.next_index.get(_clock_of(array), 0) - ANEW_S * rate
        for array, rate, _ in read
    )


def _pieces(stream: _Stream, read: list[_Read]) -> tuple[dict[int, list[Block]], int, dict[str, int]]:
    """Cut arrays into packets of about a second."""
    pieces: dict[int, list[Block]] = {}
    repeated, ends = 0, {}
    for array, rate, (all_values, known) in read:
        values, index = all_values, _index(stream, array, rate)
        expected = stream.next_index.get(_clock_of(array))
        if expected is not None:
            apart = index - expected
            if abs(apart) <= JOIN_S * rate:
                index = expected
                if array.kind is Kind.ECG:  # follow the device's clock, so that a drift never adds up to a gap
                    stream.origin_ns += round(apart / rate * 1e9 / 16)
            elif apart < 0:
                left_out = min(-apart, values.size)
                repeated += left_out
                values, index = values[left_out:], index + left_out
        if not values.size:
            continue
        ends[_clock_of(array)] = index + values.size
        gain, offset = _scale(stream, array, values, known)
        channel = Channel(name=array.name, kind=array.kind, rate_hz=rate, gain=gain, offset=offset)
        filled = np.rint((values - offset) / gain)
        fits = np.clip(np.nan_to_num(filled), MISSING + 1, -MISSING - 1).astype(np.int16)
        samples = np.where(np.isnan(filled), np.int16(MISSING), fits)
        size = max(1, round(PACKET_S * rate))
        for number, begin in enumerate(range(0, samples.size, size)):
            part = np.ascontiguousarray(samples[begin : begin + size])
            state = STATE_OFF if bool((part == MISSING).all()) else 0
            pieces.setdefault(number, []).append(Block(channel, index + begin, part, state))
    return pieces, repeated, ends


def _scale(stream: _Stream, array: Array, values: NDArray[np.float64], known: bool) -> tuple[float, float]:
    """Return gain and offset of a channel: they stay as they are as long as its samples fit."""
    if known and array.kind in _GAIN:
        return _GAIN[array.kind], 0.0
    seen = values[~np.isnan(values)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    before = stream.scales.get(array.name)
    if before is not None:
        gain, offset = before
        if max(abs(low - offset), abs(high - offset)) <= 32_767 * gain:
            return before
    whole = bool((seen == np.rint(seen)).all()) and max(abs(low), abs(high)) <= 32_767 and high - low >= 64
    # Room for ten times what is seen, around it: the next breath or pulse may be larger.
    scale = (1.0, 0.0) if whole else (max((high - low) * 5, abs(high) * 1e-3, 1e-6) / 32_767, (high + low) / 2)
    scale = (float(np.float32(scale[0])), float(np.float32(scale[1])))
    stream.scales[array.name] = scale
    return scale
