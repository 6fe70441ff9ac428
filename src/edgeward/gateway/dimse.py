"""The port `DimseService`: what answers the DIMSE requests that are not C-STORE or C-ECHO.

Responsible for the shape of a request and of its answers (PS3.7), so that a service (modality worklist, performed
procedure step, storage commitment, ...) knows neither sockets nor associations. Not responsible for carrying them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from pydicom.dataset import Dataset


class Operation(IntEnum):
    """Command Field (0000,0100) of the requests that a service may be asked for (PS3.7, E.1-1)."""

    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_GET = 0x0010
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseRequest:
    """One request. It was admitted: `device_id` is who asks."""

    operation: Operation
    sop_class_uid: str  # Affected or Requested SOP Class UID (0000,0002), (0000,0003)
    sop_instance_uid: str = ""  # Affected or Requested SOP Instance UID (0000,1000), (0000,1001)
    action_type: int = 0  # N-ACTION: (0000,1008)
    dataset: Dataset | None = field(repr=False, default=None)  # decoded; None if there was none
    device_id: str
    calling_ae_title: str
    address: str
    cancelled: Callable[[], bool] = lambda: False  # C-CANCEL arrived, or the association is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReport:
    """An N-EVENT-REPORT that a service wants to send to the device that asked, after the answer.

    It is sent on the same association if that stays open. `answered` is called once, from the association's thread,
    with the device's status, or with None if the device released or aborted before it answered: then it is the
    service's to find another way.
    """

    sop_class_uid: str
    sop_instance_uid: str
    event_type: int
    dataset: Dataset = field(repr=False)
    answered: Callable[[int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One response message. A status of the pending kind (FF00, FF01) is followed by further replies."""

    status: int
    dataset: Dataset | None = field(repr=False, default=None)
    sop_instance_uid: str = ""  # of N-CREATE, where the service chose it
    comment: str = ""  # Error Comment (0000,0902), at most 64 characters, no identity
    event: EventReport | None = None


class DimseService(ABC):
    """Answers requests for some SOP classes. `serve` runs in a thread of the association and may block for a disk.

    An exception that leaves `serve` is answered with 0110 (processing failure), logged by its type only, and ends
    neither the association nor anything else.
    """

    sop_classes: tuple[str, ...]
    """Abstract syntaxes that are offered for negotiation."""

    @abstractmethod
    def serve(self, request: DimseRequest) -> Iterator[Reply]:
        """Yield the replies, the final one last."""
