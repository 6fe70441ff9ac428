"""What lost packets tear is told, and what they tear at its end ends: found by trying every pattern, not by luck.

A sweep over kinds of events, shapes and sizes, beginnings soon and late after a patient's first packet, and every choice
of one or two lost packets of a second. With --campaign: all shapes, more beginnings, three lost packets, and short
packets lost at random.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import takeover
from tests.support.torn import LASTS_S, RELATED, SIZES, VARIANTS, Case, episode, patterns, play, within

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1200)]

KINDS = tuple(LASTS_S)
FEW = {"asystole": (0,), "ventricular_fibrillation": (1, 5), "ventricular_tachycardia": (0, 3),
       "extreme_tachycardia": (4,), "extreme_bradycardia": (2, 7)}  # fmt: skip


def untold(cases: list[Case]) -> list[Case]:
    """Return the cases that were not told, and say how many there were."""
    lost = [case for case in cases if case.told_s is None]
    late = [case.told_s for case in cases if case.told_s is not None]
    print(f"{cases[0].episode.kind}: {len(cases) - len(lost)} of {len(cases)} told, the last after {max(late):.1f} s")
    return lost


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_told_whichever_two_of_its_packets_are_lost(kind: str, campaign: bool) -> None:
    befores = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.5, 8.0, 8.4, 10.0, 12.0, 15.0, 20.0) if campaign else (8.4, 12.0)
    cases = [
        Case(one, lost)
        for before in befores
        for variant in (VARIANTS if campaign else FEW[kind])
        for one in [episode(kind, variant, before)]
        for lost in within(one, 2)
    ]
    found = untold(play(cases))
    if kind == "ventricular_tachycardia":  # before the patient's usual beat was seen, a slow one looks like it
        found = [case for case in found if case.episode.start_s >= 3.0]
    assert found == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_of_which_a_stream_begins_in_the_middle_is_told(kind: str, campaign: bool) -> None:
    cases = [
        Case(one, lost)
        for before in (-0.5, -1.0, -1.5, -2.0)
        for variant in (VARIANTS if campaign else FEW[kind])
        for one in [episode(kind, variant, before)]
        for lost in within(one, 1 if campaign else 0)
    ]
    found = untold(play(cases))
    assert [case for case in found if not case.lost] == []
    assert len(found) <= 0.03 * len(cases)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_told_though_a_tenth_of_short_packets_is_lost(kind: str, campaign: bool) -> None:
    rng = np.random.default_rng(5)
    one = {}
    cases = []
    for number in range(400 if campaign else 24):
        variant = number % len(SIZES)
        before = (6.0, 8.4, 12.0)[number % 3]
        if (variant, before) not in one:
            one[variant, before] = episode(kind, variant, before)
        line = one[variant, before].line
        drawn = np.flatnonzero(rng.random(line.size // 50) < 0.1)
        cases.append(Case(one[variant, before], frozenset(drawn.tolist()), packet_s=0.2))
    found = untold(play(cases))
    assert len(found) <= (0.05 if kind == "extreme_bradycardia" else 0.01) * len(cases), found[:3]


@pytest.mark.parametrize("kind", KINDS)
def test_three_lost_packets_swallow_few_events(kind: str, campaign: bool) -> None:
    if not campaign:
        return
    cases = [
        Case(one, lost) for variant in VARIANTS for one in [episode(kind, variant, 12.0)] for lost in within(one, 3)
    ]
    assert len(untold(play(cases))) <= 0.05 * len(cases)


@pytest.mark.parametrize("then", ["sinus", "bigeminy"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_told_ends_whichever_packets_around_its_end_are_lost(kind: str, then: str, campaign: bool) -> None:
    cases = []
    for variant in VARIANTS if campaign else FEW[kind][:1]:
        one = episode(kind, variant, 12.0, after_s=30.0, then=then)
        last = int(one.end_s)
        lost = [*patterns(last - 3, last + 7, 2 if campaign else 1)]
        lost += [frozenset(range(at, at + n)) for at in range(last - 3, last + 5) for n in (3, 5, 10)]
        cases += [Case(one, pattern) for pattern in lost]
    assert [case for case in play(cases) if case.standing] == []


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_lost_and_overtaken_beside_a_kill_of_the_monitor_is_told_and_ends(
    kind: str, campaign: bool
) -> None:
    """The monitor is killed at some second of the event or around it; another that stood by takes over."""
    for at_s in np.arange(5.3, 27.0, 1.0) if campaign else (14.3, 18.3):
        rng = np.random.default_rng(int(at_s))
        cases = []
        for variant in (0, 3, 5) if campaign else (5,):
            one = episode(kind, variant, 8.0, after_s=16.0)
            lost = [*within(one, 2)]
            cases += [Case(one, lost[k]) for k in rng.choice(len(lost), 30 if campaign else 20, replace=False)]

        after = await takeover.play(
            cases, takeover.Fall(at_s, away_s=2.3, overtaken=rng.random((len(cases), 64)) < 0.12)
        )

        assert untold(cases) == [], at_s
        assert not {code for _, (code, _) in after.engine.standing()} & RELATED, at_s
