"""Hostile bytes at the compiled data path, with the compiler's sanitizers watching every access to memory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeward.native.build import SOURCE

ROOT = Path(__file__).parents[2]
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


def compiler() -> str:
    path = shutil.which("gcc") or shutil.which("cc")
    assert path, "a C compiler is needed: apt-get install gcc"
    return path


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_streams_of_broken_pdus_touch_nothing_that_was_not_given(
    tmp_path: Path, campaign: bool, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--seed") or random.SystemRandom().randrange(1, 1 << 60)
    program = tmp_path / "fuzz"
    sources = ROOT / "tests" / "native" / "fuzz_datapath.c", SOURCE.with_name("large.c")
    assert SOURCE.exists()
    subprocess.run(
        [
            compiler(),
            "-std=c11",
            *SANITIZERS,
            "-pthread",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            program,
            *sources,
            "-ldl",
        ],
        check=True,
    )

    done = subprocess.run(
        [program, "300" if campaign else "2", str(seed)], capture_output=True, text=True, check=False, timeout=500
    )

    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    assert " messages, " in done.stdout


@pytest.mark.fault
@pytest.mark.timeout(3600)
def test_a_whole_door_under_the_sanitizers_does_what_python_does(
    campaign: bool, request: pytest.FixtureRequest
) -> None:
    """At the usual length of these tests, from another seed each time: at a campaign's, sanitized, it takes hours."""
    if not campaign:
        pytest.skip("part of the campaign: make faults")
    seed = request.config.getoption("--seed") or random.SystemRandom().randrange(1, 1 << 60)
    runtime = subprocess.run(
        [compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "EDGEWARD_TEST_CFLAGS": " ".join(SANITIZERS),
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "EDGEWARD_TEST_PATIENCE": "10",  # everything takes several times as long
        "PYTHONMALLOC": "malloc",  # so that its memory is watched too
    }

    tests = [
        "tests/gateway/test_admission.py",
        "tests/gateway/test_express.py",
        "tests/gateway/test_large.py",
        "tests/gateway/test_dicom_stream.py",
        "tests/gateway/test_dicom_hostile.py",
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"--seed={seed}",
        "--timeout=3000",
        "-k",
        "not memory and not kill",
        *tests,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"seed {seed}: " + done.stdout[-3000:] + done.stderr[-3000:]
