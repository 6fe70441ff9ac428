"""A PACS as a destination: C-STORE (PS3.4 annex B), plain or TLS.

Responsible for when there is an association and for what a status means. An association is kept while there is
something to send, and released when there is not: archives allow only so many. Not responsible for the bytes
(``requestor``).
"""

from __future__ import annotations

import asyncio
import ssl
import time

from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom.dsutils import encode

from edgeward.clinic.imaging.requestor import Lost, NotAssociated, NotConnected, Requestor, associate
from edgeward.clinic.imaging.sink import Interrupted, NotTaken, Receipt, Rejected, Result, Sink, Unreachable
from edgeward.config import Pacs

CONNECT_S = 5.0  # TCP and TLS
ASSOCIATE_S = 10.0
ANSWER_S = 30.0  # C-STORE response: a busy archive may take many seconds and still be well
PROBE_S = 2.0

_CLASSES = {
    "sr": (ComprehensiveSRStorage,),
    "seg": (SegmentationStorage,),
    "gsps": (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage),
    "capture": (SecondaryCaptureImageStorage,),
}
_DUPLICATE = 0x0111  # PS3.7 C.5.5 "Duplicate SOP Instance": it is there already, which is what we want


class PacsSink(Sink):
    """One PACS.

    Parameters
    ----------
    pacs
        Address, AE title and what it takes.
    calling_ae_title
        Our own.
    tls
        The context to connect with, or None for plain DICOM.
    associate_s, answer_s
        Time limits, seconds.
    """

    def __init__(
        self,
        pacs: Pacs,
        calling_ae_title: str,
        tls: ssl.SSLContext | None = None,
        *,
        associate_s: float = ASSOCIATE_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.name = pacs.name
        self.takes = frozenset(pacs.takes)
        self._pacs = pacs
        self._tls = tls
        self._calling, self._associate_s, self._answer_s = calling_ae_title, associate_s, answer_s
        self._sop_classes = [str(uid) for kind in sorted(self.takes) for uid in _CLASSES[kind]]
        self._association: Requestor | None = None

    async def open(self) -> bool:
        """See `Sink.open`."""
        if self._association is not None and self._association.alive:
            return False
        self._association = None
        try:
            self._association = await associate(
                self._pacs.host,
                self._pacs.port,
                calling=self._calling,
                called=self._pacs.ae_title,
                sop_classes=self._sop_classes,
                tls=self._tls,
                connect_s=CONNECT_S,
                associate_s=self._associate_s,
            )
        except NotConnected as error:
            raise Unreachable(f"{self._where()}: {error}", connected=False) from error
        except NotAssociated as error:
            raise Unreachable(f"{self._where()}: {error}", connected=True) from error
        return True

    async def send(self, result: Result) -> Receipt:
        """See `Sink.send`."""
        if result.dataset is None:
            raise Rejected(f"a PACS takes no {result.kind}")
        fresh = await self.open()
        started = time.monotonic()
        try:
            return await self._store(result, result.dataset)
        except Interrupted:
            # An association may have been closed at the other end since its last use. That is no failure of the result.
            if fresh or self._association is not None or time.monotonic() - started >= self._answer_s:
                raise
        await self.open()
        return await self._store(result, result.dataset)

    async def answers(self) -> bool:
        """See `Sink.answers`: whether the port takes a TCP connection."""
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(self._pacs.host, self._pacs.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def rest(self) -> None:
        """See `Sink.rest`."""
        association, self._association = self._association, None
        if association is not None and association.alive:
            await association.release()

    async def close(self) -> None:
        """See `Sink.close`."""
        await self.rest()

    async def _store(self, result: Result, dataset: Dataset) -> Receipt:
        association = self._association
        assert association is not None
        sop_class = dataset.SOPClassUID
        if sop_class not in association.contexts:
            raise NotTaken(f"it does not accept {sop_class.name}")
        data = result.data
        if not data or association.contexts[sop_class][1] != ExplicitVRLittleEndian:
            data = await asyncio.to_thread(_encoded, result.kind, dataset, association.contexts[sop_class][1])
        try:
            status = await association.store(str(sop_class), result.uid, data, self._answer_s)
        except Lost as error:
            self._association = None
            raise Interrupted(str(error)) from error
        return _judge(status, time.time_ns())

    def _where(self) -> str:
        return f"cannot connect to {self._pacs.host}:{self._pacs.port}"


def _encoded(kind: str, dataset: Dataset, transfer_syntax: str) -> bytes:
    data = encode(dataset, transfer_syntax == ImplicitVRLittleEndian, is_little_endian=True)
    if data is None:
        raise Rejected(f"the {kind} cannot be encoded")
    return bytes(data)


def _judge(status: int, stored_ns: int) -> Receipt:
    """Return the receipt that a C-STORE status stands for (PS3.4 B.2.3, PS3.7 annex C).

    Raises
    ------
    Rejected
        If the archive says that it cannot take this object: 0xA9xx, 0xCxxx, and SOP class not supported.
    Interrupted
        Any other failure, such as 0xA7xx "out of resources".
    """
    if status == 0x0000:
        return Receipt(stored_ns)
    if status == _DUPLICATE:
        return Receipt(stored_ns, "it had it already")
    if status in (0x0001, 0x0107, 0x0116) or 0xB000 <= status <= 0xBFFF:
        return Receipt(stored_ns, f"stored with warning 0x{status:04X}")
    if status == 0x0122 or 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF:
        raise Rejected(f"it refuses the object with status 0x{status:04X}")
    raise Interrupted(f"it failed to store with status 0x{status:04X}")
