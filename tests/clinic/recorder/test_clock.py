"""Ages are right whatever somebody does to the wall clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.clinic.recorder.times import Machine

from edgeward.clinic.recorder.clock import SETTLE_S, RetentionClock

HOUR = 3600.0


@pytest.mark.parametrize("by_s", [-HOUR, HOUR, 400 * 24 * HOUR])
def test_setting_the_wall_clock_changes_no_age(tmp_path: Path, by_s: float) -> None:
    machine = Machine()
    clock = RetentionClock(tmp_path / "clock", machine)
    stamp = clock.now()
    machine.pass_s(10)
    clock.tick()

    machine.set_wall(by_s)
    clock.tick()

    assert clock.age_s(stamp) == pytest.approx(10)
    assert clock.steps == 1
    again = RetentionClock(tmp_path / "clock", machine)  # the process begins anew
    machine.pass_s(5)
    assert again.age_s(stamp) == pytest.approx(15)


def test_after_a_reboot_ages_wait_until_the_wall_clock_is_believed(tmp_path: Path) -> None:
    machine = Machine()
    clock = RetentionClock(tmp_path / "clock", machine)
    stamp = clock.now()
    clock.tick()
    machine.pass_s(2 * HOUR)
    clock.tick()

    machine.reboot(off_s=3 * HOUR)
    clock = RetentionClock(tmp_path / "clock", machine)
    assert clock.age_s(stamp) is None
    machine.pass_s(SETTLE_S + 1)
    clock.tick()

    assert clock.age_s(stamp) == pytest.approx(5 * HOUR + SETTLE_S, abs=30)


def test_a_wall_clock_that_is_wrong_at_first_is_not_believed(tmp_path: Path) -> None:
    machine = Machine()
    clock = RetentionClock(tmp_path / "clock", machine)
    stamp = clock.now()
    clock.tick()
    machine.pass_s(100)
    clock.tick()

    machine.reboot(off_s=60, wall_error_s=30 * 365 * 24 * HOUR)
    clock = RetentionClock(tmp_path / "clock", machine)
    young = clock.now()
    for _ in range(4):
        machine.pass_s(SETTLE_S / 5)
        clock.tick()
        assert clock.age_s(stamp) is None
    machine.set_wall(-30 * 365 * 24 * HOUR)  # time synchronisation
    for _ in range(12):
        machine.pass_s(SETTLE_S / 10)
        clock.tick()

    assert clock.age_s(stamp) == pytest.approx(160 + 2 * SETTLE_S, abs=30)
    assert clock.age_s(young) == pytest.approx(2 * SETTLE_S)


def test_a_wall_clock_behind_makes_nothing_younger_than_it_was(tmp_path: Path) -> None:
    machine = Machine()
    clock = RetentionClock(tmp_path / "clock", machine)
    stamp = clock.now()
    clock.tick()
    machine.pass_s(10 * HOUR)
    clock.tick()

    machine.reboot(off_s=60, wall_error_s=-365 * 24 * HOUR)
    clock = RetentionClock(tmp_path / "clock", machine)
    machine.pass_s(SETTLE_S + 1)
    clock.tick()

    age = clock.age_s(stamp)
    assert age is not None
    assert age >= 10 * HOUR


def test_two_reboots_add_up_even_if_the_first_boot_was_short(tmp_path: Path) -> None:
    machine = Machine()
    clock = RetentionClock(tmp_path / "clock", machine)
    stamp = clock.now()
    clock.tick()
    machine.reboot(off_s=HOUR)
    clock = RetentionClock(tmp_path / "clock", machine)
    clock.tick()
    between = clock.now()
    machine.pass_s(60)
    clock.tick()
    machine.reboot(off_s=HOUR)
    clock = RetentionClock(tmp_path / "clock", machine)
    machine.pass_s(SETTLE_S + 1)
    clock.tick()

    assert clock.age_s(stamp) == pytest.approx(2 * HOUR + 60 + SETTLE_S, abs=60)
    assert clock.age_s(between) == pytest.approx(HOUR + 60 + SETTLE_S, abs=60)


def test_a_lost_memory_of_boots_leaves_the_wall_clock(tmp_path: Path) -> None:
    machine = Machine()
    clock = RetentionClock(tmp_path / "clock", machine)
    stamp = clock.now()
    clock.tick()
    (tmp_path / "clock").write_bytes(b"not json")

    machine.reboot(off_s=HOUR)
    clock = RetentionClock(tmp_path / "clock", machine)
    machine.pass_s(SETTLE_S + 1)
    clock.tick()

    assert clock.age_s(stamp) == pytest.approx(HOUR + SETTLE_S, abs=30)
