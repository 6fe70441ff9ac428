"""Searches by name or number, kept out of addresses.

Responsible for what somebody searches for: it is usually a patient's name or number, and an address ends up in the
browser's history, in bookmarks and in the logs of whatever stands between. So the text comes by POST, stays in the
console's memory, and the address carries only a random handle that means nothing outside this session. A console that
was restarted has forgotten the searches, and the page says so. Time plays no part: the oldest go first.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable

MAX_TEXT = 64  # the longest a DICOM patient id or a component of a name may be (PS3.5, table 6.2-1)
PER_SESSION = 50
IN_ALL = 5000
_HANDLE = re.compile(r"[0-9a-f]{16}")


class Searches:
    """What each session searched for, in memory only."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str], str] = OrderedDict()

    def keep(self, session_id: str, text: str) -> str:
        """Keep `text` and return its handle; nothing to search for has the handle ``""``."""
        text = " ".join(text.split())[:MAX_TEXT]
        if not text:
            return ""
        for (owner, handle), known in self._texts.items():
            if owner == session_id and known == text:
                self._texts.move_to_end((owner, handle))
                return handle
        mine = [key for key in self._texts if key[0] == session_id]
        for key in mine[: max(0, len(mine) - PER_SESSION + 1)]:
            del self._texts[key]
        while len(self._texts) >= IN_ALL:
            self._texts.popitem(last=False)
        handle = secrets.token_hex(8)
        self._texts[session_id, handle] = text
        return handle

    def find(self, session_id: str, handle: str) -> str | None:
        """Return the text of `handle`, ``""`` for no handle, None if this session has no such search (any more)."""
        if not handle:
            return ""
        return self._texts.get((session_id, handle)) if _HANDLE.fullmatch(handle) else None

    def forget(self, session_ids: Iterable[str]) -> None:
        """Forget what these sessions searched for: they are over."""
        over = set(session_ids)
        for key in [key for key in self._texts if key[0] in over]:
            del self._texts[key]
