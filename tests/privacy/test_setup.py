"""A site of an older version gets what newer roles need, and nothing that is there changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.site import new_home, running_bus

from edgeward.bus import server
from edgeward.bus.server import ServerError
from edgeward.home import Home
from edgeward.privacy import identity
from edgeward.privacy.setup import bring_up_to_date
from edgeward.supervisor import Supervisor


def forget(home: Home, role: str) -> None:
    """Make `home` what a version without this role left."""
    for path in (
        home.identity / "roles" / f"{role}.pem",
        home.identity / "roles" / f"{role}.key",
        server.seed_path(home.keys / "bus", role),
    ):
        path.unlink()


def files(home: Home) -> dict[Path, bytes]:
    return {p: p.read_bytes() for folder in (home.keys, home.identity) for p in folder.rglob("*") if p.is_file()}


async def test_up_gives_a_new_role_its_certificate_and_credentials(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    forget(home, "recorder")
    before = files(home)
    with pytest.raises(ServerError, match="recorder"):  # without it not even the bus would start
        server.configuration(home, settings.bus, server.TlsFiles(tmp_path, tmp_path, tmp_path), node="node1")

    site = Supervisor(home, settings, ("recorder",))
    assert before.items() <= files(home).items()
    await site.start()
    try:
        assert await site.wait_ready(timeout_s=60) == []
    finally:
        await site.stop()


async def test_the_new_role_is_let_in_by_the_bus(tmp_path: Path) -> None:
    async with running_bus(tmp_path / "home") as site:
        await site.kill_bus()
        forget(site.home, "recorder")
        assert bring_up_to_date(site.home, site.settings) == ["recorder"]
        await site.start_bus()
        assert (await site.bus("recorder")).connected


def test_an_upgrade_that_was_interrupted_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, settings = new_home(tmp_path / "home")
    forget(home, "recorder")

    def stop(*_: object, **__: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(identity, "issue", stop)
        with pytest.raises(OSError, match="power"):
            bring_up_to_date(home, settings)

    assert bring_up_to_date(home, settings) == ["recorder"]
    identity.client_context(home, "recorder")
    assert bring_up_to_date(home, settings) == []


def test_damage_is_not_repaired_behind_anybodys_back(tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "home")
    (home.identity / "roles" / "engine.key").unlink()
    server.seed_path(home.keys / "bus", "monitor").unlink()

    assert bring_up_to_date(home, settings) == []

    assert not (home.identity / "roles" / "engine.key").exists()
    assert not server.seed_path(home.keys / "bus", "monitor").exists()
