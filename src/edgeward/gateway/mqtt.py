"""MQTT admission: who may connect, and what it may publish.

The NATS server asks us (authentication callout) for every MQTT client. We look at the certificate it verified: the SAN
URI names the device, the registry says whether that very certificate is in force, and the answer allows publishing to
the device's own subject and nothing else. A revoked device is disconnected within a second. When nobody answers the
callout nobody new gets in; connected devices stay.

After a restart of the server devices and roles come back at once, in any order. What a device sends before `monitor`
and `recorder` have subscribed again, the server throws away, and nobody ever learns of it: so the door opens once they
have (`Listeners`).

Reference: NATS authentication callout (ADR-26): JWTs signed with an account nkey, algorithm ``ed25519-nkey``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import secrets
import time
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from edgeward.bus import permissions, subjects
from edgeward.bus.client import Bus, NoAnswer
from edgeward.bus.role import RoleContext, open_bus
from edgeward.bus.server import AUTHENTICATOR, SYSTEM, load_key
from edgeward.privacy.identity import client_context, device_of
from edgeward.privacy.registry import Device, Registry

_log = logging.getLogger("edgeward.gateway.mqtt")
_REFRESH_S = 0.5
#: A device waits so long for somebody who takes what it sends (the server closes its connection after 5 s), and so long
#: for the others. On a busy machine they are back more than a second apart.
NOBODY_S, ONE_S = 4.0, 2.0
_LOOK_S, _LOOK_AGAIN_S = 0.5, 0.02
LISTENERS = 2  # monitor, recorder; and who stands by for the monitor


class NotAdmitted(Exception):
    """A client is refused; the text says why."""


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read_claims(token: bytes) -> dict[str, Any]:
    """Return the claims of a JWT from our own server (its signature is not checked: only the server can publish here).

    Raises
    ------
    NotAdmitted
        If it is not a JWT.
    """
    try:
        payload = token.split(b".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (IndexError, binascii.Error, msgspec.DecodeError) as error:
        raise NotAdmitted("malformed authentication request") from error
    if not isinstance(claims, dict):
        raise NotAdmitted("malformed authentication request")
    return claims


def sign(claims: dict[str, Any], key: Any) -> str:
    """Return `claims` as a JWT signed by an account nkey."""
    issuer = key.public_key.decode()
    claims = {**claims, "iss": issuer, "iat": int(time.time())}
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode() + secrets.token_bytes(8)).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    head = _base64(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    body = _base64(json.dumps(claims, separators=(",", ":")).encode())
    return f"{head}.{body}.{_base64(key.sign(f'{head}.{body}'.encode()))}"


def identify(claims: dict[str, Any], registry: Registry, site: str) -> Device:
    """Return the enrolled device behind an authentication request.

    Raises
    ------
    NotAdmitted
        If the client does not speak MQTT, has no certificate of this site, or its device is unknown or revoked.
    """
    request = claims.get("nats", {})
    client = request.get("client_info", {})
    if client.get("type") != "mqtt":
        raise NotAdmitted("devices connect by MQTT")
    chains = (request.get("client_tls") or {}).get("verified_chains") or []
    if not chains or not chains[0]:
        raise NotAdmitted("no verified client certificate")
    try:
        certificate = x509.load_pem_x509_certificate(chains[0][0].encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise NotAdmitted("the certificate names no device") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    device_id = next((found for found in (device_of(site, uri) for uri in uris) if found), "")
    if not device_id:
        raise NotAdmitted("the certificate names no device of this site")
    registry.refresh()
    device = registry.by_id(device_id)
    if device is None:
        raise NotAdmitted(f"device {device_id} is not enrolled")
    if device.revoked:
        raise NotAdmitted(f"device {device_id} is revoked")
    if certificate.fingerprint(hashes.SHA256()).hex() != device.fingerprint:
        raise NotAdmitted(f"device {device_id} presented another certificate than the one it was enrolled with")
    return device


class Listeners:
    """Whether somebody takes what devices send, as the server knows it.

    Parameters
    ----------
    system : Bus
        A connection to the server's system account.
    listeners : int
        How many there are when all are there. Were one that stands by counted as one of the two, the monitor itself
        could be the one that is away.
    """

    def __init__(self, system: Bus, listeners: int = LISTENERS) -> None:
        self._system = system
        self._listeners = listeners
        self._seen = -_LOOK_S
        self._waiting: asyncio.Task[int] | None = None

    async def wait(self, server: str) -> int:
        """Return how many subscribe to waveforms, once they do; or how few, when they were waited for in vain.

        All who wait share one look.

        Parameters
        ----------
        server : str
            Id of the server that asked us.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._seen < _LOOK_S:
            return self._listeners
        if self._waiting is None or self._waiting.done():
            self._waiting = loop.create_task(self._wait(server))
        return await asyncio.shield(self._waiting)

    async def _wait(self, server: str) -> int:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            count = await self._count(server)
            waited = loop.time() - began
            if count >= self._listeners or (count and waited >= ONE_S):
                self._seen = loop.time()
                return count
            if waited >= NOBODY_S:
                return count
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _count(self, server: str) -> int:
        """Ask the server who would get a waveform packet ("SUBSZ" of its monitoring, by the system account)."""
        options = {
            "account": permissions.ACCOUNT,
            "subscriptions": True,
            "test": subjects.wave("any-device"),
            "limit": 8,
        }
        try:
            answer = msgspec.json.decode(
                await self._system.request_raw(f"$SYS.REQ.SERVER.{server}.SUBSZ", msgspec.json.encode(options), 1.0)
            )
            return len(answer["data"].get("subscriptions_list") or ())
        except (NoAnswer, msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            _log.debug("the server does not say who listens: %s", error)
            return 0


class MqttDoor:
    """Answers the authentication callout and disconnects the revoked."""

    def __init__(self, context: RoleContext, callout: Bus, system: Bus) -> None:
        self._context = context
        self._callout = callout
        self._system = system
        self._registry = Registry(context.home)
        self._key = load_key(context.home.keys / "bus", "issuer")
        #: Device -> MQTT client -> (server, connection, fingerprint of its certificate).
        self._live: dict[str, dict[str, tuple[str, int, str]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._listeners = Listeners(system, LISTENERS + context.settings.monitor.standby)
        self.last_seen_ns: dict[str, int] = {}

    async def start(self) -> None:
        """Serve."""
        await self._callout.serve_raw(subjects.AUTH_CALLOUT, self._answer)
        await self._callout.flush()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop serving: nobody new is admitted from here on."""
        if self._task:
            self._task.cancel()
        await self._callout.close()
        await self._system.close()

    async def _answer(self, data: bytes) -> bytes:
        try:
            claims = read_claims(data)
        except NotAdmitted:
            _log.warning("a malformed authentication request was ignored")
            return b""
        request = claims.get("nats", {})
        server = request.get("server_id", {}).get("id", "")
        client = request.get("client_info", {})
        user = request.get("user_nkey", "")
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        try:
            identify(claims, self._registry, self._context.settings.site.name)
            listening = await self._listeners.wait(server)
            device = identify(claims, self._registry, self._context.settings.site.name)  # it may be revoked meanwhile
            if not listening:
                # It is let in all the same: its numerics are kept by the server's store, and its waveforms are told as
                # missing once somebody listens again.
                self._context.stats.count("mqtt_admitted_unheard")
            answer["jwt"] = sign(
                {
                    "sub": user,
                    "aud": permissions.ACCOUNT,
                    "name": device.device_id,
                    "nats": {
                        "type": "user",
                        "version": 2,
                        "pub": {"allow": [subjects.wave(device.device_id), subjects.vital(device.device_id)]},
                        "sub": {"deny": [">"]},
                        "subs": 8,
                        "data": -1,
                        "payload": -1,
                    },
                },
                self._key,
            )
            live = self._live.setdefault(device.device_id, {})
            # A device that reconnects under the same MQTT client id replaces its former connection.
            live[str(client.get("mqtt_id", ""))] = (server, int(client.get("id", 0)), device.fingerprint)
            self.last_seen_ns[device.device_id] = time.time_ns()
            self._context.stats.count("mqtt_admitted")
        except NotAdmitted as error:
            answer["error"] = str(error)
            self._context.stats.count("mqtt_refused")
            _log.warning("an MQTT client was refused: %s", error)
            await self._context.quarantine(
                "mqtt",
                str(client.get("host", "")),
                str(error),
                "enrol the device with `edgeward device enroll`, or find out who this is",
            )
        return sign({"sub": user, "aud": server, "nats": answer}, self._key).encode()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            # Whether the file has changed since does not tell: a device that connects has it read again, too.
            self._registry.refresh()
            for device_id in list(self._live):
                await self._disconnect(device_id)

    async def _disconnect(self, device_id: str) -> None:
        """Disconnect what a device was let in with a certificate that is not in force any more."""
        device, live = self._registry.by_id(device_id), self._live[device_id]
        in_force = device.fingerprint if device is not None and not device.revoked else ""
        gone = {client: one for client, one in live.items() if one[2] != in_force}
        for client in gone:  # all before the first is waited for: it may come again meanwhile
            del live[client]
        for server, connection, _ in gone.values():
            try:
                await self._system.request_raw(
                    f"$SYS.REQ.SERVER.{server}.KICK", msgspec.json.encode({"cid": connection}), 2.0
                )
                _log.info("revoked device %s was disconnected", device_id)
            except NoAnswer as error:
                _log.error("revoked device %s may still be connected: %s", device_id, error)


async def start(context: RoleContext) -> MqttDoor:
    """Open the MQTT door and return it; ``close`` it when the role stops."""
    tls = client_context(context.home, context.role)
    settings = context.settings
    callout = await open_bus(context.role, context.home, settings, tls, user=AUTHENTICATOR)
    system = await open_bus(context.role, context.home, settings, tls, user=SYSTEM)
    door = MqttDoor(context, callout, system)
    await door.start()
    return door
