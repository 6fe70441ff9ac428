"""C-STORE over a plain connection with the compiled data path (``native/``): one call for each unusual image.

An object that has nothing unusual about it is admitted within the call (``native/admission.c``, of more than a chunk
``native/large.c``), and the next one after it. Of another one the call keeps what arrived before, answers it, and takes
the next message; between two of them it is decided on, encrypted and given its record here. Responsible for going back
and forth between the two, and for handing whatever is not a plain C-STORE to the `Association`, which reads it from
where the call stopped. Not responsible for what either does.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeward import native
from edgeward.gateway import command as dimse
from edgeward.gateway.command import Command
from edgeward.gateway.dataset import around_uid
from edgeward.gateway.reception import NOWHERE, SMALL, Arrival, Prepared
from edgeward.gateway.walker import VALUE, encoding
from edgeward.gateway.wire import Gone, Interrupted, PlainWire, TooSlow
from edgeward.native import Code
from edgeward.privacy.header import WANTED
from edgeward.privacy.plainrow import common
from edgeward.privacy.vaultfile import CHUNK, HEADROOM, MAGIC, TAG, Buffers, bound, nonce, pool

if TYPE_CHECKING:
    from edgeward.gateway.association import Association
    from edgeward.privacy.lane import Lane

_PATIENCE_MS = 3  # for the next message, while somebody waits to hear of the last one
_LONGER_MS = 20  # while nobody does, and the buffers are kept for it
_BLOCK = 4096
_SYNTAX = {"explicit": native.EXPLICIT, "implicit": native.IMPLICIT, "": native.NOT_WALKED}


class Express:
    """The fast lane of one association. Used by its thread only; end with `close`.

    Parameters
    ----------
    association
        Established.
    wire
        Its connection.
    library
        The compiled data path.
    """

    def __init__(self, association: Association, wire: PlainWire, library: Any) -> None:
        self._association, self._wire, self._library = association, wire, library
        self._buffers: Buffers | None = None
        self._prepared: Prepared | None = None  # of what is to be answered next
        self._request: tuple[Command, int] | None = None
        conn = self._conn = native.Connection()
        self._here = ctypes.addressof(conn)
        pages, _, _ = wire.lend()
        conn.ahead, conn.ahead_size = pages.address, len(pages.view)
        conn.handle, conn.limit = wire.handle, association.host.max_object_bytes
        conn.wanted_count = len(WANTED)
        conn.wanted[: len(WANTED)] = WANTED
        for context_id, context in association.contexts.items():
            conn.syntax[context_id] = _SYNTAX[encoding(context.transfer_syntax)]
        self._ciphers = self._kinds = None
        self._seal: Any = None
        self._large: native.Large | None = None  # what the call keeps of an object of more than a chunk
        self._admit_there()

    def _admit_there(self) -> None:
        """Let what is plainly as it should be be admitted without us: over a plain door nothing is ever revoked."""
        association, conn, lane = self._association, self._conn, self._association.host.lane
        if lane is None or not association.host.in_force(association) or association.peer.certificate_der:
            return
        kinds = []
        for context_id, context in association.contexts.items():
            row = common(association.device_id, context.abstract_syntax, context.transfer_syntax)
            if row is None or conn.syntax[context_id] not in (native.EXPLICIT, native.IMPLICIT):
                continue
            before, after = around_uid(
                sop_class_uid=context.abstract_syntax,
                transfer_syntax_uid=context.transfer_syntax,
                calling_ae_title=association.calling,
            )
            parts = (context.abstract_syntax.encode(), before, after, row)
            kinds.append(native.Kind(*parts, *map(len, parts)))
            conn.kind[context_id] = len(kinds)
        self._ciphers = self._library.ew_ciphers_new()
        if not kinds or not self._ciphers:
            return
        self._kinds, self._head = (native.Kind * len(kinds))(*kinds), native.Pages(_BLOCK)
        conn.kinds, conn.head = ctypes.addressof(self._kinds), self._head.address
        conn.store, conn.ciphers, conn.stop = lane.address, self._ciphers, ctypes.addressof(self._wire.stop)
        conn.headroom, conn.small, conn.max_length = HEADROOM, CHUNK, association.max_length
        self._memory = ctypes.create_string_buffer(self._library.ew_layout(10))
        self._large, self._root = native.Large.from_buffer(self._memory), str(lane.root).encode()
        self._large.root, self._large.chunk, self._large.handle = self._root, CHUNK, -1
        if self._library.lends:
            self._seal = native.Seal(partial(self._lend, lane))
            self._large.seal = ctypes.cast(self._seal, ctypes.c_void_p)
        conn.large = ctypes.addressof(self._large)

    def close(self) -> None:
        """Leave nothing behind."""
        self._library.ew_ciphers_free(self._ciphers)
        self._conn.store = self._ciphers = None
        self._drop()
        self._seal = None
        prepared, self._prepared = self._prepared, None
        if prepared is not None:  # first: the same object may have come there too, and waits for this one
            self._association.host.not_stored(self._association, prepared, OSError(errno.ECANCELED, "cancelled"))
        try:
            self._association.host.collect()
        finally:
            self._let_go()

    def turn(self) -> None:
        """Answer what there is to answer, and take the next message, or wait for it.

        Raises
        ------
        Ended, Gone, TooSlow, Broken, Interrupted
            If there will be none.
        """
        answered = self._request is not None
        code = self._exchange() if answered else self._take()
        if self._conn.admitted:
            self._association.host.collect()  # people hear of them before anything else comes
        if code == Code.MESSAGE and self._large is not None and self._large.index:
            self._store_large(code)
        elif code == Code.MESSAGE:
            self._decide()
        elif code == Code.COMMAND:
            self._buffers = pool.take()
        elif code == Code.WAIT:
            if not self._conn.begun and not (answered and self._conn.store):
                self._let_go()
        elif code == Code.FULL:
            self._store_large(code)
        elif code == Code.OTHER:
            if self._conn.begun:
                self._store_large(code)
            else:
                self._let_go()
                self._association.left, self._conn.pdu_left = self._conn.pdu_left, 0
                self._association.message()
                self._conn.pdu_left = self._association.left
        elif code != Code.NOT_KEPT:
            if self._conn.begun:
                self._begin()  # whether it would have been refused is told even so
            raise self._why(code)

    # ------------------------------------------------------------ calls

    def _take(self) -> int:
        if self._wire.interrupted:
            raise Interrupted
        return self._call(_LONGER_MS if self._conn.store and self._buffers is not None else 0)

    def _call(self, patience_ms: int, record: Any = None, *, answer: bool = False) -> int:
        wire, conn, host, buffers = self._wire, self._conn, self._association.host, self._buffers
        if buffers is not None:
            conn.room, conn.room_size = buffers.plain.address + HEADROOM, CHUNK - HEADROOM
            conn.out, conn.out_size = buffers.out.address, len(buffers.out.view)
        else:
            conn.room = None
        conn.idle_ms, conn.pdu_ms = int(host.idle_timeout_s * 1000), int(host.pdu_timeout_s * 1000)
        conn.patience_ms = patience_ms
        _, conn.at, conn.end = wire.lend()
        here = self._here
        code: int = self._library.ew_exchange(here, record) if answer else self._library.ew_take(here)
        wire.take_back(conn.at, conn.end)
        return code

    def _exchange(self) -> int:
        """Keep what was prepared, answer, and take the next message."""
        association, host, prepared = self._association, self._association.host, self._prepared
        record = prepared.record if prepared is not None else None
        self._request, request = None, self._request
        code = self._call(
            _PATIENCE_MS if self._buffers is not None else 0,
            ctypes.addressof(record) if record is not None else None,
            answer=True,
        )
        self._prepared = None
        if code == Code.NOT_KEPT and prepared is not None and request is not None:
            error = OSError(self._conn.error, os.strerror(self._conn.error))
            self._answer(*request, host.not_stored(association, prepared, error))
        elif prepared is not None:
            host.stored(association, prepared)
        return code

    def _answer(self, request: Command, context_id: int, status: int, prepared: Prepared | None = None) -> None:
        """Let the next call answer."""
        answer = dimse.store_answer(context_id, request, status, self._association.max_length)
        self._conn.answer, self._conn.answer_size = answer, len(answer)
        self._request, self._prepared = (request, context_id), prepared

    # ------------------------------------------------------------ objects

    def _decide(self) -> None:
        """Decide on a data set that is there as a whole."""
        conn, association, buffers = self._conn, self._association, self._buffers
        assert buffers is not None
        request, arrival = self._begin()
        count, context_id = conn.filled, conn.context
        conn.filled = 0
        if not isinstance(arrival, Arrival):
            self._answer(request, context_id, arrival)
        elif count <= SMALL:
            found, received_ns = self._values(buffers), conn.received_ns
            outcome = association.host.prepare_store(
                association, arrival, buffers=buffers, count=count, found=found, received_ns=received_ns
            )
            if isinstance(outcome, Prepared):
                self._answer(request, context_id, dimse.SUCCESS, outcome)
            else:
                self._answer(request, context_id, outcome)
        else:
            self._buffers = None
            try:
                arrival.adopt(buffers, count)
                self._answer(request, context_id, association.host.finish_store(association, arrival, conn.received_ns))
            finally:
                arrival.abort()

    def _begin(self) -> tuple[Command, Arrival | int]:
        conn, association = self._conn, self._association
        request = Command.store(
            conn.message_id,
            conn.sop_class[: conn.class_size].decode("ascii"),
            conn.sop_instance[: conn.instance_size].decode("ascii"),
        )
        return request, association.host.begin_store(association, request, association.contexts[conn.context])

    def _values(self, buffers: Buffers) -> dict[int, bytes] | None:
        conn = self._conn
        if not conn.walked:
            return None
        data = buffers.plain.view
        return {
            tag: bytes(data[HEADROOM + at : HEADROOM + at + min(size, VALUE)])
            for tag, at, size in zip(WANTED, conn.value_at, conn.value_size, strict=False)
            if size != native.ABSENT
        }

    def _store_large(self, code: int) -> None:
        """Take in a data set of which the buffers hold the beginning, or all that the call could read of it."""
        conn, association, host = self._conn, self._association, self._association.host
        request, began = self._begin()
        context_id = conn.context
        arrival = began if isinstance(began, Arrival) else None
        buffers, self._buffers = self._buffers, None
        try:
            if buffers is not None and arrival is not None:
                if self._large is not None and self._large.index:
                    self._take_over(self._large, arrival, buffers)
                else:
                    arrival.adopt(buffers, conn.filled)
            elif buffers is not None:
                pool.give(buffers)
            self._drop()
            while code == Code.FULL:
                code = self._fill(arrival)
            if code == Code.OTHER:
                conn.begun, association.left = 0, conn.pdu_left
                received_ns = association.resume(context_id, arrival, conn.size)
                conn.pdu_left = association.left
            elif code == Code.MESSAGE:
                received_ns = conn.received_ns
            else:
                raise self._why(code)
            status = began if arrival is None else host.finish_store(association, arrival, received_ns)
            assert isinstance(status, int)
            self._answer(request, context_id, status)
        finally:
            if arrival is not None:
                arrival.abort()

    def _take_over(self, large: native.Large, arrival: Arrival, buffers: Buffers) -> None:
        """Take in what the call took in of an object, before it came to something that it leaves to us."""
        plain, out, cipher, start = buffers.plain, buffers.out.view, AESGCM(bytes(large.key)), large.meta
        with open(large.path.decode(), "rb") as file:  # noqa: PTH123 - the call's own
            for index in range(large.index):
                at = len(MAGIC) + index * (CHUNK + TAG)
                file.seek(at)
                content = file.read(min(CHUNK + TAG, large.written - at))
                content += out[: CHUNK + TAG - len(content)]  # whole blocks are written, the rest waits there
                arrival.write(memoryview(cipher.decrypt(nonce(index), content, bound(index, final=False)))[start:])
                start = 0
        first = self._conn.room - plain.address
        arrival.write(plain.view[first : first + self._conn.filled])
        pool.give(buffers)

    def _lend(self, lane: Lane, *chunk: int) -> int:
        """Encrypt a chunk for the call: see ``ew_large`` in the source. It takes an error for 0."""
        start, size, before, at, final = chunk
        large, conn, buffers = self._large, self._conn, self._buffers
        assert large is not None
        assert buffers is not None
        index, first = large.index, start - buffers.plain.address
        if index == 0:
            uid = conn.sop_instance[: conn.instance_size].decode("ascii")
            self._cipher, self._mac = AESGCM(bytes(large.key)), lane.content_mac(uid)
        data = buffers.plain.view[first : first + size]
        sealed = buffers.out.view[at : at + size + TAG]
        self._cipher.encrypt_into(nonce(index), data, bound(index, final=bool(final)), sealed)
        if final:
            large.digest[:] = self._mac.finish(data[before:])
        else:
            self._mac.update(data[before:])
        return 1

    def _drop(self) -> None:
        """Leave no file of the call's behind."""
        if self._large is not None:
            self._library.ew_large_drop(ctypes.addressof(self._large))

    def _fill(self, arrival: Arrival | None) -> int:
        """Take the next bytes of a data set, up to a chunk."""
        if self._wire.interrupted:
            raise Interrupted
        wire, conn = self._wire, self._conn
        room = arrival.room() if arrival is not None else NOWHERE
        held = ctypes.c_char.from_buffer(room)
        conn.room, conn.room_size, conn.filled = ctypes.addressof(held), len(room), 0
        conn.patience_ms, store = 0, conn.store
        conn.store = None  # the last piece is no object
        _, conn.at, conn.end = wire.lend()
        code: int = self._library.ew_take(self._here)
        wire.take_back(conn.at, conn.end)
        conn.store = store
        del held
        if arrival is not None:
            arrival.filled(room[: conn.filled])
        return code

    # ------------------------------------------------------------ ends

    def _let_go(self) -> None:
        """Give the buffers back: an association that waits has none."""
        buffers, self._buffers = self._buffers, None
        if buffers is not None:
            pool.give(buffers)

    def _why(self, code: int) -> Exception:
        """Return why an association ends."""
        if self._wire.interrupted:
            return Interrupted()
        if code in (Code.SLOW, Code.NOT_TAKEN):
            return TooSlow(1)
        if code == Code.SILENT:
            return self._association.silent()
        return Gone()
