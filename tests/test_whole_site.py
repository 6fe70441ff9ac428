"""The whole way, once: frames and heartbeats in, results and alarms out, and nothing readable left where it should not be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hospital import running_site

pytestmark = [pytest.mark.timeout(400)]


def files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the files below `folder`, where a running site makes and removes some meanwhile."""
    for inner, _, names in os.walk(folder):
        for path in (Path(inner, name) for name in names):
            try:
                data = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            yield path, data


def readable(folder: Path, secrets: list[bytes]) -> list[str]:
    """Return the files below `folder` that hold one of `secrets` in the clear."""
    return [f"{path.name}: {secret!r}" for path, data in files(folder) for secret in secrets if secret in data]


async def test_no_identity_is_readable_at_rest_or_in_a_log(tmp_path: Path) -> None:
    async with running_site(tmp_path / "home") as site:
        told = await site.sent(await site.send(6, 3.0))
        await site.all_delivered(told)
        home = site.home
        identities = set()
        for path in (site.outside.folder / "pacs").rglob("*.dcm"):
            import pydicom

            data = pydicom.dcmread(path, stop_before_pixels=True)
            identities |= {str(data.PatientName), str(data.PatientID)}
        await site.outside.end_all()
    secrets = [text.encode() for text in identities if len(text) >= 6]
    assert secrets, "the PACS holds no identity to look for"

    for folder in (home.vault, home.data, home.nats, home.logs, home.run):
        assert readable(folder, secrets) == []
    # The mark of a DICOM file, at its place, would mean an object in the clear.
    assert [path for path, data in files(home.vault) if data[128:132] == b"DICM"] == []
    log = (home.logs / "edgeward.log").read_text()
    assert re.search(r'"trace": "[0-9a-f]+"', log), "work is not traced"
    assert "Traceback" not in log


def test_the_demonstration_prints_its_account(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "edgeward.cli", "demo", "--for", "35", "--json", "--beds", "6",
            "--images-per-s", "1", "--home", str(tmp_path / "home"),
        ],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    account = json.loads(done.stdout)

    assert account["first_finding_s"] > 0
    assert account["first_alarm_s"] > 0
    images, alarms = account["images"], account["alarms"]
    assert images["admitted"] == images["delivered"] >= 5
    assert images["failed"] == images["lost"] == images["open"] == 0
    assert alarms["raised"] == alarms["delivered"] >= 2
    assert alarms["failed"] == alarms["lost"] == 0
    for part in (images, alarms):
        assert {"late", "p50_ms", "p99_ms"} <= set(part)
        assert 0 < part["p50_ms"] <= part["p99_ms"]
    assert set(account["memory_mb"]) >= {"bus", "gateway", "engine", "monitor", "deliver", "console", "supervisor"}
    assert not (tmp_path / "home" / "run" / "site.json").exists()
