"""The state directory of a site: where each thing lies. Nothing else is written outside it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one state directory (``--home``)."""

    path: Path

    @property
    def root(self) -> Path:
        """The directory itself."""
        return self.path

    @property
    def settings_file(self) -> Path:
        """``edgeward.toml``."""
        return self.path / "edgeward.toml"

    @property
    def keys(self) -> Path:
        """Secrets: the site key, the authority's key, bus credentials. Mode 0700, files 0600."""
        return self.path / "keys"

    @property
    def identity(self) -> Path:
        """Certificates and the registry of devices."""
        return self.path / "identity"

    @property
    def vault(self) -> Path:
        """Encrypted raw objects."""
        return self.path / "vault"

    @property
    def nats(self) -> Path:
        """The embedded server's configuration and store."""
        return self.path / "nats"

    @property
    def run(self) -> Path:
        """What holds only while the site runs: ports, process ids, the one-time password."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """The structured log."""
        return self.path / "logs"

    @property
    def data(self) -> Path:
        """Databases, one owner each."""
        return self.path / "data"

    def db(self, name: str) -> Path:
        """Return the path of a role's database."""
        return self.data / f"{name}.db"

    def create(self) -> None:
        """Create the directories, private to this user."""
        for folder in (self.root, self.keys, self.identity, self.vault, self.nats, self.run, self.logs, self.data):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)


def write_private(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by `data` atomically: a crash leaves the old or the new file, never half of one.

    With `durable` it has reached the disk on return; without, for what can be made again, the system decides when.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not durable:
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` by `value` as JSON, mode 0600."""
    write_private(path, json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n", durable=durable)


def read_json(path: Path) -> Any:
    """Return what ``write_json`` wrote, or None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
