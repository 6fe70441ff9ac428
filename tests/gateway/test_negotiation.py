"""What an A-ASSOCIATE-RQ may carry along without being refused for it."""

from __future__ import annotations

import struct

import pytest
from pynetdicom import AllStoragePresentationContexts

from edgeward.gateway.negotiation import Unacceptable, read_request

VERIFICATION, IMPLICIT = b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


CONTEXT = item(0x20, b"\1\0\0\0" + item(0x30, VERIFICATION) + item(0x40, IMPLICIT))
LENGTH = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3")


def request(*, items: bytes = b"", user: bytes = b"") -> bytes:
    """An A-ASSOCIATE-RQ for verification; `items` and sub-items `user` are added to it."""
    body = b"\0\1\0\0" + b"EDGEWARD".ljust(16) + b"US1".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + CONTEXT + items + item(0x50, LENGTH + user)
    return b"\1\0" + struct.pack(">L", len(body)) + body


STRANGE = {
    "a sub-item of a later edition": request(user=item(0x5F, b"x") + item(0x99, b"")),
    "an item of a later edition": request(items=item(0x77, b"hello")),
    "a version name that is too long": request(user=item(0x55, b"x" * 40)),
    "a user identity that is none": request(user=item(0x58, b"\x63\1\0")),
    "an extended negotiation that is cut": request(user=item(0x56, b"\0\x30ab")),
    "a common extended negotiation that is cut": request(user=item(0x57, b"\0\x30ab")),
    "an operations window that is cut": request(user=item(0x53, b"\0")),
}


@pytest.mark.parametrize("pdu", STRANGE.values(), ids=STRANGE.keys())
def test_what_is_not_looked_at_is_no_reason_to_refuse(pdu: bytes) -> None:
    asked = read_request(pdu)
    _, accepted = asked.accept([], 131_072)

    assert asked.max_length == 16384
    assert [context.abstract_syntax for context in accepted.values()] == [VERIFICATION.decode()]


def test_every_storage_class_of_the_standard_is_offered() -> None:
    for some in (AllStoragePresentationContexts[:100], AllStoragePresentationContexts[100:]):
        uids = [str(context.abstract_syntax) for context in some]
        syntax = item(0x40, IMPLICIT)
        contexts = [
            item(0x20, bytes([2 * number + 1, 0, 0, 0]) + item(0x30, uid.encode()) + syntax)
            for number, uid in enumerate(uids)
        ]

        _, accepted = read_request(request(items=b"".join(contexts))).accept([], 131_072)

        assert set(uids) <= {context.abstract_syntax for context in accepted.values()}


def test_an_item_that_goes_beyond_the_request_is_refused() -> None:
    pdu = bytearray(request())
    at = bytes(pdu).index(CONTEXT)
    pdu[at + 2 : at + 4] = b"\xff\xff"
    with pytest.raises(Unacceptable):
        read_request(pdu)
