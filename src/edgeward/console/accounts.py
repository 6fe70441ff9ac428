"""Accounts of people: names, roles, password hashes, and the one-time password of the first start.

Responsible for one file, ``data/users.json`` (mode 0600, replaced atomically), and for what makes a password
acceptable.
Not responsible for sessions (``sessions``) or for who may open which page (``access``).

Passwords are hashed with Argon2id (RFC 9106, section 4, second recommended option: 64 MiB, three passes).
"""

from __future__ import annotations

import re
import secrets
import time
import unicodedata
from dataclasses import asdict, dataclass, replace
from typing import Any

import argon2

from edgeward.home import Home, read_json, write_json

ROLES = ("clinician", "engineer", "viewer")
FIRST_USER = "admin"
FIRST_LOGIN_FILE = "first-login.json"
MIN_PASSWORD = 10  # characters; NIST SP 800-63B-4 asks for 8 at least beside rate limiting
MAX_PASSWORD = 256  # a longer one only costs us time to hash
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
# No look-alikes (0 O 1 l I): a one-time password is read from one screen and typed on another.
_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class AccountError(ValueError):
    """An account cannot be made or changed. `code` is a key of the message catalogue (``account.error.*``)."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class User:
    """One person's account."""

    name: str
    roles: tuple[str, ...]
    password_hash: str
    one_time: bool  # the password was given by somebody else and must be replaced at the first login
    created_ns: int
    created_by: str = ""
    language: str = ""
    disabled: bool = False

    def has(self, role: str) -> bool:
        """Whether this person acts in `role`."""
        return role in self.roles


def one_time_password() -> str:
    """Return a password of about 93 bits in four groups, easy to copy by hand."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4))


def _normal(password: str) -> str:
    # NIST SP 800-63B-4, 3.1.1.2: the same characters typed on another keyboard must give the same bytes.
    return unicodedata.normalize("NFKC", password)


class Accounts:
    """All accounts of a site. Hashing is deliberately slow: call ``verify`` and the setters outside the event loop."""

    def __init__(self, home: Home) -> None:
        self._path = home.data / "users.json"
        self._first_login = home.run / FIRST_LOGIN_FILE
        self._hasher = argon2.PasswordHasher.from_parameters(argon2.profiles.RFC_9106_LOW_MEMORY)
        # Checked when the account does not exist, so that the answer takes the same time.
        self._decoy = self._hasher.hash(secrets.token_hex(16))
        self._users: dict[str, User] = {}
        self._load()

    def _load(self) -> None:
        rows: list[dict[str, Any]] = (read_json(self._path) or {}).get("users", [])
        self._users = {row["name"]: User(**{**row, "roles": tuple(row["roles"])}) for row in rows}

    def _write(self) -> None:
        write_json(self._path, {"version": 1, "users": [asdict(user) for user in self._users.values()]})

    def ensure_first(self) -> bool:
        """Create the first account at the first start; return whether a one-time password was written.

        As long as nobody has used it, a start that finds the password's file gone (it lives in ``run``) writes a new
        one: whoever can read that file owns the site's state anyway.
        """
        first = self._users.get(FIRST_USER)
        if self._users and not (first and first.one_time and not first.created_by and not self._first_login.exists()):
            return False
        password = one_time_password()
        self._users[FIRST_USER] = User(
            name=FIRST_USER,
            roles=("clinician", "engineer"),
            password_hash=self._hasher.hash(password),
            one_time=True,
            created_ns=time.time_ns(),
        )
        self._write()
        write_json(self._first_login, {"user": FIRST_USER, "password": password})
        return True

    def all(self) -> list[User]:
        """Return all accounts in the order of creation."""
        return sorted(self._users.values(), key=lambda user: user.created_ns)

    def get(self, name: str) -> User | None:
        """Return the account, unless there is none or it is disabled."""
        user = self._users.get(name)
        return None if user is None or user.disabled else user

    def verify(self, name: str, password: str) -> User | None:
        """Return the account if the password is right. Takes the same time when there is no such account."""
        user = self.get(name)
        try:
            self._hasher.verify(user.password_hash if user else self._decoy, _normal(password[:MAX_PASSWORD]))
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return None
        return user

    def set_password(self, name: str, current: str, new: str) -> User:
        """Replace a password by one's own (durable on return); the one-time password is void from then on.

        Raises
        ------
        AccountError
            ``wrong_password``, ``too_short``, ``too_long``, ``same_password`` or ``password_is_name``.
        """
        user = self.verify(name, current)
        if user is None:
            raise AccountError("wrong_password")
        if len(_normal(new)) < MIN_PASSWORD:
            raise AccountError("too_short")
        if len(new) > MAX_PASSWORD:
            raise AccountError("too_long")
        if _normal(new) == _normal(current):
            raise AccountError("same_password")
        if _normal(new).casefold() == name.casefold():
            raise AccountError("password_is_name")
        changed = replace(user, password_hash=self._hasher.hash(_normal(new)), one_time=False)
        self._users[name] = changed
        self._write()
        if name == FIRST_USER:
            self._first_login.unlink(missing_ok=True)
        return changed

    def create(self, name: str, roles: tuple[str, ...], by: str) -> str:
        """Create an account and return its one-time password (shown once, kept only as a hash).

        Raises
        ------
        AccountError
            ``bad_name``, ``name_taken`` or ``no_role``.
        """
        if not NAME.match(name):
            raise AccountError("bad_name")
        if name.casefold() in {existing.casefold() for existing in self._users}:
            raise AccountError("name_taken")
        if not roles or any(role not in ROLES for role in roles):
            raise AccountError("no_role")
        password = one_time_password()
        self._users[name] = User(
            name=name,
            roles=tuple(role for role in ROLES if role in roles),
            password_hash=self._hasher.hash(password),
            one_time=True,
            created_ns=time.time_ns(),
            created_by=by,
        )
        self._write()
        return password

    def set_disabled(self, name: str, *, disabled: bool, by: str) -> User:
        """Close or reopen an account (durable on return).

        Raises
        ------
        AccountError
            ``unknown`` or ``not_yourself``: an engineer who locks herself out may lock out the last one.
        """
        user = self._users.get(name)
        if user is None:
            raise AccountError("unknown")
        if name == by:
            raise AccountError("not_yourself")
        changed = replace(user, disabled=disabled)
        self._users[name] = changed
        self._write()
        return changed

    def reset(self, name: str, by: str) -> str:
        """Give an account a new one-time password and return it.

        Raises
        ------
        AccountError
            ``unknown`` or ``not_yourself``.
        """
        user = self._users.get(name)
        if user is None:
            raise AccountError("unknown")
        if name == by:
            raise AccountError("not_yourself")
        password = one_time_password()
        self._users[name] = replace(
            user, password_hash=self._hasher.hash(password), one_time=True, created_by=user.created_by or by
        )
        self._write()
        return password

    def set_language(self, name: str, language: str) -> None:
        """Remember the language of an account."""
        user = self._users.get(name)
        if user is not None and user.language != language:
            self._users[name] = replace(user, language=language)
            self._write()
