"""Where a site listens."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path

import pytest

from edgeward.config import LegacyDevice, Settings
from edgeward.site_ports import PortError, announce_site, choose_ports, ports_in_use
from tests.support.site import new_home


def test_a_taken_port_is_told_with_what_to_do() -> None:
    settings = Settings()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings.dicom.port = taken.getsockname()[1]
        settings.console.port = settings.bus.port = settings.bus.mqtt_port = 0
        settings.mllp.port = settings.web.port = 0
        with pytest.raises(PortError, match=r"dicom\.port.*EDGEWARD_DICOM__PORT"):
            choose_ports(settings)


def test_port_zero_becomes_a_free_port_and_no_two_are_equal() -> None:
    settings = Settings()
    settings.dicom.port = settings.console.port = settings.bus.port = settings.bus.mqtt_port = 0
    settings.mllp.port = settings.web.port = 0
    chosen = choose_ports(settings)
    ports = [chosen.dicom.port, chosen.console.port, chosen.bus.port, chosen.bus.mqtt_port]
    ports += [chosen.mllp.port, chosen.web.port]
    assert len(set(ports)) == 6
    assert 0 not in ports


def test_ports_in_use_are_told_by_what_is_spoken_there() -> None:
    settings = Settings()
    assert set(ports_in_use(settings)) == {"dicom", "mllp", "web", "console", "bus", "mqtt"}

    settings.dicom.legacy = [LegacyDevice(name="us1", ae_title="US1", address="10.0.0.1", transport="tls1.2")]
    settings.bus.url = "nats://elsewhere:4222"

    ports = ports_in_use(settings)
    assert "bus" not in ports
    assert ports["dicom_legacy_tls1.2"] == ports["dicom_legacy"] + 1


def test_people_are_told_how_to_sign_in_and_what_does_not_serve(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    home.run.mkdir(parents=True, exist_ok=True)
    (home.run / "first-login.json").write_text(json.dumps({"user": "admin", "password": "once"}))
    out = io.StringIO()

    announce_site(home, settings, {"engine": "the model is damaged", "deliver": ""}, out)

    told = out.getvalue()
    assert f"http://{settings.console.host}:{settings.console.port}" in told
    assert "sign in as admin with the one-time password once" in told
    assert "! engine does not serve yet: the model is damaged" in told
    assert "! deliver does not serve yet: still starting" in told


def test_a_program_is_told_the_same_in_one_line_of_json(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    out = io.StringIO()

    announce_site(home, settings, {"engine": "still loading"}, out, as_json=True)

    (line,) = out.getvalue().splitlines()
    told = json.loads(line)
    assert told["console"] == f"http://{settings.console.host}:{settings.console.port}"
    assert told["ports"]["dicom"] == settings.dicom.port
    assert told["first_login"] is None
    assert told["missing"] == {"engine": "still loading"}
