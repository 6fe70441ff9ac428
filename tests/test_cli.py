"""The command line: what a person and a script get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeward import compute
from edgeward.cli import ATTENTION, AWAY, DEVICE_KINDS, DONE, FAILED, WRONG, main
from edgeward.privacy.registry import KINDS, Registry
from tests.support.site import new_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("EDGEWARD_HOME", str(path))
    return path


def test_a_new_site_and_a_device(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--name", "st-mary", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["site"] == "st-mary"

    assert main(["device", "enroll", "bed-1", "--kind", "wearable", "--json"]) == DONE
    folder = Path(json.loads(capsys.readouterr().out)[0]["folder"])
    assert json.loads((folder / "device.json").read_text())["mqtt"]["topic"] == "raw/wave/bed-1"

    assert main(["device", "list", "--json"]) == DONE
    assert [row["device_id"] for row in json.loads(capsys.readouterr().out)] == ["bed-1"]

    assert main(["device", "revoke", "bed-1"]) == DONE
    assert main(["device", "revoke", "bed-1"]) == WRONG
    assert main(["doctor", "--json"]) in (DONE, ATTENTION)


@pytest.mark.parametrize("verb", [["results", "list"], ["results", "resend"], ["orders"], ["quarantine"]])
def test_what_asks_a_site_that_does_not_run_says_how_to_start_it(
    home: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init"]) == DONE
    assert main(verb) == AWAY
    assert f"edgeward up --home {home}" in capsys.readouterr().err


def test_every_kind_of_device_can_be_enrolled() -> None:
    assert DEVICE_KINDS == KINDS


def test_many_devices_at_once(home: Path) -> None:
    assert main(["init"]) == DONE
    assert main(["device", "enroll", "bed", "--count", "12", "--kind", "wearable"]) == DONE
    from edgeward.home import Home

    assert len(Registry(Home(home)).devices()) == 12


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["up"], "run `edgeward init"),
        (["status"], "run `edgeward init"),
        (["device", "list"], "run `edgeward init"),
        (["init", "--name", "a b"], "A-Z a-z 0-9"),
        (["evaluate", "ultrasound", "/nowhere"], "/nowhere"),
        (["evaluate", "ecg", "/nowhere"], "/nowhere"),
        (["replay", "/nowhere/100"], "/nowhere"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert main(arguments) == WRONG
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["us", "--kind", "ultrasound"], "--ae-title"),
        (["us", "--kind", "ultrasound", "--ae-title", "MUCH TOO LONG A TITLE"], "16"),
        (["a/b", "--kind", "wearable"], "A-Z a-z 0-9"),
        (["a", "b", "--kind", "ct", "--ae-title", "X"], "one device"),
    ],
)
def test_a_wrong_enrolment_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], more: list[str], text: str
) -> None:
    main(["init"])
    assert main(["device", "enroll", *more]) == WRONG
    assert text in capsys.readouterr().err
    from edgeward.home import Home

    assert Registry(Home(home)).devices() == []


def test_a_site_is_not_made_twice(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init"])
    assert main(["init"]) == WRONG
    assert "already holds a site" in capsys.readouterr().err


def test_nothing_running_has_its_own_exit_code(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init"])
    assert main(["status"]) == AWAY
    assert "edgeward up" in capsys.readouterr().out


def test_a_wrong_setting_is_told_before_anything_starts(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["init"])
    monkeypatch.setenv("EDGEWARD_MONITOR__ASYSTOLE_S", "99")
    assert main(["up"]) == WRONG
    assert "monitor.asystole_s = '99'" in capsys.readouterr().err


def test_a_wrong_key_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init"])
    (home / "keys" / "site.key").write_text("22" * 32)
    assert main(["up"]) == FAILED
    assert "Nothing was started" in capsys.readouterr().err
    assert main(["doctor"]) == ATTENTION


def test_doctor_finds_loose_keys(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_home(home)
    (home / "keys" / "ca.key").chmod(0o644)
    assert main(["doctor", "--json"]) == ATTENTION
    bad = [check for check in json.loads(capsys.readouterr().out) if not check["ok"]]
    assert any("ca.key" in check["found"] for check in bad)


def test_simulators_are_listed_and_each_tells_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", "simulate", "--help"]) == DONE
    assert "bedside" in capsys.readouterr().out
    assert main(["device", "simulate"]) == WRONG
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(["device", "simulate", "ward", "--help"])
    assert done.value.code == 0
    assert "--packet-ms" in capsys.readouterr().out


def test_help_teaches_and_is_fast_to_load() -> None:
    done = subprocess.run([sys.executable, "-m", "edgeward.cli", "--help"], capture_output=True, text=True, check=True)
    for verb in ("init", "up", "status", "doctor", "device", "demo", "evaluate", "replay"):
        assert verb in done.stdout
    code = "import sys, edgeward.cli; print([m for m in ('numba', 'onnxruntime', 'highdicom', 'fastapi') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


_INFERENCE = """
import sys, threading, time
import numpy as np, onnxruntime
from edgeward import cli
from edgeward.bus import role

def run_role(*_, **__):
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    (asked,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in asked.shape]
    begun = threading.Event()

    def work():
        while True:
            begun.set()
            session.run(None, {asked.name: np.zeros(shape, np.float32)})

    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    time.sleep(0.05)
    return 3

role.run_role = run_role
sys.exit(cli.main(["_role", "engine", "--home", sys.argv[2]]))
"""


def test_a_role_that_is_told_to_end_in_the_middle_of_an_inference_does_not_crash(tmp_path: Path) -> None:
    home, _ = new_home(tmp_path / "home")
    model = Path(compute.__file__).parent / "models" / "breast_ultrasound" / "model.onnx"

    ended = subprocess.run(
        [sys.executable, "-c", _INFERENCE, str(model), str(home.root)], capture_output=True, timeout=60, check=False
    )

    assert ended.returncode == 3, ended.stderr.decode()[-500:]
