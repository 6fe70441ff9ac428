"""Who is logged in, and how often somebody may try.

Responsible for session tokens, their expiry, and the slowing down of guessing. Not responsible for cookies
(``access``). Time is passed in: sessions in seconds since the epoch, the throttle in seconds of a monotonic clock.

Only the SHA-256 of a token is kept, in memory and in ``data/sessions.json``: a console that is restarted must not turn
every bed wall of the hospital into a login page.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass
from typing import ClassVar

from edgeward.home import Home, read_json, write_json

_MAX_SESSIONS_PER_USER = 50


@dataclass(frozen=True, slots=True)
class Session:
    """One login. `id` is the hash of its token and reveals nothing about it."""

    id: str
    user: str
    created_s: float
    expires_s: float


def _id(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def csrf_token(token: str) -> str:
    """Return the value that a form of this session must carry. Known only to who knows the session's token."""
    return hmac.new(token.encode(), b"edgeward form", hashlib.sha256).hexdigest()[:40]


class Sessions:
    """All logins of the site."""

    def __init__(self, home: Home, lifetime_s: float, now_s: float) -> None:
        self._path = home.data / "sessions.json"
        self._lifetime_s = lifetime_s
        rows = (read_json(self._path) or {}).get("sessions", [])
        self._sessions = {row["id"]: Session(**row) for row in rows if row["expires_s"] > now_s}

    def _write(self) -> None:
        write_json(self._path, {"version": 1, "sessions": [asdict(session) for session in self._sessions.values()]})

    def open(self, user: str, now_s: float) -> tuple[str, Session]:
        """Start a session; return its token, which is told to the browser only, and the session."""
        self._sessions = {key: value for key, value in self._sessions.items() if value.expires_s > now_s}
        mine = sorted((s for s in self._sessions.values() if s.user == user), key=lambda s: s.created_s)
        for session in mine[: max(0, len(mine) - _MAX_SESSIONS_PER_USER + 1)]:
            del self._sessions[session.id]
        token = secrets.token_urlsafe(32)
        session = Session(id=_id(token), user=user, created_s=now_s, expires_s=now_s + self._lifetime_s)
        self._sessions[session.id] = session
        self._write()
        return token, session

    def find(self, token: str, now_s: float) -> Session | None:
        """Return the session of `token` while it lasts."""
        session = self._sessions.get(_id(token)) if token else None
        return session if session is not None and session.expires_s > now_s else None

    def alive(self, session_id: str, now_s: float) -> bool:
        """Whether the session with this id still lasts."""
        session = self._sessions.get(session_id)
        return session is not None and session.expires_s > now_s

    def close(self, session_id: str) -> None:
        """End one session."""
        if self._sessions.pop(session_id, None) is not None:
            self._write()

    def close_all_of(self, user: str, keep: str = "") -> list[str]:
        """End all sessions of `user` except `keep`; return the ids of those that ended."""
        ended = [s.id for s in self._sessions.values() if s.user == user and s.id != keep]
        for session_id in ended:
            del self._sessions[session_id]
        if ended:
            self._write()
        return ended


@dataclass(slots=True)
class _Failures:
    count: int
    blocked_until_s: float
    last_s: float


class Throttle:
    """Slows down guessing of passwords.

    Counted per (account, address), per address and per account. The last limit is the loosest, so that a stranger
    cannot easily lock somebody out by failing in her name.
    """

    FREE: ClassVar[dict[str, int]] = {"pair": 5, "address": 20, "account": 50}  # failures without delay
    LONGEST_S = 300.0
    FORGET_S = 3600.0
    _MAX_KEYS = 10_000

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str, str], _Failures] = {}

    def _keys(self, account: str, address: str) -> list[tuple[str, str, str]]:
        return [("pair", account, address), ("address", "", address), ("account", account, "")]

    def wait_s(self, account: str, address: str, now_s: float) -> float:
        """Return for how long this attempt must be refused; 0 if it may go on."""
        entries = [self._failures.get(key) for key in self._keys(account, address)]
        return max([0.0, *(entry.blocked_until_s - now_s for entry in entries if entry)])

    def failed(self, account: str, address: str, now_s: float) -> None:
        """Count a failure: 1, 2, 4 ... seconds of delay after the free ones, up to five minutes."""
        if len(self._failures) > self._MAX_KEYS:
            self._failures = {k: v for k, v in self._failures.items() if now_s - v.last_s < self.LONGEST_S}
        for key in self._keys(account, address):
            entry = self._failures.get(key)
            if entry is None or now_s - entry.last_s > self.FORGET_S:
                entry = self._failures[key] = _Failures(0, 0.0, now_s)
            entry.count += 1
            entry.last_s = now_s
            excess = entry.count - self.FREE[key[0]]
            if excess >= 0:
                entry.blocked_until_s = now_s + min(self.LONGEST_S, 2.0 ** min(excess, 16))

    def succeeded(self, account: str, address: str) -> None:
        """Forget the failures of this account from this address."""
        self._failures.pop(("pair", account, address), None)
