"""Hostile HTTPS, thought out from a seed (as `attack_dicom`): requests that lie about themselves, bodies without end.

Every case here comes with a certificate that the door knows, but for those that are about certificates: without one the
conversation ends within TLS, before there is HTTP.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support import attack_pdu as words
from tests.support.attack import Case, Step
from tests.support.attack_dicom import DATA_SETS, UIDS

PATHS = (
    "/dicomweb/studies", "/dicomweb/series", "/dicomweb/instances", "/dicomweb/studies/{}", "/dicomweb/studies/{}/metadata", "/dicomweb/studies/{}/rendered",
    "/dicomweb/studies/{}/series/{}/instances/{}", "/dicomweb/studies/{}/series/{}/instances/{}/frames/{}", "/dicomweb/studies/{}/series/{}/instances/{}/rendered",
    "/dicomweb/studies/{}/thumbnail", "/fhir", "/fhir/", "/fhir/metadata", "/fhir/ServiceRequest", "/fhir/ServiceRequest/{}", "/fhir/Observation", "/", "/console", "//dicomweb/studies",
)  # fmt: skip
PIECES = (
    "1", "2.25.1", "..", "%2e%2e", "%2f", "%00", "..%2f..%2f..%2fetc%2fpasswd", "%ff%fe", "x" * 3000, "1.2.3/../..", "'", "%27%20OR%201=1", "\\", "0", "-1", "1,2,3",
    "99999999999999999999", "1" * 5000, "%F0%9F%92%A9", ";a=b", "*", "1.2.840.10008.5.1.4.1.1.6.1",
)  # fmt: skip
QUERIES = (
    "", "?", "?limit=-1", "?limit=9" + "9" * 40, "?offset=1e9", "?PatientName=*", "?PatientName=" + "*a" * 200, "?00100010=" + "%2a" * 500, "?StudyDate=20200101-20300101",
    "?StudyDate=-", "?includefield=all", "?includefield=" + "00100010," * 500, "?nosuch=1", "?&&&===&", "?fuzzymatching=maybe", "?viewport=0,0", "?viewport=100000,100000",
    "?window=1e308,1e-308,linear", "?window=nan,inf,x", "?quality=-1", "?" + "a=1&" * 2000, "?PatientID=%00", "?charset=%ff",
)  # fmt: skip
ACCEPTS = (
    "*/*", "application/dicom+json", 'multipart/related; type="application/dicom"', "image/png", "image/jpeg;q=0.5", "", "a" * 5000, ";;;", "*/*;q=2", "multipart/related; type=application/octet-stream; transfer-syntax=*",
    "image/gif, image/jp2, video/mp4", "application/dicom; transfer-syntax=1.2.3",
)  # fmt: skip


@dataclass
class Answers:
    """Takes the door's answers, as far as their framing and status go."""

    statuses: list[int] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    _buffer: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            if not head[0].startswith("HTTP/1.1 "):
                raise words.Malformed("the door sent what is no HTTP answer")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            status = int(head[0].split()[1])
            if status == 100:
                del self._buffer[: end + 4]
                continue
            if headers.get("transfer-encoding") == "chunked":
                body, size = _chunks(self._buffer, end + 4)
            else:
                size = end + 4 + int(headers.get("content-length", "0"))
                body = bytes(self._buffer[end + 4 : size]) if len(self._buffer) >= size else None
            if body is None:
                return
            del self._buffer[:size]
            self._understand(status, headers, body)

    def _understand(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.statuses.append(status)
        if status >= 400 and words.CANARY in body:
            raise words.Malformed("an error's text holds a patient's name")
        if b"Traceback" in body:
            raise words.Malformed("an answer holds a traceback")
        if status in (200, 202) and "dicom+json" in headers.get("content-type", ""):
            answer = json.loads(body)
            if isinstance(answer, dict):
                self.stored += [one["00081155"]["Value"][0] for one in answer.get("00081199", {}).get("Value", ())]

    def ended(self) -> None:
        """An answer to HEAD has no body, whatever it says: what is left is not judged."""

    def count(self) -> int:
        return len(self.statuses)

    def facts(self) -> dict[str, Any]:
        return {"met": [f"HTTP {status}" for status in self.statuses], "stored": self.stored, "ended": False}

    def missing(self, expect: tuple[str, ...]) -> str:
        return "" if set(expect) <= set(self.stored) or 503 in self.statuses else f"not stored; answers {self.statuses}"


def _chunks(buffer: bytearray, at: int) -> tuple[bytes | None, int]:
    body = b""
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None, 0
        size = int(bytes(buffer[at:end]), 16)
        at = end + 2 + size + 2
        if len(buffer) < at:
            return None, 0
        if not size:
            return body, at
        body += buffer[end + 2 : end + 2 + size]


def request(method: str, path: str, body: bytes = b"", *headers: str, length: str | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: edgeward", *headers]
    if length is None and body:
        length = str(len(body))
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def file(context: int, uid: str, data: bytes, names: tuple[bytes, bytes, bytes] | None = None) -> bytes:
    """A DICOM file with `data` as its data set."""
    sop_class, (syntax, *_) = words.CONTEXTS[context]
    values = names or (words.uid(sop_class), words.uid(uid), words.uid(syntax))
    group = b"".join(
        struct.pack("<HH2sH", 2, n, b"UI", len(v)) + v
        for n, v in zip((2, 3, 16), values, strict=True)
        if len(v) < 65_536
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(group)) + group + data


def parts(*files: bytes, boundary: bytes = b"xx", kind: bytes = b"application/dicom") -> bytes:
    return (
        b"".join(b"\r\n--" + boundary + b"\r\nContent-Type: " + kind + b"\r\n\r\n" + one for one in files)
        + b"\r\n--"
        + boundary
        + b"--\r\n"
    )


STOW = 'Content-Type: multipart/related; type="application/dicom"; boundary=xx'


class Author:
    """Thinks one case out."""

    def __init__(self, seed: int, number: int, settings: dict[str, Any]) -> None:
        self.rng, self.seed, self.number = random.Random(f"web/{seed}/{number}"), seed, number
        self.tls = self.rng.choice([*settings["certificates"], *settings["emr"]])
        _, self.address = self.rng.choice(settings["legacy"])
        self.sender = self.rng.choice(settings["certificates"])

    def script(self, kind: str, steps: list[Step], end: str = "", **more: Any) -> Case:
        chosen = end or self.rng.choices(("half", "bored", "close", "reset"), (30, 40, 15, 15))[0]
        given: dict[str, Any] = {"port": "web", "tls": self.tls, "address": self.address, **more}
        return Case(number=self.number, kind="HTTP " + kind, steps=tuple(steps), end=chosen, **given)

    def said(self, kind: str, data: bytes, **more: Any) -> Case:
        """Say it, wait for one answer (sometimes), go."""
        return self.script(kind, [("send", data), *([("await", 1)] if self.rng.random() < 0.6 else [])], **more)

    def uid(self, number: int = 0) -> str:
        return words.instance_uid(self.seed, self.number, number)

    def valid(self) -> Case:
        uids = [self.uid(number) for number in range(self.rng.randrange(1, 4))]
        body = parts(*(file(3, uid, words.data_set(3, uid, 16)) for uid in uids))
        steps: list[Step] = [("send", request("POST", "/dicomweb/studies", body, STOW)), ("await", 1)]
        return self.script("valid STOW", steps, end="close", tls=self.sender, expect=tuple(uids))

    def paths(self) -> Case:
        rng = self.rng
        path = rng.choice(PATHS)
        while "{}" in path:
            path = path.replace("{}", rng.choice(PIECES), 1)
        method = rng.choice(
            (
                "GET",
                "GET",
                "GET",
                "POST",
                "PUT",
                "DELETE",
                "HEAD",
                "OPTIONS",
                "TRACE",
                "CONNECT",
                "PATCH",
                "get",
                "G\0T",
                "X" * 300,
            )
        )
        return self.said("paths", request(method, path + rng.choice(QUERIES), b"", f"Accept: {rng.choice(ACCEPTS)}"))

    def smuggling(self) -> Case:
        inner = request("GET", "/dicomweb/studies")
        odd = (
            b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
            b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nabcde" + inner,
            b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
            b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + inner,
            b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            b"GET /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n" + inner, b"GET /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n\r\n",
            b"GET /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"GET /dicomweb/studies HTTP/0.9\r\n\r\n", b"GET /dicomweb/studies HTTP/9.9\r\n\r\n",
            b"GET /dicomweb/studies HTTP/1.1\r\n\r\n", b"GET /dicomweb/studies HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
            b"GET /dicomweb/studies HTTP/1.1\nHost: x\n\n", b"GET  /dicomweb/studies  HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /dicomweb/studies HTTP/1.1\r\n Host: x\r\n\r\n",
            b"GET /dicomweb/\xe4\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n", inner * 50, b"\r\n" * 5000 + inner, b"\0" * 100, b"\x16\x03\x01" * 50,
            b"GET /dicomweb/studies HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n" + bytes(50),
            inner + b"\0" * 30, request("POST", "/dicomweb/studies", b"", STOW, "Transfer-Encoding: chunked") + b"5\r\nabcdeXX",
            b"GET /dicomweb/studies HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n",
        )  # fmt: skip
        return self.said("smuggling", self.rng.choice(odd))

    def headers(self) -> Case:
        rng = self.rng
        odd = (
            [f"X-{n}: y" for n in range(5000)], ["X: " + "y" * 200_000], ["X" * 100_000 + ": y"], ["Cookie: " + "a=b; " * 5000], ["Range: bytes=" + "0-1," * 3000],
            ["Content-Type: " + "multipart/related;" + "a=b;" * 3000], ["Accept: " + ",".join(["image/png;q=0.1"] * 2000)], ["X: \x01\x02\x7f"], ["Authorization: Basic " + "A" * 10_000],
            ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"], ["Accept-Charset: " + "x," * 2000], ["If-None-Match: *" * 100], ["Content-Encoding: gzip"],
        )  # fmt: skip
        return self.said(
            "headers",
            request(rng.choice(("GET", "POST")), rng.choice(PATHS[:6]).replace("{}", "1"), b"", *rng.choice(odd)),
        )

    def bodies(self) -> Case:
        """Multipart bodies that are none, or too many at once."""
        rng, uid = self.rng, self.uid()
        good = file(3, uid, words.data_set(3, uid, 8))
        nested = parts(good)
        for _ in range(50):
            nested = b"\r\n--xx\r\nContent-Type: multipart/related; boundary=xx\r\n\r\n" + nested
        odd = (
            b"", b"--xx--", b"\r\n--xx", parts(good)[:-6], parts(good)[: rng.randrange(len(good))], parts(), b"x" * 100_000, parts(good, kind=b"text/html"), nested,
            b"\r\n--xx\r\n\r\n" * 20_000 + b"\r\n--xx--\r\n", b"\r\n--xx\r\n" + b"a: b\r\n" * 5000 + b"\r\n" + good + b"\r\n--xx--", parts(good) + parts(good), parts(*[good] * 20),
            b"\r\n--xx \t\r\n\r\n" + good + b"\r\n--xx--", b"\r\n--xxx\r\n\r\n" + good + b"\r\n--xx--\r\n", parts(good.replace(b"DICM", b"DICX")), parts(bytes(200_000)),
            parts(good[: rng.randrange(len(good))], good), parts(file(3, uid, words.data_set(3, uid, 8), (words.uid(words.US), rng.choice(UIDS), words.uid(words.EXPLICIT)))),
        )  # fmt: skip
        kind = rng.choice(
            (
                STOW,
                STOW,
                STOW,
                "Content-Type: multipart/related",
                'Content-Type: multipart/related; boundary="' + "x" * 300,
                "Content-Type: application/json",
                "Content-Type: multipart/form-data; boundary=xx",
                "X: y",
            )
        )
        body = rng.choice(odd)
        path = rng.choice(
            ("/dicomweb/studies", "/dicomweb/studies", "/dicomweb/studies/2.25.1", "/dicomweb/studies/9.9")
        )
        how = rng.random()
        if how < 0.5:
            data = request("POST", path, body, kind)
        elif how < 0.7:
            data = request(
                "POST",
                path,
                body,
                kind,
                length=rng.choice(
                    ("0", "1", str(len(body) + 1000), str(1 << 40), "99999999999", str(max(0, len(body) - 5)))
                ),
            )
        else:
            size = rng.choice((1, 100, 10_000))
            chunks = b"".join(
                f"{len(body[at : at + size]):x}\r\n".encode() + body[at : at + size] + b"\r\n"
                for at in range(0, min(len(body), 400 * size), size)
            )
            data = (
                request("POST", path, b"", kind, "Transfer-Encoding: chunked")
                + chunks
                + rng.choice((b"0\r\n\r\n", b"", b"zz\r\n", b"ffffffffffffffff\r\n", b"0\r\nX: " + b"y" * 70_000))
            )
        return self.said("bodies", data, tls=self.sender)

    def objects(self) -> Case:
        """STOW of an object that is wrong in one thing."""
        rng, context, uid = self.rng, self.rng.choice(words.STORES), self.uid()
        what = rng.choice(sorted(DATA_SETS))
        bad = file(context, uid, DATA_SETS[what](rng, words.data_set(context, uid, 8)))
        other = self.uid(1)
        body = parts(bad, file(3, other, words.data_set(3, other, 8)))
        return self.said("object: " + what, request("POST", "/dicomweb/studies", body, STOW), tls=self.sender)

    def orders(self) -> Case:
        """FHIR that is none."""
        rng = self.rng
        deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
        odd = (
            b"", b"{}", b"[]", b"null", b"\xff\xfe", deep, b"[" * 20_000, b'{"resourceType":"ServiceRequest"}', b'{"resourceType":"Bundle","type":"transaction","entry":[' + b"{}," * 5000 + b"{}]}",
            b'{"resourceType":"' + b"A" * 100_000 + b'"}', b'{"resourceType":"ServiceRequest","subject":{"reference":"' + b"../" * 500 + b'"}}', b"1e999999", b'{"a":' + b"9" * 10_000 + b"}",
            b'{"resourceType":"Observation","status":"final","code":{"coding":[{}]},"component":[' + b"{}," * 5000 + b"{}]}", b'{"resourceType":"Observation"}',
            b'{"resourceType":"Bundle","type":"batch","entry":[' + b'{"resource":{"resourceType":"Observation"}},' * 2000 + b"{}]}",
            b'{"resourceType":"Observation","status":"final","code":{"text":"a"},"valueQuantity":{"value":1e999},"device":{"reference":"' + b"#" * 5000 + b'"}}',
            b'{"resourceType":"Bundle","type":"transaction","entry":"x"}', b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', b'{"resourceType":"ServiceRequest","id":"\\u0000"}',
        )  # fmt: skip
        path = rng.choice(("/fhir", "/fhir/", "/fhir/ServiceRequest", "/fhir/ServiceRequest/1", "/fhir/Observation"))
        data = request(
            rng.choice(("POST", "PUT")),
            path,
            rng.choice(odd),
            "Content-Type: " + rng.choice(("application/fhir+json", "application/json", "text/plain")),
        )
        return self.said("FHIR", data)

    def slow(self) -> Case:
        good = request("POST", "/dicomweb/studies", b"x" * 100, STOW)
        steps: list[Step] = self.rng.choice(
            (
                [("drip", good[:40], 0.02)],
                [("send", good[:-50]), ("pause", 0.5)],
                [("pause", 0.5)],
                [("send", request("GET", "/dicomweb/studies") * 200), ("pause", 0.3)],
            )
        )
        return self.script("slow", steps, end=self.rng.choice(("close", "reset", "bored")))

    def flood(self) -> Case:
        return self.script("flood", [("flood", self.rng.choice((20, 80)), 0.1)], end="bored")

    def tls_abuse(self) -> Case:
        rng = self.rng
        what = rng.choice(("plain", "garbage", "stranger", "nobody", "tls1.2"))
        tls = what if what in ("stranger", "nobody", "tls1.2") else ""
        data = rng.randbytes(200) if what == "garbage" else request("GET", "/dicomweb/studies")
        return self.script(
            "TLS " + what, [("send", data)], tls=tls, deaf=True, end=rng.choice(("half", "close", "bored"))
        )


WEIGHTS: dict[Callable[[Author], Case], float] = {
    Author.valid: 15, Author.paths: 22, Author.smuggling: 10, Author.headers: 8, Author.bodies: 16, Author.objects: 12, Author.orders: 8, Author.slow: 2,
    Author.flood: 0.2, Author.tls_abuse: 6,
}  # fmt: skip


def case(seed: int, number: int, settings: dict[str, Any]) -> Case:
    """Think out case `number` of `seed`."""
    author = Author(seed, number, settings)
    return author.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0](author)
