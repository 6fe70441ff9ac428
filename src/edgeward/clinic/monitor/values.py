"""Compares the values of parameters with the limits in force, and notices values that stop coming.

Responsible for averaging, for the delay a value must be beyond its limit, and for what becomes stale: a value that was
live and is no more ends no alarm silently, it is a technical alarm of its own. Pure apart from its memory. Not
responsible for the limits themselves (``limits``), nor for protocols and units (``vitals``).

Measurements are aged by the difference of the two site times that come with them; from then on a steady clock counts,
so a step of the wall clock makes nothing stale.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edgeward.bedside import ParameterLimit
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.parameters import PARAMETERS, Parameter

#: A parameter that goes stale sooner than this is measured continuously: its silence is an alarm. A cuff's or a
#: thermometer's is not; such a value is only shown as old.
CONTINUOUS_S = 60.0
#: A signal that is back has this long until its values must be there again: electrodes and detectors settle.
SETTLE_S = 10.0
#: What arrives this soon after a value came along with it: a source that has sent nothing later is silent.
_TOGETHER_NS = 2_000_000_000
_SIDES = ("extreme_low", "low", "high", "extreme_high")
_OFF = ParameterLimit()


def beyond(value: float, bound: str) -> float:
    """Return the number that limits are compared with: what is said to lie below (above) a value is not equal to it."""
    if not bound:
        return value
    return math.nextafter(value, -math.inf if bound == "below" else math.inf)


@dataclass(slots=True)
class Value:
    """The latest value of one parameter of one source. Times in ns of the steady clock."""

    parameter: Parameter
    value: float | None = None
    at: int = 0  # when it was measured
    arrived: int = 0
    quality: float | None = None
    stale_ns: int = 0  # how long it stays valid
    live: bool = False  # it had values and is expected to go on having them
    gone: bool = False  # told as missing
    limit: ParameterLimit = _OFF
    on: set[str] = field(default_factory=set)  # sides that are told as beyond
    unseen: set[str] = field(default_factory=set)  # those whose end nobody saw: the next value that is within is it
    since: dict[str, int] = field(default_factory=dict)  # side -> beyond since, not yet told
    history: deque[tuple[int, float]] | None = None  # for averaging
    due: int = 0  # when it is looked whether it is stale; 0: it is not
    calm: tuple[float, float] = (-math.inf, math.inf)  # within these nothing is beyond any limit
    bound: str = ""  # off the device's scale: the true value lies below, or above
    awaited: int = 0  # its sensor or its signal came back: until then it need not have a value

    def adopt(self, limit: ParameterLimit) -> None:
        """Take other limits."""
        self.limit = limit
        self.history = deque() if limit.averaging_s else None
        low = [bound for bound in (limit.extreme_low, limit.low) if bound is not None]
        high = [bound for bound in (limit.high, limit.extreme_high) if bound is not None]
        self.calm = max(low, default=-math.inf), min(high, default=math.inf)

    def stale(self, now: int) -> bool:
        """Return whether it is too old to be shown as live."""
        return now - self.at >= self.stale_ns

    @property
    def continuous(self) -> bool:
        """Whether its silence is an alarm."""
        return self.parameter.stale_s <= CONTINUOUS_S


@dataclass(slots=True)
class _Source:
    values: dict[str, Value] = field(default_factory=dict)
    limits: Mapping[str, ParameterLimit] = field(default_factory=dict)
    heard: int = 0  # steady time of the last update of any parameter
    lost: bool = False


class LimitWatch:
    """The values of all sources.

    Parameters
    ----------
    clock : callable
        Steady nanoseconds.
    has_signal : callable
        Whether a source sends waveforms: its silence is then noticed there, not here.
    """

    def __init__(self, clock: Callable[[], int], has_signal: Callable[[str], bool] = lambda _: False) -> None:
        self._clock = clock
        self._has_signal = has_signal
        self._sources: dict[str, _Source] = {}
        self._timers: list[tuple[int, int, str, str, str]] = []  # due, number, kind, source, parameter
        self._number = 0
        self._events: list[ConditionEvent] = []

    def take_events(self) -> list[ConditionEvent]:
        """Return and forget what began or ended."""
        events, self._events = self._events, []
        return events

    def values(self, source_id: str) -> Mapping[str, Value]:
        """Return the latest values of a source, by parameter."""
        source = self._sources.get(source_id)
        return source.values if source else {}

    def set_limits(self, source_id: str, limits: Mapping[str, ParameterLimit]) -> None:
        """Change the limits that a source's values are compared with; they hold at once."""
        source = self._sources.setdefault(source_id, _Source())
        source.limits = limits
        now = self._clock()
        for name, known in source.values.items():
            before, limit = known.limit, limits.get(name, _OFF)
            if limit == before:
                continue
            known.adopt(limit)
            known.since.clear()
            if known.value is not None and not known.stale(now):
                stood = set(known.on)
                self._judge(source_id, known, beyond(known.value, known.bound), now)
                for side in sorted(stood & known.on):
                    if (getattr(limit, side), limit.priority) != (getattr(before, side), before.priority):
                        self._begin(source_id, known, side, beyond(known.value, known.bound), altered=True)
            else:
                gone = [side for side in known.on if getattr(limit, side) is None]
                self._end(source_id, known, gone)

    def update(
        self,
        source_id: str,
        parameter: str,
        value: float | None,
        *,
        at_ns: int,
        received_ns: int,
        quality: float | None = None,
        stale_s: float | None = None,
        missed: bool = True,
        bound: str = "",
        heard: bool = True,
    ) -> None:
        """Take one value (`conditions.ValueSink`).

        `stale_s` says how long this value stays valid, where that is known better than by its parameter. Where it need
        not be followed by another (a spot check), `missed` is false: then its silence is no alarm. Not `heard`: time
        took the value away, nothing came from the source.
        """
        source = self._sources.get(source_id)
        if source is None:
            source = self._sources[source_id] = _Source()
        known = source.values.get(parameter)
        if known is None:
            known = source.values[parameter] = Value(PARAMETERS[parameter])
            known.adopt(source.limits.get(parameter, _OFF))
        now = self._clock()
        if heard:
            source.heard = now
        if heard and source.lost:
            source.lost = False
            self._events.append(ConditionEvent(source_id, "signal_lost", False, now, now))
            self.settle(source_id)
        if value is None:
            known.value = None  # shown at once; it alarms when it has been gone for as long as makes a value stale
            known.quality = quality
            return
        at = now - max(0, received_ns - at_ns)
        if at < known.at:
            return  # an older measurement, come late
        known.value, known.at, known.quality, known.bound = value, at, quality, bound
        known.arrived = now
        known.stale_ns = int((known.parameter.stale_s if stale_s is None else stale_s) * 1e9)
        if known.stale(now):
            return  # old when it came: shown as old, and compared with nothing
        if known.continuous:
            self._look_at(at + known.stale_ns, source_id, known)
        known.live = known.live or missed
        if known.gone:
            known.gone = False
            self._tell(source_id, known, "no_value")
        limit = known.limit
        if limit is not _OFF:
            self._judge(source_id, known, beyond(value, bound), now)

    def update_all(
        self,
        parameter: str,
        values: Iterable[tuple[str, float | None, int, float | None]],
        *,
        received_ns: int,
    ) -> None:
        """Take one parameter's values of many sources: of each its id, value, `at_ns` and quality, as in `update`.

        The usual one is live and within its limits, and nothing is told of it: then only the number changes.
        """
        now = self._clock()
        sources = self._sources
        for source_id, value, at_ns, quality in values:
            source = sources.get(source_id)
            known = source.values.get(parameter) if source is not None else None
            at = now - max(0, received_ns - at_ns)
            if (
                value is None
                or source is None
                or known is None
                or source.lost
                or known.gone
                or not known.live
                or not known.due
                or known.on
                or known.unseen
                or known.since
                or known.history is not None
                or not known.calm[0] <= value <= known.calm[1]
                or not known.at <= at
                or now - at >= (stale_ns := int(known.parameter.stale_s * 1e9))
            ):
                self.update(source_id, parameter, value, at_ns=at_ns, received_ns=received_ns, quality=quality)
                continue
            source.heard = now
            known.value, known.at, known.quality, known.stale_ns = value, at, quality, stale_ns
            known.arrived = now

    # ------------------------------------------------------------------ limits

    def _judge(self, source_id: str, known: Value, value: float, now: int) -> None:
        limit = known.limit
        if known.history is not None:
            known.history.append((now, value))
            oldest = now - int(limit.averaging_s * 1e9)
            while known.history[0][0] < oldest:
                known.history.popleft()
            value = sum(v for _, v in known.history) / len(known.history)
        ended = []
        for side in _SIDES:
            bound: float | None = getattr(limit, side)
            beyond = bound is not None and (value < bound if side.endswith("low") else value > bound)
            if not beyond:
                known.since.pop(side, None)
                if side in known.on or side in known.unseen:
                    ended.append(side)
            elif side not in known.on and side not in known.since:
                delay = 0.0 if side.startswith("extreme") else limit.delay_s
                if delay <= 0:
                    self._begin(source_id, known, side, value)
                else:
                    known.since[side] = now
                    self._timer(now + int(delay * 1e9), side, source_id, known.parameter.name)
        # Ends come after beginnings: an alarm that grows worse is never between two.
        self._end(source_id, known, ended)

    def _begin(self, source_id: str, known: Value, side: str, value: float, *, altered: bool = False) -> None:
        known.on.add(side)
        known.unseen.discard(side)
        bound = getattr(known.limit, side)
        args: dict[str, float | str] = {
            "value": round(value, known.parameter.decimals or 1),
            "limit": float(bound),
            "unit": known.parameter.unit,
        }
        if known.bound:
            args["bound"] = known.bound
        if not side.startswith("extreme"):
            args["priority"] = known.limit.priority
        self._tell(source_id, known, f"parameter_{side}", args, altered=altered)

    def _end(self, source_id: str, known: Value, sides: list[str], *, unseen: bool = False) -> None:
        for side in sides:
            known.on.discard(side)
            if unseen:
                known.unseen.add(side)
            else:
                known.unseen.discard(side)
            self._tell(source_id, known, f"parameter_{side}", unseen=unseen)

    def _tell(
        self,
        source_id: str,
        known: Value,
        code: str,
        begun: dict[str, float | str] | None = None,
        *,
        unseen: bool = False,
        altered: bool = False,
    ) -> None:
        """Tell that a condition has begun, with what there is to say of it, or ended (as far as anybody knows)."""
        now = self._clock()
        self._events.append(
            ConditionEvent(
                source_id,
                code,
                begun is not None,
                now,
                now,
                onset_ns=known.at if begun is not None else 0,
                args={"parameter": known.parameter.name, **(begun or {})},
                unseen=unseen,
                altered=altered,
            )
        )

    # ------------------------------------------------------------------ time

    def _timer(self, due: int, kind: str, source_id: str, parameter: str) -> None:
        self._number += 1
        heapq.heappush(self._timers, (due, self._number, kind, source_id, parameter))

    def _look_at(self, due: int, source_id: str, known: Value) -> None:
        """See then whether a value is stale, unless it is looked at sooner anyway."""
        if not known.due or due < known.due:
            known.due = due
            self._timer(due, "stale", source_id, known.parameter.name)

    def tick(self) -> None:
        """Take the passing of time: delays that are over, values that have become stale."""
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            at, _, kind, source_id, parameter = heapq.heappop(self._timers)
            source = self._sources.get(source_id)
            known = source.values.get(parameter) if source else None
            if source is None or known is None:
                continue
            if kind == "stale":
                if at == known.due:  # else it goes stale sooner than was thought then, and was looked at
                    self._look(source_id, source, known, now)
            elif kind in known.since and not known.stale(now):
                due = known.since[kind] + int(known.limit.delay_s * 1e9)
                if due > now:  # it was within in between: counted from the last crossing
                    self._timer(due, kind, source_id, parameter)
                    continue
                del known.since[kind]
                value = known.value
                if known.history:
                    value = sum(v for _, v in known.history) / len(known.history)
                if value is not None:
                    self._begin(source_id, known, kind, value)

    def _look(self, source_id: str, source: _Source, known: Value, now: int) -> None:
        known.due = 0
        if not known.stale(now):
            self._look_at(known.at + known.stale_ns, source_id, known)
            return
        if now < known.awaited:
            self._end(source_id, known, sorted(known.on))
            self._look_at(known.awaited, source_id, known)
            return
        known.since.clear()
        if known.live:
            # Not by how long it has been silent: a value is older than its arrival by as much as it took to come.
            silent = source.heard - known.arrived <= _TOGETHER_NS
            if silent and not source.lost and not self._has_signal(source_id):
                source.lost = True
                seconds = round((now - source.heard) / 1e9, 1)
                self._events.append(ConditionEvent(source_id, "signal_lost", True, now, now, args={"seconds": seconds}))
            known.live, known.gone = False, True
            args: dict[str, float | str] = {"seconds": round((now - (known.at or source.heard)) / 1e9, 1)}
            self._tell(source_id, known, "no_value", args)
            self._end(source_id, known, sorted(known.on))
            return
        # Of a spot check nobody knows whether it is over: what it was told of waits for somebody to see it.
        self._end(source_id, known, sorted(known.on), unseen=True)

    def settle(self, source_id: str) -> None:
        """Take it that a source, or its sensor, is back: what has no value yet is missed only when it has settled."""
        now = self._clock()
        until = now + int(SETTLE_S * 1e9)
        for known in self.values(source_id).values():
            if not known.continuous:
                continue
            known.awaited = until
            if known.gone:
                known.gone = False
                known.live = True
                self._tell(source_id, known, "no_value")
            if known.live and not known.due:
                self._look_at(until, source_id, known)

    def begin_anew(self, source_id: str, parameter: str) -> None:
        """Take it that values up to now say nothing of what is to come: limits are judged anew with the next."""
        known = self.values(source_id).get(parameter)
        if known is None:
            return
        known.since.clear()
        if known.history is not None:
            known.history.clear()
        self._end(source_id, known, sorted(known.on))

    def rest(self, source_id: str) -> None:
        """Take it that a source stops on purpose: its silence is no alarm until it sends again."""
        for known in self.values(source_id).values():
            known.live = False
            known.since.clear()

    def forget(self, source_id: str) -> None:
        """Forget the values of a source; whatever was beyond a limit is over."""
        source = self._sources.get(source_id)
        if source is None:
            return
        now = self._clock()
        for known in source.values.values():
            self._end(source_id, known, sorted(known.on))
            if known.gone:
                self._tell(source_id, known, "no_value")
        if source.lost:
            self._events.append(ConditionEvent(source_id, "signal_lost", False, now, now))
        self._sources[source_id] = _Source(limits=source.limits)

    def withdraw(self, source_id: str, parameter: str) -> None:
        """Take it that a value is nobody's any more (another patient): it is neither shown nor missed."""
        source = self._sources.get(source_id)
        known = source.values.pop(parameter, None) if source else None
        if known is None:
            return
        self._end(source_id, known, sorted(known.on))
        if known.gone:
            self._tell(source_id, known, "no_value")

    def drop(self, source_id: str) -> None:
        """Forget a source altogether."""
        self._sources.pop(source_id, None)

    def expect(self, source_id: str, parameter: str) -> None:
        """Take it that a value came steadily before a restart: its silence counts from now."""
        source = self._sources.setdefault(source_id, _Source())
        if parameter in source.values:
            return  # there is a newer one, or an alarm about it
        now = self._clock()
        known = source.values[parameter] = Value(PARAMETERS[parameter])
        known.adopt(source.limits.get(parameter, _OFF))
        if not known.continuous:
            return
        source.heard = source.heard or now
        valid = int(known.parameter.stale_s * 1e9)
        known.stale_ns = now + valid  # it was measured nobody knows when
        known.arrived = now
        known.live = True
        self._look_at(now + valid, source_id, known)

    def assume(self, source_id: str, code: str, parameter: str) -> None:
        """Take a condition as holding that held before a restart, so that its end, or its silence, will be told."""
        now = self._clock()
        source = self._sources.setdefault(source_id, _Source())
        if code == "signal_lost":
            source.lost = True
            return
        side = code.removeprefix("parameter_")
        if parameter not in PARAMETERS or (code != "no_value" and side not in _SIDES):
            return
        known = source.values.get(parameter)
        fresh = known is None
        if known is None:
            known = source.values[parameter] = Value(
                PARAMETERS[parameter],
                at=now,
                arrived=now,
                stale_ns=int(PARAMETERS[parameter].stale_s * 1e9),
            )
            known.adopt(source.limits.get(parameter, _OFF))
        if code == "no_value":
            known.gone = True
        else:
            known.on.add(side)
            known.live = known.live or fresh  # of a value that was taken up it is known whether it will be missed
            if known.continuous:
                self._look_at(now + known.stale_ns, source_id, known)
