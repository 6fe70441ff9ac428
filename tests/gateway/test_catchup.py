"""Objects of the version before become what they would be today, and are one item when they are sent again."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pydicom
from tests.privacy.journal_v1 import OldJournal, sealed
from tests.support.imaging import as_file, breast_image

from edgeward.config import Budgets
from edgeward.gateway.catchup import catch_up
from edgeward.gateway.dataset import file_meta
from edgeward.gateway.part10 import FileArrival
from edgeward.gateway.reception import Reception
from edgeward.messages import ItemsQuery
from edgeward.privacy.items import Identity
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault


def data_set(image: pydicom.Dataset) -> bytes:
    """The encoded data set, as it came over the network."""
    data = as_file(image)
    return data[144 + int.from_bytes(data[140:144], "little") :]


async def test_an_object_of_the_version_before_is_known_again_and_found_by_series(tmp_path: Path) -> None:
    key, path = SiteKey(os.urandom(32)), tmp_path / "journal.db"
    vault = FileVault(tmp_path / "vault", key)
    images = [breast_image(rows=16, columns=24, seed=n, IssuerOfPatientID="HOSP") for n in range(3)]
    old = OldJournal(path, key)
    for number, image in enumerate(images, 1):
        uids = {
            "sop_class_uid": str(image.SOPClassUID),
            "sop_instance_uid": str(image.SOPInstanceUID),
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        }
        stored = vault.put(file_meta(**uids, calling_ae_title="US1"), data_set(image))
        old.item(
            number,
            "closed",
            **uids,
            study_instance_uid=str(image.StudyInstanceUID),
            object_id=stored.object_id,
            wrapped_key=stored.wrapped_key,
            size=stored.size,
            identity=sealed(
                key, "identity", f"item{number}", Identity(patient_name="Muster^Erika", patient_id="P-4711")
            ),
        )
    old.db.execute("UPDATE items SET wrapped_key = NULL WHERE item_id = 'item3'")  # erased: it tells nothing
    old.close()
    damaged = vault.reference(*old_object(path, key, "item2"))
    Path(damaged.path).write_bytes(b"EWVAULT1")
    journal = Journal(path, key)

    await catch_up(journal, vault, key)

    item = journal.item("item1")
    assert (item.rows, item.columns, item.frames) == (16, 24, 1)
    assert item.series_instance_uid == images[0].SeriesInstanceUID
    assert [journal.item(name).rows for name in ("item2", "item3")] == [-1, -1]
    (row,) = journal.summaries(ItemsQuery(text="A123", item_id="item1"), 0)
    assert row.patient_name == "Muster^Erika"
    arrival = FileArrival(Reception(vault, journal, key, Budgets()), device="us1")
    arrival.write(as_file(images[0]))
    again, is_new = arrival.finish(1)
    assert (again.item_id, is_new) == ("item1", False)
    journal.close()


def old_object(path: Path, key: SiteKey, item_id: str) -> tuple[str, bytes, int]:
    journal = Journal(path, key)
    item = journal.item(item_id)
    journal.close()
    return item.object_id, item.wrapped_key, item.size


def test_the_length_of_the_meta_information_stands_where_it_is_looked_for() -> None:
    meta = file_meta(sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.4", calling_ae_title="A")

    assert 144 + int.from_bytes(meta[140:144], "little") == len(meta)
    assert pydicom.dcmread(io.BytesIO(meta)).file_meta.MediaStorageSOPInstanceUID == "1.3"
