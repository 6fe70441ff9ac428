"""Patient numbers that a merge (HL7 A40) put out of use, and the numbers that hold in their place.

Responsible for keeping them in the order book's database, sealed, and for following a chain of merges. Not responsible
for what becomes of orders that were placed before the merge (``orders``).
"""

from __future__ import annotations

import sqlite3

import msgspec

from edgeward.gateway.order_matching import other_authority
from edgeward.messages import decoder
from edgeward.privacy.keys import SiteKey

Number = tuple[str, str]
"""A patient number, and the authority that gave it, if that is told."""

_LONGEST_CHAIN = 20


class _Merge(msgspec.Struct, frozen=True, kw_only=True):
    issuer: str  # of the number that was retired
    now: Number
    message_ns: int  # by the sender's clock


_merge = decoder(_Merge)


class RetiredNumbers:
    """The numbers that are not in use any more. Every method runs within a transaction of the order book."""

    def __init__(self, site_key: SiteKey) -> None:
        self._key = site_key

    def merged(self, db: sqlite3.Connection, prior: Number, now: Number, message_ns: int, clock_ns: int) -> None:
        """Retire a number. The one that holds in its place is in use, whatever was said of it before."""
        self.used_again(db, now, message_ns)
        if prior == now or self.current(db, now) == prior:
            return
        kept = msgspec.msgpack.encode(_Merge(issuer=prior[1], now=now, message_ns=message_ns))
        db.execute(
            "INSERT OR REPLACE INTO retired (number, issuer, changed_ns, sealed) VALUES (?, ?, ?, ?)",
            (self._digest(prior[0]), self._digest(prior[1].casefold()), clock_ns, self._key.seal(kept, b"retired")),
        )

    def used_again(self, db: sqlite3.Connection, number: Number, message_ns: int) -> None:
        """Forget that a number was retired before this message: somebody was registered under it, or merged into it."""
        for issuer, merge in self._of(db, number):
            if merge.message_ns <= message_ns:
                db.execute("DELETE FROM retired WHERE number = ? AND issuer = ?", (self._digest(number[0]), issuer))

    def current(self, db: sqlite3.Connection, number: Number) -> Number:
        """Return the number that holds in place of one; the same if it is in use, or if several may be meant."""
        for _ in range(_LONGEST_CHAIN):
            later = {merge.now for _, merge in self._of(db, number)}
            if len(later) != 1:
                break
            number = later.pop()
        return number

    def _of(self, db: sqlite3.Connection, number: Number) -> list[tuple[bytes, _Merge]]:
        rows = db.execute("SELECT issuer, sealed FROM retired WHERE number = ?", (self._digest(number[0]),)).fetchall()
        found = [(bytes(issuer), _merge.decode(self._key.open(sealed, b"retired"))) for issuer, sealed in rows]
        return [(issuer, merge) for issuer, merge in found if not other_authority(merge.issuer, number[1])]

    def _digest(self, value: str) -> bytes:
        return self._key.pseudonym(f"retired:{value}".encode())
