"""Associations that this side asks for by pynetdicom, without four races that the library has.

pynetdicom reads what arrives in a thread of its own, and holds that thread while a request waits for its answer. Then

- it asks whether the thread is held by a flag that is also set for a moment while the thread only passes by: the thread
  takes the answer for a stray message and drops it, and the request waits for its whole time-out;
- event reports are served in one more thread. If that one hangs up, it lets the first thread go, which again takes the
  answer (seen on a busy machine, once in ten requests for storage commitment);
- when that one is done it takes the flag away, and a request that has just begun waits for ever.

And whoever asks for an association takes one that was rejected for one that never connected, if the rejection came and
the connection was closed before the asking thread looked (on a busy machine one in twenty).

Responsible for a checkpoint that is certain and for rejections that are told as such. Not responsible for what is
asked for.
"""

from __future__ import annotations

import threading

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

_LOOK_S = 0.02  # a thread that ends tells nobody, nor does one that takes the flag away


class Checkpoint(threading.Event):
    """Where the library's thread is held: `clear` returns when it stands here, or has ended.

    Whoever closed it opens it again; what others say meanwhile counts only if that thread has ended.

    Parameters
    ----------
    thread
        The one that is held; its `_is_paused` is true as long as it stands here. It may close the checkpoint itself (in
        a handler), and does not wait for itself.
    """

    def __init__(self, thread: threading.Thread) -> None:
        super().__init__()
        self._thread, self._here = thread, threading.Condition()
        self._closer: threading.Thread | None = None
        self._stands = False

    def is_set(self) -> bool:
        """Whether it is open."""
        return self._closer is None

    def set(self) -> None:
        """Open it."""
        with self._here:
            if self._closer in (None, threading.current_thread()) or not self._closer.is_alive():
                self._closer = None
                self._here.notify_all()

    def clear(self) -> None:
        """Close it, and wait until the thread stands at it."""
        with self._here:
            self._closer = threading.current_thread()
            while not self._stands and self._thread.is_alive() and self._closer is not self._thread:
                self._here.wait(_LOOK_S)

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - the library gives none
        """Pass if it is open; else stand here until it is."""
        with self._here:
            while self._closer is not None:
                self._stands = True
                self._thread._is_paused = True  # type: ignore[attr-defined]  # noqa: SLF001 - see above
                self._here.notify_all()
                self._here.wait(_LOOK_S)
            self._stands = False
        return True


def steady(association: Association) -> Association:
    """Give an association that was just asked for a checkpoint that holds, and its rejection; return it."""
    if not association.is_established and not association.is_rejected:
        unread = association.dul.peek_next_pdu()
        if isinstance(unread, A_ASSOCIATE) and unread.result:
            association.acceptor.primitive = unread
            association.is_rejected, association.is_aborted = True, False
    association._reactor_checkpoint = Checkpoint(association)  # noqa: SLF001 - there is no public way
    return association
