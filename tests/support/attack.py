"""An attacker: carries out hostile dialogues over TCP and TLS, many at once, and tells what came of each.

Responsible for cases (who connects from where, what is sent, how it ends), for carrying them out in a process of its own,
for saving one to a file and playing it again. Not responsible for thinking them out (`attack_dicom`, `attack_text`) or
for judging the site (`attack_site`).

    python -m tests.support.attack TARGET.json --replay CASE.json     play one case again, and show what happened
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib
import json
import os
import queue
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Step = tuple[Any, ...]
"""("send", bytes); ("raw", bytes): below TLS; ("drip", bytes, pause_s): a byte at a time; ("await", n): until n PDUs or
messages were received; ("pause", s); ("flood", n, hold_s): n further connections that say nothing."""

_NO_PORT = 24  # Linux: IP_BIND_ADDRESS_NO_PORT, so that a source address costs no port before it is connected
_RESET = struct.pack("ii", 1, 0)
STEP_S = 10.0


class Dialect(Protocol):
    """What understands the door's answers."""

    def take(self, data: bytes) -> None: ...
    def ended(self) -> None: ...
    def count(self) -> int: ...
    def facts(self) -> dict[str, Any]: ...
    def missing(self, expect: tuple[str, ...]) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One connection and what is done with it.

    `tls` names whose certificate is shown: a folder of the target; "" for plain bytes. `end` is one of read (until the
    door closes, for `patience` seconds at most), half (close our direction, then read), close, reset, bored (read a
    little, then close). `expect` are UIDs that must be acknowledged unless the door had no room. A `deaf` attacker does not try
    to understand the answers.
    """

    number: int
    kind: str
    port: str
    address: str
    tls: str = ""
    steps: tuple[Step, ...] = ()
    end: str = "read"
    patience: float = 20.0
    expect: tuple[str, ...] = ()
    deaf: bool = False

    def to_json(self) -> dict[str, Any]:
        steps = [
            [base64.b64encode(part).decode() if isinstance(part, bytes) else part for part in step]
            for step in self.steps
        ]
        names = ("number", "kind", "port", "address", "tls", "end", "patience", "expect", "deaf")
        return {"steps": steps} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        steps = tuple(
            tuple(
                base64.b64decode(part) if index == 1 and step[0] in ("send", "raw", "drip") else part
                for index, part in enumerate(step)
            )
            for step in data["steps"]
        )
        return cls(**{**data, "steps": steps, "expect": tuple(data["expect"])})


@dataclass(slots=True)
class Outcome:
    """How a case went. `how` is one of eof, reset, timeout, closed (by us), refused (no connection), handshake."""

    case: Case
    how: str
    facts: dict[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def sure(self) -> bool:
        """Whether the door said its last word: then nothing of this case may be kept that was not acknowledged."""
        return self.how in ("refused", "handshake") or bool(self.facts.get("ended"))


@dataclass(frozen=True)
class Target:
    """Where to attack: ports by name, and a folder with certificate and key per name."""

    ports: dict[str, int]
    folders: dict[str, str]
    host: str = "127.0.0.1"
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Target:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(vars(self)))

    def context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if name == "tls1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if name in self.folders:
            folder = Path(self.folders[name])
            context.load_cert_chain(folder / "device.pem", folder / "device.key")
        return context


class Deaf:
    """Understands no answer."""

    def take(self, data: bytes) -> None:
        """Nothing."""

    def ended(self) -> None:
        """Nothing."""

    def count(self) -> int:
        return 0

    def facts(self) -> dict[str, Any]:
        return {}

    def missing(self, expect: tuple[str, ...]) -> str:
        return f"{len(expect)} things were expected of a connection that is not listened to"


class Attacker:
    """Carries out cases against one target. Thread-safe."""

    def __init__(self, target: Target, dialect: Callable[[], Dialect]) -> None:
        self._target, self._dialect = target, dialect
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def carry_out(self, case: Case) -> Outcome:
        """Do as the case says."""
        outcome, answers = Outcome(case, "closed"), Deaf() if case.deaf else self._dialect()
        try:
            raw = self._connect(case)
        except OSError as error:
            outcome.how = "refused"
            outcome.fault = f"no connection ({error})" if case.expect else ""
            return outcome
        line = raw
        try:
            if case.tls:
                try:
                    line = self._context(case.tls).wrap_socket(raw)
                except (OSError, ValueError) as error:
                    outcome.how = "handshake"
                    outcome.fault = f"no TLS connection ({error})" if case.expect else ""
                    return outcome
            broken = self._talk(case, line, answers)
            outcome.how = self._finish(case, line, answers, broken=broken)
            if outcome.how == "eof" and not broken:
                answers.ended()
        except AssertionError as fault:
            outcome.fault = str(fault)
        finally:
            with contextlib.suppress(OSError):
                line.close()
            raw.close()
        outcome.facts = answers.facts()
        if outcome.how == "timeout" and not outcome.fault:
            outcome.fault = f"still open after {case.patience:g} s"
        if case.expect and not outcome.fault:
            outcome.fault = answers.missing(case.expect)
        return outcome

    def _connect(self, case: Case) -> socket.socket:
        raw = socket.socket()
        try:
            raw.settimeout(STEP_S)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_IP, _NO_PORT, 1)
            raw.bind((case.address, 0))
            raw.connect((self._target.host, self._target.ports[case.port]))
        except OSError:
            raw.close()
            raise
        return raw

    def _context(self, name: str) -> ssl.SSLContext:
        with self._lock:
            if name not in self._contexts:
                self._contexts[name] = self._target.context(name)
            return self._contexts[name]

    def _talk(self, case: Case, line: socket.socket, answers: Dialect) -> bool:
        """Say what there is to say; return whether the door closed before all was said."""
        try:
            for step in case.steps:
                if step[0] == "send":
                    line.sendall(step[1])
                elif step[0] == "raw":
                    os.write(line.fileno(), step[1])
                elif step[0] == "drip":
                    for byte in step[1]:
                        line.sendall(bytes((byte,)))
                        time.sleep(step[2])
                elif step[0] == "await":
                    if not _read(line, answers, time.monotonic() + STEP_S, lambda n=step[1]: answers.count() >= n):
                        return True
                elif step[0] == "pause":
                    time.sleep(step[1])
                elif step[0] == "flood":
                    self._flood(case, *step[1:])
        except (OSError, ValueError):
            return True
        return False

    def _finish(self, case: Case, line: socket.socket, answers: Dialect, *, broken: bool) -> str:
        if case.end == "reset":
            with contextlib.suppress(OSError):
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return "closed"
        if case.end == "close":
            return "closed"
        if case.end == "half" and not broken:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(line, socket.SHUT_WR)
        end = time.monotonic() + (0.05 if case.end == "bored" else case.patience)
        try:
            if _read(line, answers, end, lambda: False):
                return "closed" if case.end == "bored" else "timeout"
        except (OSError, ValueError):
            return "closed" if case.end == "bored" else "reset"
        return "reset" if broken else "eof"

    def _flood(self, case: Case, count: int, hold_s: float) -> None:
        others: list[socket.socket] = []
        try:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    others.append(self._connect(case))
            time.sleep(hold_s)
        finally:
            for number, one in enumerate(others):
                if number % 2:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.close()


def _read(line: socket.socket, answers: Dialect, end: float, enough: Callable[[], bool]) -> bool:
    """Read until there is enough, or the time is over (True), or the door closes (False)."""
    while not enough():
        left = end - time.monotonic()
        if left <= 0:
            return True
        line.settimeout(left)
        try:
            data = line.recv(65_536)
        except TimeoutError:
            return True
        except ssl.SSLEOFError:  # closed without saying so within TLS: an end all the same
            return False
        if not data:
            return False
        answers.take(data)
    line.settimeout(STEP_S)
    return True


def carry_out(attacker: Attacker, cases: Iterable[Case], threads: int) -> list[Outcome]:
    """Carry out cases in `threads` threads; the order of the outcomes is that of their ends."""
    waiting: queue.SimpleQueue[Case | None] = queue.SimpleQueue()
    done: list[Outcome] = []

    def work() -> None:
        while (case := waiting.get()) is not None:
            done.append(attacker.carry_out(case))

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for case in cases:
        waiting.put(case)
    for _ in workers:
        waiting.put(None)
    for worker in workers:
        worker.join()
    return done


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """What a process tells of a batch."""
    return {
        "cases": len(outcomes),
        "kinds": Counter(outcome.case.kind for outcome in outcomes),
        "how": Counter(outcome.how for outcome in outcomes),
        "facts": Counter(fact for outcome in outcomes for fact in outcome.facts.get("met", ())),
        "examples": {fact: outcome.case.number for outcome in outcomes for fact in outcome.facts.get("met", ())},
        "stored": [uid for outcome in outcomes for uid in outcome.facts.get("stored", ())],
        "kept": sum(len(outcome.case.expect) for outcome in outcomes if not outcome.fault),
        "unsure": [outcome.case.number for outcome in outcomes if not outcome.sure],
        "faults": [[outcome.fault, outcome.case.to_json()] for outcome in outcomes if outcome.fault],
    }


def main() -> int:
    """Serve batches: a line of JSON in (seed, first, count, step), a line of JSON out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--cases", default="tests.support.attack_dicom", help="the module that thinks cases out")
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--replay", type=Path)
    arguments = parser.parse_args()
    target, source = Target.read(arguments.target), importlib.import_module(arguments.cases)
    attacker = Attacker(target, source.Answers)
    if arguments.replay:
        for case in json.loads(arguments.replay.read_text())["cases"]:
            outcome = attacker.carry_out(Case.from_json(case))
            print(json.dumps({"how": outcome.how, "fault": outcome.fault, **outcome.facts}))
        return 0
    for line in sys.stdin:
        order = json.loads(line)
        if "cases" in order:
            cases: Iterable[Case] = [Case.from_json(one) for one in order["cases"]]
        else:
            numbers = range(order["first"], order["first"] + order["count"], order["step"])
            cases = (source.case(order["seed"], number, target.settings) for number in numbers)
        print(json.dumps(summary(carry_out(attacker, cases, arguments.threads))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
