"""An association as requestor of C-STORE (PS3.8, 9.2; PS3.7, 9.1.1), on the event loop.

Responsible for the bytes between us and one archive: negotiation with pynetdicom's codecs, our own data path, time
limits. An association that waits costs nothing. Not responsible for what a status means or for when to connect
(``pacs``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Iterable

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from edgeward.gateway import command as dimse
from edgeward.gateway.dataset import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_LONGEST = 1 << 17  # of a PDU that we take: only answers come, and they are small
_HEAD = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")
_AC, _RJ, _DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
_COMMAND, _LAST = 1, 2
_STEP = 1 << 18  # bytes written before the archive must have taken some
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


class NotConnected(Exception):
    """Nothing answers at the address; the text says why."""


class NotAssociated(Exception):
    """Something answers, but there is no association to be had; the text says why."""


class Lost(Exception):
    """The association ended, or the archive did not answer in time; the text says which."""


class Requestor:
    """An established association. Made by `associate`. One message at a time."""

    def __init__(
        self,
        raw: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        contexts: dict[str, tuple[int, str]],
        max_length: int,
    ) -> None:
        self._raw, self._reader, self._writer = raw, reader, writer
        self.contexts = contexts  # abstract syntax -> context id and transfer syntax
        self._max_length = max_length
        self._message_id = 0

    @property
    def alive(self) -> bool:
        """Whether it has not been ended, as far as is known here."""
        return not self._writer.is_closing() and not self._reader.at_eof()

    async def store(self, sop_class_uid: str, sop_instance_uid: str, data: bytes, answer_s: float) -> int:
        """Send an object and return the status of the answer.

        Parameters
        ----------
        data
            The data set, in the transfer syntax that was accepted for its SOP class.
        answer_s
            For each part of the data to be taken, and for the answer to come.

        Raises
        ------
        Lost
            If there is no answer. The association is over then.
        """
        context_id, _ = self.contexts[sop_class_uid]
        self._message_id = self._message_id % 0xFFFF + 1
        request = dimse.store_request(self._message_id, sop_class_uid, sop_instance_uid)
        try:
            waiting = 0
            for pdu in dimse.pdus(context_id, request, data, self._max_length):
                self._writer.write(pdu)
                waiting += len(pdu)
                if waiting >= _STEP:
                    waiting = 0
                    await self._drain(answer_s)
            await self._drain(answer_s)
            async with asyncio.timeout(answer_s):
                answer = await self._answer()
        except TimeoutError:
            self.abort()
            raise Lost(f"it hung up, or did not answer within {answer_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            self.abort()
            raise Lost("it hung up before it answered") from error
        except BaseException:
            self.abort()  # in the middle of a message, nothing else can follow
            raise
        return answer.status

    async def release(self, within_s: float = 2.0) -> None:
        """End it in order; a peer that does not play along is left."""
        with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError):
            self._writer.write(struct.pack(">BBLL", _RELEASE_RQ, 0, 4, 0))
            async with asyncio.timeout(within_s):
                kind = 0
                while kind not in (_RELEASE_RP, _ABORT):
                    kind, _ = await self._pdu()
        self._writer.close()

    def abort(self) -> None:
        """End it at once."""
        if not self._writer.is_closing():
            self._writer.write(struct.pack(">BBLBBBB", _ABORT, 0, 4, 0, 0, 0, 0))
            self._writer.transport.set_write_buffer_limits(0)
            if self._writer.transport.get_write_buffer_size():
                self._writer.transport.abort()  # it takes nothing: what is buffered would keep the connection
            else:
                self._writer.close()

    async def _drain(self, answer_s: float) -> None:
        async with asyncio.timeout(answer_s):
            await self._writer.drain()

    async def _answer(self) -> dimse.Command:
        data = bytearray()
        while True:
            kind, pdu = await self._pdu()
            if kind != _DATA:
                raise EOFError
            at = 0
            while at < len(pdu):
                length, _, control = _PDV.unpack_from(pdu, at)
                if length < 2 or at + 4 + length > len(pdu) or not control & _COMMAND:
                    raise ValueError("not the answer to a C-STORE")
                data += pdu[at + 6 : at + 4 + length]
                at += 4 + length
                if control & _LAST:
                    answer = dimse.Command(data)
                    if answer.responded_to == self._message_id and answer.field & dimse.RESPONSE:
                        return answer
                    data.clear()  # of an earlier message that was given up

    async def _pdu(self) -> tuple[int, bytes]:
        # Archives built on DCMTK answer in two small writes under Nagle's algorithm: the second waits for our
        # acknowledgement of the first, and ours waits 40 ms for company unless told not to before each read (tcp(7)).
        return await _read_pdu(self._raw, self._reader)


async def associate(
    host: str,
    port: int,
    *,
    calling: str,
    called: str,
    sop_classes: Iterable[str],
    tls: ssl.SSLContext | None,
    connect_s: float,
    associate_s: float,
) -> Requestor:
    """Connect, and ask for an association with one presentation context per SOP class.

    Raises
    ------
    NotConnected, NotAssociated
        See there.
    """
    raw = await _connect(host, port, connect_s)
    try:
        try:
            async with asyncio.timeout(connect_s):
                reader, writer = await asyncio.open_connection(
                    sock=raw, ssl=tls, server_hostname=host if tls is not None else None, limit=_LONGEST
                )
        except (OSError, EOFError, TimeoutError) as error:
            kind = "TLS" if tls is not None else "DICOM"
            raise NotAssociated(f"the port answers, but no {kind} connection") from error
    except BaseException:
        raw.close()
        raise
    try:
        try:
            async with asyncio.timeout(associate_s):
                contexts = {2 * number + 1: uid for number, uid in enumerate(sop_classes)}
                writer.write(_request(calling, called, contexts))
                answer, pdu = await _read_pdu(raw, reader)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise NotAssociated("it took the connection but did not answer the association request") from error
        if answer == _RJ:
            raise NotAssociated(f"it refuses the association: {_why(pdu)}")
        if answer != _AC:
            raise NotAssociated("it ended the connection instead of answering the association request")
        try:
            accepted, max_length = _accepted(pdu, contexts)
        except Exception as error:  # a parser met bytes somebody else chose: any of its errors means the same
            raise NotAssociated(f"its answer cannot be read ({type(error).__name__})") from None
    except BaseException:
        writer.close()
        raise
    return Requestor(raw, reader, writer, accepted, max_length)


async def _connect(host: str, port: int, connect_s: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    problem = "no answer"
    try:
        async with asyncio.timeout(connect_s):
            for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                raw = socket.socket(family, kind, protocol)
                raw.setblocking(False)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    await loop.sock_connect(raw, address)
                except OSError as error:
                    raw.close()
                    problem = _plain(error)
                except BaseException:
                    raw.close()
                    raise
                else:
                    return raw
    except TimeoutError:
        problem = "no answer"
    except OSError as error:  # the name cannot be resolved
        problem = _plain(error)
    raise NotConnected(problem)


def _plain(error: OSError) -> str:
    """Return what the system calls an error; asyncio puts texts of its own in its place."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or type(error).__name__


async def _read_pdu(raw: socket.socket, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    if _QUICKACK is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
    kind, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    if length > _LONGEST:
        raise ValueError("a PDU longer than agreed")
    return kind, await reader.readexactly(length)


def _request(calling: str, called: str, contexts: dict[int, str]) -> bytes:
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    version = ImplementationVersionNameNotification()
    length.maximum_length_received = _LONGEST
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version.implementation_version_name = IMPLEMENTATION_VERSION
    primitive = A_ASSOCIATE()
    primitive.application_context_name = _APPLICATION_CONTEXT
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    primitive.user_information = [length, implementation, version]
    proposed = []
    for context_id, uid in contexts.items():
        context = build_context(UID(uid), _SYNTAXES)
        context.context_id = context_id
        proposed.append(context)
    primitive.presentation_context_definition_list = proposed
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def _accepted(pdu: bytes, contexts: dict[int, str]) -> tuple[dict[str, tuple[int, str]], int]:
    decoded = A_ASSOCIATE_AC()
    decoded.decode(_HEAD.pack(_AC, len(pdu)) + pdu)
    primitive = decoded.to_primitive()
    accepted = {
        contexts[int(one.context_id or 0)]: (int(one.context_id or 0), str(one.transfer_syntax[0]))
        for one in primitive.presentation_context_definition_results_list
        if one.result == 0 and int(one.context_id or 0) in contexts
    }
    return accepted, int(primitive.maximum_length_received or 0)


def _why(pdu: bytes) -> str:
    try:
        decoded = A_ASSOCIATE_RJ()
        decoded.decode(_HEAD.pack(_RJ, len(pdu)) + pdu)
        return str(decoded.reason_str)
    except Exception:  # a parser met bytes somebody else chose
        return "without a reason that can be read"
