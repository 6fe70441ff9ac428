"""Which acknowledged alarms are to call once more, and when (the alarm reminder of monitors, "re-alarm").

Responsible for remembering who was acknowledged when, for as long as it holds. Pure: the steady clock is passed in. Not
responsible for what a reminder does to an alarm (``alarms``) or for people being told (``escalation``).
"""

from __future__ import annotations

from collections.abc import Callable


class Reminders:
    """Alarms that were acknowledged while their condition held.

    Parameters
    ----------
    after_s : float
        How long after its acknowledgement an alarm that lasts calls once more; 0: never.
    """

    def __init__(self, after_s: float) -> None:
        self._after_ns = int(after_s * 1e9)
        self._since: dict[tuple[str, int], int] = {}  # bed and alarm -> when it was acknowledged, steady

    def acknowledged(self, bed_id: str, number: int, at_ns: int) -> None:
        """Take it that an alarm whose condition holds was acknowledged."""
        self._since[bed_id, number] = at_ns

    def due(self, now_ns: int, is_acknowledged: Callable[[str, int], bool]) -> list[tuple[str, int]]:
        """Return, and forget, the alarms that are to call now: their beds and numbers.

        Parameters
        ----------
        is_acknowledged : callable
            Whether an alarm stands and is acknowledged still. One that is not is forgotten: it is over, or was raised
            anew (another bed joined the flood).
        """
        if not self._after_ns or not self._since:
            return []
        found: list[tuple[str, int]] = []
        for (bed_id, number), since in list(self._since.items()):
            stands = is_acknowledged(bed_id, number)
            if not stands or since <= now_ns - self._after_ns:
                del self._since[bed_id, number]
            if stands and since <= now_ns - self._after_ns:
                found.append((bed_id, number))
        return found
