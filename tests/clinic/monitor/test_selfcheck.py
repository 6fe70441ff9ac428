"""The alarm system's check of itself can fail, and says how."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeward.bedside import Hearing
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.rules import LOW, RULES
from edgeward.clinic.monitor.selfcheck import AlarmSystem, Surroundings, SyntheticPatient


def test_the_synthetic_patient_dies_and_is_noticed():
    patient = SyntheticPatient()
    assert [patient.problem() for _ in range(3)] == ["", "", ""]


def test_a_bank_that_tells_nothing_is_found_out(monkeypatch):
    monkeypatch.setattr(MonitorBank, "process", lambda self, now_ns: [])
    assert "not raised" in SyntheticPatient().problem()


def test_a_check_without_an_asystole_is_found_out():
    patient = SyntheticPatient()
    patient._signal = np.tile(patient._signal[:, : 5 * 200], (1, 5))[:, : patient._signal.shape[1]].copy()
    assert patient.problem()


def test_an_asystole_that_is_not_urgent_is_found_out(monkeypatch):
    monkeypatch.setitem(RULES, "asystole", replace(RULES["asystole"], priority=LOW))
    assert "wrongly" in SyntheticPatient().problem()


@pytest.mark.parametrize(
    ("around", "word"),
    [
        ({"bus": False}, "bus"),
        ({"log_problem": "the disk is full"}, "the disk is full"),
        ({"free_mb": 3.0}, "disk"),
        ({"tick_age_s": 9.0}, "time"),
        ({"beds_age_s": 9.0}, "numbers"),
        ({"packets_waiting_s": 9.0}, "packets"),
        ({"behind_s": 1.5}, "1.5 s behind"),
        ({"notices_problem": "no answer"}, "people"),
        ({"unknown_codes": 1}, "conditions"),
    ],
)
def test_every_trouble_is_told(around, word):
    system = AlarmSystem(0.0)
    assert system.check(Surroundings()) == []
    (problem,) = system.check(Surroundings(**around))
    assert word in problem
    state = system.state(1, 1.0, beds=3, flood=False)
    assert (state.ok, state.problems, state.beds) == (False, [problem], 3)
    system.check(Surroundings())
    assert system.state(2, 2.0, beds=3, flood=False).ok


def test_a_receiver_that_hears_is_listed_until_it_falls_silent():
    system = AlarmSystem(0.0)
    system.hear(Hearing(receiver="console-1", number=1, at_ns=77), 5.0)
    assert system.state(1, 14.0, beds=0, flood=False).heard == {"console-1": 77}
    assert not system.unheard(14.0)
    assert system.state(2, 16.0, beds=0, flood=False).heard == {}
    assert not system.unheard(16.0), "a site that starts has time"
    assert system.unheard(31.0)
    system.hear(Hearing(receiver="console-1", number=3, at_ns=99), 32.0)
    assert not system.unheard(33.0)


def test_receivers_of_many_names_do_not_fill_the_memory():
    system = AlarmSystem(0.0)
    for number in range(1000):
        system.hear(Hearing(receiver=f"r{number}", number=1, at_ns=1), 1.0)
    assert len(system.heard(1.0)) <= 256
