"""What is held of each source: the present values, when they go stale, and the form in which they outlast a restart.

Responsible for these types and for that form. Not responsible for which value is the present one (``vitals``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from edgeward.messages import decoder
from edgeward.parameters import PARAMETERS, Parameter

_S = 1_000_000_000
EPISODIC_S = 600.0  # a parameter that stays valid this long is measured once in a while
_MOST_STALE_S = 180.0
_INTERVALS = 2.2
_STEADY = 2
#: What a person or a spot check measured stands in a score until the next round, for as long as a temperature does.
ROUND_NS = 4 * 3600 * _S


@dataclass(frozen=True, slots=True)
class Change:
    """A parameter of a source has another value now, or none.

    Attributes
    ----------
    value
        In the parameter's unit; None: no value.
    why
        Why there is none: what the device said, ``stale``, ``implausible``, ``patient``; or empty.
    at_ns, received_ns
        Site time of the measurement, and of its arrival; for ``stale`` and ``patient``: now.
    """

    source_id: str
    parameter: str
    value: float | None
    why: str
    at_ns: int
    received_ns: int
    quality: float | None = None
    bound: str = ""  # the true value lies below, or above


@dataclass(slots=True)
class Held:
    """The present value of one parameter of one source. Times are site time."""

    parameter: Parameter
    value: float | None
    at_ns: int
    received_ns: int
    why: str = ""
    quality: float | None = None
    code: str = ""
    validity: str = "valid"
    device_ns: int = 0  # as the device said it, which tells a repetition from a new measurement; 0: it did not say
    interval_ns: int = 0  # between measurements, as far as there is a habit; 0: not known
    steps: int = 0  # measurements that each came within a minute of the one before
    expired: bool = False
    bound: str = ""

    @property
    def stale_ns(self) -> int:
        """When it goes stale, site time."""
        seconds = self.parameter.stale_s
        if self.interval_ns and seconds < EPISODIC_S:
            seconds = max(seconds, min(_INTERVALS * self.interval_ns / _S, _MOST_STALE_S))
        return self.at_ns + round(seconds * _S)

    @property
    def missed(self) -> bool:
        """Whether its silence means something: it has come steadily.

        A nurse's round with a thermometer, a spot check or an entry of a record system is no monitoring that stops.
        """
        return self.steps >= _STEADY

    def stands(self, now_ns: int) -> bool:
        """Whether it may count in a score although it is not live: measured once, and not too long ago."""
        return self.value is not None and not self.missed and now_ns - self.at_ns < ROUND_NS

    @property
    def live(self) -> bool:
        """Whether there is a value, and it is not stale."""
        return self.value is not None and not self.expired


@dataclass(slots=True)
class Source:
    """What is known of one source beside its values."""

    source_id: str
    device_id: str
    protocol: str
    label: str
    values: dict[str, Held] = field(default_factory=dict)
    patient: str = ""
    former: str = ""  # whose place it was, as long as nobody has discharged the bed; empty: the same patient's
    sequence: int = -1
    sequence_ns: int = 0
    received_ns: int = 0
    gaps: int = 0
    last_gap: tuple[int, int] = (0, 0)  # site time: from the last value before it to the first after it
    due_ns: int = 0  # of its entry in the queue
    since_ns: int = 0  # site time: what it measured earlier is of the patient before, however late it comes; 0: nothing
    left: str = ""  # whom it named then, if it did


# ---------------------------------------- over a restart


class _KeptValue(msgspec.Struct, array_like=True):
    name: str
    value: float
    at_ns: int
    received_ns: int
    quality: float | None
    code: str
    validity: str
    device_ns: int
    interval_ns: int
    steps: int
    bound: str = ""  # dumps of the version before end here


class _Kept(msgspec.Struct, array_like=True):
    source_id: str
    device_id: str
    protocol: str
    label: str
    patient: str
    sequence: int
    sequence_ns: int
    values: list[_KeptValue]
    former: str = ""
    since_ns: int = 0  # dumps of the versions before end before one of these
    left: str = ""


def dump(sources: Iterable[Source], wall: Callable[[int], int]) -> bytes:
    """Return what outlasts a restart: values that are live, or of a round, whose they are, and how often they come."""
    rows = [
        _Kept(
            source.source_id,
            source.device_id,
            source.protocol,
            source.label,
            source.patient,
            source.sequence,
            wall(source.sequence_ns),
            [
                _KeptValue(
                    name,
                    held.value,
                    wall(held.at_ns),
                    wall(held.received_ns),
                    held.quality,
                    held.code,
                    held.validity,
                    held.device_ns,
                    held.interval_ns,
                    held.steps,
                    held.bound,
                )
                for name, held in source.values.items()
                if held.value is not None and (held.live or not held.missed)
            ],
            source.former,
            source.since_ns and wall(source.since_ns),
            source.left,
        )
        for source in sources
    ]
    return msgspec.msgpack.encode(rows)


def read(data: bytes, now_ns: int, steady: Callable[[int], int]) -> tuple[list[Source], list[Change]]:
    """Return what `dump` gave, and the values of it that are still valid. Others are known to be expired.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        rows = decoder(list[_Kept]).decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"these are no values: {error}") from error
    sources: list[Source] = []
    changes: list[Change] = []
    for row in rows:
        source = Source(row.source_id, row.device_id, row.protocol, row.label, patient=row.patient, former=row.former)
        source.sequence, source.sequence_ns = row.sequence, steady(row.sequence_ns)
        # Were the clock set back meanwhile, nothing would count until it is this late again.
        source.since_ns = row.since_ns and min(steady(row.since_ns), now_ns)
        source.left = row.left
        for kept in row.values:
            parameter = PARAMETERS.get(kept.name)
            if parameter is None:
                continue
            held = Held(
                parameter,
                kept.value,
                steady(kept.at_ns),
                steady(kept.received_ns),
                quality=kept.quality,
                code=kept.code,
                validity=kept.validity,
                device_ns=kept.device_ns,
                interval_ns=kept.interval_ns,
                steps=kept.steps,
                bound=kept.bound,
            )
            if held.at_ns > now_ns:
                continue  # a clock was set meanwhile: nobody knows how old it is
            source.values[kept.name] = held
            if held.stale_ns > now_ns:
                changes.append(
                    Change(
                        row.source_id, kept.name, held.value, "", held.at_ns, held.received_ns, held.quality,
                        held.bound,
                    )
                )  # fmt: skip
            else:
                held.expired = True
        sources.append(source)
    return sources, changes
