"""Who takes notices of alarms: HL7 alarm managers, FHIR servers, webhooks, mailboxes.

Responsible for one attempt to bring one notice to one receiver, and for what the answer means. Not responsible for
trying again (``service``) or for remembering (``store``).

The errors are those of ``clinic.imaging.sink``: `Unreachable` (nobody is there), `Interrupted` (it failed on the way
and may work again), `Rejected` (it refuses this notice). No call outlasts its time limit.

What leaves the site by webhook or mail names the bed only where the settings allow it (``identity``): elsewhere a
contact learns the ward, the alarm and its number, and looks the rest up inside.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import smtplib
import socket
import ssl
import time
from abc import ABC, abstractmethod
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import msgspec

from edgeward.bedside import Notice
from edgeward.clinic.imaging.fhir import FhirSink
from edgeward.clinic.imaging.fhir_bundle import Addresses
from edgeward.clinic.imaging.hl7 import Hl7Sink
from edgeward.clinic.imaging.sink import Interrupted, Rejected, Result, Sink, SinkError, Unreachable
from edgeward.clinic.notices.alarm_bundle import build_alarm_bundle, instant
from edgeward.clinic.notices.alarm_message import Parties, build_alarm_message, control_id
from edgeward.clinic.notices.wording import bed_labels, beds, clock, event, headline, reading, words
from edgeward.config import Contact, Fhir, Hl7, Pcd04, Smtp

WEBHOOK_TIMEOUT_S = 10.0
_SYSTEM_PATIENCE_S = 24 * 3600.0
_PERSON_PATIENCE_S = 60.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class Receiver(ABC):
    """One receiver of notices.

    Attributes
    ----------
    name
        Of the receiver; unique in the site.
    contact
        The contact whose channel it is; empty for a system.
    patience_s
        A notice that could not be brought for so long is given up: a person is then not reached, and somebody else must
        be; for a system it is a dead letter.
    """

    name: str
    contact: str = ""
    patience_s: float = _SYSTEM_PATIENCE_S

    def wants(self, notice: Notice) -> bool:
        """Whether this notice is for it."""
        return self.contact in notice.contacts if self.contact else True

    @abstractmethod
    async def send(self, notice: Notice) -> None:
        """Bring one notice; return only after the receiver confirmed it.

        Raises
        ------
        Unreachable, Interrupted, Rejected
            See the module.
        """

    async def close(self) -> None:  # noqa: B027 - not every receiver holds one
        """Give back connections."""


class Pcd04Receiver(Receiver):
    """An alarm manager that takes ORU^R40 over MLLP."""

    def __init__(self, settings: Pcd04, facility: str, tls: ssl.SSLContext | None) -> None:
        self.name = settings.name
        self._priorities = frozenset(settings.priorities)
        self._parties = Parties(facility, settings.application, settings.facility)
        address = settings.model_dump(exclude={"priorities"})
        self._sink: Sink = Hl7Sink(Hl7(**address), facility, tls)

    def wants(self, notice: Notice) -> bool:
        """See `Receiver.wants`."""
        return notice.alarm.priority.value in self._priorities

    async def send(self, notice: Notice) -> None:
        """See `Receiver.send`."""
        data = build_alarm_message(notice, self._parties)
        await self._sink.send(Result("oru", data=data, identifier=control_id(notice)))

    async def close(self) -> None:
        """See `Receiver.close`."""
        await self._sink.close()


class FhirReceiver(Receiver):
    """A FHIR R4 server."""

    def __init__(self, settings: Fhir, site: str, tls: ssl.SSLContext | None) -> None:
        self.name = f"{settings.name}/alarms"
        self._site = site
        self._addresses = Addresses(settings.url.rstrip("/"), settings.ids)
        self._sink = FhirSink(settings, tls)

    async def send(self, notice: Notice) -> None:
        """See `Receiver.send`."""
        data = build_alarm_bundle(notice, self._site, self._addresses)
        await self._sink.send(Result("fhir", data=data, identifier=notice.notice_id))

    async def close(self) -> None:
        """See `Receiver.close`."""
        await self._sink.close()


class WebhookReceiver(Receiver):
    """An address that takes a POST of JSON.

    Headers: ``Idempotency-Key`` is the same for a repeat (`token`); with a secret, ``Edgeward-Signature:
    t=<seconds>,v1=<hex>`` is the HMAC-SHA-256 of ``<seconds>.<body>``.
    """

    patience_s = _PERSON_PATIENCE_S

    def __init__(self, settings: Contact, site: str) -> None:
        self.name, self.contact = f"{settings.name}/webhook", settings.name
        self._settings, self._site = settings, site
        self._client: httpx.AsyncClient | None = None

    async def send(self, notice: Notice) -> None:
        """See `Receiver.send`."""
        body = msgspec.json.encode(describe(notice, self._site, identity=self._settings.identity))
        headers = {"Content-Type": "application/json", "Idempotency-Key": token(notice), "User-Agent": "Edgeward"}
        if self._settings.token_file:
            headers["Authorization"] = f"Bearer {await asyncio.to_thread(_secret, self._settings.token_file)}"
        if self._settings.secret_file:
            secret = await asyncio.to_thread(_secret, self._settings.secret_file)
            headers["Edgeward-Signature"] = sign(body, secret, int(time.time()))
        status = await self._post(body, headers)
        if 200 <= status < 300:
            return
        if status in _PASSING:
            raise Interrupted(f"it answers with status {status}")
        raise Rejected(f"it answers with status {status}")

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        if self._client is None:
            try:
                context = await asyncio.to_thread(ssl.create_default_context, cafile=self._settings.ca or None)
            except OSError as error:
                raise Unreachable(f"the file with its authority cannot be read ({type(error).__name__})",
                                  connected=False) from None  # fmt: skip
            self._client = httpx.AsyncClient(
                verify=context, timeout=WEBHOOK_TIMEOUT_S, trust_env=False, follow_redirects=False
            )
        try:
            async with (
                asyncio.timeout(WEBHOOK_TIMEOUT_S),
                self._client.stream("POST", self._settings.webhook, content=body, headers=headers) as answer,
            ):
                return answer.status_code  # what else it says is not read: it has no bound
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _no_connection(error) from None
        except (TimeoutError, httpx.TimeoutException):
            await self.close()
            raise Interrupted(f"it did not answer within {WEBHOOK_TIMEOUT_S:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            await self.close()
            raise Interrupted(f"the connection broke ({type(error).__name__})") from None

    async def close(self) -> None:
        """See `Receiver.close`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class MailReceiver(Receiver):
    """A mailbox, through the site's mail server."""

    patience_s = 2 * _PERSON_PATIENCE_S

    def __init__(self, settings: Contact, smtp: Smtp, site: str) -> None:
        self.name, self.contact = f"{settings.name}/email", settings.name
        self._settings, self._smtp, self._site = settings, smtp, site

    async def send(self, notice: Notice) -> None:
        """See `Receiver.send`."""
        if not self._smtp.host:
            raise Rejected("no mail server is set ([smtp] host)")
        message = write_mail(notice, self._settings, self._smtp.sender, self._site)
        await asyncio.to_thread(self._deliver, message)  # smtplib blocks; it has its own time limit

    def _deliver(self, message: EmailMessage) -> None:
        smtp = self._smtp
        try:
            context = ssl.create_default_context(cafile=smtp.ca or None)
        except OSError as error:  # SSLError among them
            raise Unreachable(f"the file with the mail server's authority cannot be read ({type(error).__name__})",
                              connected=False) from None  # fmt: skip
        try:
            server: smtplib.SMTP
            if smtp.security == "tls":
                server = smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=smtp.timeout_s, context=context)
            else:
                server = smtplib.SMTP(smtp.host, smtp.port, timeout=smtp.timeout_s)
            with server:
                if smtp.security == "starttls":
                    server.starttls(context=context)
                if smtp.user:
                    server.login(smtp.user, _secret(smtp.password_file))
                server.send_message(message)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            raise _mail_refused(error) from None
        except smtplib.SMTPAuthenticationError:
            raise Unreachable("the mail server does not let us in", connected=True) from None
        except smtplib.SMTPNotSupportedError:
            raise Unreachable("the mail server does not offer what [smtp] asks for (STARTTLS, login, or an address"
                              " that is not ASCII)", connected=True) from None  # fmt: skip
        except smtplib.SMTPException as error:
            raise Interrupted(f"the mail server failed ({type(error).__name__})") from None
        except ssl.SSLError as error:
            raise Unreachable(f"no TLS with the mail server ({error.reason or 'handshake failed'})",
                              connected=True) from None  # fmt: skip
        except OSError as error:
            raise Unreachable(f"cannot connect to the mail server ({type(error).__name__})", connected=False) from None


def _no_connection(error: BaseException) -> Unreachable:
    """Return why there is no connection, in words that say what to look at; httpx hides it in the causes."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return Unreachable(f"its certificate is not trusted ({reason.verify_message})", connected=True)
        if isinstance(reason, ssl.SSLError):
            return Unreachable(f"no TLS ({reason.reason or 'handshake failed'})", connected=True)
        if isinstance(reason, socket.gaierror):
            return Unreachable("its name is not known here", connected=False)
        reason = reason.__cause__ or reason.__context__
    return Unreachable(f"cannot connect ({type(error).__name__})", connected=False)


def _mail_refused(error: smtplib.SMTPException) -> SinkError:
    """Return what a refusal stands for: 4xx passes, 5xx stays (RFC 5321, 4.2.1)."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
    else:
        codes = [error.smtp_code] if isinstance(error, smtplib.SMTPResponseException) else []
    code = max(codes, default=0)
    text = f"the mail server refuses it (status {code})"
    return Interrupted(text) if 400 <= code < 500 else Rejected(text)


def describe(notice: Notice, site: str, *, identity: bool) -> dict[str, Any]:
    """Return a notice as plain types, for a webhook. Without `identity` neither bed nor values are named."""
    alarm = notice.alarm
    said: dict[str, Any] = {
        "notice": token(notice),
        "phase": notice.phase,
        "site": site,
        "ward": alarm.ward,
        "alarm": alarm.alarm_id if identity else hashlib.sha256(f"{site}/{alarm.alarm_id}".encode()).hexdigest()[:16],
        "code": alarm.code,
        "event": {"code": event(alarm).value, "system": event(alarm).system},
        "priority": alarm.priority.value,
        "technical": alarm.technical,
        "state": alarm.state,
        "present": alarm.present,
        "acknowledged": alarm.acknowledged,
        "level": alarm.level,
        "late": alarm.late,
        "raised": instant(alarm.raised_ns),
        "at": instant(notice.at_ns),
    }
    if alarm.members:  # an alarm of several beds: which they are is as much a secret as the name of one
        said["beds"] = {"count": len(alarm.members)} | ({"labels": bed_labels(notice)} if identity else {})
    if identity:
        said |= {
            "bed": alarm.bed_id or alarm.device_id,
            "label": alarm.label,
            "text": words(alarm) + (f": {beds(notice)}" if alarm.members else ""),
            "values": {
                vital.parameter: {"value": vital.value, "unit": vital.unit}
                | ({"bound": vital.bound} if vital.bound else {})
                for vital in notice.vitals
                if vital.value is not None and not vital.stale
            },
        }
    return said


def write_mail(notice: Notice, contact: Contact, sender: str, site: str) -> EmailMessage:
    """Return a notice as a message of plain text."""
    alarm = notice.alarm
    place = (alarm.label or alarm.bed_id or alarm.device_id) if contact.identity else (alarm.ward or site)
    what = headline(alarm, place) if contact.identity else f"{alarm.priority.value.upper()} alarm in {place}"
    ended = {"end": "ended: ", "acknowledge": "acknowledged: "}.get(notice.phase, "")
    message = EmailMessage()
    # A header may hold none of what Python takes for the end of a line; a bed's name may come from anybody's message.
    message["Subject"] = " ".join(f"[Edgeward] {ended}{what}".split())[:200]
    message["From"] = sender
    message["To"] = contact.email
    message["Date"] = formatdate(notice.at_ns / 1e9)
    message["Message-ID"] = f"<{token(notice)}@edgeward.invalid>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies
    lines = [f"{ended}{what}", f"Raised {clock(alarm.raised_ns)}; this notice {clock(notice.at_ns)}."]
    if alarm.members:
        lines.append(f"Beds: {beds(notice) if contact.identity else len(alarm.members)}.")
    if notice.phase in ("start", "escalate") and not alarm.acknowledged:
        lines.append("Nobody has acknowledged it yet. Acknowledge it on the alarm page.")
    if contact.identity and notice.vitals:
        lines += ["", *(reading(vital) for vital in notice.vitals)]
    lines += ["", f"Edgeward at {site}. Not a medical device: a notice may be late or missing."]
    message.set_content("\n".join(lines))
    return message


def token(notice: Notice) -> str:
    """Return the notice's identity for those outside, 32 characters; its own id holds the name of the bed."""
    return hashlib.sha256(f"notice/{notice.notice_id}".encode()).hexdigest()[:32]


def sign(body: bytes, secret: str, at_s: int) -> str:
    """Return the signature header of a webhook's body."""
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


def _secret(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"the file {path} cannot be read ({type(error).__name__})"
        raise Unreachable(reason, connected=False) from None
