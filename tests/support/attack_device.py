"""A well-behaved device in a process of its own: sends images over both doors while others misbehave.

Tells, for each image, what it was told: a line of JSON with UID, size, digest, status and the time it took. It ends, after
its last association, when its standard input is closed.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.support import attack_pdu as words
from tests.support.attack import Target

PATIENCE_S = 30.0
SIZES = (16, 64, 200, 500)  # pixels in a row and a column


def send(target: Target, door: str, seed: int, number: int) -> list[dict[str, Any]]:
    """One association with up to three images; return what was answered to each."""
    rng = random.Random(f"{seed}/{number}")
    images = [
        (context, words.instance_uid(seed, number, count), rng.choice(SIZES))
        for count, context in enumerate(rng.choices((3, 5), k=3))
    ]
    title = (target.settings["good_title"] if door == "tls" else target.settings["good_legacy"]).encode()
    rows: list[dict[str, Any]] = []
    began, answers, trouble = time.monotonic(), words.Answers(), ""
    line = socket.socket()
    try:
        line.settimeout(PATIENCE_S)
        line.connect((target.host, target.ports[door]))
        if door == "tls":
            line = target.context("good").wrap_socket(line)

        def wait(count: int) -> None:
            while answers.count() < count:
                data = line.recv(65_536)
                if not data:
                    raise ConnectionError("the door closed")
                answers.take(data)

        line.sendall(
            words.associate(title, contexts=words.context(3, *words.CONTEXTS[3]) + words.context(5, *words.CONTEXTS[5]))
        )
        wait(1)
        if answers.rejection:
            raise ConnectionError(f"rejected {answers.rejection}")
        for count, (context, uid, size) in enumerate(images):
            data = words.data_set(context, uid, size)
            at = time.monotonic()
            rows.append(
                {
                    "uid": uid,
                    "size": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "door": door,
                    "stored": False,
                }
            )
            line.sendall(b"".join(words.store(context, uid, data, message_id=count + 1)))
            wait(count + 2)
            rows[-1].update(stored=uid in answers.stored, ms=round(1000 * (time.monotonic() - at), 1))
        line.sendall(words.RELEASE)
        wait(len(images) + 2)
    except (OSError, AssertionError) as error:
        trouble = f"{door}: {type(error).__name__}: {error} after {time.monotonic() - began:.1f} s"
    finally:
        line.close()
    if trouble or not all(row["stored"] for row in rows):
        rows.append({"trouble": trouble or "an image was not acknowledged"})
    return rows


def main() -> int:
    """Send until told to stop: target, seed, pause between associations in seconds."""
    target, seed, pause_s = Target.read(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    number = 0
    while not stop.is_set() or number < 2:
        for row in send(target, ("tls", "plain")[number % 2], seed, number):
            print(json.dumps(row), flush=True)
        number += 1
        stop.wait(pause_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
