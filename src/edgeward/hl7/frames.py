"""MLLP framing: ``VT message FS CR`` (HL7 v2 Transport Specification: MLLP, Release 1).

Responsible for finding messages in a stream of bytes, with bounded memory. Not responsible for sockets.
"""

from __future__ import annotations

VT, FS, CR = b"\x0b", b"\x1c", b"\r"
_STRAY = 1 << 16  # bytes between messages that belong to none


class TooLarge(ValueError):
    """A message is larger than allowed, or the stream is no MLLP at all; the connection cannot go on."""


class Deframer:
    """Finds messages in what arrives.

    Bytes before a start are passed over; the carriage return after an end may be missing; a start within a message
    begins it anew (the sender broke off).

    Parameters
    ----------
    limit
        The largest message, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._inside = False
        self._searched = 0
        self._stray = 0

    @property
    def inside(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._inside

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; return the messages that are complete.

        Raises
        ------
        TooLarge
            If a message exceeds the limit, or too much arrives that belongs to no message.
        """
        self._buffer += data
        found = []
        while self._buffer:
            if not self._inside:
                start = self._buffer.find(VT)
                if start < 0:
                    self._stray += len(self._buffer)
                    self._buffer.clear()
                else:
                    self._stray += start
                    del self._buffer[: start + 1]
                    self._inside, self._searched = True, 0
                if self._stray > _STRAY:
                    raise TooLarge("what arrives is not MLLP: no start of a message")
                continue
            end = self._buffer.find(FS, self._searched)
            restart = self._buffer.rfind(VT, self._searched, end if end >= 0 else len(self._buffer))
            if restart >= 0:
                del self._buffer[: restart + 1]
                self._searched = 0
                continue
            if end < 0:
                self._searched = len(self._buffer)
                if len(self._buffer) > self._limit:
                    raise TooLarge(f"a message is larger than {self._limit} bytes")
                break
            if end > self._limit:
                raise TooLarge(f"a message is larger than {self._limit} bytes")
            found.append(bytes(self._buffer[:end]))
            del self._buffer[: end + 1]
            self._inside, self._stray = False, 0
        return found


def frame(message: bytes) -> bytes:
    """Return a message framed."""
    return VT + message + FS + CR
