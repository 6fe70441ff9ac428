"""Taking an object in: looked at, stored, journalled; and only then the duty for it is ours.

Responsible for the order of these steps and for leaving nothing half done. Knows no network protocol: whatever brings a
data set (C-STORE today) hands it in here.
"""

from __future__ import annotations

import io
import secrets
import time
from dataclasses import dataclass

from edgeward.config import Budgets
from edgeward.gateway.dataset import examine, file_meta
from edgeward.privacy.items import Item, NewItem
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An encoded data set and what came with it. `received_ns` is when its last byte was received."""

    stream: io.BytesIO
    received_ns: int
    device: str
    calling_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Reception:
    """Admits objects into vault and journal. Thread-safe."""

    def __init__(self, vault: Vault, journal: Journal, site_key: SiteKey, budgets: Budgets) -> None:
        self._vault, self._journal, self._site_key = vault, journal, site_key
        self._budget_ns = round(budgets.interactive_ms * 1e6)

    def take(self, arrival: Arrival) -> tuple[Item, bool]:
        """Admit an object; vault and journal have it durably on return.

        Returns
        -------
        tuple
            The item, and whether it is new: the same instance with the same content is the item it was before.

        Raises
        ------
        NotUnderstood
            If it is not what it says it is; nothing was kept.
        VaultError, DatabaseError
            If it cannot be kept (`VaultFull`, `DatabaseFull`: the disk is full); nothing was.
        """
        header = examine(
            arrival.stream,
            sop_class_uid=arrival.sop_class_uid,
            sop_instance_uid=arrival.sop_instance_uid,
            transfer_syntax_uid=arrival.transfer_syntax_uid,
        )
        with arrival.stream.getbuffer() as view:
            digest = self._site_key.same_content(view)
            known = self._journal.find(arrival.sop_instance_uid, digest)
            if known:
                return self._journal.item(known), False
            meta = file_meta(
                sop_class_uid=arrival.sop_class_uid,
                sop_instance_uid=arrival.sop_instance_uid,
                transfer_syntax_uid=arrival.transfer_syntax_uid,
                calling_ae_title=arrival.calling_ae_title,
            )
            stored = self._vault.put(meta, view)
        new = NewItem(
            item_id=secrets.token_hex(12),
            received_ns=arrival.received_ns,
            deadline_ns=arrival.received_ns + self._budget_ns,
            stored_ns=time.time_ns(),
            device=arrival.device,
            modality=header.modality,
            sop_class_uid=arrival.sop_class_uid,
            sop_instance_uid=arrival.sop_instance_uid,
            study_instance_uid=header.study_instance_uid,
            transfer_syntax_uid=arrival.transfer_syntax_uid,
            digest=digest,
            stored=stored,
            identity=header.identity,
        )
        try:
            item, is_new = self._journal.admit(new)
        except BaseException:
            self._vault.erase(stored.object_id)
            raise
        if not is_new:  # another association brought the same one in the same moment
            self._vault.erase(stored.object_id)
        return item, is_new
