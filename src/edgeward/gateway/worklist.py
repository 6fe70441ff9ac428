"""Modality Worklist SCP: C-FIND on the Modality Worklist Information Model (PS3.4, annex K).

Responsible for answering a query with the entries that match. Not responsible for the orders behind them (``orders``),
for what an entry holds (``worklist_entry``), for matching as such (``worklist_keys``) or for associations.

Two rules go beyond the standard, because orders often do not say what a modality asks for. A step that no station is
named for is offered to every station, and a step without a modality to every modality: the answer then carries what was
asked for. An entry too many is seen; an entry that is missing leads to a scan without order.

Statuses (PS3.4, C.4.1.1.4): FF00 and FF01 (an optional key is not supported) with each match, 0000 at the end; FE00
cancelled; A700 more matches than we answer; A900 the identifier does not match the SOP class; C000 not understood.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeward.gateway.dimse import DimseRequest, DimseService, Operation, Reply
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.worklist_keys import BadIdentifier, Question, ask

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
MOST = 1000  # answers to one query

SUCCESS, CANCELLED = 0x0000, 0xFE00
PENDING, PENDING_WITHOUT_OPTIONAL_KEYS = 0xFF00, 0xFF01
OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
UNRECOGNISED_OPERATION = 0x0211


class Worklist(DimseService):
    """Answers worklist queries from an order book."""

    sop_classes = (MODALITY_WORKLIST,)

    def __init__(self, book: OrderBook, most: int = MOST) -> None:
        self._book, self._most = book, most

    def serve(self, request: DimseRequest) -> Iterator[Reply]:
        """See `DimseService.serve`."""
        if request.operation is not Operation.C_FIND:
            yield Reply(status=UNRECOGNISED_OPERATION, comment="a worklist answers C-FIND only")
            return
        if request.dataset is None:
            yield Reply(status=DOES_NOT_MATCH, comment="the query has no identifier")
            return
        try:
            question = ask(request.dataset, request.calling_ae_title)
        except BadIdentifier as error:
            yield Reply(status=error.status, comment=str(error)[:64])
            return
        yield from self._answers(request, question)

    def _answers(self, request: DimseRequest, question: Question) -> Iterator[Reply]:
        status = PENDING if question.all_supported else PENDING_WITHOUT_OPTIONAL_KEYS
        sent = 0
        for entry in self._book.steps():
            if request.cancelled():
                yield Reply(status=CANCELLED)
                return
            found = question.answer(entry)
            if found is None:
                continue
            if sent == self._most:
                yield Reply(status=OUT_OF_RESOURCES, comment=f"more than {self._most} entries match; ask for less")
                return
            sent += 1
            yield Reply(status=status, dataset=found)
        yield Reply(status=SUCCESS)
