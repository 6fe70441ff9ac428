"""The vocabulary: every type that crosses a process boundary.

Responsible for the shape, the version and the wire form (MessagePack) of each message. Not responsible for subjects
(``bus.subjects``) or for what anyone does with a message.

Every type carries a tag ``name.version``. A reader refuses a tag it does not know, so a field may be added (with a
default) within a version, but never renamed or given another meaning.

Times are integers: nanoseconds since the Unix epoch (UTC), suffix ``_ns``. Durations are floats in milliseconds, suffix
``_ms``. Pixel coordinates are ``(x, y)`` in the source frame: x to the right, y down, the centre of the first
pixel at (0.0, 0.0).
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from enum import StrEnum
from typing import Any, Literal, TypeVar

import msgspec


class MessageError(ValueError):
    """A message could not be decoded: wrong type, wrong version, truncated or malformed."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Base of all messages: immutable, keyword-only, tagged."""


M = TypeVar("M", bound=Message)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}
_json_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_building = threading.Lock()


def encode(message: Message) -> bytes:
    """Return the MessagePack form of `message`."""
    return _encoder.encode(message)


def decode(kind: type[M], data: bytes) -> M:
    """Decode `data` as `kind` (a message type).

    Raises
    ------
    MessageError
        If `data` is not a well-formed message of that type and version.
    """
    return decode_one_of(kind, data)  # type: ignore[no-any-return]


def decode_one_of(kinds: Any, data: bytes) -> Any:
    """Decode `data` as one of a union of message types, such as `WorkReply` or ``Ok | Refused``.

    Raises
    ------
    MessageError
        If `data` is none of them.
    """
    try:
        return decoder(kinds).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        name = getattr(kinds, "__name__", str(kinds))
        raise MessageError(f"not a {name}: {error}") from error


def decoder(kinds: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return the decoder of a type, or of a union of types.

    One thread at a time: while msgspec looks at a type for the first time, others would decode with what it has found
    so far, and that is a segmentation fault. So whatever is decoded in threads has its decoder from here.
    """
    found = _decoders.get(kinds)
    if found is None:
        with _building:
            found = _decoders.get(kinds)
            if found is None:
                found = _decoders[kinds] = msgspec.msgpack.Decoder(kinds)
    return found


def json_decoder(kinds: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a type, or of a union of types, for JSON; made like those of `decoder`."""
    found = _json_decoders.get(kinds)
    if found is None:
        with _building:
            found = _json_decoders.get(kinds)
            if found is None:
                found = _json_decoders[kinds] = msgspec.json.Decoder(kinds)
    return found


# ---------------------------------------- classes


class ServiceClass(StrEnum):
    """Class of service; each has a budget in the settings (``budgets``)."""

    CONTROL = "control"
    ALARM = "alarm"
    INTERACTIVE = "interactive"
    BATCH = "batch"


class StageTime(Message, frozen=True, kw_only=True, tag="stage.1"):
    """Time one stage took: the unit in which a missed budget is explained."""

    name: str
    ms: float


# ---------------------------------------- imaging


class ObjectRef(Message, frozen=True, kw_only=True, tag="object.1"):
    """A vault object and the right to read it: whoever holds this can decrypt this one object and nothing else.

    `path` is the absolute path of the ciphertext on the node that admitted it; `data_key` is the object's own AES-256
    key, unwrapped. It travels only over the site's TLS bus and is never stored or logged outside the vault.
    """

    object_id: str
    path: str
    data_key: bytes
    size: int


class WorkRequest(Message, frozen=True, kw_only=True, tag="work.1"):
    """Analyse one admitted object before `deadline_ns`."""

    item_id: str
    trace_id: str
    service_class: ServiceClass
    received_ns: int
    deadline_ns: int
    attempt: int
    isolate: bool = False  # it was there when an engine died: analyse it in a process of its own
    object: ObjectRef
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Lesion(Message, frozen=True, kw_only=True, tag="lesion.1"):
    """One lesion, in source pixel coordinates of the analysed frame."""

    contour: list[tuple[float, float]]
    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    long_axis: float
    short_axis: float
    area: float
    unit: Literal["mm", "px"]  # of the axes; the area is in its square
    probability: float  # that a lesion is there, 0..1


class FrameFinding(Message, frozen=True, kw_only=True, tag="frame-finding.1"):
    """What the AI says of one sampled frame of a cine loop or multi-frame object."""

    frame: int  # 0-based
    status: Literal["analysed", "not_analysed"]
    reason: str = ""
    lesions: list[Lesion] = []
    label: str = ""
    probabilities: dict[str, float] = {}
    malignancy: float | None = None
    suspicious: bool = False


class Finding(Message, frozen=True, kw_only=True, tag="finding.1"):
    """What the AI says of one object. Preliminary until a clinician decides (law 8).

    Of several frames, `frame` is the best one (the one that the result rests on), and the other fields are of that
    frame; `frame_findings` has one entry per sampled frame, in order, the best one included. It is empty for a single
    frame.

    `status` is ``analysed`` or ``not_analysed``; in the second case `reason` says why and there is neither lesion nor
    probability: the system never guesses outside its model's domain.
    """

    finding_id: str
    item_id: str
    sop_instance_uid: str
    status: Literal["analysed", "not_analysed"]
    reason: str = ""
    model: str
    model_version: str
    frame: int = 0  # 0-based index of the analysed frame
    frames: int = 1
    rows: int = 0
    columns: int = 0
    spacing_mm: tuple[float, float] | None = None  # (row, column) spacing
    spacing_source: str = ""  # which attribute the spacing came from; empty if none
    pixel_aspect: float = 1.0  # height of a pixel by its width, also where no spacing is known
    lesions: list[Lesion] = []
    label: str = ""  # benign | malignant | normal
    probabilities: dict[str, float] = {}  # per label, calibrated, sums to 1
    malignancy: float | None = None  # calibrated probability, 0..1
    suspicious: bool = False  # malignancy at or above the package's operating point
    stages: list[StageTime] = []
    created_ns: int = 0
    in_scope: bool = True  # by its attributes, is it of the kind this model is for? If not, nothing is sent out.
    frame_findings: list[FrameFinding] = []


class WorkDone(Message, frozen=True, kw_only=True, tag="work-done.1"):
    """The engine's answer: the finding and a JPEG of the analysed frame for the console."""

    finding: Finding
    preview: bytes  # JPEG
    preview_scale: float  # preview pixels per source pixel


class WorkBusy(Message, frozen=True, kw_only=True, tag="work-busy.1"):
    """The engine cannot make the deadline and says so at once."""

    reason: str
    free_in_ms: float = 0.0


class WorkFailed(Message, frozen=True, kw_only=True, tag="work-failed.1"):
    """The object cannot be analysed here. `retryable` is false when no engine could (a broken file)."""

    reason: str
    retryable: bool


WorkReply = WorkDone | WorkBusy | WorkFailed


class Verdict(Message, frozen=True, kw_only=True, tag="verdict.1"):
    """A clinician's decision on a finding; an admitted item like any other."""

    verdict_id: str
    item_id: str
    finding_id: str
    action: Literal["confirm", "correct", "reject"]
    label: str = ""  # the corrected label, when action is "correct"
    comment: str = ""
    by: str
    at_ns: int


WindowFunction = Literal["", "linear", "linear-exact", "sigmoid"]
PictureType = Literal["image/jpeg", "image/png", "image/gif"]


class Viewport(Message, frozen=True, kw_only=True, tag="viewport.1"):
    """How large a picture is to be, and of which region of the frame (PS3.18, 8.3.5.1.3).

    The picture is as large as fits. The region is in source pixels; a negative width or height turns it over, and None
    means up to the frame's edge.
    """

    width: int
    height: int
    left: float = 0.0
    top: float = 0.0
    region_width: float | None = None
    region_height: float | None = None


class RenderRequest(Message, frozen=True, kw_only=True, tag="render.1"):
    """Render one frame of a vault object to 8 bits, for a person to look at. Answer: `Rendered` or `Refused`."""

    object: ObjectRef
    frame: int = 0  # 0-based
    window_center: float | None = None  # None: the object's own window, or its full range
    window_width: float | None = None
    max_width: int = 0  # 0: as many columns as the object has
    media_type: PictureType = "image/jpeg"
    window_function: WindowFunction = ""  # "": the object's own
    viewport: Viewport | None = None  # instead of `max_width`
    square_pixels: bool = False  # the picture has the true proportions, whatever those of the object's pixels are
    quality: int = 0  # of a JPEG, 1 to 100; 0: ours


class RegionScale(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a frame that has a scale of its own, or none."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1 (exclusive), in pixels
    spacing_mm: tuple[float, float] | None = None  # (row, column); None: not in millimetres (a trace, a spectrum)


class Rendered(Message, frozen=True, kw_only=True, tag="rendered.1"):
    """One rendered frame, and what a viewer needs to know of the object."""

    data: bytes
    media_type: str
    width: int  # of the picture; source pixels times `scale`
    height: int
    scale: float  # picture pixels per source pixel
    rows: int  # of the object
    columns: int
    frame: int
    frames: int
    frame_time_ms: float = 0.0  # of a cine loop; 0 if unknown
    window_center: float | None = None  # as applied; None where no window applies (colour)
    window_width: float | None = None
    lowest: float = 0.0  # value range of the frame after the modality LUT
    highest: float = 255.0
    inverted: bool = False  # higher values are darker in it (MONOCHROME1)
    spacing_mm: tuple[float, float] | None = None  # (row, column)
    spacing_source: str = ""
    pixel_aspect: float = 1.0  # height of a pixel by its width; not of `spacing_mm`, which counts more
    scales: tuple[RegionScale, ...] = ()  # where `spacing_mm` does not hold for all regions of the frame: all of them
    plane: tuple[float, float, float, float] | None = None  # normal, and distance from the origin along it in mm
    frame_of_reference: str = ""  # UID: planes of the same one can be compared


class FrameQuery(Message, frozen=True, kw_only=True, tag="frame-query.1"):
    """Ask the gateway for one rendered frame of an item (it asks an engine). Answer: `Rendered` or `Refused`."""

    item_id: str
    frame: int = 0
    window_center: float | None = None
    window_width: float | None = None
    max_width: int = 0
    media_type: PictureType = "image/jpeg"
    window_function: WindowFunction = ""
    viewport: Viewport | None = None
    square_pixels: bool = False
    quality: int = 0


class DeliverRequest(Message, frozen=True, kw_only=True, tag="deliver.1"):
    """Hand-over to `deliver`: it acknowledges once its ledger holds this durably.

    `revision` 0 is the preliminary result. Each later verdict makes one more revision (1, 2, ...) that carries all
    verdicts so far, oldest first; a revision is delivered after the ones before it, to the same destinations.
    """

    item_id: str
    trace_id: str
    received_ns: int
    deadline_ns: int
    object: ObjectRef
    finding: Finding
    revision: int = 0
    verdicts: list[Verdict] = []
    study_instance_uid: str = ""  # results of one study arrive in order


class DeliveryReport(Message, frozen=True, kw_only=True, tag="delivery.1"):
    """A change of one row of the delivery ledger, told to the gateway (request/reply: kept until acknowledged)."""

    item_id: str
    destination: str
    state: Literal["delivered", "failed"]
    reason: str = ""
    sop_instance_uids: list[str] = []
    stored_ns: int = 0  # when the last object of this item was confirmed by the destination
    attempts: int = 1
    stages: list[StageTime] = []
    revision: int = 0
    at_ns: int = 0  # of this change


class Resend(Message, frozen=True, kw_only=True, tag="resend.1"):
    """Somebody asks `deliver` to try dead letters again. Empty fields mean any. Answer: `Resent` or `Refused`."""

    by: str
    item_id: str = ""
    destination: str = ""


class Resent(Message, frozen=True, kw_only=True, tag="resent.1"):
    """How many dead letters are in their queues again."""

    count: int


class DestinationState(Message, frozen=True, kw_only=True, tag="destination.1"):
    """One destination of results, as `deliver` sees it now."""

    name: str
    takes: list[str]
    status: Literal["idle", "sending", "down"]
    reason: str = ""  # why it is down
    waiting: int = 0
    confirmed: int = 0
    dead: int = 0
    oldest_ns: int = 0  # when the longest waiting item was accepted; 0 if none waits
    stored_ns: int = 0  # last confirmation


class Destinations(Message, frozen=True, kw_only=True, tag="destinations.1"):
    """Answer to a delivery status query, with the most recent dead letters."""

    destinations: list[DestinationState]
    dead: list[DeliveryReport] = []


class ItemSummary(Message, frozen=True, kw_only=True, tag="item.1"):
    """One row of the worklist. Contains identity: for the console only."""

    item_id: str
    state: Literal["admitted", "dispatched", "analysed", "closed", "failed"]
    reason: str = ""
    received_ns: int
    analysed_ns: int = 0
    delivered_ns: int = 0
    late: bool = False
    device: str = ""
    patient_name: str = ""
    patient_id: str = ""
    study_description: str = ""
    modality: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    finding: Finding | None = None
    verdicts: list[Verdict] = []
    deliveries: list[DeliveryReport] = []
    sop_class_uid: str = ""
    transfer_syntax_uid: str = ""
    series_instance_uid: str = ""
    patient_birth_date: str = ""  # DICOM DA
    patient_sex: str = ""
    accession_number: str = ""
    study_date: str = ""  # DICOM DA
    size: int = 0  # bytes in the vault; 0 once erased
    study_complete: bool = False
    instance_number: str = ""  # DICOM IS: its place in the series
    study_listed: int = 0  # images of a complete study that the modality says it made; 0 if it did not say
    study_missing: int = 0  # of these, how many did not arrive
    same_uid: list[
        str
    ] = []  # of a single item: others with its SOP Instance UID and other content, in order of arrival
    study_time: str = ""  # DICOM TM, in the modality's local time


class ItemsQuery(Message, frozen=True, kw_only=True, tag="items-query.1"):
    """Ask the gateway for worklist rows. All conditions that are given must hold.

    `order` ``priority``: undecided suspected malignancy first, the most probable first; then other undecided findings,
    then the rest; newest first within each. Page with `before_ns` (newest) or `offset` (priority).
    """

    item_id: str = ""  # exactly this one, if given
    before_ns: int = 0
    limit: int = 50
    state: str = ""
    offset: int = 0
    since_ns: int = 0
    order: Literal["newest", "priority"] = "newest"
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    same_patient_as: str = ""  # an item id: items of that item's patient, that item included
    device: str = ""
    modality: str = ""
    suspicious: bool | None = None
    decided: bool | None = None  # has a verdict
    late: bool | None = None
    text: str = ""  # part of patient name, patient id, accession number or study description; case does not matter


class Items(Message, frozen=True, kw_only=True, tag="items.1"):
    """Answer to `ItemsQuery`."""

    items: list[ItemSummary]
    counts: dict[str, int] = {}  # rows per state, over the whole journal
    total: int = -1  # rows that match the conditions; -1 if not counted
    modalities: list[str] = []  # that occur in the journal, for filters
    devices: list[str] = []


class Preview(Message, frozen=True, kw_only=True, tag="preview.1"):
    """A JPEG of the analysed frame. Empty when there is none (yet)."""

    jpeg: bytes
    scale: float


class ReportText(Message, frozen=True, kw_only=True, tag="report-text.1"):
    """The structured report as plain text, as written by `deliver`."""

    text: str
    sop_instance_uid: str = ""


class Quarantined(Message, frozen=True, kw_only=True, tag="quarantined.1"):
    """Something refused or set aside, with the reason: shown on the system page. Never contains identity."""

    at_ns: int
    where: str  # dicom | mqtt | engine | ...
    peer: str  # device name or address
    reason: str
    what_to_do: str = ""
    count: int = 1
    item_id: str = ""  # the item that was set aside, if it was kept
    other_item_id: str = ""  # of a conflict: the item that came first under that SOP Instance UID; told when listed


class QuarantineList(Message, frozen=True, kw_only=True, tag="quarantine-list.1"):
    """Answer to a quarantine query, newest first."""

    entries: list[Quarantined]


class Ask(Message, frozen=True, kw_only=True, tag="ask.1"):
    """A request with at most one argument (an item, device or destination)."""

    argument: str = ""


class Ok(Message, frozen=True, kw_only=True, tag="ok.1"):
    """Done, and durable where the request asks for durability."""


class Refused(Message, frozen=True, kw_only=True, tag="refused.1"):
    """Not done; `reason` says why."""

    reason: str


# ---------------------------------------- orders and studies


class Order(Message, frozen=True, kw_only=True, tag="order.1"):
    """One requested procedure step. Contains identity: for the modality worklist and the console only.

    `order_id` is the placer's (HL7 ORC-2, FHIR identifier) or, without one, the accession number.
    """

    order_id: str
    accession_number: str
    status: Literal["scheduled", "started", "completed", "discontinued", "cancelled"]
    patient_id: str
    patient_name: str  # DICOM PN
    birth_date: str = ""  # DICOM DA
    sex: Literal["", "M", "F", "O"] = ""
    modality: str = ""
    station_ae_title: str = ""
    procedure_code: str = ""
    procedure: str = ""
    study_instance_uid: str = ""
    scheduled: str = ""  # DICOM DT, site's local time
    referring_physician: str = ""
    priority: Literal["routine", "urgent", "stat"] = "routine"
    source: str = ""  # the system that sent it
    received_ns: int = 0
    changed_ns: int = 0


class OrdersQuery(Message, frozen=True, kw_only=True, tag="orders-query.1"):
    """Ask the gateway for orders, the ones due next first."""

    status: str = ""
    text: str = ""
    limit: int = 100


class Orders(Message, frozen=True, kw_only=True, tag="orders.1"):
    """Answer to `OrdersQuery`."""

    orders: list[Order]


class StudyState(Message, frozen=True, kw_only=True, tag="study.1"):
    """A study as far as it arrived; told when it begins, and when it is taken to be complete (or grows again)."""

    study_instance_uid: str
    complete: bool
    series: int
    instances: int
    first_ns: int
    last_ns: int
    why: str = ""  # what it was recognised by: quiet | performed (the modality said so)
    complete_series: list[str] = []  # series of it that are complete
    listed: int = 0  # images that the modality says it made, if it is complete and the modality is done
    missing: int = 0  # of these, how many did not arrive


# ---------------------------------------- monitoring


class AlarmPriority(StrEnum):
    """IEC 60601-1-8:2020, 6.1.2."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Alarm(Message, frozen=True, kw_only=True, tag="alarm.1"):
    """One transition of one alarm (raised, acknowledged, ended), or its present state in a list.

    An alarm is identified by `alarm_id` over its whole life. `code` is a key of the message catalogue and `args` its
    parameters, so that the reason is shown in the reader's language.
    """

    alarm_id: str
    device_id: str
    code: str
    priority: AlarmPriority
    technical: bool
    latching: bool
    state: Literal["raised", "acknowledged", "escalated", "ended"]
    present: bool  # does the condition still hold
    acknowledged: bool = False  # still by whom, see `by`
    args: dict[str, float | str] = {}
    raised_ns: int  # when it was published first
    ended_ns: int = 0
    by: str = ""
    at_ns: int  # time of this transition
    onset_sample: int = -1  # index in the device's stream, -1 for technical alarms driven by time
    decisive_sample: int = -1
    received_ns: int = 0  # arrival of the packet that carried the decisive sample
    late: bool = False
    bed_id: str = ""  # whose alarm it is; `device_id` is the source that told it
    ward: str = ""
    label: str = ""  # of the bed
    late_ms: float = 0.0  # how late, where `late`
    level: int = 0  # steps of escalation so far
    told: list[str] = []  # contacts that were told
    members: list[str] = []  # of an alarm flood: the beds in it
    audio_paused_until_ns: int = 0  # its sound is paused until then; 0: it sounds, unless acknowledged
    onset_ns: int = 0  # site time of the onset sample; 0 if unknown


class AlarmAck(Message, frozen=True, kw_only=True, tag="alarm-ack.1"):
    """A clinician acknowledges an alarm."""

    alarm_id: str
    by: str
    at_ns: int


class VitalState(Message, frozen=True, kw_only=True, tag="vital-state.1"):
    """The present value of one parameter of one bed, as shown. `value` None means no value: never shown as a number."""

    parameter: str  # a name of `edgeward.parameters`
    value: float | None
    unit: str  # UCUM
    at_ns: int = 0  # site time of the measurement
    age_ms: float = 0.0
    stale: bool = False  # older than the parameter allows: shown struck out or as dashes, never as live
    quality: float | None = None  # 0..1, of the signal it was measured from; None if the device did not say
    source_id: str = ""
    low: float | None = None  # limits in force; None: that side is off
    high: float | None = None
    priority: str = ""  # of the alarm this value has now: high | medium | low, or empty
    bound: str = ""  # below | above: off the device's scale, shown as "< value" or "> value"


class News2(Message, frozen=True, kw_only=True, tag="news2.1"):
    """National Early Warning Score 2 (RCP 2017). `total` is None unless every input is there and not too old."""

    total: int | None
    scores: dict[str, int] = {}  # per input, of those that are there
    missing: list[str] = []  # inputs never given
    stale: list[str] = []  # inputs given too long ago
    scale2: bool = False  # SpO2 scale 2, for a target of 88-92 %
    response: Literal["", "routine", "ward", "urgent", "emergency"] = ""  # of the complete score
    at_least: int = 0  # what the inputs that are there amount to
    age_ms: float = 0.0  # of the oldest input that was measured once and is not live any more; 0: all are live


class Bed(Message, frozen=True, kw_only=True, tag="bed.1"):
    """Numerics of one monitored patient. `None` means no value: never shown as a number.

    `bed_id` names the bed; `device_id` is the source of its ECG (traces are asked for by it), empty without one.
    """

    device_id: str
    label: str
    heart_rate: float | None = None  # 1/min
    quality: float | None = None  # 0..1
    beat_width_ms: float | None = None
    ventricular_per_min: float | None = None
    rhythm: str = ""
    age_ms: float = 0.0  # since the last sample arrived
    stale: bool = False
    lead_off: bool = False
    packets: int = 0
    missing: int = 0
    alarms: list[Alarm] = []
    bed_id: str = ""
    ward: str = ""
    sources: list[str] = []
    vitals: list[VitalState] = []  # every parameter that was ever measured here, the ECG's heart rate included
    news2: News2 | None = None
    clock_offset_ms: float | None = None  # device clock minus site clock, estimated; None if it cannot be told
    clock_drift_ppm: float | None = None
    audio_paused_until_ns: int = 0  # somebody paused the sound of this bed until then
    standby: bool = False  # on purpose: its silence is no alarm
    alarms_off: list[str] = []  # codes and parameters of alarms that somebody switched off here (IEC 60601-1-8, 6.8.5)
    lead: str = ""  # the lead the rhythm is read from


class Beds(Message, frozen=True, kw_only=True, tag="beds.1"):
    """Beds, published twice a second: all of them, or, on a large site, those that have something new."""

    at_ns: int
    beds: list[Bed]
    full: bool = True  # a bed that is not in it is no more; otherwise it is as it was
    gone: list[str] = []  # beds that are no more, where not `full`


class Wave(Message, frozen=True, kw_only=True, tag="wave.1"):
    """A stretch of one more trace of a source, for screens: another ECG lead, a pleth, a pressure, breathing, CO2.

    `samples` is little-endian int16; value = sample x `gain` + `offset`, in `unit`; -32768 stands where there is none.
    A `state` says why nothing is shown: off | disconnected | calibrating | saturated.
    """

    name: str
    kind: str = "ecg"  # a name of `waveform.Kind`, in lower case
    unit: str = "uV"  # UCUM
    rate_hz: float
    at_s: float  # of the first sample, since the stream of the source began; the same clock for all its traces
    samples: bytes
    gain: float = 1.0
    offset: float = 0.0
    state: str = ""
    quality: float | None = None  # 0..1


class Trace(Message, frozen=True, kw_only=True, tag="trace.1"):
    """A stretch of display-filtered ECG. `samples` is little-endian int16 in microvolts.

    A source without an ECG has no samples and a rate of 0: its traces are in `waves`, as are further ones of a source
    with an ECG, where somebody asked for them.
    """

    device_id: str
    rate_hz: float
    start: int  # index of the first sample at `rate_hz`
    lead: str
    samples: bytes
    beats: list[int] = []  # indices at `rate_hz` of detected beats in or before this stretch
    at_s: float | None = None  # of the first sample, as in `Wave`; None: nobody knows (a monitor of a former version)
    state: str = ""  # as in `Wave`
    quality: float | None = None
    waves: list[Wave] = []
    offers: list[tuple[str, str]] = []  # name and kind of every trace that the source sends, asked for or not


class Viewing(Message, frozen=True, kw_only=True, tag="viewing.1"):
    """Somebody looks at these traces: publish them for the next few seconds.

    Of each source comes the ECG lead that is listened to. `waves` names, per source, what else: traces by their names,
    or kinds, or ``*`` for all.
    """

    device_ids: list[str]
    waves: dict[str, list[str]] = {}


EVERYTHING = "*"


def wanted(name: str, kind: str, wishes: Collection[str]) -> bool:
    """Whether a trace is among what `Viewing.waves` asks for: by its name, by its kind, or as one of all."""
    return EVERYTHING in wishes or name in wishes or kind in wishes


class Alarms(Message, frozen=True, kw_only=True, tag="alarms.1"):
    """Active alarms and the most recent ended ones."""

    active: list[Alarm]
    recent: list[Alarm] = []
    raised: int = 0  # since start, for the demo's account
    published: int = 0
    late: int = 0
    latency_ms: list[float] = []  # decisive sample received -> published, the most recent ones


# ---------------------------------------- state


class StageStats(Message, frozen=True, kw_only=True, tag="stage-stats.1"):
    """Distribution of one stage's time since the role started (most recent 1,000 values)."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class RoleState(Message, frozen=True, kw_only=True, tag="role.1"):
    """A role's heartbeat, once a second."""

    role: str
    node: str
    pid: int
    at_ns: int
    started_ns: int
    status: Literal["starting", "ready", "degraded"]
    reason: str = ""
    memory_mb: float = 0.0  # resident set
    peak_memory_mb: float = 0.0
    cpu_percent: float = 0.0  # of one core
    counters: dict[str, int] = {}
    budgets: dict[str, int] = {}  # class -> misses
    missed_by: dict[str, int] = {}  # "class/stage" -> misses that stage explains
    stages: dict[str, StageStats] = {}  # "class/stage"
    warnings: list[str] = []


class SiteState(Message, frozen=True, kw_only=True, tag="site.1"):
    """What the supervisor knows, once a second: processes, restarts, degraded roles."""

    at_ns: int
    site: str
    node: str
    started_ns: int
    roles: dict[str, str]  # role -> running | restarting | degraded | stopped
    restarts: dict[str, int]
    reasons: dict[str, str] = {}
    warnings: list[str] = []
    memory_mb: dict[str, float] = {}
    ports: dict[str, int] = {}


class DeviceInfo(Message, frozen=True, kw_only=True, tag="device.1"):
    """An enrolled device, as shown to people. No secrets."""

    device_id: str
    kind: str
    label: str
    ae_title: str = ""
    enrolled_ns: int = 0
    revoked_ns: int = 0
    fingerprint: str = ""
    legacy: str = ""  # empty, "plain" or "tls1.2": an explicit exception in the settings
    last_seen_ns: int = 0


class Devices(Message, frozen=True, kw_only=True, tag="devices.1"):
    """All enrolled devices."""

    devices: list[DeviceInfo]
