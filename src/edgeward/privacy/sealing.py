"""What the views of the journal share: opening sealed values, and the pseudonym of a patient.

Responsible for the context that each sealed value is bound to, so that a value moved to another row does not open.
"""

from __future__ import annotations

from edgeward.messages import Verdict, decode, decoder
from edgeward.privacy.items import Identity
from edgeward.privacy.keys import SiteKey

_identity = decoder(Identity)


def bound(column: str, row: str) -> bytes:
    """Return the context of a sealed value of one row."""
    return f"journal:{column}:{row}".encode()


def opened_identity(site_key: SiteKey, item_id: str, sealed: bytes) -> Identity:
    """Return the identity of an item.

    Raises
    ------
    WrongKey
        If it was sealed with another key or for another row.
    """
    identity: Identity = _identity.decode(site_key.open(sealed, bound("identity", item_id)))
    return identity


def opened_verdict(site_key: SiteKey, verdict_id: str, sealed: bytes) -> Verdict:
    """Return a verdict.

    Raises
    ------
    WrongKey
        If it was sealed with another key or for another row.
    """
    return decode(Verdict, site_key.open(sealed, bound("verdict", verdict_id)))


def patient_key(site_key: SiteKey, identity: Identity) -> bytes:
    """Return what two items of the same patient have in common, or nothing if the patient has no id.

    It is a keyed digest of issuer and patient id (PS3.3, C.7.1.1). The same number from another issuer, or from none,
    may be another patient: such items are not put together.
    """
    number = identity.patient_id.strip()
    if not number:
        return b""
    return site_key.pseudonym(f"{identity.issuer_of_patient_id.strip()}\0{number}".encode())
