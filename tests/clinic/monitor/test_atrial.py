"""When an irregular rhythm is called atrial fibrillation."""

import pytest

from edgeward.clinic.monitor import atrial

NARROW, WIDE = 65.0, 130.0


@pytest.mark.parametrize(
    ("change", "p_like", "width", "told"),
    [
        (0.03, 0.0, NARROW, False),  # sinus rhythm with P waves too small to see
        (0.10, 0.3, NARROW, True),
        (0.10, 0.7, NARROW, False),
        (0.20, 0.7, NARROW, True),
        (0.20, 0.9, NARROW, False),  # a P wave before each beat: early atrial beats
        (0.20, 0.9, WIDE, True),  # what looks alike before a wide QRS is its own foot
        (0.10, 0.9, WIDE, False),
    ],
)
def test_irregularity_and_p_waves_decide_together(change, p_like, width, told):
    assert bool(atrial.is_atrial_fibrillation(change, p_like, width)) == told
