"""A DICOM door in a temporary site, and peers that knock at it."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from tests.support.site import TestSite, new_home

from edgeward.gateway.dicom import DicomDoor
from edgeward.gateway.dimse import DimseService
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.reception import Reception
from edgeward.privacy.items import Item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import FileVault, read
from edgeward.scu import steady

AE_TITLE = "US1"


@dataclass
class Door:
    """What a test needs of an open door."""

    site: TestSite
    dicom: DicomDoor
    journal: Journal
    vault: FileVault
    quarantine: Quarantine
    registry: Registry
    admitted: list[tuple[Item, bool]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.dicom.ports["tls"]

    def stored(self, item: Item) -> bytes:
        reference = self.vault.reference(item.object_id, item.wrapped_key, item.size)
        return read(reference.path, reference.data_key)

    def reasons(self) -> list[str]:
        return [entry.reason for entry in self.quarantine.entries()]

    def vault_files(self) -> int:
        return self.vault.count()


@contextmanager
def open_door(
    path: Path, min_free_mb: int = 0, services: Sequence[DimseService] = (), **sections: dict[str, object]
) -> Iterator[Door]:
    home, settings = new_home(path, **sections)
    site = TestSite(home, settings)
    key = SiteKey.load(home)
    journal, vault = Journal(home.db("journal"), key), FileVault(home.vault, key, min_free_mb)
    quarantine, registry = Quarantine(journal), Registry(home)
    admitted: list[tuple[Item, bool]] = []
    dicom = DicomDoor(
        home,
        settings,
        reception=Reception(vault, journal, key, settings.budgets),
        registry=registry,
        quarantine=quarantine,
        admitted=lambda item, new: admitted.append((item, new)),
        services=services,
    )
    dicom.open()
    try:
        yield Door(site, dicom, journal, vault, quarantine, registry, admitted)
    finally:
        dicom.close()
        journal.close()


def tls_of(folder: Path) -> ssl.SSLContext:
    """The TLS context of an enrolled device."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "device.pem", folder / "device.key")
    return context


def frame(
    rows: int = 64, columns: int = 80, *, uid: str = "", name: str = "MUSTERFRAU^ERIKA", seed: int = 1
) -> Dataset:
    """An ultrasound image."""
    dataset = Dataset()
    dataset.SOPClassUID = UltrasoundImageStorage
    dataset.SOPInstanceUID = uid or generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = name, "PID-4711", "19640812"
    dataset.StudyDescription, dataset.StudyDate, dataset.StudyTime = "Breast left", "20260101", "120000"
    dataset.Modality, dataset.AccessionNumber, dataset.PatientSex = "US", "A1", "F"
    dataset.ReferringPhysicianName, dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "", "1", 1, 1
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 3
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    pixels = np.random.default_rng(seed).integers(0, 255, (rows, columns, 3), dtype=np.uint8)
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    dataset.file_meta = Dataset()  # type: ignore[assignment]
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def ask(
    door: Door,
    folder: Path | None,
    *,
    calling: str = AE_TITLE,
    called: str = "EDGEWARD",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    contexts: tuple[tuple[str, str | list[str]], ...] = ((UltrasoundImageStorage, ExplicitVRLittleEndian),),
) -> Association:
    """Ask for an association as a device (pynetdicom)."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(Verification)
    for abstract, syntax in contexts:
        ae.add_requested_context(abstract, syntax)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    context = tls or (tls_of(folder) if folder else None)
    arguments = (context, "localhost") if context else None
    return steady(ae.associate("127.0.0.1", port or door.port, ae_title=called, tls_args=arguments))


def connect(door: Door, folder: Path | None, port: int = 0) -> socket.socket:
    """A raw connection, over TLS as the device in `folder` if given."""
    plain = socket.create_connection(("127.0.0.1", port or door.port), timeout=30)
    return tls_of(folder).wrap_socket(plain) if folder else plain


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition; by default longer than a busy machine stands still."""
    end = time.monotonic() + seconds * float(os.environ.get("EDGEWARD_TEST_PATIENCE", "1"))
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def threads() -> int:
    return threading.active_count()
