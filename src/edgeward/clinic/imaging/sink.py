"""The port `Sink`: a destination that takes results of imaging.

Responsible for what a destination must promise and for the ways in which it may fail. Not responsible for when to try
again: that is ``destination``'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pydicom.dataset import Dataset


class SinkError(Exception):
    """A result did not reach its destination. The text says why and never quotes the result."""


class Unreachable(SinkError):
    """The destination is not there, or does not let us in. Says nothing about the result that was to be sent.

    `connected` tells whether its address answered at all; if not, a cheap probe can tell when it is back.
    """

    def __init__(self, reason: str, *, connected: bool) -> None:
        super().__init__(reason)
        self.connected = connected


class Interrupted(SinkError):
    """The destination took the connection and then failed on this result: hung, hung up, or was out of resources.

    Either the destination is ill or this result makes it so; only what happens to the next one tells.
    """


class Rejected(SinkError):
    """The destination understood and refuses this result."""


@dataclass(frozen=True, slots=True)
class Result:
    """One object to be sent: `kind` is ``sr`` or ``capture``; `dataset` carries its file meta information."""

    kind: str
    dataset: Dataset

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A destination's word that it has a result."""

    stored_ns: int  # when the confirmation arrived
    note: str = ""  # a warning that came with it


class Sink(ABC):
    """A destination.

    Every implementation MUST hold to this:

    - ``send`` returns only after the destination has confirmed the result; else it raises one of the three errors;
    - sending the same result again is harmless: the destination holds it once;
    - no call blocks the event loop, and none outlasts the sink's own time limits, whatever the destination does;
    - two sinks share nothing: one that hangs does not delay another.
    """

    name: str
    takes: frozenset[str]

    @abstractmethod
    async def open(self) -> bool:
        """Make a connection unless there is one; return whether it had to be made.

        Raises
        ------
        Unreachable
            If there is none to be had.
        """

    @abstractmethod
    async def send(self, result: Result) -> Receipt:
        """Send one result and wait for the confirmation.

        Raises
        ------
        Unreachable, Interrupted, Rejected
            See there.
        """

    @abstractmethod
    async def answers(self) -> bool:
        """Probe, cheaply, whether anything answers at the destination's address."""

    @abstractmethod
    async def rest(self) -> None:
        """Give back the connection: there is nothing to send for now."""

    @abstractmethod
    async def close(self) -> None:
        """Give back everything. No call follows."""
