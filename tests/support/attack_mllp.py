"""Hostile HL7 over MLLP, thought out from a seed (as `attack_dicom`): framing, segments, sizes, character sets, floods."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.attack import Case, Step
from tests.support.attack_pdu import CANARY, Malformed, instance_uid

VT, FS, CR = b"\x0b", b"\x1c", b"\r"
CHARSETS = (
    b"",
    b"UNICODE UTF-8",
    b"8859/1",
    b"GB 18030-2000",
    b"ISO IR87",
    b"NO SUCH SET",
    b"UTF-16",
    b"\xff\xfe",
    b"idna",
    b"zip",
)
TYPES = (
    b"ORM^O01",
    b"OMI^O23",
    b"OMG^O19",
    b"ADT^A08",
    b"ADT^A40",
    b"ORU^R01",
    b"ACK",
    b"",
    b"^",
    b"QBP^Q22",
    b"ORM^O01^ORM_O01" * 40,
)


@dataclass
class Answers:
    """Takes the door's acknowledgements."""

    codes: list[tuple[str, str]] = field(default_factory=list)  # MSA-1, MSA-2
    _buffer: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if not self._buffer.startswith(VT):
                raise Malformed("the door sent something outside a frame")
            end = self._buffer.find(FS + CR)
            if end < 0:
                return
            message = bytes(self._buffer[1:end])
            del self._buffer[: end + 2]
            found = re.search(rb"\rMSA\|(\w\w)(?:\|([^|\r]*))?", message)
            if not message.startswith(b"MSH|") or found is None:
                raise Malformed("the door sent what is no acknowledgement")
            if CANARY in message:
                raise Malformed("the door sent a patient's name back")
            self.codes.append((found[1].decode(), (found[2] or b"").decode("latin-1")))

    def ended(self) -> None:
        if self._buffer:
            raise Malformed("the door closed within an acknowledgement")

    def count(self) -> int:
        return len(self.codes)

    def facts(self) -> dict[str, Any]:
        return {"met": [f"answer {code}" for code, _ in self.codes], "ended": True}

    def missing(self, expect: tuple[str, ...]) -> str:
        lost = set(expect) - {control for code, control in self.codes if code in ("AA", "CA")}
        return f"{len(lost)} messages were not accepted; answers {self.codes}" if lost else ""


def order(control: str, number: str, *, charset: bytes = b"", kind: bytes = b"ORM^O01", more: bytes = b"") -> bytes:
    """A new order, as a hospital's system would send it."""
    return (
        b"MSH|^~\\&|HIS|HOSP|EDGEWARD|SITE|20260301120000||" + kind + b"|" + control.encode() + b"|P|2.5.1||||||" + charset + b"\r"
        b"PID|1||4711^^^HOSP^MR||" + CANARY + b"||19640812|F\rPV1|1|O|WARD^3^2\rORC|NW|" + number.encode() + b"|||||||20260301120000\r"
        b"OBR|1|" + number.encode() + b"||BUS^Breast ultrasound^L||20260302083000||||||||||||" + number[:16].encode() + b"||||||US\r" + more
    )  # fmt: skip


def numerics(control: str, *, charset: bytes = b"", more: bytes = b"") -> bytes:
    """A message of a bedside monitor (PCD-01)."""
    unit = b"|262688^MDC_DIM_PERCENT^MDC|||||R|||20260301120000+0000\r"
    return (
        b"MSH|^~\\&|BEDSIDE^0011^EUI-64|ICU|||20260301120000.5+0000||ORU^R01^ORU_R01|" + control.encode() + b"|P|2.6|||AL|NE||" + charset + b"\r"
        b"PID|||4711^^^HOSP^MR||" + CANARY + b"\rPV1||I|ICU^1^2\rOBR|1|1^B|1^B|182777000^monitoring of patient^SCT|||20260301120000+0000\r"
        b"OBX|1|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC|1.3.1.150456|97" + unit + b"OBX|2|NM|150488^MDC_BLD_PERF_INDEX^MDC|1.3.1.1|-999" + unit + more
    )  # fmt: skip


def framed(message: bytes) -> bytes:
    return VT + message + FS + CR


class Author:
    """Thinks one case out."""

    def __init__(self, seed: int, number: int, settings: dict[str, Any]) -> None:
        self.rng, self.seed, self.number = random.Random(f"hl7/{seed}/{number}"), seed, number
        rng = self.rng
        self.port, self.tls = ("mllp-plain", "") if rng.random() < 0.6 else ("mllp", rng.choice(settings["emr"]))
        _, self.address = rng.choice(settings["legacy"])
        self.control = instance_uid(seed, number)[6:]

    def good(self, count: int = 0, **more: Any) -> bytes:
        """A message that is right; its order number is this case's."""
        return order(f"{self.control}-{count}", f"{self.number}.{count}"[-16:], **more)

    def script(self, kind: str, steps: list[Step], end: str = "", **more: Any) -> Case:
        chosen = end or self.rng.choices(("half", "bored", "close", "reset"), (50, 20, 15, 15))[0]
        given: dict[str, Any] = {"port": self.port, "tls": self.tls, "address": self.address, **more}
        return Case(number=self.number, kind="HL7 " + kind, steps=tuple(steps), end=chosen, **given)

    def valid(self) -> Case:
        count = self.rng.randrange(1, 4)
        steps: list[Step] = []
        for number in range(count):
            steps += [("send", framed(self.good(number))), ("await", number + 1)]
        # On TLS a half-closed connection is a closed one.
        return self.script("valid", steps, end="half", expect=tuple(f"{self.control}-{n}" for n in range(count)))

    def mutated(self) -> Case:
        whole = self.rng.choice((self.good(), numerics(self.control, charset=self.rng.choice(CHARSETS))))
        data = bytearray(framed(whole) * self.rng.randrange(1, 3))
        for _ in range(self.rng.choice((1, 2, 5, 30))):
            at = self.rng.randrange(len(data))
            data[at : at + self.rng.randrange(3)] = self.rng.choice(
                (b"|", b"^", b"~", b"\\", b"&", b"\r", b"\n", VT, FS, b"\0", b"\xff", b"MSH", self.rng.randbytes(3))
            )
        return self.script("mutated", [("send", bytes(data))])

    def framing(self) -> Case:
        good = self.good()
        odd = self.rng.choice((
            good, VT + good, VT + good + FS, good + FS + CR, VT * 100 + good + FS + CR, VT + FS + CR, (VT + FS) * 1000, FS * 5000, VT + good[:30] + framed(good),
            VT + good + FS + b"x" * 100 + framed(good), bytes(70_000), b"\r\n" * 40_000, framed(framed(good)), framed(good)[: self.rng.randrange(len(good))],
            VT + b"MSH|" + b"a" * 1_200_000, framed(b"MSH|^~\\&|" + b"b" * 1_000_000), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", framed(b""), framed(b"\r" * 1000),
        ))  # fmt: skip
        return self.script("framing", [("send", odd)])

    def contents(self) -> Case:
        """Well framed, and no message a hospital would send."""
        rng = self.rng
        good = self.good(charset=rng.choice(CHARSETS), kind=rng.choice(TYPES))
        odd = rng.choice((
            good, good.replace(b"|", b"\r"), good.replace(b"^~\\&", rng.choice((b"", b"^", b"||||", b"^^^^", b"AAAA", b"\\\\\\\\"))), good.replace(b"\r", b"\n"),
            good.decode("latin-1").encode("utf-16"), good + good, good * 50, good + b"OBR|1|1||A^B\r" * 3000, good + b"NTE|1||x\r" * 9000, good + b"ZZZ\r" * 12_000,
            good.replace(b"4711", b"~" * 500_000), good.replace(CANARY, b"\\X41\\" * 100_000), good.replace(CANARY, b"^" * 300_000), good.replace(b"OBR|1", b"OBR|" + b"9" * 5000),
            b"MSH|^~\\&" + (b"|" + b"a" * 250) * 200 + b"\rbad", b"FHS|^~\\&\rBHS|^~\\&\r" + good + b"BTS|1\rFTS|1\r", good.replace(b"ORC|NW", b"ORC|" + rng.choice((b"CA", b"XO", b"??", b"", b"SC"))),
            good.replace(b"20260302083000", rng.choice((b"99999999999999", b"2026", b"-1", b"20260302083000+9999", b"0" * 500))), good.replace(b"P|2.5.1", b"P|" + rng.choice((b"3.0", b"", b"9" * 300))),
            good.replace(self.control.encode(), rng.choice((b"", b"x" * 5000, b"\\E\\|", b"\xff"))),
            numerics(self.control, more=b"OBX|1|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC|1|97\r" * 9000), numerics(self.control, more=b"PID|||1\rPV1||I|A^1^1\rOBX|1|NM|150456|1|97\r" * 1500),
            numerics(self.control).replace(b"ICU^1^2", rng.choice((b"^" * 100_000, b"*.>", b"\xff" * 5000, b"", b"~" * 1000))), numerics(self.control).replace(b"|97|", b"|" + b"9" * 100_000 + b"|"),
            numerics(self.control, more=b"OBX|1|NA|131328^MDC_ECG_ELEC_POTL^MDC|1|" + b"12^" * 200_000 + b"\r"),
        ))  # fmt: skip
        return self.script("contents", [("send", framed(odd))])

    def slow(self) -> Case:
        good = framed(self.good())
        steps: list[Step] = self.rng.choice(
            ([("drip", good[:30], 0.02)], [("send", good[:50]), ("pause", 0.5)], [("pause", 0.5)])
        )
        return self.script("slow", steps, end=self.rng.choice(("close", "reset", "bored")))

    def deaf(self) -> Case:
        """Asks for very many answers and reads none."""
        return self.script(
            "deaf",
            [("send", framed(b"MSH|^~\\&|A|B|C|D|1||ZZZ|1|P|2.5\r") * 2000)],
            end=self.rng.choice(("close", "reset")),
        )

    def flood(self) -> Case:
        return self.script("flood", [("flood", self.rng.choice((20, 60)), 0.1)], end="bored")

    def tls_abuse(self) -> Case:
        rng = self.rng
        what = rng.choice(("plain", "garbage", "stranger", "nobody", "tls1.2", "device"))
        tls = {"stranger": "stranger", "nobody": "nobody", "tls1.2": "tls1.2", "device": "evil1"}.get(what, "")
        data = rng.randbytes(200) if what == "garbage" else framed(self.good())
        return self.script(
            "TLS " + what, [("send", data)], port="mllp", tls=tls, deaf=True, end=rng.choice(("half", "close", "bored"))
        )


WEIGHTS: dict[Callable[[Author], Case], float] = {
    Author.valid: 20, Author.mutated: 40, Author.framing: 10, Author.contents: 18, Author.slow: 2, Author.deaf: 1, Author.flood: 0.2, Author.tls_abuse: 8,
}  # fmt: skip


def case(seed: int, number: int, settings: dict[str, Any]) -> Case:
    """Think out case `number` of `seed`."""
    author = Author(seed, number, settings)
    return author.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0](author)
