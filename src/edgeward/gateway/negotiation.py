"""Negotiating an association: SOP classes and transfer syntaxes, with pynetdicom's codecs (PS3.8, 9.3; PS3.7, D.3).

Responsible for what an A-ASSOCIATE-RQ is answered with once its sender is admitted. Not responsible for who is
(``gateway.admission``), nor for anything after it.

Accepted are verification, the SOP classes of the services, and every storage SOP class, retired, private and unknown
ones too, each with any transfer syntax: what cannot be decoded can still be kept. Asynchronous operations, extended
negotiation and user identity are not negotiated: leaving them out of the answer declines them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor
from pynetdicom.service_class import NonPatientObjectStorageServiceClass, ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class

from edgeward.gateway.dataset import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

# Transfer syntaxes the engine can decode come first in a negotiation, in the order the device proposes them.
_DECODABLE = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"}
    | {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)}
)
_SERVICE_SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
]
_STANDARD, _STANDARD_OBJECTS = "1.2.840.10008.", "1.2.840.10008.5.1.4."
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# Retired storage classes outside of that branch: stored print, hardcopy greyscale and colour images.
_RETIRED = frozenset(f"1.2.840.10008.5.1.1.{number}" for number in (27, 29, 30))
_ACCEPTED, _NO_ROLE = 0x00, 0x01
_REMEMBERED_BYTES = 1 << 15
_FIXED = 74  # bytes of an A-ASSOCIATE-RQ before its items (PS3.8, 9.3.2)
_ITEMS = frozenset({0x10, 0x20, 0x50})  # application context, presentation contexts, user information
_USER_INFORMATION = 0x50
# Maximum length, implementation class and role selection: what the answer depends on.
_SUB_ITEMS = frozenset({0x51, 0x52, 0x54})


class Unacceptable(ValueError):
    """An A-ASSOCIATE-RQ cannot be read."""


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


class Request:
    """An A-ASSOCIATE-RQ.

    Parameters
    ----------
    pdu
        All of it, header included.

    Raises
    ------
    Unacceptable
        If it cannot be read.
    """

    def __init__(self, pdu: bytes | bytearray) -> None:
        if len(pdu) < 74:
            raise Unacceptable("an A-ASSOCIATE-RQ that is too short")
        self._answers: dict[tuple[tuple[str, ...], int], tuple[bytes, dict[int, Context]]] = {}
        (self.protocol_version,) = struct.unpack_from(">H", pdu, 6)
        try:
            decoded = A_ASSOCIATE_RQ()
            decoded.decode(_essential(bytes(pdu)))
            self._primitive = decoded.to_primitive()
            self.calling = str(self._primitive.calling_ae_title).strip()
            self.called = str(self._primitive.called_ae_title).strip()
            self.application_context = str(self._primitive.application_context_name or "")
            self.max_length = int(self._primitive.maximum_length_received or 0)
            self._proposed = list(self._primitive.presentation_context_definition_list)
            if not all(context.abstract_syntax and context.transfer_syntax for context in self._proposed):
                raise Unacceptable("a presentation context without syntax")
        except Exception as error:  # a parser met bytes somebody else chose: any of its errors means the same
            raise Unacceptable(f"an A-ASSOCIATE-RQ that cannot be read ({type(error).__name__})") from None

    def accept(self, services: Iterable[str], max_length: int) -> tuple[bytes, dict[int, Context]]:
        """Return the A-ASSOCIATE-AC to answer with, and the accepted contexts by their id.

        Parameters
        ----------
        services
            SOP classes offered besides verification and storage.
        max_length
            The longest P-DATA-TF the peer may send.
        """
        key = (tuple(services), max_length)
        if key not in self._answers:
            self._answers[key] = self._negotiate(*key)
        return self._answers[key]

    def _negotiate(self, services: tuple[str, ...], max_length: int) -> tuple[bytes, dict[int, Context]]:
        offered = {str(uid) for uid in services} | {str(Verification)}
        roles = {
            item.sop_class_uid: (item.scu_role, item.scp_role)
            for item in self._primitive.user_information
            if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
        }
        storage, others = list[PresentationContext](), list[PresentationContext]()
        for one in self._proposed:
            (storage if str(one.abstract_syntax) not in offered and _is_storage(one) else others).append(one)
        asked = dict(roles)
        ours = [build_context(uid, _SERVICE_SYNTAXES) for uid in sorted(offered)]
        results, _ = negotiate_as_acceptor(others, ours)
        answers = list[SCP_SCU_RoleSelectionNegotiation]()
        for proposed in storage:
            results.append(_accept_storage(proposed, roles.get(proposed.abstract_syntax)))
            role = asked.pop(proposed.abstract_syntax, None)  # answered once, however many contexts it is for
            if role is not None and role[0]:  # neither role is no answer: the context is refused
                answers.append(_role(proposed, as_scu=bool(role[0])))
        results.sort(key=lambda context: int(context.context_id or 0))
        accepted = {
            int(context.context_id or 0): Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in results
            if context.result == _ACCEPTED
        }
        return self._answer(results, answers, max_length), accepted

    def _answer(
        self, results: list[PresentationContext], roles: list[SCP_SCU_RoleSelectionNegotiation], max_length: int
    ) -> bytes:
        length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
        version = ImplementationVersionNameNotification()
        length.maximum_length_received = max_length
        implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        version.implementation_version_name = IMPLEMENTATION_VERSION
        answer = A_ASSOCIATE()
        answer.application_context_name = APPLICATION_CONTEXT
        answer.calling_ae_title = self._primitive.calling_ae_title
        answer.called_ae_title = self._primitive.called_ae_title
        answer.result, answer.result_source = 0x00, 0x01
        answer.presentation_context_definition_results_list = results
        answer.user_information = [length, implementation, version, *roles]
        return bytes(A_ASSOCIATE_AC(answer).encode())


def _essential(pdu: bytes) -> bytes:
    """Return the request with only those items that the answer depends on.

    Items that are not recognised must not be a reason to refuse (PS3.8, D.2), and a version name that is too long or a
    strange user identity, neither of which is looked at, is none either.
    """
    kept = [pdu[:_FIXED]]
    for kind, item in _items(pdu, _FIXED):
        if kind == _USER_INFORMATION:
            content = b"".join(one for sub, one in _items(item, 4) if sub in _SUB_ITEMS)
            kept.append(item[:2] + struct.pack(">H", len(content)) + content)
        elif kind in _ITEMS:
            kept.append(item)
    whole = b"".join(kept)
    return whole[:2] + struct.pack(">L", len(whole) - 6) + whole[6:]


def _items(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and bytes, header included, of the items that stand in `data` from `at` on."""
    while at < len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        following = at + 4 + length
        if following > len(data):
            raise Unacceptable("an item that is longer than the A-ASSOCIATE-RQ")
        yield kind, data[at:following]
        at = following


def read_request(pdu: bytes | bytearray) -> Request:
    """Return an A-ASSOCIATE-RQ; see `Request`. Devices send the same one every time: the last few are remembered."""
    return _remembered(bytes(pdu)) if len(pdu) <= _REMEMBERED_BYTES else Request(pdu)


@lru_cache(maxsize=64)
def _remembered(pdu: bytes) -> Request:
    return Request(pdu)


def _is_storage(context: PresentationContext) -> bool:
    """Whether an abstract syntax is, or may be, a storage SOP class: private and unknown ones may."""
    uid = context.abstract_syntax
    assert uid is not None
    if not uid.startswith(_STANDARD) or uid in _RETIRED:
        return True
    known = uid_to_service_class(str(uid))
    if known in (StorageServiceClass, NonPatientObjectStorageServiceClass):
        return True
    return known is ServiceClass and uid.startswith(_STANDARD_OBJECTS) and uid != _MEDIA_DIRECTORY


def _accept_storage(proposed: PresentationContext, role: tuple[bool, bool] | None) -> PresentationContext:
    answer = PresentationContext()
    answer.context_id, answer.abstract_syntax = proposed.context_id, proposed.abstract_syntax
    # The first one is accepted: let it be one the engine can decode, if the device offers any.
    best = min(proposed.transfer_syntax, key=lambda uid: uid not in _DECODABLE)
    answer.transfer_syntax = [best]
    # Whoever wants to be provider only (of a C-GET) has nothing to send to us.
    answer.result = _NO_ROLE if role is not None and not role[0] else _ACCEPTED
    return answer


def _role(proposed: PresentationContext, *, as_scu: bool) -> SCP_SCU_RoleSelectionNegotiation:
    """Answer a role selection: the device may be the user of storage; we never are (PS3.7, D.3.3.4)."""
    answer = SCP_SCU_RoleSelectionNegotiation()
    answer.sop_class_uid, answer.scu_role, answer.scp_role = proposed.abstract_syntax, as_scu, False
    return answer
