"""dcmtk's programs as devices."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from tests.gateway.door import AE_TITLE, Door, frame, open_door

from edgeward.messages import ItemsQuery

pytestmark = pytest.mark.peer


def dcmtk(name: str) -> str:
    """The C++ program, not pynetdicom's script of the same name."""
    for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        if path := shutil.which(name, path=folder):
            return path
    pytest.fail(f"dcmtk's {name} is missing: apt-get install dcmtk (make test does)")


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with open_door(tmp_path / "home") as door:
        yield door


@pytest.fixture
def device(door: Door) -> Path:
    return door.site.enrol("us1", "ultrasound", AE_TITLE)


def command(program: str, door: Door, device: Path, *more: str, calling: str = AE_TITLE) -> list[str]:
    tls = ["+tls", str(device / "device.key"), str(device / "device.pem"), "+cf", str(device / "ca.pem")]
    return [dcmtk(program), "-aet", calling, "-aec", "EDGEWARD", *tls, *more, "127.0.0.1", str(door.port)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def test_echoscu_is_answered(door: Door, device: Path) -> None:
    result = run(command("echoscu", door, device))
    assert result.returncode == 0, result.stderr


def test_echoscu_with_a_wrong_ae_title_is_rejected(door: Door, device: Path) -> None:
    result = run(command("echoscu", door, device, calling="WRONG"))
    assert result.returncode != 0
    assert "Calling AE Title Not Recognized" in result.stdout + result.stderr


def test_storescu_stores_what_it_sends(door: Door, device: Path, tmp_path: Path) -> None:
    files = []
    for number in range(3):
        path = tmp_path / f"{number}.dcm"
        frame(200, 300, seed=number).save_as(path, enforce_file_format=True)
        files.append(path)

    result = run([*command("storescu", door, device), *map(str, files)])

    assert result.returncode == 0, result.stderr
    assert door.journal.counts()["admitted"] == 3
    for path, (item, _) in zip(files, door.admitted, strict=True):
        assert dcmread(io.BytesIO(door.stored(item))) == dcmread(path)


@pytest.mark.parametrize(
    ("name", "option"),
    [("examples_ybr_color.dcm", "-xy"), ("examples_jpeg2k.dcm", "-xv"), ("examples_rgb_color.dcm", "-x=")],
)
def test_storescu_sends_compressed_images_unchanged(door: Door, device: Path, name: str, option: str) -> None:
    path = get_testdata_file(name)
    assert path

    result = run([*command("storescu", door, device, option), str(path)])

    assert result.returncode == 0, result.stderr
    assert (
        "Received Store Response (Success)" in result.stdout + result.stderr or door.journal.counts()["admitted"] == 1
    )
    sent = dcmread(path)
    stored = dcmread(io.BytesIO(door.stored(door.admitted[0][0])))
    assert stored.PixelData == sent.PixelData
    assert stored.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert door.journal.summaries(ItemsQuery(), 0)[0].sop_instance_uid == sent.SOPInstanceUID


def test_storescu_without_a_certificate_gets_nowhere(door: Door, device: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    frame().save_as(path, enforce_file_format=True)
    anonymous = [dcmtk("storescu"), "-aet", AE_TITLE, "-aec", "EDGEWARD", "+tla", "+cf", str(device / "ca.pem")]

    assert run([*anonymous, "127.0.0.1", str(door.port), str(path)]).returncode != 0
    assert run(
        [dcmtk("storescu"), "-aet", AE_TITLE, "-aec", "EDGEWARD", "127.0.0.1", str(door.port), str(path)]
    ).returncode

    assert sum(door.journal.counts().values()) == 0
