"""A PACS that misbehaves on demand: a C-STORE SCP whose every answer a test decides."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

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
from pynetdicom import AE, evt

from edgeward.config import Pacs
from tests.support.site import free_port

OK = 0x0000


@dataclass
class ScriptedPacs:
    """Stores what it gets. `answer(dataset, n)` gives the status of the n-th request (from 0); it may block."""

    answer: Callable[[Dataset, int], int] = lambda dataset, n: OK
    classes: tuple[str, ...] = (
        ComprehensiveSRStorage,
        SegmentationStorage,
        GrayscaleSoftcopyPresentationStateStorage,
        ColorSoftcopyPresentationStateStorage,
        SecondaryCaptureImageStorage,
    )
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    tls: ssl.SSLContext | None = None
    called: str = ""  # the only AE title it accepts to be called, if given
    port: int = field(default_factory=free_port)
    asked: list[str] = field(default_factory=list)
    held: dict[str, Dataset] = field(default_factory=dict)
    associations: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    _server: Any = None

    def start(self) -> None:
        entity = AE("SCRIPTED")
        entity.require_called_aet = bool(self.called)
        if self.called:
            entity.ae_title = self.called
        for name in self.classes:
            entity.add_supported_context(name, list(self.syntaxes))
        handlers = [
            (evt.EVT_C_STORE, self._stored),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_RELEASED, lambda event: self.released.set()),
        ]
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=self.tls
        )

    def stop(self) -> None:
        if self._server is not None:
            for association in self._server.active_associations:
                association.abort()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def pacs(self, name: str = "pacs", **changes: Any) -> Pacs:
        values = {
            "name": name,
            "host": "127.0.0.1",
            "port": self.port,
            "ae_title": self.called or "SCRIPTED",
            **changes,
        }
        return Pacs(**values)

    def _established(self, event: Any) -> None:
        self.associations += 1

    def _stored(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        n = len(self.asked)
        self.asked.append(str(dataset.SOPInstanceUID))
        status = self.answer(dataset, n)
        if status == OK or 0xB000 <= status <= 0xBFFF:
            self.held[str(dataset.SOPInstanceUID)] = dataset
        return status


@contextlib.contextmanager
def scripted_pacs(**options: Any) -> Iterator[ScriptedPacs]:
    pacs = ScriptedPacs(**options)
    pacs.start()
    try:
        yield pacs
    finally:
        pacs.stop()


@contextlib.contextmanager
def mute_listener() -> Iterator[int]:
    """A port that takes connections and then neither reads nor writes. Gives its number."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield int(server.getsockname()[1])
