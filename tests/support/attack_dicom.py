"""Hostile DICOM, thought out from a seed: case `number` of seed `seed` is the same on every machine.

Responsible for what an attacker says at the DICOM doors. Most of it is right up to one thing that is wrong: what is wrong
from the first byte never gets beyond the first check. Bytes are made by `attack_pdu`, sent by `attack`.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

from pydicom.dataset import Dataset

from tests.support import attack_pdu as words
from tests.support.attack import Case, Step
from tests.support.attack_pdu import Answers

__all__ = ["Answers", "case"]

LENGTHS = (
    0,
    1,
    2,
    3,
    5,
    6,
    7,
    0x7F,
    0xFFFF,
    0x1_0000,
    131_071,
    131_078,
    131_079,
    0x10_0001,
    0x7FFF_FFFF,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
)
NAMES = (
    b"", b" " * 16, b"\0" * 16, b"\xff" * 16, b"EVIL\0\0\0\0", b"EVIL\r\nX: 1", b"\xe4\xb8\xad\xe6\x96\x87", b"../../../etc/p",
    b"%s%n%x%s%n%x", b"' OR 1=1 --", b'{"a":1}', b"\\", b"EDGEWARD", b"edgeward", b"$(reboot)",
)  # fmt: skip
UIDS = (
    b"", b"0", b".", b"1..2", b"1.2." + b"3" * 70, b"../../../../tmp/x", b"\0", b"1.2\0" * 10, b"1.2.\xff", b"1.2.3 ",
    b"-1.2", b"1.2.840.10008.1.2", b"9" * 65, b"1" * 20_000, b"1.2.3\\1.2.4", b"\r\n1.2",
)  # fmt: skip
HOLDS_S = 20.0


class Author:
    """Thinks one case out."""

    def __init__(self, seed: int, number: int, settings: dict[str, Any]) -> None:
        self.rng, self.seed, self.number = random.Random(f"{seed}/{number}"), seed, number
        rng = self.rng
        self.port, self.tls = ("plain", "") if rng.random() < 0.6 else ("tls", rng.choice(settings["certificates"]))
        name, self.address = rng.choice(settings["legacy"])
        self.calling = (settings["titles"][self.tls] if self.tls else name).encode()
        self.uids: list[str] = []

    # ------------------------------------------------------------ well-formed traffic

    def uid(self) -> str:
        """A UID of this case; sometimes one that other cases use at the same time."""
        shared = self.rng.random() < 0.05
        uid = words.instance_uid(
            self.seed, 0 if shared else self.number, self.rng.randrange(20) if shared else len(self.uids)
        )
        self.uids.append(uid)
        return uid

    def request(self) -> bytes:
        return words.associate(self.calling)

    def message(self) -> list[bytes]:
        """A request as any device might send it."""
        rng, number = self.rng, self.rng.randrange(1, 65_536)
        kind = rng.choices(("store", "echo", "find", "action", "create", "cancel"), (60, 15, 8, 5, 8, 4))[0]
        if kind == "store":
            context = rng.choice(words.STORES)
            uid = self.uid()
            return words.store(context, uid, words.data_set(context, uid, rng.choice((8, 16, 40))), message_id=number)
        if kind == "echo":
            return words.echo(number)
        if kind == "cancel":
            return words.message(rng.choice((1, 3, 15)), words.command(0x0FFF, message=number))
        if kind == "find":
            context = rng.choice((15, 21))
            of = words.command(0x0020, message=number, sop_class=words.CONTEXTS[context][0], data=True)
            return words.message(context, of, _identifier())
        if kind == "action":
            of = words.command(
                0x0130,
                message=number,
                sop_class=words.COMMITMENT,
                instance=words.COMMITMENT_INSTANCE,
                data=True,
                requested=True,
            )
            of.elements[0x1008] = words.u16(1)
            return words.message(
                19, of, _commitment(self.uid(), words.instance_uid(self.seed, 0), words.instance_uid(self.seed, 10**11))
            )
        step = self.uid()
        of = words.command(0x0140, message=number, sop_class=words.PERFORMED, instance=step, data=True)
        done = words.command(
            0x0120, message=number, sop_class=words.PERFORMED, instance=step, data=True, requested=True
        )
        ended = struct.pack("<HHL", 0x0040, 0x0252, 10) + rng.choice((b"COMPLETED ", b"NO SUCH   ", b"IN PROGRES"))
        return words.message(17, of, _performed()) + words.message(17, done, ended) * rng.randrange(2)

    def messages(self, most: int = 3) -> list[bytes]:
        return [pdu for _ in range(self.rng.randrange(1, most + 1)) for pdu in self.message()]

    def dialogue(self) -> list[bytes]:
        return [self.request(), *self.messages(), words.RELEASE]

    # ------------------------------------------------------------ cases

    def case(self, kind: str, pdus: list[bytes], **more: Any) -> Case:
        """Say the PDUs: one after the other, or the first answered before the rest, or all at once."""
        steps: list[Step]
        if self.rng.random() < 0.5 and len(pdus) > 1:
            steps = [("send", pdus[0]), ("await", 1), ("send", b"".join(pdus[1:]))]
        elif self.rng.random() < 0.2:
            steps = [("send", pdu) for pdu in pdus]
        else:
            steps = [("send", b"".join(pdus))]
        return self.script(kind, steps, **more)

    def script(self, kind: str, steps: list[Step], end: str = "", **more: Any) -> Case:
        """`end` is chosen if not given: few attackers wait until the door's patience is over."""
        chosen = end or self.rng.choices(("half", "bored", "close", "reset", "read"), (40, 25, 15, 18, 0.2))[0]
        given: dict[str, Any] = {
            "port": self.port,
            "tls": self.tls,
            "address": self.address,
            "patience": HOLDS_S,
            **more,
        }
        return Case(number=self.number, kind=kind, steps=tuple(steps), end=chosen, **given)

    def valid(self) -> Case:
        """Right in everything; must be served."""
        context, count = self.rng.choice(words.STORES[:3]), self.rng.randrange(1, 4)
        uids = [words.instance_uid(self.seed, self.number, number) for number in range(count)]
        steps: list[Step] = [("send", self.request()), ("await", 1)]
        for number, uid in enumerate(uids):
            steps += [("send", b"".join(words.store(context, uid, message_id=number + 1))), ("await", number + 2)]
        steps.append(("send", words.RELEASE))
        # Half of the contexts may be refused by a door: expect only what any storage SCP must take.
        return self.script("valid", steps, end="read", expect=tuple(uids) if context in (3, 5) else ())

    def any_traffic(self) -> Case:
        return self.case("any traffic", self.dialogue())

    def flipped(self) -> Case:
        data = bytearray(b"".join(self.dialogue()))
        start = self.rng.choice((0, 0, 74, len(self.request()), len(self.request())))
        for _ in range(self.rng.choice((1, 1, 2, 4, 16))):
            data[self.rng.randrange(min(start, len(data) - 1), len(data))] = self.rng.choice(
                (0, 1, 0xFF, self.rng.randrange(256))
            )
        cut = len(self.request())
        return self.case("flipped bytes", [bytes(data[:cut]), bytes(data[cut:])])

    def spliced(self) -> Case:
        data = bytearray(b"".join(self.dialogue()))
        at, count = self.rng.randrange(len(data)), self.rng.randrange(1, 200)
        what = self.rng.choice(("insert", "delete", "repeat"))
        data[at : at + count * (what == "delete")] = {
            "insert": self.rng.randbytes(count), "delete": b"", "repeat": bytes(data[at : at + count]) * 2
        }[what]  # fmt: skip
        cut = len(self.request())
        return self.case("spliced", [bytes(data[:cut]), bytes(data[cut:])])

    def truncated(self) -> Case:
        pdus = self.dialogue()
        keep = self.rng.randrange(len(pdus))
        edges = (0, 1, 5, 6, 7, 11, 12, 13, len(pdus[keep]) - 1, self.rng.randrange(len(pdus[keep])))
        return self.case(
            "truncated",
            [*pdus[:keep], pdus[keep][: self.rng.choice(edges)]] if keep else [pdus[0][: self.rng.choice(edges)]],
        )

    def lying_length(self) -> Case:
        """One length field of one layer says what is not so."""
        rng, pdus = self.rng, self.dialogue()
        at = rng.randrange(len(pdus))
        whole = bytearray(pdus[at])
        lie = rng.choice((*LENGTHS, len(whole) - 7, len(whole) - 5, len(whole)))
        where = rng.choice(("pdu", "inner", "element"))
        if where == "pdu" or len(whole) < 14:
            struct.pack_into(">L", whole, 2, lie & 0xFFFF_FFFF)
        elif whole[0] == 0x04 and where == "inner":
            struct.pack_into(">L", whole, 6, lie & 0xFFFF_FFFF)
        elif whole[0] == 0x04:  # an element of the command or of the data set: at any place, a length may stand
            struct.pack_into(
                "<L", whole, min(len(whole) - 4, rng.choice((16, 24, 12 + 2 * rng.randrange(60)))), lie & 0xFFFF_FFFF
            )
        else:  # an item of the association request
            struct.pack_into(">H", whole, min(len(whole) - 2, 74 + 2 + rng.randrange(len(whole) - 74)), lie & 0xFFFF)
        pdus[at] = bytes(whole)
        return self.case("lying length", pdus)

    def shuffled(self) -> Case:
        """PDUs repeated, left out, out of order, out of state."""
        rng, pdus = self.rng, self.dialogue()
        foreign = (
            self.request(), words.RELEASE, words.RELEASE_ANSWER, words.ABORT, words.pdu(0x02, bytes(68)), words.pdu(0x03, b"\0\1\1\1"),
            words.pdu(0x04, b""), words.pdu(rng.randrange(256), rng.randbytes(rng.randrange(40))), words.pdu(0x07, b"\0\0\2\x05"),
            words.pdu(0x05, b""), words.pdu(0x05, bytes(40)),
        )  # fmt: skip
        for _ in range(rng.randrange(1, 4)):
            at, what = rng.randrange(len(pdus)), rng.choice(("repeat", "drop", "swap", "insert", "insert"))
            if what == "repeat":
                pdus.insert(at, pdus[at])
            elif what == "drop" and len(pdus) > 1:
                del pdus[at]
            elif what == "swap":
                other = rng.randrange(len(pdus))
                pdus[at], pdus[other] = pdus[other], pdus[at]
            else:
                pdus.insert(at + (rng.random() < 0.9), rng.choice(foreign))
        return self.case("shuffled PDUs", pdus)

    def fragmented(self) -> Case:
        """Fragments of few bytes, empty ones, wrong control headers, command and data mixed up."""
        rng, context, uid = self.rng, self.rng.choice(words.STORES), self.uid()
        of = words.command(0x0001, sop_class=words.CONTEXTS[context][0], instance=uid, data=True)
        parts = words.values(context, of.encode(), words.data_set(context, uid, 8), piece=rng.choice((1, 2, 7, 100)))
        what = rng.choice(("as is", "empty", "header", "mix", "context", "never last", "data first", "one PDU"))
        if what == "empty":
            for _ in range(rng.choice((1, 10, 3000))):
                parts.insert(rng.randrange(len(parts)), words.pdv(context, rng.choice((0, 1)), b""))
        elif what == "header":
            at = rng.randrange(len(parts))
            parts[at] = parts[at][:5] + bytes((rng.randrange(256),)) + parts[at][6:]
        elif what == "mix":
            rng.shuffle(parts)
        elif what == "context":
            at = rng.randrange(len(parts))
            parts[at] = parts[at][:4] + bytes((rng.choice((0, 1, 2, 4, 5, 23, 24, 99, 255)),)) + parts[at][5:]
        elif what == "never last":
            parts = [part[:5] + bytes((part[5] & 1,)) + part[6:] for part in parts]
        elif what == "data first":
            parts.reverse()
        if what == "one PDU" or rng.random() < 0.5:
            pdus = [words.p_data(*parts[at : at + 2000]) for at in range(0, len(parts), 2000)]
        else:
            pdus = [words.p_data(part) for part in parts]
        return self.case("fragments: " + what, [self.request(), *pdus, words.RELEASE])

    def contexts(self) -> Case:
        """Presentation contexts nobody can want."""
        rng = self.rng
        one = lambda number: words.context(number, words.US, (words.EXPLICIT,))  # noqa: E731
        odd = [
            b"", one(0), one(2), one(1) * 2, b"".join(one(2 * n + 1) for n in range(128)), b"".join(one(n) for n in range(256)) * 2,
            words.context(1, b"", ()), words.context(1, words.US, ()), words.context(1, words.US, [b""]),
            words.context(1, words.US, [words.EXPLICIT] * 1000), words.context(1, rng.choice(UIDS)[:60_000], (words.EXPLICIT,)),
            words.context(1, words.US, [rng.choice(UIDS)[:60_000]]), words.item(0x20, bytes(4)), words.item(0x20, b""),
            words.item(0x20, b"\1\0\0\0" + words.item(0x40, b"1.2.840.10008.1.2")), words.item(0x20, b"\1\0\0\0" + words.item(0x30, b"1.2", 200)),
            words.item(0x20, bytes(40)) * 200, words.item(0x21, b"\1\0\0\0" + words.item(0x40, b"1.2")),
        ]  # fmt: skip
        request = words.associate(self.calling, contexts=rng.choice(odd))
        return self.case(
            "contexts",
            [
                request,
                *words.store(rng.choice((1, 3, 23)), self.uid(), _identifier()),
                *self.messages(1),
                words.RELEASE,
            ],
        )

    def user_items(self) -> Case:
        rng = self.rng
        size = rng.choice((0, 1, 4, 100, 65_000))
        identity = (
            bytes((rng.randrange(7), rng.randrange(2)))
            + struct.pack(">H", size)
            + b"u" * size
            + struct.pack(">H", rng.choice((0, 5, 0xFFFF)))
        )
        odd = (
            words.user_information(rng.choice((0, 1, 5, 6, 7, 8, 12, 13, 100, 0xFFFF_FFFF))), words.user_information(None), b"",
            words.user_information(16_384, words.item(0x58, identity[:65_000])), words.user_information(16_384, *[words.item(rng.randrange(256), b"x" * size)] * 3),
            words.user_information(16_384, words.item(0x53, rng.choice((b"", bytes(4), b"\xff" * 4, bytes(3))))),
            words.user_information(16_384, *[words.item(0x54, struct.pack(">H", 17) + b"1.2.840.10008.1.1" + rng.choice((b"", b"\1", b"\1\1", b"\7\7")))] * rng.choice((1, 300))),
            words.user_information(16_384, words.item(0x56, struct.pack(">H", rng.choice((0, 3, 500))) + b"1.2" + rng.randbytes(10))),
            words.user_information(16_384, words.item(0x57, rng.randbytes(rng.randrange(40)))),
            words.item(0x50, words.item(0x51, b"\0")), words.item(0x50, words.item(0x51, struct.pack(">L", 100)) * 50),
            words.item(0x50, rng.randbytes(200)), words.item(0x50, b"", 100), words.user_information() * 2,
        )  # fmt: skip
        request = words.associate(self.calling, user=rng.choice(odd))
        return self.case("user information", [request, *self.messages(), words.RELEASE])

    def names(self) -> Case:
        rng = self.rng
        what = rng.choice(("calling", "called", "application", "version"))
        request = words.associate(
            rng.choice(NAMES) if what == "calling" else self.calling, rng.choice(NAMES) if what == "called" else b"EDGEWARD",
            application=rng.choice((*UIDS, words.APPLICATION))[:1000] if what == "application" else words.APPLICATION,
            version=rng.choice((0, 2, 3, 0xFFFF)) if what == "version" else 1,
        )  # fmt: skip
        return self.case("names", [request, *self.messages(1), words.RELEASE])

    def commands(self) -> Case:
        """A command that is not as PS3.7 says."""
        rng, context = self.rng, self.rng.choice((1, 3, 3, 5, 15, 17, 19, 23))
        uid = self.uid()
        field = rng.choice(
            (1, 1, 1, 0x10, 0x20, 0x21, 0x30, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0xFFF, rng.randrange(65_536))
        )
        of = words.command(
            field | 0x8000 * (rng.random() < 0.2),
            sop_class=words.CONTEXTS[context][0],
            instance=uid,
            data=rng.random() < 0.7,
        )
        for _ in range(rng.randrange(1, 4)):
            element = rng.choice(
                (
                    2,
                    3,
                    0x100,
                    0x110,
                    0x120,
                    0x600,
                    0x700,
                    0x800,
                    0x900,
                    0x1000,
                    0x1001,
                    0x1002,
                    0x1005,
                    0x1008,
                    0x1030,
                    0x1031,
                )
            )
            what = rng.choice(("drop", "junk", "uid", "number", "empty", "long"))
            if what == "drop":
                of.elements.pop(element, None)
            else:
                of.elements[element] = {
                    "junk": rng.randbytes(rng.randrange(70)), "uid": rng.choice(UIDS), "empty": b"",
                    "number": words.u16(rng.choice((0, 1, 0x101, 0xFFFF))), "long": b"x" * rng.choice((1000, 66_000)),
                }[what]  # fmt: skip
        if rng.random() < 0.2:
            of.group_length = rng.choice(LENGTHS)
        if rng.random() < 0.2:
            of.tail = rng.choice(
                (
                    rng.randbytes(30),
                    b"\x08\0\5\0CS\2\0A ",
                    bytes(200),
                    struct.pack("<HHL", 0, 0x9000, 0xFFFF_FFFF),
                    bytes(70_000),
                )
            )
        data = words.data_set(context, uid) if context in words.STORES else _identifier()
        return self.case(
            "commands",
            [
                self.request(),
                *words.message(context, of, data if rng.random() < 0.7 else None),
                *self.messages(1),
                words.RELEASE,
            ],
        )

    def data_sets(self) -> Case:
        """A C-STORE that is right, of a data set that is not."""
        rng, context = self.rng, self.rng.choice(words.STORES)
        uid = self.uid()
        good = words.data_set(context, uid, 8)
        what = rng.choice(sorted(DATA_SETS))
        return self.case(
            "data set: " + what,
            [self.request(), *words.store(context, uid, DATA_SETS[what](rng, good)), *words.echo(), words.RELEASE],
        )

    def endings(self) -> Case:
        """Release and abort where they collide with something."""
        rng, request, told = self.rng, self.request(), self.messages(2)
        script: list[list[Step]] = [
            [("send", request + words.RELEASE)],
            [("send", request + words.RELEASE + words.RELEASE)],
            [("send", request), ("await", 1), ("send", words.RELEASE_ANSWER)],
            [("send", request), ("await", 1), ("send", words.RELEASE + b"".join(told))],
            [("send", request), ("await", 1), ("send", words.RELEASE), ("await", 2), ("send", b"".join(told))],
            [("send", request), ("await", 1), ("send", b"".join(told)[: rng.randrange(300)] + words.ABORT)],
            [("send", request + words.ABORT)], [("send", words.ABORT)], [("send", words.RELEASE)],
            [("send", request), ("await", 1), ("send", words.ABORT * 100)],
            [("send", request), ("await", 1), ("send", request)],
            [("send", request), ("await", 1), ("send", b"".join(told) + words.ABORT + b"".join(told))],
            [("send", request), ("await", 1), ("send", told[0][: rng.randrange(len(told[0]))])],
        ]  # fmt: skip
        return self.script("endings", rng.choice(script))

    def slow(self) -> Case:
        """Little by little, or nothing at all; a few wait until they are thrown out."""
        rng, whole = self.rng, b"".join(self.dialogue())
        steps: list[Step] = rng.choice((
            [("drip", whole[:40], 0.01)], [("pause", rng.choice((0.0, 0.2, 1.0)))], [("send", whole[:3]), ("pause", 0.5)],
            [("send", self.request()), ("await", 1), ("drip", whole[len(self.request()) :][:30], 0.02)],
            [("send", self.request()), ("await", 1), ("pause", 0.5)],
        ))  # fmt: skip
        return self.script("slow", steps, end="read" if rng.random() < 0.1 else "")

    def flood(self) -> Case:
        return self.script(
            "flood", [("send", self.request()), ("flood", self.rng.choice((20, 60, 150)), 0.1)], end="bored"
        )

    def tls_abuse(self) -> Case:
        """What is no TLS, or not ours, on the TLS port."""
        rng, hello = self.rng, _client_hello()
        broken = bytearray(hello)
        for _ in range(rng.randrange(1, 5)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        what = rng.choice(
            (
                "plain",
                "garbage",
                "http",
                "stall",
                "hello",
                "cut",
                "alert",
                "record",
                "stranger",
                "nobody",
                "tls1.2",
                "between",
            )
        )
        tls, steps = "", [("send", rng.randbytes(rng.randrange(1, 600)))]
        match what:
            case "plain":
                steps = [("send", b"".join(self.dialogue()))]
            case "http":
                steps = [("send", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")]
            case "stall":
                steps = [("pause", 0.3)]
            case "hello":
                steps = [("send", bytes(broken))]
            case "cut":
                steps = [("send", hello[: rng.randrange(len(hello))])]
            case "alert":
                steps = [("send", hello + b"\x15\x03\x03\x00\x02\x02\x28" + hello)]
            case "record":
                steps = [
                    (
                        "send",
                        struct.pack(
                            ">BHH", rng.choice((20, 21, 22, 23, 24, 255)), 0x0303, rng.choice((0, 1, 0x4000, 0xFFFF))
                        )
                        + rng.randbytes(50),
                    )
                ]
            case "stranger" | "nobody" | "tls1.2":
                tls, steps = what, [("send", b"".join(self.dialogue()))]
            case "between":
                tls = self.tls or "evil1"
                steps = [
                    ("send", self.request()),
                    ("raw", rng.choice((rng.randbytes(60), b"\x17\x03\x03\xff\xff", hello))),
                ]
        return self.script(
            "TLS: " + what, steps, port="tls", tls=tls, deaf=not tls, end="read" if rng.random() < 0.003 else ""
        )  # type: ignore[arg-type]


WEIGHTS: dict[Callable[[Author], Case], float] = {
    Author.valid: 12, Author.any_traffic: 4, Author.flipped: 14, Author.spliced: 6, Author.truncated: 8, Author.lying_length: 12,
    Author.shuffled: 9, Author.fragmented: 8, Author.contexts: 4, Author.user_items: 4, Author.names: 3, Author.commands: 9,
    Author.data_sets: 9, Author.endings: 5, Author.slow: 1, Author.flood: 0.05, Author.tls_abuse: 4,
}  # fmt: skip


def case(seed: int, number: int, settings: dict[str, Any]) -> Case:
    """Think out case `number` of `seed`. `settings`: certificates, titles by certificate, legacy (title, address)."""
    author = Author(seed, number, settings)
    return author.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0](author)


# ---------------------------------------------------------------- data sets gone wrong


def _nested(depth: int) -> bytes:
    return (
        struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, 0xFFFF_FFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFF_FFFF)
    ) * depth


def _flip(rng: random.Random, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(rng.choice((1, 2, 8, 40))):
        data[rng.randrange(min(len(data), rng.choice((200, 10**6))))] = rng.randrange(256)
    return bytes(data)


def _lie(rng: random.Random, good: bytes) -> bytes:
    data, at = bytearray(good), 2 * rng.randrange(len(good) // 2 - 2)
    struct.pack_into(rng.choice(("<L", ">L", "<H")), data, at, rng.choice(LENGTHS) & 0xFFFF)
    struct.pack_into("<L", data, at, rng.choice(LENGTHS))
    return bytes(data)


@cache
def _bomb(megabytes: int) -> bytes:
    engine, piece = (
        zlib.compressobj(9, wbits=-zlib.MAX_WBITS),
        b"\x08\0\x08\0UT\0\0\xf4\xff\x0f\0" + bytes((1 << 20) - 12),
    )
    return b"".join(engine.compress(piece) for _ in range(megabytes)) + engine.flush()


DATA_SETS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "flipped": _flip,
    "flipped more": _flip,
    "lying": _lie,
    "lying more": _lie,
    "cut": lambda rng, good: good[: rng.randrange(len(good))],
    "empty": lambda _rng, _good: b"",
    "odd": lambda _rng, good: good + b"\0",
    "garbage": lambda rng, _good: rng.randbytes(rng.randrange(1, 3000)),
    "zeros": lambda rng, _good: bytes(rng.choice((2, 8, 100, 50_000))),
    "ones": lambda _rng, _good: b"\xff" * 4000,
    "nested": lambda rng, good: _nested(rng.choice((10, 1000, 20_000))) + good,
    "nested after": lambda rng, good: good[:-200] + _nested(rng.choice((100, 5000))),
    "file": lambda _rng, good: bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, 4) + good,
    "meta": lambda _rng, good: struct.pack("<HH2sHL", 2, 0, b"UL", 4, 4) + good,
    "command": lambda _rng, good: words.command(1).encode() + good,
    "twice": lambda _rng, good: good + good,
    "backwards": lambda _rng, good: good[::-1],
    "huge name": lambda rng, good: good[:60] + struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", 0xFFFE) + words.CANARY * 4095 + good[60:] * rng.randrange(2),
    "huge element": lambda _rng, good: struct.pack("<HH2sHL", 0x0008, 0x0001, b"UT", 0, 900_000) + bytes(900_000) + good,
    "many elements": lambda rng, good: struct.pack("<HH2sH", 0x0008, 0x0008, b"CS", 0) * rng.choice((1000, 30_000)) + good,
    "gigabytes": lambda _rng, good: good + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFF_FFFE),
    "deflate bomb": lambda rng, _good: _bomb(rng.choice((1, 20, 60))),
    "unknown VR": lambda _rng, good: good.replace(b"PN", b"ZZ").replace(b"UI", b"U\0"),
    "charset": lambda rng, good: good.replace(b"ISO_IR 100", rng.choice((b"ISO_IR 192", b"\\\\\\\\\\\\\\\\\\\\", b"GB18030\0\0\0", b"\xff" * 10, b"NO_SUCHSET"))),
    "no UID": lambda _rng, good: good.replace(b"2.25.1", b"2.25.2"),
}  # fmt: skip


# ---------------------------------------------------------------- things made once


@cache
def _identifier() -> bytes:
    """A worklist or study query (implicit little endian): everything, all keys empty."""
    keys = (0x0008_0050, 0x0010_0010, 0x0010_0020, 0x0020_000D, 0x0040_1001)
    return b"".join(struct.pack("<HHL", key >> 16, key & 0xFFFF, 0) for key in keys)


def _commitment(transaction_uid: str, *instances: str) -> bytes:
    encoded = b"".join(
        struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFF_FFFF)
        + struct.pack("<HHL", 0x0008, 0x1150, len(words.uid(words.US))) + words.uid(words.US)
        + struct.pack("<HHL", 0x0008, 0x1155, len(words.uid(one))) + words.uid(one)
        + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        for one in instances
    )  # fmt: skip
    transaction = words.uid(transaction_uid)
    return (
        struct.pack("<HHL", 0x0008, 0x1195, len(transaction)) + transaction
        + struct.pack("<HHL", 0x0008, 0x1199, 0xFFFF_FFFF) + encoded + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    )  # fmt: skip


@cache
def _performed() -> bytes:
    """The attributes of an N-CREATE of a performed procedure step, as far as they are required (PS3.4, F.7.2-1)."""
    made, step = Dataset(), Dataset()
    step.StudyInstanceUID, step.AccessionNumber, step.RequestedProcedureID = "2.25.1", "A1", "RP1"
    step.ScheduledProcedureStepID, step.ScheduledProcedureStepDescription = "SPS1", "Breast"
    step.ReferencedStudySequence, step.ScheduledProtocolCodeSequence = [], []
    step.RequestedProcedureDescription = ""
    made.ScheduledStepAttributesSequence = [step]
    made.PatientName, made.PatientID, made.PatientBirthDate = words.CANARY.decode(), "P1", "19640812"
    made.PatientSex, made.ReferencedPatientSequence, made.StudyID, made.Modality = "F", [], "1", "US"
    made.PerformedProcedureStepID, made.PerformedStationAETitle, made.PerformedStationName = "PPS1", "HOSTILE", ""
    made.PerformedLocation, made.PerformedProcedureStepStartDate = "", "20260101"
    made.PerformedProcedureStepStartTime, made.PerformedProcedureStepStatus = "120000", "IN PROGRESS"
    made.PerformedProcedureStepDescription = made.PerformedProcedureTypeDescription = ""
    made.ProcedureCodeSequence, made.PerformedProcedureStepEndDate, made.PerformedProcedureStepEndTime = [], "", ""
    made.PerformedProtocolCodeSequence, made.PerformedSeriesSequence = [], []
    return words.encode_data_set(made, words.IMPLICIT)


@cache
def _client_hello() -> bytes:
    """The first flight of a TLS client."""
    context, incoming, outgoing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.MemoryBIO(), ssl.MemoryBIO()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()
