"""The ward as a program: who gets which patient, what is told when it cannot start, and that it outlives a missing site."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from edgeward.device.backoff import Backoff
from edgeward.device.enrolment import load_all
from edgeward.device.recordings import toy
from edgeward.device.ward import patients


def start(*arguments):
    command = [sys.executable, "-m", "edgeward.device.ward", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_no_two_patients_look_alike(site):
    for number in range(9):
        folder = site.enrol(f"bed-{number}")
    recordings = [toy(), toy()]

    given = patients(load_all(folder.parent, ("wearable",)), recordings)

    assert len({(id(recording), offset) for recording, offset in given}) == 9
    starts = sorted(offset for recording, offset in given if recording is recordings[0])
    assert min(b - a for a, b in pairwise(starts)) > 5 * 360, "not even nearly"


def test_a_ward_without_its_site_goes_on_trying_and_stops_when_told(site):
    for number in range(3):
        folder = site.enrol(f"bed-{number}")

    command = [sys.executable, "-m", "edgeward.device.ward", "--devices", str(folder.parent), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = 0
        while said < 3:
            line = process.stderr.readline()
            assert line, "it ended"
            said += "no connection to the site" in line
        time.sleep(1.0)  # it goes on trying, and says no more
        process.terminate()
        out, more = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 0, more
    summary = json.loads(out)
    assert (summary["devices"], summary["sent"], summary["connections"]) == (3, 0, 0)
    assert summary["failures"] >= 3
    assert "no connection to the site" not in more, "said once for each device"


def test_a_ward_ends_after_the_time_it_was_given(site):
    done = start("--devices", site.enrol("bed-1").parent, "--for", 1, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["devices"] == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--devices", "/nowhere"], "no folder"),
        (["--packet-ms", "20"], "--packet-ms"),
        (["--leads", "13"], "--leads"),
        (["--count", "0"], "--count"),
        (["--wfdb", "/nowhere"], "no WFDB record"),
        (["--events", "/nowhere"], "/nowhere"),
    ],
)
def test_what_is_wrong_is_told(site, arguments, reason):
    done = start("--devices", site.enrol("bed-1"), *arguments)

    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_delays_grow_to_their_limit_with_jitter_and_start_anew_after_success():
    backoff = Backoff(first=0.5, most=4.0, rng=random.Random(1))

    delays = [backoff.delay() for _ in range(50)]

    for delay, bound in zip(delays, [0.5, 1, 2, 4, 4, 4], strict=False):
        assert 0.1 * bound <= delay <= bound
    assert len({round(delay, 6) for delay in delays}) == 50
    assert backoff.failed
    backoff.reset()
    assert not backoff.failed
    assert backoff.delay() <= 0.5
