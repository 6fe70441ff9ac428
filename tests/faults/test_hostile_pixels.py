"""A long campaign of damaged pixel data against the decoders, in a process whose death would be seen."""

from __future__ import annotations

import collections
import random
import time

import pytest
from tests.support.pixels import LIMIT_S, Victim, damaged, seeds

pytestmark = pytest.mark.fault


@pytest.mark.timeout(3600)
def test_no_damaged_object_crashes_hangs_or_escapes(campaign: bool, request: pytest.FixtureRequest) -> None:
    seed = int(request.config.getoption("--seed")) or time.time_ns() % 1_000_000
    count = 60_000 if campaign else 300
    print(f"seed {seed}, {count} objects")
    draw, victim, kinds = random.Random(seed), Victim(), seeds()
    outcomes: collections.Counter[str] = collections.Counter()
    bad = []
    for number in range(count):
        data = damaged(draw.choice(kinds), random.Random(f"{seed}:{number}"))
        answer, seconds = victim.decode(data)
        outcomes["decoded" if answer == "decoded" else "refused"] += 1
        if answer.startswith(("CRASHED", "HUNG", "RAISED")) or seconds > LIMIT_S:
            bad.append((number, answer, round(seconds, 1)))
    victim.close()

    assert bad == [], f"seed {seed}"
    assert outcomes["decoded"] > count / 50
    assert outcomes["refused"] > count / 10
