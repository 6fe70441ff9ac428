"""The requests of an association that services answer (``gateway.dimse``), and the event reports sent back to it.

Responsible for finding the service, decoding and encoding its data sets, C-CANCEL, and for pairing an event report
with its answer. Not responsible for the protocol below messages (``gateway.association``).
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from edgeward.gateway import command as dimse
from edgeward.gateway.command import Command
from edgeward.gateway.dimse import DimseRequest, DimseService, EventReport, Operation, Reply
from edgeward.gateway.walker import Walker
from edgeward.gateway.wire import END, Broken

if TYPE_CHECKING:
    from edgeward.gateway.association import Association
    from edgeward.gateway.negotiation import Context

_log = logging.getLogger("edgeward.gateway.dicom")
_INFLATED = 16 << 20  # bytes of a deflated query
_UNABLE_TO_PROCESS = 0xC000  # C-FIND (PS3.4, C.4.1.1.4)


class Conversation:
    """Requests and event reports of one association. Used by its thread only."""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._waiting: dict[int, EventReport] = {}
        self._next_id = 0
        self._cancelled = False
        self._serving = 0
        self._end: Exception | None = None  # what ended the association while a service was at work

    def serve(self, request: Command, context_id: int, context: Context, data: bytes | None) -> None:
        """Answer a request."""
        association, host = self._association, self._association.host
        service = _service_of(host.services, context.abstract_syntax)
        if service is None or request.sop_class_uid not in service.sop_classes:
            association.reply(context_id, dimse.response(request, dimse.SOP_CLASS_NOT_SUPPORTED))
            return
        if not host.in_force(association):
            association.reply(context_id, dimse.response(request, dimse.NOT_AUTHORISED))
            return
        operation = Operation(request.field)
        try:
            dataset = _decoded(data, context.transfer_syntax) if data is not None else None
        except Exception as error:  # a parser met bytes somebody else chose: any of its errors means the same
            host.refuse(association.who, f"a {operation.name} cannot be parsed ({type(error).__name__})", "")
            status = _UNABLE_TO_PROCESS if operation is Operation.C_FIND else dimse.PROCESSING_FAILURE
            association.reply(context_id, dimse.response(request, status))
            return
        self._cancelled, self._serving = False, request.message_id
        asked = DimseRequest(
            operation=operation,
            sop_class_uid=request.sop_class_uid,
            sop_instance_uid=request.sop_instance_uid,
            action_type=request.action_type,
            dataset=dataset,
            device_id=association.device_id,
            calling_ae_title=association.calling,
            address=association.peer.address,
            cancelled=self._is_cancelled,
        )
        self._answer(service, asked, request, context_id, context)

    def answered(self, response: Command) -> None:
        """Take the answer to an event report."""
        event = self._waiting.pop(response.responded_to, None)
        if event is not None:
            _tell(event, response.status)

    def close(self) -> None:
        """Tell whoever waits that no answer will come."""
        while self._waiting:
            _, event = self._waiting.popitem()
            _tell(event, None)

    def _answer(
        self, service: DimseService, asked: DimseRequest, request: Command, context_id: int, context: Context
    ) -> None:
        replies = service.serve(asked)
        while True:
            try:
                reply = next(replies, None)
            except Exception as error:
                # Only the type: the text of an unforeseen error may quote the data set.
                _log.error("a %s failed: %s", asked.operation.name, type(error).__name__)
                reply = Reply(status=dimse.PROCESSING_FAILURE)
            if reply is None:
                _log.error("a %s was left without a final answer", asked.operation.name)
                reply = Reply(status=dimse.PROCESSING_FAILURE)
            if self._end is not None:
                if reply.event is not None:
                    _tell(reply.event, None)
                raise self._end
            self._send(reply, request, context_id, context)
            if not _pending(reply.status):
                return

    def _send(self, reply: Reply, request: Command, context_id: int, context: Context) -> None:
        association = self._association
        if reply.event is not None:
            self._next_id = self._next_id % 0xFFFF + 1
            self._waiting[self._next_id] = reply.event  # first: if sending fails, `close` tells that there is no answer
        data = _encoded(reply.dataset, context.transfer_syntax) if reply.dataset is not None else b""
        answer = dimse.response(
            request,
            reply.status,
            has_data_set=bool(data),
            sop_instance_uid=reply.sop_instance_uid,
            comment=reply.comment,
        )
        association.reply(context_id, answer, data)
        if reply.event is not None:
            self._report(reply.event, context_id, context)

    def _report(self, event: EventReport, context_id: int, context: Context) -> None:
        command = dimse.event_report(self._next_id, event.sop_class_uid, event.sop_instance_uid, event.event_type)
        self._association.reply(context_id, command, _encoded(event.dataset, context.transfer_syntax))

    def _is_cancelled(self) -> bool:
        """Whether a C-CANCEL for what is being served has arrived, or the association is ending."""
        association = self._association
        try:
            while not self._cancelled and association.wire.readable():
                message, _, _ = association.next_command()
                if message.field & dimse.RESPONSE and not message.has_data_set:
                    self.answered(message)
                elif message.field == dimse.C_CANCEL:
                    self._cancelled = message.responded_to == self._serving
                else:
                    raise Broken("it sent a request before the last one was answered")
        except END as error:  # not through the service: it is told, and the association ends after it
            self._cancelled, self._end = True, error
        return self._cancelled or association.wire.interrupted


def _service_of(services: Sequence[DimseService], abstract_syntax: str) -> DimseService | None:
    return next((service for service in services if abstract_syntax in service.sop_classes), None)


def _pending(status: int) -> bool:
    return status in (0xFF00, 0xFF01)


def _tell(event: EventReport, status: int | None) -> None:
    try:
        event.answered(status)
    except Exception as error:
        _log.error("the answer to an event report could not be taken: %s", type(error).__name__)


def _decoded(data: bytes, transfer_syntax: str) -> Dataset:
    whole = Walker(transfer_syntax, ())  # pydicom forgives what it should not
    whole.feed(memoryview(data))
    whole.finish()
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        data = engine.decompress(data, _INFLATED)
        if not engine.eof:
            raise ValueError("too large")
    implicit, little = transfer_syntax == ImplicitVRLittleEndian, transfer_syntax != ExplicitVRBigEndian
    dataset = read_dataset(BytesIO(data), implicit, little)
    for element in dataset.iterall():  # values are converted lazily: fail here, not in the service
        _ = element.value
    return dataset


def _encoded(dataset: Dataset, transfer_syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    buffer.is_little_endian = transfer_syntax != ExplicitVRBigEndian
    write_dataset(buffer, dataset)
    data = bytes(buffer.getvalue())
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = engine.compress(data) + engine.flush()
        data += b"\0" * (len(data) % 2)
    return data
