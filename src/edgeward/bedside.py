"""More of the vocabulary: vital signs, beds and their limits, recorded signals, notices of alarms.

Responsible, like ``messages``, for shape and version of what crosses a process boundary in monitoring; the same rules
hold. A *source* is an enrolled device, or one bed behind an HL7 gateway (``<device>-<location>``). A *bed* is what a
person looks at; one or more sources are assigned to it, and by default every source is its own bed of the same id.
"""

from __future__ import annotations

from typing import Literal

from edgeward.messages import Alarm, Message, VitalState

# ---------------------------------------- vital signs


class Vital(Message, frozen=True, kw_only=True, tag="vital.1"):
    """One numeric measurement, of whatever protocol it came by."""

    parameter: str  # a name of `edgeward.parameters`
    value: float | None  # in the parameter's unit; None: the device said that there is no value
    at_ns: int  # when it was measured, by the device's clock; 0: the device did not say
    validity: Literal["valid", "questionable", "invalid", "demo", "test"] = "valid"
    why: str = ""  # what stands in the way of a value: a code, never free text
    quality: float | None = None  # 0..1, if the device said it
    code: str = ""  # as received: MDC reference identifier, LOINC code or SenML name
    bound: Literal["", "below", "above"] = ""  # off the device's scale: the true value lies below, or above, `value`


class Numerics(Message, frozen=True, kw_only=True, tag="numerics.1"):
    """Measurements of one source that arrived together. Answer: `Ok` (taken, and on the disk) or `Refused`."""

    source_id: str
    device_id: str  # the enrolled device that brought them
    protocol: Literal["senml", "pcd01", "fhir", "manual"]
    received_ns: int
    vitals: list[Vital]
    sent_ns: int = 0  # when the device says that it sent them, by its own clock; 0: it did not say
    sequence: int = -1  # of the message, if the protocol numbers them
    label: str = ""  # what a person calls the place (HL7 PV1-3), for a source that is new
    patient: str = ""  # opaque digest of the patient's identifier; another one means another patient; empty: not said
    by: str = ""  # who entered them, if manual
    clock: Literal["device", "site"] = "device"  # whose clock the times are of; relative times were resolved on arrival


# ---------------------------------------- beds and limits


Paced = Literal["unknown", "no", "yes"]


class ParameterLimit(Message, frozen=True, kw_only=True, tag="limit.1"):
    """Alarm limits of one parameter, in its unit. None: that side is off. Extremes are the red (high priority) ones."""

    low: float | None = None
    high: float | None = None
    extreme_low: float | None = None
    extreme_high: float | None = None
    priority: Literal["high", "medium", "low"] = "medium"  # of low and high; the extremes are always high
    delay_s: float = 0.0  # how long a value must be beyond before it alarms
    averaging_s: float = 0.0  # values are averaged over this long before they are compared


class BedSettings(Message, frozen=True, kw_only=True, tag="bed-settings.1"):
    """How one bed is monitored: what it consists of, and the limits in force (profile, then its own)."""

    bed_id: str
    label: str
    ward: str
    sources: list[str]
    profile: str
    limits: dict[str, ParameterLimit]  # in force, per parameter
    own: list[str] = []  # parameters whose limits are this bed's own, not the profile's
    rhythm: dict[str, float] = {}  # limits of the rhythm alarms in force (asystole_s, ...)
    own_rhythm: list[str] = []
    spo2_scale2: bool = False  # NEWS2: target 88-92 %
    paced: Paced = "unknown"  # whether the patient has a pacemaker, as somebody said
    standby: bool = False
    disabled: list[str] = []  # alarm codes switched off here; never a lethal one


class SetBed(Message, frozen=True, kw_only=True, tag="set-bed.1"):
    """Somebody changes a bed. None leaves as it is. Answer: `Ok` or `Refused`."""

    bed_id: str
    by: str
    at_ns: int
    label: str | None = None
    ward: str | None = None
    sources: list[str] | None = None  # a source taken from another bed leaves that bed
    profile: str | None = None
    limits: dict[str, ParameterLimit | None] | None = None  # None for a parameter: back to the profile's
    rhythm: dict[str, float | None] | None = None
    spo2_scale2: bool | None = None
    paced: Paced | None = None
    standby: bool | None = None
    disabled: list[str] | None = None
    discharged: bool = False  # the patient left: alarms end, values and own limits are forgotten
    removed: bool = False  # forget the bed and its sources, which are silent; nothing else of this is looked at then


REMOVED = "removed"  # `LimitChange.what` of a bed that somebody took away
DISCHARGED = "discharged"  # `LimitChange.what` of a patient who left


class LimitChange(Message, frozen=True, kw_only=True, tag="limit-change.1"):
    """One entry of the record of who changed what."""

    at_ns: int
    by: str
    bed_id: str
    what: str  # such as "limits.spo2.low"
    before: str
    after: str


class BedInfo(Message, frozen=True, kw_only=True, tag="bed-info.1"):
    """Answer to a question about one bed (``Ask(bed_id)``), for the page of its settings."""

    settings: BedSettings
    defaults: dict[str, ParameterLimit] = {}  # of its profile
    profiles: list[str] = []
    wards: list[str] = []
    free_sources: list[str] = []  # sources that are a bed of their own
    changes: list[LimitChange] = []  # newest first
    discharged_ns: list[int] = []  # when patients left it, of the day that is recorded, newest first


class AlarmPause(Message, frozen=True, kw_only=True, tag="alarm-pause.1"):
    """Somebody pauses the sound of one bed, or of one alarm of it (IEC 60601-1-8, 6.8). Answer: `Ok` or `Refused`."""

    bed_id: str
    alarm_id: str = ""  # empty: all alarms that the bed has now; a new one sounds
    seconds: float = 120.0  # 0 ends the pause; the site's limit holds
    by: str
    at_ns: int


class AlarmQuery(Message, frozen=True, kw_only=True, tag="alarm-query.1"):
    """Ask for transitions of alarms from the log, newest first. Answer: `Alarms` (in `recent`)."""

    bed_id: str = ""
    ward: str = ""
    since_ns: int = 0
    until_ns: int = 0  # 0: now
    priority: str = ""
    raised_only: bool = False  # one row per alarm: how it was raised
    limit: int = 200


class AlarmSystemState(Message, frozen=True, kw_only=True, tag="alarm-system.1"):
    """The monitor's word that the alarm path works, at least every five seconds, after it has tried it on itself.

    Whoever does not hear this for ten seconds must signal that alarms may not come (IEC 60601-1-8, 6.11.2.2).
    """

    at_ns: int
    number: int
    ok: bool
    problems: list[str] = []
    beds: int = 0
    flood: bool = False
    heard: dict[str, int] = {}  # receivers that answered lately -> when (ns); such as console-<pid>


class Hearing(Message, frozen=True, kw_only=True, tag="hearing.1"):
    """A receiver of alarms says that it hears (a console), as the answer to `AlarmSystemState` number `number`."""

    receiver: str
    number: int
    at_ns: int
    screens: int = 0  # browsers connected to it


# ---------------------------------------- recorded signals


class StripQuery(Message, frozen=True, kw_only=True, tag="strip-query.1"):
    """Ask the recorder for waveforms as they arrived. Answer: `Strip` or `Refused`."""

    source_id: str
    start_ns: int  # site time
    end_ns: int  # at most five minutes later
    channels: list[str] = []  # empty: all


class StripChannel(Message, frozen=True, kw_only=True, tag="strip-channel.1"):
    """One channel of a strip: value = samples x gain + offset, in `unit`; `missing` stands where nothing arrived."""

    name: str
    unit: str  # UCUM; uV for ECG
    rate_hz: float
    start_ns: int
    gain: float
    offset: float
    samples: bytes  # little-endian int16
    missing: int = -32768
    kind: str = ""  # a name of `waveform.Kind`, in lower case; empty: a recorder of a former version, which did not say


class Strip(Message, frozen=True, kw_only=True, tag="strip.1"):
    """Waveforms of one source."""

    source_id: str
    channels: list[StripChannel]
    kept_since_ns: int = 0  # nothing older is kept


class TrendQuery(Message, frozen=True, kw_only=True, tag="trend-query.1"):
    """Ask the recorder for trends of a bed. Answer: `Trend` or `Refused`."""

    bed_id: str
    since_ns: int
    until_ns: int = 0  # 0: now
    parameters: list[str] = []  # empty: all
    points: int = 720  # at most so many intervals


class TrendSeries(Message, frozen=True, kw_only=True, tag="trend-series.1"):
    """One parameter over time: lowest, mean and highest value per interval. Intervals without a value are left out."""

    parameter: str
    unit: str
    at_ns: list[int]
    low: list[float]
    mean: list[float]
    high: list[float]


class Trend(Message, frozen=True, kw_only=True, tag="trend.1"):
    """Answer to `TrendQuery`."""

    bed_id: str
    interval_ms: float
    series: list[TrendSeries]


class RecentQuery(Message, frozen=True, kw_only=True, tag="recent-query.1"):
    """Ask the recorder for the last packets, to take up where a process stopped. Ask again with `after` for more."""

    seconds: float
    after: str = ""  # the last `source_id` of the answer before; sources come in order of their ids


class Recent(Message, frozen=True, kw_only=True, tag="recent.1"):
    """Packets as they came from devices, oldest first per source, and when each arrived."""

    packets: list[tuple[str, int, bytes]]  # source_id, received_ns, packet
    after: str = ""  # empty: that was all


class Observation(Message, frozen=True, kw_only=True, tag="observation.1"):
    """One numeric value of a patient as it was taken: what `Ok` to `Numerics` promised to keep."""

    bed_id: str  # whose it was when it came
    source_id: str
    parameter: str
    value: float  # in the parameter's unit
    at_ns: int  # site time of the measurement
    device_ns: int = 0  # the same by the device's clock, which tells a repetition; 0: it did not say
    bound: Literal["", "below", "above"] = ""  # off the device's scale, as in `Vital`


class Observed(Message, frozen=True, kw_only=True, tag="observed.1"):
    """`monitor` hands over what it has kept. Answer: `Ok` once the recorder has it on its disk, or `Refused`.

    Batches are numbered without end by the monitor's log; one that the recorder has already is not taken twice.
    """

    log: str  # identity of that log
    batches: list[tuple[int, list[Observation]]]


class ObservationQuery(Message, frozen=True, kw_only=True, tag="observation-query.1"):
    """Ask the recorder for the numerics of a bed as they were measured. Answer: `Observations` or `Refused`."""

    bed_id: str
    since_ns: int
    until_ns: int = 0  # 0: now
    parameters: list[str] = []  # empty: all
    limit: int = 10_000  # at most 50,000


class Observations(Message, frozen=True, kw_only=True, tag="observations.1"):
    """Numerics of a bed by the time of their measurement, oldest first; `more`: the limit cut off what came later."""

    observations: list[Observation]
    more: bool = False


# ---------------------------------------- notices


MOST_PLACES = 32  # beds that a notice names


class Notice(Message, frozen=True, kw_only=True, tag="notice.1"):
    """`monitor` hands an alarm's transition to `deliver`, which acknowledges (`Ok`) once its queue holds it durably."""

    notice_id: str
    phase: Literal["start", "update", "escalate", "acknowledge", "end"]
    alarm: Alarm
    contacts: list[str] = []  # who is to be told by name (escalation); systems (PCD-04, FHIR) always are
    vitals: list[VitalState] = []  # of the bed, at that moment
    places: list[str] = []  # what the first `MOST_PLACES` of the alarm's `members` are called
    at_ns: int


class NoticeReport(Message, frozen=True, kw_only=True, tag="notice-report.1"):
    """What became of a notice at one receiver; `monitor` escalates at once when nobody could be told."""

    notice_id: str
    alarm_id: str
    receiver: str  # a contact, by name: reached by one of the channels, or by none
    state: Literal["delivered", "failed"]
    reason: str = ""
    at_ns: int
