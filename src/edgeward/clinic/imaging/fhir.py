"""A FHIR R4 server as a destination: one transaction per revision, over HTTPS.

Responsible for the connection, for who we are to the server, and for what its answers mean. The resources are made in
``fhir_bundle``.

An OperationOutcome may quote the patient. Nothing of an answer but status codes goes into a reason or a log.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from edgeward.clinic.imaging.fhir_bundle import Addresses, Resource, build_bundle, patient_identifier
from edgeward.clinic.imaging.header import host_zone
from edgeward.clinic.imaging.sink import Interrupted, Receipt, Rejected, Result, Sink, Unreachable, require_patient
from edgeward.clinic.imaging.source import Source
from edgeward.config import Fhir
from edgeward.messages import DeliverRequest

_log = logging.getLogger("edgeward.deliver.fhir")

CONNECT_S = 5.0
PROBE_S = 2.0
MAX_ANSWER = 8 * 1024 * 1024  # bytes; a server that returns every resource it wrote needs 20 kB
_JSON = "application/fhir+json"
_WAIT = {429, 503}  # may say when to come back (RFC 9110 10.2.3)
_IN_THE_WAY = {502, 504}  # a proxy speaks, not the server
_TRANSIENT = {408, 409, 423, 425}
_NOT_THERE = {404, 410}  # nothing takes transactions at this address (now): no word about the message
_ENTRY = re.compile(r"2\d\d\b")


class FhirSink(Sink):
    """One FHIR server.

    Parameters
    ----------
    fhir
        Address, token and time limit.
    tls
        The context to connect with; None for the system's authorities.
    """

    takes = frozenset({"fhir"})

    def __init__(self, fhir: Fhir, tls: ssl.SSLContext | None = None) -> None:
        self.name = fhir.name
        self._fhir = fhir
        self._base = fhir.url.rstrip("/")
        self._addresses = Addresses(self._base, fhir.ids)
        self._tls = tls if tls is not None else ssl.create_default_context()
        self._token = ""
        self._client: httpx.AsyncClient | None = None

    @property
    def replaces(self) -> bool:
        """See `Sink.replaces`: a report is written in place."""
        return True

    async def compose(self, request: DeliverRequest, source: Source) -> Result:
        """See `Sink.compose`."""
        require_patient(source)
        patient = await self._patient(source)
        data = build_bundle(request, source, host_zone(request.finding.created_ns), self._addresses, patient)
        return Result("fhir", data=data, identifier=f"{request.item_id}/{request.revision}")

    async def open(self) -> bool:
        """See `Sink.open`. HTTP connects with the first request; whether that works shows then."""
        if self._client is not None:
            return False
        self._client = httpx.AsyncClient(
            verify=self._tls,
            timeout=httpx.Timeout(self._fhir.timeout_s, connect=min(CONNECT_S, self._fhir.timeout_s)),
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=1),
            trust_env=False,  # no proxy that somebody once set for another program sees a patient's result
            follow_redirects=False,
        )
        if not self._token:
            self._token = await asyncio.to_thread(self._read_token)
        return True

    async def send(self, result: Result) -> Receipt:
        """See `Sink.send`."""
        status, headers, body = await self._ask("POST", self._base, content=result.data)
        stored_ns = time.time_ns()
        if status in (200, 201):
            return _judge_transaction(body, result.data, stored_ns)
        raise _failure(status, headers)

    async def answers(self) -> bool:
        """See `Sink.answers`: whether the port takes a TCP connection."""
        parts = urlsplit(self._base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except OSError:
            return False
        writer.close()
        return True

    async def rest(self) -> None:
        """See `Sink.rest`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def close(self) -> None:
        """See `Sink.close`."""
        await self.rest()

    # ------------------------------------ within

    async def _patient(self, source: Source) -> Resource | None:
        """Return a reference to the patient, by id if the server has exactly one with this identifier.

        Without a system an identifier is no identity: the same number is another patient's elsewhere. Then, and if the
        server cannot be searched, the reference is by identifier only and the server may resolve it.
        """
        identifier = patient_identifier(source, self._fhir.patient_system)
        if identifier is None:
            return None
        reference: Resource = {"type": "Patient", "identifier": identifier}
        if "system" not in identifier:
            return reference
        token = f"{identifier['system']}|{identifier['value']}"
        await self.open()
        status, _, body = await self._ask(
            "GET", f"{self._base}/Patient", params={"identifier": token, "_count": "2", "_elements": "identifier"}
        )
        found = _ids(body) if status == 200 else []
        if len(found) == 1:
            reference["reference"] = f"Patient/{found[0]}"
        elif status in (401, 403) or status in _WAIT:
            _log.info("%s does not let us search for patients (status %d)", self.name, status)
        return reference

    async def _ask(
        self, method: str, url: str, *, content: bytes | None = None, params: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of an answer; with a token that is read anew if it was refused.

        Raises
        ------
        Unreachable, Interrupted
            If there is no answer.
        """
        status, headers, body = await self._ask_once(method, url, content, params)
        if status == 401 and self._fhir.token_file:
            token = await asyncio.to_thread(self._read_token)
            if token and token != self._token:
                self._token = token
                status, headers, body = await self._ask_once(method, url, content, params)
        return status, headers, body

    async def _ask_once(
        self, method: str, url: str, content: bytes | None, params: Mapping[str, str] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        await self.open()
        assert self._client is not None
        headers = {"Accept": _JSON, "Prefer": "return=minimal"}
        if content is not None:
            headers["Content-Type"] = _JSON
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            async with (
                asyncio.timeout(self._fhir.timeout_s),
                self._client.stream(method, url, content=content, params=params, headers=headers) as answer,
            ):
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise Interrupted("its answer has no end")
                return answer.status_code, answer.headers, bytes(body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            why, connected = _why(error)
            raise Unreachable(f"cannot connect: {why}", connected=connected) from None
        except (TimeoutError, httpx.TimeoutException):
            await self.rest()  # half an answer may still be on its way
            raise Interrupted(f"it did not answer within {self._fhir.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            await self.rest()
            raise Interrupted(f"the connection broke ({type(error).__name__})") from None

    def _read_token(self) -> str:
        if not self._fhir.token_file:
            return ""
        try:
            return Path(self._fhir.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = f"the token file {self._fhir.token_file} cannot be read ({type(error).__name__})"
            raise Unreachable(reason, connected=True) from None


def tls_context(fhir: Fhir, own: ssl.SSLContext | None) -> ssl.SSLContext:
    """Return the TLS context for a FHIR server.

    Parameters
    ----------
    own
        A context that holds our client certificate and trusts the site's authority, if the server asks for one.

    Raises
    ------
    OSError
        If the file with the authority cannot be read, or holds none.
    """
    context = own if own is not None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if own is None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # many servers of others cannot do 1.3 yet
    if fhir.ca:
        context.load_verify_locations(fhir.ca)
    else:
        context.load_default_certs()
    return context


def _failure(status: int, headers: Mapping[str, str]) -> Exception:
    """Return what an HTTP status other than success stands for (FHIR R4 http.html, RFC 9110)."""
    text = f"it answers with status {status}"
    if status in (401, 403):
        return Unreachable(f"{text}: it does not let us in", connected=True)
    if status in _WAIT:
        return Unreachable(text, connected=True, after_s=_retry_after_s(headers.get("retry-after", "")))
    if status in _IN_THE_WAY:
        return Unreachable(text, connected=True)
    if status in _TRANSIENT or status == 500 or status > 504:
        return Interrupted(text)
    if status in _NOT_THERE:
        return Interrupted(f"{text}: nothing takes results at its address")
    if 300 <= status < 400:
        return Interrupted(f"{text}: it has moved; set its new address")
    return Rejected(text)


def _retry_after_s(value: str) -> float:
    """Return a Retry-After in seconds; 0 if it is none (RFC 9110 10.2.3)."""
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (at - datetime.now(at.tzinfo or UTC)).total_seconds()) if at.tzinfo else 0.0


def _judge_transaction(body: bytes, sent: bytes, stored_ns: int) -> Receipt:
    """Return the receipt that the answer to the transaction `sent` stands for.

    Success is a ``transaction-response`` in which every entry succeeded: a page of a login portal is none. It has one
    entry for each that was sent (FHIR R4 http.html, 3.1.0.11.2); of what it does not mention nobody knows.
    """
    try:
        answer = msgspec.json.decode(body)
        if answer["resourceType"] != "Bundle" or answer["type"] != "transaction-response":
            raise Interrupted("it answers with something other than a transaction's result")
        statuses = [str(entry["response"]["status"]) for entry in answer["entry"]]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise Interrupted("it answers with something other than a transaction's result") from None
    if bad := [status[:3] for status in statuses if not _ENTRY.match(status)]:
        raise Rejected(f"it did not take {len(bad)} of {len(statuses)} resources (status {_plain(bad[0])})")
    if not statuses:
        raise Interrupted("it answers with a transaction's result that is empty")
    if len(statuses) < (count := len(msgspec.json.decode(sent)["entry"])):
        raise Interrupted(f"it answers for {len(statuses)} of {count} resources")
    return Receipt(stored_ns)


def _plain(status: str) -> str:
    return status if status.isdecimal() else "?"


def _ids(body: bytes) -> list[str]:
    """Return the ids of the patients in a search result."""
    try:
        entries: list[Any] = msgspec.json.decode(body).get("entry", [])
        ids = [entry["resource"]["id"] for entry in entries if entry["resource"]["resourceType"] == "Patient"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return []
    return [value for value in ids if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9.-]{1,64}", value)]


def _why(error: Exception) -> tuple[str, bool]:
    """Return why there is no connection, in words that name no more than the cause, and whether its port answered."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})", True
        if isinstance(cause, ssl.SSLError):
            return f"no TLS ({cause.reason or 'handshake failed'})", True
        if isinstance(cause, socket.gaierror):
            return "its name does not resolve", False
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror, False
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__, False
