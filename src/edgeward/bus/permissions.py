"""What each role may publish and subscribe: the least it needs, enforced by the NATS server.

A device's permissions are issued per connection by the authentication callout (``gateway.mqtt``).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeward.bus import subjects as s

ACCOUNT = "SITE"
AUTH_ACCOUNT = "AUTH"
SYSTEM_ACCOUNT = "SYS"


#: To follow what devices published with QoS 1 (``bus.stored``): one consumer of the server's own stream, no stream.
_STORED_VITALS = (
    f"$JS.API.CONSUMER.DURABLE.CREATE.$MQTT_msgs.{s.STORED_VITALS}",
    f"$JS.API.CONSUMER.MSG.NEXT.$MQTT_msgs.{s.STORED_VITALS}",
    f"$JS.ACK.$MQTT_msgs.{s.STORED_VITALS}.>",
)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects a role may publish to and subscribe to, beside its own inbox and heartbeat."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()


ROLES: dict[str, Permissions] = {
    "gateway": Permissions(
        publish=(
            "work.image.>",
            s.RENDER_ANY,
            s.DELIVER_ACCEPT,
            s.FINDING_ALL,
            s.ITEM_STATE_ALL,
            s.STATE_STUDY,
            s.MONITOR_NUMERICS,
            s.WAVE_ALL,  # of monitors that speak HL7
        ),
        subscribe=("work.gateway.>", s.QUARANTINED, s.role_state("engine")),
    ),
    "engine": Permissions(subscribe=("work.image.>", s.RENDER_ANY)),
    "monitor": Permissions(
        publish=(
            s.ALARM_ALL,
            s.STATE_BEDS,
            s.TRACE_ALL,
            s.ALARM_SYSTEM,
            s.DELIVER_NOTICE,
            s.RECORDER_RECENT,
            s.RECORDER_OBSERVED,
            *_STORED_VITALS,
        ),
        subscribe=(s.WAVE_ALL, s.VITAL_ALL, "work.monitor.>", s.STATE_VIEWING, s.role_state("deliver")),
    ),
    "recorder": Permissions(subscribe=(s.WAVE_ALL, s.STATE_BEDS, "work.recorder.>")),
    "deliver": Permissions(
        publish=(s.GATEWAY_DELIVERY, s.MONITOR_NOTICE), subscribe=("work.deliver.>", s.ALARM_SYSTEM)
    ),
    "console": Permissions(
        publish=(
            s.STATE_VIEWING,
            s.GATEWAY_ITEMS,
            s.GATEWAY_PREVIEW,
            s.GATEWAY_VERDICT,
            s.GATEWAY_QUARANTINE,
            s.GATEWAY_DEVICES,
            s.GATEWAY_FRAME,
            s.GATEWAY_ORDERS,
            s.MONITOR_ACK,
            s.MONITOR_ALARMS,
            s.MONITOR_PAUSE,
            s.MONITOR_EVENTS,
            s.MONITOR_BED,
            s.MONITOR_SET_BED,
            s.MONITOR_NUMERICS,
            s.MONITOR_HEARING,
            s.RECORDER_STRIP,
            s.RECORDER_TREND,
            s.RECORDER_OBSERVATIONS,
            s.DELIVER_REPORT,
            s.DELIVER_STATUS,
            s.DELIVER_RESEND,
        ),
        subscribe=(s.FINDING_ALL, "state.>", s.ALARM_ALL),
    ),
    "supervisor": Permissions(publish=(s.SITE_STATE,), subscribe=(s.ROLE_STATE_ALL,)),
    "operator": Permissions(
        publish=(
            s.GATEWAY_ITEMS,
            s.GATEWAY_QUARANTINE,
            s.GATEWAY_DEVICES,
            s.GATEWAY_ORDERS,
            s.MONITOR_ALARMS,
            s.MONITOR_EVENTS,
            s.MONITOR_BED,
            s.RECORDER_STRIP,
            s.RECORDER_TREND,
            s.RECORDER_OBSERVATIONS,
            s.DELIVER_STATUS,
            s.DELIVER_RESEND,
        ),
        subscribe=(s.FINDING_ALL, "state.>", s.ALARM_ALL),
    ),
}


def inbox(role: str) -> str:
    """Return the prefix of a role's own inbox: no role can read another's answers."""
    return f"{s.INBOX}_{role}"


def publish(role: str) -> list[str]:
    """Return all subjects `role` may publish to."""
    return [*ROLES[role].publish, s.role_state(role), s.QUARANTINED]


def subscribe(role: str) -> list[str]:
    """Return all subjects `role` may subscribe to."""
    return [*ROLES[role].subscribe, f"{inbox(role)}.>"]
