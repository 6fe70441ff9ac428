"""The settings: a wrong value says which, why, and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeward.config import ConfigError, Settings, default_home, load


def write(home: Path, text: str) -> Path:
    (home / "edgeward.toml").write_text(text)
    return home


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load(tmp_path) == Settings()


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[dicom]\nport = 104\nae_title = 'FILE'\n")
    monkeypatch.setenv("EDGEWARD_DICOM__PORT", "11112")

    settings = load(tmp_path)

    assert settings.dicom.port == 11112
    assert settings.dicom.ae_title == "FILE"


@pytest.mark.parametrize(
    ("text", "which", "why"),
    [
        ("[dicom]\nport = 70000", "dicom.port = 70000", "65535"),
        ("[dicom]\nport = 'many'", "dicom.port = 'many'", "integer"),
        ("[monitor]\nasystole_s = 60", "monitor.asystole_s = 60", "10"),
        ("[dicom]\nae_title = 'MUCH TOO LONG A TITLE'", "dicom.ae_title", "pattern"),
        ("[dicom]\nprot = 104", "dicom.prot", "no such setting"),
        ("[log]\nlevel = 'LOUD'", "log.level = 'LOUD'", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("[[pacs]]\nname = 'a'\nhost = 'h'\nae_title = 'X'", "pacs.0.port", "required"),
        ("[[dicom.legacy]]\nname='a'\nae_title='A'\naddress='x'\ntransport='rsh'", "transport = 'rsh'", "'plain' or 'tls1.2'"),
        ("[[pacs]]\nname='a'\nhost='h'\nport=1\nae_title='X'\n[[pacs]]\nname='a'\nhost='h'\nport=2\nae_title='Y'", "pacs", "same name"),
    ],
)  # fmt: skip
def test_a_wrong_value_says_which_and_why(tmp_path: Path, text: str, which: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert which in str(caught.value)
    assert why in str(caught.value)


def test_all_wrong_values_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, "[dicom]\nport = -1\n[console]\nport = -1\n"))
    assert "dicom.port" in str(caught.value)
    assert "console.port" in str(caught.value)


def test_what_is_not_toml_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(write(tmp_path, "[dicom"))
    (tmp_path / "edgeward.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path)


def test_the_state_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEWARD_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_home() == tmp_path / "edgeward"
    monkeypatch.setenv("EDGEWARD_HOME", "/srv/edgeward")
    assert default_home() == Path("/srv/edgeward")


def test_the_written_template_is_valid(tmp_path: Path) -> None:
    from edgeward.config import TEMPLATE

    settings = load(write(tmp_path, TEMPLATE.format(name="st-mary", node="n1")))
    assert settings.site.name == "st-mary"
    uncommented = re.sub(r"^# (\w+ = .*)$", r"\1", TEMPLATE.format(name="a", node="b"), flags=re.MULTILINE)
    uncommented = re.sub(r"^# (\[+\w.+\])$", r"\1", uncommented, flags=re.MULTILINE)
    settings = load(write(tmp_path, uncommented))
    assert settings.dicom.port == Settings().dicom.port
    assert settings.monitor == Settings().monitor
    assert settings.console == Settings().console
    assert settings.pacs[0].name == "pacs"
    assert settings.dicom.legacy[0].transport == "plain"
