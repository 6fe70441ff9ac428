"""The port `Sink`: a destination that takes results of imaging.

Responsible for what a destination must promise and for the ways in which it may fail. Not responsible for when to try
again: that is ``destination``'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pydicom.dataset import Dataset

from edgeward.clinic.imaging.source import Source
from edgeward.messages import DeliverRequest

DICOM_KINDS = ("sr", "seg", "gsps", "capture")  # in the order in which they are sent
NO_PATIENT = "the image names no patient: it has no Patient ID"


class SinkError(Exception):
    """A result did not reach its destination. The text says why and never quotes the result."""


class Unreachable(SinkError):
    """The destination is not there, or does not let us in. Says nothing about the result that was to be sent.

    `connected` tells whether its address answered at all; if not, a cheap probe can tell when it is back. `after_s`: it
    asked not to be tried again sooner.
    """

    def __init__(self, reason: str, *, connected: bool, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.connected = connected
        self.after_s = after_s


class Interrupted(SinkError):
    """The destination took the connection and then failed on this result: hung, hung up, or was out of resources.

    Either the destination is ill or this result makes it so; only what happens to the next one tells.
    """


class Rejected(SinkError):
    """The destination understood and refuses this result."""


class Unsendable(Rejected):
    """A result that must not be sent to such a destination, whatever that would say: another try changes nothing."""


class NotTaken(Rejected):
    """The destination takes no objects of this class at all: a matter of settings, not of this result."""


@dataclass(frozen=True, slots=True)
class Result:
    """One thing to be sent.

    `kind` is ``sr``, ``seg``, ``gsps`` or ``capture`` for a DICOM object (`dataset`, with its file meta information);
    ``fhir`` or ``oru`` for a document (`data`, known to the receiver by `identifier`).
    """

    kind: str
    dataset: Dataset | None = None
    data: bytes = b""
    identifier: str = ""

    @property
    def uid(self) -> str:
        """SOP Instance UID of an object, identifier of a document."""
        return self.identifier if self.dataset is None else str(self.dataset.SOPInstanceUID)


def require_patient(source: Source) -> None:
    """Refuse a result of nobody: a record system could only file it under the wrong patient, or drop it.

    Raises
    ------
    Unsendable
        If the image has no Patient ID, or none that can be written.
    """
    if not source.common.get("PatientID"):
        raise Unsendable(NO_PATIENT)


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

    @property
    def replaces(self) -> bool:
        """Whether a later revision takes the place of an earlier one there, so that the earlier must not follow it."""
        return False

    async def compose(self, request: DeliverRequest, source: Source) -> Result | None:  # noqa: ARG002
        """Return the document that this destination takes, or None if it takes DICOM objects.

        Equal arguments MUST give a document that the receiver recognises as the same. Whatever it raises is held
        against the item.
        """
        return None

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
