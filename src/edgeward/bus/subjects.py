"""The one place that spells NATS subjects.

Responsible for names only. The permissions that go with them are in ``bus.permissions``.

``raw.>``, ``work.>``, ``finding.>``, ``alarm.>``, ``audit.>`` and ``state.>`` never leave the site.
An MQTT topic is the subject with ``/`` for ``.``.
"""

from __future__ import annotations

import re

TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def token(text: str) -> str:
    """Return `text` if it may stand between two dots of a subject.

    Raises
    ------
    ValueError
        If it is empty, longer than 64 characters, or holds anything but ``A-Z a-z 0-9 _ -``. A space or a wildcard in a
        subject makes MQTT clients reconnect for ever, so such names are refused at enrolment.
    """
    if not TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} is not a valid name: use 1 to 64 of A-Z a-z 0-9 _ -")
    return text


# ---------------------------------------- from devices


def wave(device_id: str) -> str:
    """Waveform packets of one device (MQTT topic ``raw/wave/<device>``)."""
    return f"raw.wave.{token(device_id)}"


WAVE_ALL = "raw.wave.*"


def vital(device_id: str) -> str:
    """Numerics of one device as SenML (MQTT topic ``raw/vital/<device>``)."""
    return f"raw.vital.{token(device_id)}"


VITAL_ALL = "raw.vital.*"
STORED_VITALS = "edgeward-vitals"  # the monitor's consumer of those that were published with QoS 1 (``bus.stored``)

# ---------------------------------------- imaging


def work_image(node: str) -> str:
    """Image work for the engine on one node."""
    return f"work.image.node.{token(node)}"


WORK_IMAGE_ANY = "work.image.any"  # queue group ENGINES: whoever is free
ENGINES = "engines"

RENDER_ANY = "work.render.any"  # RenderRequest -> Rendered | Refused, queue group ENGINES

DELIVER_ACCEPT = "work.deliver.accept"
DELIVER_REPORT = "work.deliver.report"  # Ask(item) -> ReportText
DELIVER_STATUS = "work.deliver.status"  # Ask() -> Destinations
DELIVER_RESEND = "work.deliver.resend"  # Resend -> Resent | Refused
DELIVERS = "delivers"

GATEWAY_DELIVERY = "work.gateway.delivery"  # DeliveryReport -> Ok
GATEWAY_ITEMS = "work.gateway.items"  # ItemsQuery -> Items
GATEWAY_PREVIEW = "work.gateway.preview"  # Ask(item) -> Preview
GATEWAY_VERDICT = "work.gateway.verdict"  # Verdict -> Ok | Refused
GATEWAY_QUARANTINE = "work.gateway.quarantine"  # Ask() -> QuarantineList
GATEWAY_DEVICES = "work.gateway.devices"  # Ask() -> Devices
GATEWAY_FRAME = "work.gateway.frame"  # FrameQuery -> Rendered | Refused
GATEWAY_ORDERS = "work.gateway.orders"  # OrdersQuery -> Orders
GATEWAYS = "gateways"


def finding(item_id: str) -> str:
    """A new finding (an `ItemSummary` with its finding), for whoever watches."""
    return f"finding.{token(item_id)}"


FINDING_ALL = "finding.*"


def item_state(item_id: str) -> str:
    """A change of an item's state (an `ItemSummary`)."""
    return f"state.item.{token(item_id)}"


ITEM_STATE_ALL = "state.item.*"
STATE_STUDY = "state.study"  # StudyState

# ---------------------------------------- monitoring


def alarm(device_id: str) -> str:
    """Alarm transitions of one device."""
    return f"alarm.{token(device_id)}"


ALARM_ALL = "alarm.*"
MONITOR_ACK = "work.monitor.ack"  # AlarmAck -> Ok | Refused
MONITOR_ALARMS = "work.monitor.alarms"  # Ask(device or "") -> Alarms
MONITOR_NUMERICS = "work.monitor.numerics"  # Numerics -> Ok | Refused
MONITOR_PAUSE = "work.monitor.pause"  # AlarmPause -> Ok | Refused
MONITOR_EVENTS = "work.monitor.events"  # AlarmQuery -> Alarms
MONITOR_BED = "work.monitor.bed"  # Ask(bed) -> BedInfo | Refused
MONITOR_SET_BED = "work.monitor.set-bed"  # SetBed -> Ok | Refused
MONITOR_NOTICE = "work.monitor.notice"  # NoticeReport -> Ok
MONITOR_HEARING = "work.monitor.hearing"  # Hearing, no answer
MONITORS = "monitors"
ALARM_SYSTEM = "state.alarm-system"  # AlarmSystemState

DELIVER_NOTICE = "work.deliver.notice"  # Notice -> Ok | Refused

RECORDER_STRIP = "work.recorder.strip"  # StripQuery -> Strip | Refused
RECORDER_TREND = "work.recorder.trend"  # TrendQuery -> Trend | Refused
RECORDER_RECENT = "work.recorder.recent"  # RecentQuery -> Recent | Refused
RECORDER_OBSERVED = "work.recorder.observed"  # Observed -> Ok | Refused
RECORDER_OBSERVATIONS = "work.recorder.observations"  # ObservationQuery -> Observations | Refused
RECORDERS = "recorders"

STATE_BEDS = "state.beds"
STATE_VIEWING = "state.viewing"


def trace(device_id: str) -> str:
    """Display trace of one device, published while somebody looks."""
    return f"state.trace.{token(device_id)}"


TRACE_ALL = "state.trace.*"

# ---------------------------------------- state


def role_state(role: str) -> str:
    """Heartbeat of one role."""
    return f"state.role.{token(role)}"


ROLE_STATE_ALL = "state.role.*"
SITE_STATE = "state.site"
QUARANTINED = "state.quarantined"  # Quarantined, from any role; the gateway keeps it

# ---------------------------------------- the server's

AUTH_CALLOUT = "$SYS.REQ.USER.AUTH"
INBOX = "_INBOX"
