"""A small acceptor that hands what it is asked to one `DimseService`, so that real SCUs can talk to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role

from edgeward.gateway.dimse import DimseRequest, DimseService, EventReport, Operation, Reply


class Acceptor:
    """Serves one service without TLS on a free port."""

    def __init__(self, service: DimseService, *, deliver_events: bool = True) -> None:
        self.service, self.deliver_events = service, deliver_events
        self.replies: list[Reply] = []
        self.pending: list[threading.Thread] = []

    def _request(self, event: evt.Event, operation: Operation, **more: object) -> DimseRequest:
        return DimseRequest(
            operation=operation,
            sop_class_uid=str(event.context.abstract_syntax),
            device_id="us-1",
            calling_ae_title=str(event.assoc.requestor.ae_title).strip(),
            address="127.0.0.1",
            **more,
        )

    def _find(self, event: evt.Event):
        request = self._request(event, Operation.C_FIND, dataset=event.identifier, cancelled=lambda: event.is_cancelled)
        for reply in self.service.serve(request):
            self.replies.append(reply)
            yield reply.status, reply.dataset

    def _last(self, request: DimseRequest, assoc) -> Reply:
        *_, reply = self.service.serve(request)
        self.replies.append(reply)
        if reply.event is not None:
            thread = threading.Thread(target=self._report, args=(assoc, reply.event))
            self.pending.append(thread)
            thread.start()
        return reply

    def _report(self, assoc, event: EventReport) -> None:
        if not self.deliver_events:
            event.answered(None)
            return
        try:
            status, _ = assoc.send_n_event_report(
                event.dataset, event.event_type, event.sop_class_uid, event.sop_instance_uid
            )
            event.answered(int(status.Status) if "Status" in status else None)
        except (RuntimeError, ValueError):
            event.answered(None)

    def _create(self, event: evt.Event):
        reply = self._last(
            self._request(
                event,
                Operation.N_CREATE,
                dataset=event.attribute_list,
                sop_instance_uid=str(event.request.AffectedSOPInstanceUID or ""),
            ),
            event.assoc,
        )
        return reply.status, reply.dataset

    def _set(self, event: evt.Event):
        reply = self._last(
            self._request(
                event,
                Operation.N_SET,
                dataset=event.modification_list,
                sop_instance_uid=str(event.request.RequestedSOPInstanceUID or ""),
            ),
            event.assoc,
        )
        return reply.status, reply.dataset

    def _action(self, event: evt.Event):
        reply = self._last(
            self._request(
                event,
                Operation.N_ACTION,
                dataset=event.action_information,
                sop_instance_uid=str(event.request.RequestedSOPInstanceUID or ""),
                action_type=event.action_type,
            ),
            event.assoc,
        )
        return reply.status, None

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        ae = AE(ae_title="EDGEWARD")
        for uid in self.service.sop_classes:
            ae.add_supported_context(uid)
        server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_N_CREATE, self._create),
                (evt.EVT_N_SET, self._set),
                (evt.EVT_N_ACTION, self._action),
            ],
        )
        try:
            yield server.server_address[1]
        finally:
            for thread in self.pending:
                thread.join(timeout=20)
            server.shutdown()


def query(**keys: object) -> Dataset:
    """A worklist identifier: keys of the step begin with ``step_``; the usual return keys are asked for."""
    identifier, step = Dataset(), Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    for name in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "RequestedProcedureID"):
        setattr(identifier, name, "")
    for name in (
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "Modality",
        "ScheduledPerformingPhysicianName",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepDescription",
    ):
        setattr(step, name, "")
    for name, value in keys.items():
        setattr(step if name.startswith("step_") else identifier, name.removeprefix("step_"), value)
    identifier.ScheduledProcedureStepSequence = [step]
    return identifier


__all__ = ["Acceptor", "build_role", "query"]
