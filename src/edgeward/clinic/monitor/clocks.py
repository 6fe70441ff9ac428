"""How far each device's clock is off, and how fast it runs away: from when a device says it sent, and the arrival.

Responsible for the estimate, for device time as site time, and for the condition ``clock_offset``. Not responsible for
where the pairs come from: any message with a time by the device's clock gives one.

What is seen is ``device time - arrival = offset - delay``. The delay is never negative, so that the offset is the upper
envelope of what is seen, and the slope of that envelope the drift (Moon, Skelly and Towsley, "Estimation and removal of
clock skew from network delay measurements", INFOCOM 1999: the line above all points that is closest to them). Three
things look alike for a moment and are told apart:

- *Backlog*: a device that was out of reach sends what it kept. Its times run faster than ours until it has caught up.
  The envelope stays.
- *Clock set forward*: three messages in a row are earlier than any delay allows.
- *Clock set back*: device times jump back and then go on at true rate. Where nothing jumped (the device was silent
  meanwhile) the same could be a longer way; it is taken for the clock after two minutes.

A constant delay cannot be told from an offset: a device that always sends five seconds late has a clock five seconds
slow, for all that can be seen from here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgeward.clinic.monitor.conditions import ConditionEvent

CODE = "clock_offset"
LIMIT_NS = 10_000_000_000  # beyond this, times that a device shows and ours would be confused
_CLEAR_NS = 8_000_000_000
STEP_SHOWN_NS = 60_000_000_000  # a clock that was just set is told for so long
_UNSET_NS = 946_684_800 * 10**9  # 2000-01-01: a clock before this was never set

_MS = 1_000_000
_S = 1_000_000_000
_AHEAD_NS = 250 * _MS  # more than drift between two looks
_BEHIND_NS = 2 * _S  # more than whole seconds and a slow network make
_TOLD_NS = 1 * _S  # a smaller step corrects the estimate and is told to nobody
_AHEAD_TIMES = 3
_BACK_TIMES = 3
_BACK_SPAN_NS = 2 * _S
_LATER_SPAN_NS = 120 * _S
_BUCKET_NS = 10 * _S
_WIDEST_NS = 60 * _S
_BUCKETS = 60
_LOW_BUCKETS = 6
_SLOPE_SPAN_NS = 240 * _S  # before this, jitter is more than drift
_MOST_PPM = 1000.0
_SLACK = 2000  # 500 ppm


@dataclass(slots=True)
class _Behind:
    """Messages that come from further behind than before."""

    first_arrival: int
    first_seen: int
    went_back: bool
    best: int  # upper envelope of them
    last_seen: int
    count: int = 1


class Clock:
    """The clock of one device. Times are integers, nanoseconds since the epoch."""

    __slots__ = (
        "_ahead",
        "_base_ns",
        "_base_seen",
        "_began_ns",
        "_behind",
        "_best",
        "_bucket_ns",
        "_bucket_start",
        "_last_device",
        "_low",
        "_points",
        "_slope",
        "_width",
        "stepped_ns",
        "steps",
        "synchronised",
    )

    def __init__(self) -> None:
        self._points: list[tuple[int, int]] = []  # (arrival, best seen) of each past bucket
        self._width = _BUCKET_NS
        self._bucket_start = self._bucket_ns = self._best = 0
        self._base_ns = self._base_seen = 0
        self._slope = 0.0
        self._ahead: list[tuple[int, int]] = []
        self._behind: _Behind | None = None
        self._last_device = 0
        self._low: list[int] = []  # the latest buckets, while all of them are a little behind
        self._began_ns = 0
        self.steps = 0
        self.stepped_ns = 0  # arrival of the message that made the last step certain
        self.synchronised = True

    @property
    def known(self) -> bool:
        """Whether anything was seen of it."""
        return self._began_ns != 0

    def observe(self, device_ns: int, arrival_ns: int) -> bool:
        """Take one pair; return whether it made certain that the clock was set.

        Parameters
        ----------
        device_ns
            When the device says that it sent.
        arrival_ns
            When that arrived, by the site's clock.
        """
        seen = device_ns - arrival_ns
        went_back = device_ns < self._last_device - _AHEAD_NS
        self._last_device = device_ns
        if not self.known:
            self._begin(arrival_ns, seen)
            return False
        line, slack = self._line(arrival_ns), self._slack(arrival_ns)
        if seen > line + slack + _AHEAD_NS:
            return self._early(arrival_ns, seen, line)
        self._ahead.clear()
        behind = self._behind
        if behind is not None and seen > line - max(_AHEAD_NS, (line - behind.first_seen) // 2):
            self._behind = behind = None
        if behind is not None or seen < line - slack - _BEHIND_NS or (went_back and seen < line - _AHEAD_NS):
            return self._late(arrival_ns, seen, line, went_back=went_back)
        self._take(arrival_ns, seen)
        return False

    def offset_ns(self, now_ns: int) -> int:
        """Return device clock minus site clock."""
        return self._line(now_ns)

    @property
    def drift_ppm(self) -> float | None:
        """Return how fast the device's clock runs away, or None before that can be told (four minutes)."""
        return self._slope * 1e6 if self._slope_known else None

    @property
    def is_set(self) -> bool:
        """Whether the device has a clock worth the name: seen, and neither unset nor declared to be unsynchronised."""
        return self.known and self.synchronised and self._last_device >= _UNSET_NS

    def to_site(self, device_ns: int, received_ns: int) -> int:
        """Return a time of the device's clock by the site's clock; never later than its arrival."""
        return min(device_ns - self._line(received_ns), received_ns) if self.known else min(device_ns, received_ns)

    def frame(self) -> tuple[int, int, float, int, int, int] | None:
        """Return within what a look changes nothing, for those who look at thousands (``streams``).

        Returns
        -------
        tuple or None
            Arrival and value at the base of the line, its slope, the divisor of its slack (0: none), the end of the
            bucket and the best seen in it. None: the next look matters in any case.
        """
        if not self.known or self._ahead or self._behind is not None:
            return None
        slack = 0 if self._slope_known else _SLACK
        return self._base_ns, self._base_seen, self._slope, slack, self._bucket_start + self._width, self._best

    def passed(self, device_ns: int) -> None:
        """Take it that the clock showed this meanwhile, and that nothing followed from it."""
        self._last_device = device_ns

    # ---------------------------------------- steps

    def _begin(self, arrival_ns: int, seen: int) -> None:
        self._began_ns = self._bucket_start = self._bucket_ns = self._base_ns = arrival_ns
        self._best = self._base_seen = seen
        self._points.clear()
        self._ahead.clear()
        self._low.clear()
        self._behind = None
        self._slope, self._width = 0.0, _BUCKET_NS

    def _early(self, arrival_ns: int, seen: int, line: int) -> bool:
        self._behind = None
        self._ahead.append((arrival_ns, seen))
        if len(self._ahead) < _AHEAD_TIMES:
            return False
        # What was taken for the envelope so far: a backlog if we had only just begun to look, else another clock.
        told = seen - line >= _TOLD_NS + self._slack(arrival_ns)
        told = told and self._ahead[0][0] - self._began_ns >= _LATER_SPAN_NS
        ahead = list(self._ahead)
        self._begin(*ahead[0])
        for pair in ahead[1:]:
            self._take(*pair)
        return self._stepped(arrival_ns) if told else False

    def _late(self, arrival_ns: int, seen: int, line: int, *, went_back: bool) -> bool:
        behind = self._behind
        if behind is None or (went_back and not behind.went_back):
            self._behind = _Behind(arrival_ns, seen, went_back, seen, seen)
            return False
        behind.count += 1
        behind.best = max(behind.best, seen)
        behind.last_seen = seen
        span = arrival_ns - behind.first_arrival
        steady = abs(seen - behind.first_seen) <= span // 10 + _S // 5
        wanted = _BACK_SPAN_NS if behind.went_back else _LATER_SPAN_NS
        if not steady and span > _BACK_SPAN_NS:
            # It catches up, or falls back further: whatever this becomes begins here.
            self._behind = _Behind(arrival_ns, seen, False, seen, seen)
            return False
        if behind.count < _BACK_TIMES or span < wanted or not steady:
            return False
        told = line - behind.best >= _TOLD_NS + self._slack(arrival_ns)
        self._begin(arrival_ns, behind.best)
        return self._stepped(arrival_ns) if told else False

    def _stepped(self, arrival_ns: int) -> bool:
        self.steps += 1
        self.stepped_ns = arrival_ns
        return True

    # ---------------------------------------- envelope

    def _slack(self, at_ns: int) -> int:
        """Return how far a clock may have run since the envelope was last touched, while its drift is not known."""
        return 0 if self._slope_known else abs(at_ns - self._base_ns) // _SLACK

    def _line(self, at_ns: int) -> int:
        return self._base_seen + (round(self._slope * (at_ns - self._base_ns)) if self._slope else 0)

    def _take(self, arrival_ns: int, seen: int) -> None:
        if arrival_ns - self._bucket_start >= self._width:
            if self._sank():
                self._begin(arrival_ns, max(*self._low, seen))
                return
            self._points.append((self._bucket_ns, self._best))
            if len(self._points) > _BUCKETS:
                self._make_room()
            self._bucket_start, self._bucket_ns, self._best = arrival_ns, arrival_ns, seen
            self._fit()
        elif seen > self._best:
            self._bucket_ns, self._best = arrival_ns, seen
        if seen > self._line(arrival_ns):
            self._base_ns, self._base_seen = arrival_ns, seen  # the line is above all

    def _sank(self) -> bool:
        """Return whether all of the latest buckets are below the envelope: set back a little, or a way that grew."""
        # While there is no slope the envelope is laid on the latest buckets alone, and sinks by itself.
        if not self._slope_known or self._best >= self._line(self._bucket_ns) - _AHEAD_NS:
            self._low.clear()
            return False
        self._low.append(self._best)
        return len(self._low) >= _LOW_BUCKETS

    def _make_room(self) -> None:
        if self._width >= _WIDEST_NS:
            del self._points[0]
            return
        pairs = [self._points[index : index + 2] for index in range(0, len(self._points), 2)]
        self._points = [max(pair, key=lambda point: point[1]) for pair in pairs]
        self._width *= 2

    @property
    def _slope_known(self) -> bool:
        return len(self._points) >= 8 and self._points[-1][0] - self._points[0][0] >= _SLOPE_SPAN_NS

    def _fit(self) -> None:
        """Lay the line above all points that is closest to them: the edge of their hull above their middle."""
        points = self._points
        if not self._slope_known:
            self._slope = 0.0
            # Only what was seen lately: the clock may drift before that can be told.
            self._base_ns, self._base_seen = max(points[-6:], key=lambda point: point[1])
            return
        hull: list[tuple[int, int]] = []
        for point in points:
            while len(hull) > 1 and _above(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        middle = sum(point[0] for point in points) // len(points)
        one, two = next(
            (pair for pair in itertools.pairwise(hull) if pair[1][0] >= middle),
            (hull[-2], hull[-1]),
        )
        slope = (two[1] - one[1]) / (two[0] - one[0])
        self._slope = max(-_MOST_PPM, min(_MOST_PPM, slope * 1e6)) / 1e6
        self._base_ns, self._base_seen = one


def _above(one: tuple[int, int], two: tuple[int, int], three: tuple[int, int]) -> bool:
    """Return whether `two` is on or below the line from `one` to `three`."""
    return (two[1] - one[1]) * (three[0] - one[0]) <= (three[1] - one[1]) * (two[0] - one[0])


class Clocks:
    """The clocks of all sources, and the condition that people are told."""

    def __init__(self) -> None:
        self._clocks: dict[str, Clock] = {}
        self._told: set[str] = set()
        self.before_look: Callable[[str, Clock], None] = lambda *_: None  # who looked on our behalf tells it now

    def __contains__(self, source_id: str) -> bool:
        return source_id in self._clocks

    def observe(self, source_id: str, device_ns: int, arrival_ns: int, *, synchronised: bool = True) -> None:
        """Take when a source says that it sent, and the arrival. `synchronised` False: the device doubts its clock."""
        clock = self._clocks.get(source_id)
        if clock is None:
            clock = self._clocks[source_id] = Clock()
        self.before_look(source_id, clock)
        clock.synchronised = synchronised
        clock.observe(device_ns, arrival_ns)

    def get(self, source_id: str) -> Clock | None:
        """Return a source's clock, if it ever said what time it is."""
        return self._clocks.get(source_id)

    def to_site(self, source_id: str, device_ns: int, received_ns: int) -> int:
        """Return a time of a source's clock by the site's clock, never later than its arrival."""
        clock = self._clocks.get(source_id)
        return clock.to_site(device_ns, received_ns) if clock else min(device_ns, received_ns)

    def shown(self, source_id: str, now_ns: int) -> tuple[float | None, float | None]:
        """Return offset (ms) and drift (ppm) as they may be shown; None where they cannot be told."""
        clock = self._clocks.get(source_id)
        if clock is None or not clock.is_set:
            return None, None
        return clock.offset_ns(now_ns) / 1e6, clock.drift_ppm

    def forget(self, source_id: str) -> None:
        """Forget a source; its condition is not ended here."""
        self._clocks.pop(source_id, None)
        self._told.discard(source_id)

    def conditions(self, now_ns: int) -> Iterator[ConditionEvent]:
        """Yield what began or ended since the last call: a clock that is more than 10 s off, or was just set."""
        for source_id, clock in self._clocks.items():
            told = source_id in self._told
            wrong = self._wrong(clock, now_ns, told=told)
            if wrong == told:
                continue
            (self._told.add if wrong else self._told.discard)(source_id)
            offset_s = round(clock.offset_ns(now_ns) / 1e9, 1)
            yield ConditionEvent(source_id, CODE, wrong, now_ns, now_ns, args={"offset_s": offset_s})

    @staticmethod
    def _wrong(clock: Clock, now_ns: int, *, told: bool) -> bool:
        if not clock.is_set:
            return False
        if clock.stepped_ns and now_ns - clock.stepped_ns < STEP_SHOWN_NS:
            return True
        return abs(clock.offset_ns(now_ns)) > (_CLEAR_NS if told else LIMIT_NS)
