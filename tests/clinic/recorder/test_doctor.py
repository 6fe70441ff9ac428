"""The doctor looks at the recording, and touches nothing."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.site import new_home

from edgeward import doctor
from edgeward.clinic.recorder.archive import Archive
from edgeward.clinic.recorder.clock import RetentionClock, SystemTime
from edgeward.home import Home
from edgeward.privacy.keys import SiteKey


def recording(home: Home) -> doctor.Check:
    return next(check for check in doctor.examine(home) if check.name == "recording")


def test_what_does_not_open_is_told(tmp_path: Path) -> None:
    home, _ = new_home(tmp_path / "home")
    assert not [check for check in doctor.examine(home) if check.name == "recording"]
    place = home.data / "recorder"
    place.mkdir()
    clock = RetentionClock(place / "clock.json", SystemTime())
    archive = Archive(place, SiteKey.load(home), clock, hours=24, max_bytes=1e9)
    archive.append(1, [("bed-1", os.urandom(2_000_000))], 1)
    archive.close()
    assert recording(home).ok
    assert recording(home).found == "1 half hours, 2 MB"

    (home.keys / "site.key").unlink()
    (home.keys / "site.check").unlink()
    SiteKey.create(home)
    before = {path: path.read_bytes() for path in place.iterdir()}

    check = recording(home)

    assert not check.ok
    assert "1 do not open" in check.found
    assert {path: path.read_bytes() for path in place.iterdir()} == before
