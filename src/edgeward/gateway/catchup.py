"""What the journal of the version before did not keep, read again from the objects.

Responsible for learning series, pixels, the rest of the identity and the digest of today of objects that were admitted
by version 0.1: one after the other, in the background, the most recent ones first. Until an object had its turn, it is
analysed and given out as ever, but is not listed by series, and the same object sent again would look like another one.
"""

from __future__ import annotations

import asyncio
import logging

from edgeward.gateway.dataset import Examination, NotUnderstood
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.items import Item
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.reading import open_object
from edgeward.privacy.vault import Vault, VaultError

_log = logging.getLogger("edgeward.gateway.catchup")
_PIECE = 1 << 20
_GROUP_LENGTH = 140  # where the length of the file meta information stands that this gateway writes (PS3.10, 7.1)


async def catch_up(journal: Journal, vault: Vault, site_key: SiteKey) -> None:
    """Learn what is missing of every object of the version before; return when all had their turn."""
    before, learned, unread = "", 0, 0
    while True:
        items = await asyncio.to_thread(journal.past.half_known, before)
        if not items:
            break
        for item in items:
            before = item.item_id
            try:
                await asyncio.to_thread(_learn, journal, vault, site_key, item)
                learned += 1
            except (NotUnderstood, VaultError, WrongKey, DatabaseError) as error:
                unread += 1
                _log.debug("an object of the version before tells nothing more: %s", error)
    if learned or unread:
        _log.info("%d objects of the version before were read again; %d could not be", learned, unread)


def _learn(journal: Journal, vault: Vault, site_key: SiteKey, item: Item) -> None:
    reference = vault.reference(item.object_id, item.wrapped_key, item.size)
    examination = Examination(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
    )
    mac = site_key.content_mac(item.sop_instance_uid)
    with open_object(reference.path, reference.data_key) as file:
        file.seek(_GROUP_LENGTH)
        file.seek(_GROUP_LENGTH + 4 + int.from_bytes(file.read(4), "little"))
        while piece := file.read(_PIECE):
            examination.feed(memoryview(piece))
            mac.update(piece)
    header = examination.finish()
    journal.past.learned(
        item.item_id,
        series_instance_uid=header.series_instance_uid,
        pixels=(header.rows, header.columns, header.frames),
        digest=mac.finish(),
        identity=header.identity,
    )
