"""Who looks at what: which people have which item open at this moment.

Responsible for the answer only; a page that is closed or loses its socket is gone from it with the socket. Names are
those of accounts, never of patients. It says that a page is open, not that somebody sits in front of it.
"""

from __future__ import annotations

from collections.abc import Hashable

from edgeward.bus.subjects import TOKEN


class Presence:
    """The item that each open page shows."""

    def __init__(self) -> None:
        self._open: dict[Hashable, tuple[str, str]] = {}
        self.changed = False  # since somebody last asked with `take`

    def look(self, page: Hashable, user: str, item_id: str) -> None:
        """`page`, opened by `user`, shows `item_id` (empty: none)."""
        wish = (user, item_id) if user and TOKEN.fullmatch(item_id) else None
        if self._open.get(page) == wish:
            return
        self.changed = True
        if wish is None:
            del self._open[page]
        else:
            self._open[page] = wish

    def leave(self, page: Hashable) -> None:
        """`page` is closed."""
        self.look(page, "", "")

    def now(self) -> dict[str, list[str]]:
        """Return the people per item, in the order of their names."""
        people: dict[str, set[str]] = {}
        for user, item_id in self._open.values():
            people.setdefault(item_id, set()).add(user)
        return {item_id: sorted(users) for item_id, users in people.items()}

    def take(self) -> dict[str, list[str]] | None:
        """Return `now` if it changed since the last call, else None."""
        if not self.changed:
            return None
        self.changed = False
        return self.now()
