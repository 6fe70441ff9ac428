"""A connection as an association sees it: exact reads under a time limit, into memory that is there already.

Responsible for sockets, plain and TLS, for time limits and for being woken by another thread. Waiting costs nothing:
there is no polling. Not responsible for what the bytes mean (``gateway.association``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import ssl
import struct
import time
from abc import ABC, abstractmethod
from functools import lru_cache

from edgeward import native

_AHEAD = 1 << 16  # bytes that are read ahead of what was asked for: a small object in one system call
_LARGE = 1 << 14  # from here on bytes go where they belong without that detour
_PIECE = 1 << 16
_SHORT_S = 0.05  # a wait that has all but run out


class Gone(ConnectionError):
    """The peer closed the connection or it broke."""


class TooSlow(TimeoutError):
    """The peer did not say enough in time. `got` bytes of what was expected came."""

    def __init__(self, got: int) -> None:
        super().__init__("too slow")
        self.got = got


class Interrupted(Exception):
    """Another thread wants this association to end."""


class Broken(Exception):
    """The peer broke the protocol: the association is aborted. The text says how.

    `code` is the reason of the A-ABORT (PS3.8, Table 9-26).
    """

    def __init__(self, reason: str, what_to_do: str = "", *, code: int = 6) -> None:
        super().__init__(reason)
        self.what_to_do, self.code = what_to_do, code


class Ended(Exception):
    """The peer released or aborted the association."""


END = (Gone, TooSlow, Interrupted, Broken, Ended)  # whatever ends an association


class Wire(ABC):
    """One connection. Read and written by one thread; `interrupt` may be called by any."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self.interrupted = False

    @abstractmethod
    def read(self, into: memoryview, timeout_s: float) -> None:
        """Fill `into`.

        Raises
        ------
        Gone, TooSlow, Interrupted
            If it cannot be filled.
        """

    def read_pair(self, into: memoryview, then: memoryview, timeout_s: float, then_timeout_s: float) -> None:
        """Fill `into`, then `then`: where possible in one system call."""
        self.read(into, timeout_s)
        self.read(then, then_timeout_s)

    @abstractmethod
    def send(self, data: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """Send all of `data`.

        Raises
        ------
        Gone, TooSlow
            If it cannot be sent.
        """

    @abstractmethod
    def readable(self) -> bool:
        """Whether something can be read without waiting: data, or that the peer is gone."""

    @abstractmethod
    def interrupt(self) -> None:
        """Make the thread that reads stop with `Interrupted`, now or at its next read."""

    def linger(self, seconds: float) -> None:
        """Say no more, and wait until the peer has closed too, for so long at most.

        Closing with unread data would reset the connection, and the peer might never see our last word.
        """
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(self._client, socket.SHUT_WR)
            waste = bytearray(_PIECE)
            while (left := end - time.monotonic()) > 0:
                self._client.settimeout(left)
                if not socket.socket.recv_into(self._client, waste):
                    break

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _check(self) -> None:
        if self.interrupted:
            raise Interrupted


class PlainWire(Wire):
    """A TCP connection. The kernel keeps the time limits, so that waiting and reading are one system call."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__(client)
        client.settimeout(None)
        self.stop = ctypes.c_int32()  # not 0: interrupted; for the compiled data path
        self._limit_s = self._send_limit_s = 0.0
        self._pages = native.Pages(_AHEAD)
        self._ahead = self._pages.view
        self._at = self._end = 0  # what of it was not asked for yet

    def read(self, into: memoryview, timeout_s: float) -> None:
        """See `Wire.read`."""
        at, wanted = self._at, len(into)
        after = at + wanted
        if after <= self._end:
            self._at = after
            into[:] = self._ahead[at:after]
            if self.interrupted:
                raise Interrupted
            return
        got = self._drain(into)
        if wanted - got >= _LARGE:
            self._exactly(into, got, timeout_s)
        else:
            self._read_ahead(into, got, timeout_s)

    @property
    def handle(self) -> int:
        """The socket, for the compiled data path, which may read and write it between two calls."""
        return self._client.fileno()

    def lend(self) -> tuple[native.Pages, int, int]:
        """Return what was read ahead, and from where to where it is not used yet: for the compiled data path."""
        return self._pages, self._at, self._end

    def take_back(self, at: int, end: int) -> None:
        """Say what of it is not used now. The kernel's time limits are not what they were."""
        self._at, self._end = at, end
        self._limit_s = self._send_limit_s = 0.0

    def read_pair(self, into: memoryview, then: memoryview, timeout_s: float, then_timeout_s: float) -> None:
        """See `Wire.read_pair`."""
        if self._at < self._end:
            got = self._drain(into)
            if got == len(into):
                self.read(then, then_timeout_s)
                return
            into = into[got:]
        began, wanted = time.monotonic(), len(into) + len(then)
        self._prepare(timeout_s)
        try:
            got = self._client.recvmsg_into([into, then], 0, socket.MSG_WAITALL)[0]
        except BlockingIOError:
            self._check()
            raise TooSlow(0) from None
        except OSError as error:
            raise Gone from error
        if got == wanted:
            return
        if got < len(into):
            self._rest(into, got, began + timeout_s)
            got = len(into)
        self._rest(then, got - len(into), began + max(timeout_s, then_timeout_s))

    def _drain(self, into: memoryview) -> int:
        """Take what was read ahead; return how much that was."""
        count = min(self._end - self._at, len(into))
        into[:count] = self._ahead[self._at : self._at + count]
        self._at += count
        return count

    def _exactly(self, into: memoryview, got: int, timeout_s: float) -> None:
        began = time.monotonic()
        self._prepare(timeout_s)
        try:
            count = self._client.recv_into(into[got:], len(into) - got, socket.MSG_WAITALL)
        except BlockingIOError:
            self._check()
            raise TooSlow(got) from None
        except OSError as error:
            raise Gone from error
        if got + count < len(into):
            self._rest(into, got + count, began + timeout_s)

    def _read_ahead(self, into: memoryview, got: int, timeout_s: float) -> None:
        """Fill `into` from what has arrived, and keep what else has."""
        deadline = 0.0
        while True:
            self._prepare(timeout_s)
            began = time.monotonic()
            deadline = deadline or began + timeout_s
            try:
                count = self._client.recv_into(self._ahead)
            except BlockingIOError:
                self._check()
                raise TooSlow(got) from None
            except OSError as error:
                raise Gone from error
            if not count:
                self._check()
                raise Gone
            self._at, self._end = 0, count
            got += self._drain(into[got:])
            if got == len(into):
                return
            timeout_s = deadline - time.monotonic()
            if timeout_s <= 0:
                raise TooSlow(got)
            timeout_s = max(timeout_s, _SHORT_S)

    def send(self, data: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """See `Wire.send`."""
        # A limit on each send, not on all of it: a peer that takes nothing for so long is gone.
        if timeout_s != self._send_limit_s:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
            self._send_limit_s = timeout_s
        try:
            self._client.sendall(data)
        except BlockingIOError:
            raise TooSlow(0) from None
        except OSError as error:
            raise Gone from error

    def readable(self) -> bool:
        """See `Wire.readable`."""
        if self._at < self._end:
            return True
        poll = select.poll()
        poll.register(self._client, select.POLLIN)
        return bool(poll.poll(0))

    def interrupt(self) -> None:
        """See `Wire.interrupt`."""
        self.interrupted = True
        self.stop.value = 1
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RD)

    def _prepare(self, timeout_s: float) -> None:
        self._check()
        if timeout_s != self._limit_s:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout_s))
            self._limit_s = timeout_s
        # A sender with Nagle's algorithm holds the end of a message back until all before it is acknowledged.
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _rest(self, into: memoryview, got: int, deadline: float) -> None:
        while got < len(into):
            self._check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TooSlow(got)
            self._limit_s = 0.0
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(max(left, _SHORT_S)))
            try:
                count = self._client.recv_into(into[got:], len(into) - got, socket.MSG_WAITALL)
            except BlockingIOError:
                continue
            except OSError as error:
                raise Gone from error
            if not count:
                self._check()
                raise Gone
            got += count


class TlsWire(Wire):
    """A TLS connection. Waits in poll(2), where another thread can wake it."""

    def __init__(self, client: ssl.SSLSocket) -> None:
        super().__init__(client)
        self._tls = client
        client.settimeout(0)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False

    def read(self, into: memoryview, timeout_s: float) -> None:
        """See `Wire.read`."""
        self._check()
        got, wanted, deadline = 0, len(into), 0.0
        while got < wanted:
            try:
                count = self._tls.recv_into(into[got:])
                if not count:
                    raise Gone
                got += count
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                deadline = deadline or time.monotonic() + timeout_s
                self._wait(want, deadline, got)
            except OSError as error:
                raise Gone from error
            if got < wanted and deadline and time.monotonic() > deadline:
                raise TooSlow(got)

    def send(self, data: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """See `Wire.send`."""
        view, deadline = memoryview(data), time.monotonic() + timeout_s
        while view:
            try:
                view = view[self._tls.send(view) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                self._wait(want, deadline, 0, bell=False)
            except OSError as error:
                raise Gone from error

    def readable(self) -> bool:
        """See `Wire.readable`."""
        if self._tls.pending():
            return True
        poll = select.poll()
        poll.register(self._tls, select.POLLIN)
        return bool(poll.poll(0))

    def interrupt(self) -> None:
        """See `Wire.interrupt`."""
        self.interrupted = True
        if not self._closed:
            with contextlib.suppress(OSError):
                os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """See `Wire.close`."""
        super().close()
        if not self._closed:
            self._closed = True
            os.close(self._bell)

    def _wait(self, want: ssl.SSLError, deadline: float, got: int, *, bell: bool = True) -> None:
        poll = select.poll()
        poll.register(self._tls, select.POLLIN if isinstance(want, ssl.SSLWantReadError) else select.POLLOUT)
        if bell:
            poll.register(self._bell, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TooSlow(got)
        if bell:
            self._check()


@lru_cache(64)
def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6) or (0 if seconds >= 1 else 1))
