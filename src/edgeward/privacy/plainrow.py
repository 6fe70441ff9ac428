"""What the compiled admission (``native/admission.c``) notes of an object: read, and made an item of.

Responsible for the bytes of such a note. Not responsible for where it comes from: a slot, or after a crash
a segment of the vault, in which it is sealed as any other row is (``privacy.segments``).

Version 1, little endian: ``R``, the version, 0, the number of values; received, deadline, stored (ns, UTC), size of the
object; item id (12 bytes), object id (16), data key (32), digest (16); device, SOP class, transfer syntax and SOP
Instance UID, each behind a byte with its length; the values of the elements in `privacy.header.WANTED` that are there:
tag (4 bytes), length (2), value. Numbers in values are little endian.
"""

from __future__ import annotations

import struct

from edgeward.privacy.header import header_of
from edgeward.privacy.items import NewItem
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import StoredObject

MARK = b"R\x01"
_HEAD = struct.Struct("<2sxBqqqQ12s16s32s16s")
_VALUE = struct.Struct("<LH")


def is_plain(row: bytes) -> bool:
    """Return whether this is such a note, and not a row as ``privacy.intake`` writes it."""
    return row.startswith(MARK)


def common(device: str, sop_class_uid: str, transfer_syntax_uid: str) -> bytes | None:
    """Return what the notes of one presentation context have in common, or None: it does not fit."""
    parts = [text.encode() for text in (device, sop_class_uid, transfer_syntax_uid)]
    return b"".join(bytes([len(part)]) + part for part in parts) if max(map(len, parts)) < 256 else None


def new_item(row: bytes, site_key: SiteKey, *, header: bool = True) -> NewItem:
    """Return the item that is to be admitted; without what its `header` says if that is False.

    Raises
    ------
    ValueError, struct.error
        If this is no such note: then it is not ours.
    """
    _, count, received_ns, deadline_ns, stored_ns, size, item_id, object_id, key, digest = _HEAD.unpack_from(row)
    at, texts = _HEAD.size, []
    for _ in range(4):
        length = row[at]
        texts.append(row[at + 1 : at + 1 + length].decode())
        at += 1 + length
    values: dict[int, bytes] = {}
    for _ in range(count):
        tag, length = _VALUE.unpack_from(row, at)
        at += 6
        values[tag] = row[at : at + length]
        at += length
    if at != len(row):
        raise ValueError("not a note of an admission")
    device, sop_class_uid, transfer_syntax_uid, sop_instance_uid = texts
    said, name = header_of(values if header else {}, little=True), object_id.hex()
    return NewItem(
        item_id=item_id.hex(),
        received_ns=received_ns,
        deadline_ns=deadline_ns,
        stored_ns=stored_ns,
        device=device,
        modality=said.modality,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        study_instance_uid=said.study_instance_uid,
        series_instance_uid=said.series_instance_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        rows=said.rows,
        columns=said.columns,
        frames=said.frames,
        digest=digest,
        stored=StoredObject(object_id=name, path="", wrapped_key=site_key.wrap(key, name.encode()), size=size),
        identity=said.identity,
    )
