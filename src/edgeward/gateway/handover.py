"""How numerics that came by HL7 or FHIR reach the monitor: asked for an answer, so that the sender keeps the duty.

Responsible for the request to the role `monitor`, for recognising a message that was taken already, and for the names
of sources behind a system that speaks for several beds. Not responsible for protocols (``pcd01``, ``fhir_vitals``).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from edgeward.bedside import Numerics
from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.messages import MessageError, Ok, Refused

_ANSWER_S = 3.0
_REMEMBERED = 20_000
_AT_ONCE = 64
_UNWANTED = re.compile(r"[^A-Za-z0-9_]+")
_LONGEST = 64
_DIGEST = 12


class NotTaken(Exception):
    """The monitor has not taken the measurements: the sender should send them again. The text says why."""


Count = Callable[..., None]


class Handover:
    """Hands numerics to the monitor.

    Parameters
    ----------
    count
        Adds to a counter of the role.
    enrolled
        Whether there is a device of this id: no place behind another may have its name.
    """

    def __init__(
        self, bus: Bus, count: Count = lambda *_: None, enrolled: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._bus, self.count, self._enrolled = bus, count, enrolled
        self._taken: OrderedDict[bytes, None] = OrderedDict()

    async def give(self, numerics: Sequence[Numerics]) -> None:
        """Return once the monitor has taken all of them.

        Raises
        ------
        NotTaken
            If it is not there, did not answer in time, or refused some. The others it has taken; taken twice they are
            recognised there as repetitions.
        """
        for one in numerics:
            if one.source_id != one.device_id and self._enrolled(one.source_id):
                self.count("numerics_not_taken")
                raise NotTaken(f"device {one.source_id} is enrolled, and this place would have its name")
        for start in range(0, len(numerics), _AT_ONCE):
            answers = await asyncio.gather(*(self._one(one) for one in numerics[start : start + _AT_ONCE]))
            if reasons := [reason for reason in answers if reason]:
                self.count("numerics_not_taken", len(reasons))
                raise NotTaken(reasons[0])
        self.count("numerics_values", sum(len(one.vitals) for one in numerics))

    async def wave(self, source_id: str, packet: bytes) -> None:
        """Send a waveform packet on its way, as a device that speaks MQTT does.

        Raises
        ------
        NotTaken
            If the bus does not take it.
        """
        try:
            await self._bus.publish_raw(subjects.wave(source_id), packet)
        except BusError as error:
            raise NotTaken("the bus does not take waveforms") from error
        self.count("hl7_wave_packets")

    async def once(self, key: bytes, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work` unless it was done for this key already; return whether it was done now.

        Only what ended well is remembered, the latest 20,000 of it, until the process ends.
        """
        digest = hashlib.sha256(key).digest()[:16]
        if digest in self._taken:
            self._taken.move_to_end(digest)
            self.count("numerics_messages_repeated")
            return False
        await work()
        self._taken[digest] = None
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        return True

    async def _one(self, numerics: Numerics) -> str:
        try:
            answer = await self._bus.request(subjects.MONITOR_NUMERICS, numerics, Ok | Refused, _ANSWER_S)
        except BusError:
            return "the monitor does not answer"
        except MessageError:
            return "the monitor answered something else"
        return f"the monitor refused: {answer.reason}" if isinstance(answer, Refused) else ""


def source_id(device_id: str, *place: str) -> str:
    """Return the id of a place behind a device; without a place the device itself.

    It is the device's id and the place's parts, ``_`` for one that is left out. Where a part may not stand in a subject
    as it is, or all is too long, a digest is added: two places of a device never have the same id.
    """
    parts = [part.strip() for part in place]
    while parts and not parts[-1]:
        parts.pop()
    if not parts:
        return device_id
    words = [_UNWANTED.sub("_", unicodedata.normalize("NFKD", part)).strip("_") for part in parts]
    readable = "-".join([device_id, *(word or "_" for word in words)])
    if words == parts and len(readable) <= _LONGEST:
        return readable
    digest = hashlib.sha256("\0".join([device_id, *parts]).encode()).hexdigest()[:_DIGEST]
    return f"{readable[: _LONGEST - _DIGEST - 1]}-{digest}"
