"""Real peer programs for tests. A missing one is a failure, never a silent skip."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

_PACKAGES = {
    "Orthanc": "orthanc",
    "dciodvfy": "dicom3tools",
    "dsrdump": "dcmtk",
    "storescu": "dcmtk",
    "echoscu": "dcmtk",
    "dcmdump": "dcmtk",
    "findscu": "dcmtk",
    "wlmscpfs": "dcmtk",
    "dcm2pnm": "dcmtk",
    "dcmp2pgm": "dcmtk",
    "mosquitto_pub": "mosquitto-clients",
}


def require(program: str) -> Path:
    """Return the path of a peer program, or fail the test with what to do."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        package = _PACKAGES.get(program, program)
        pytest.fail(f"{program} is not installed: run make test-setup (apt-get install {package})", pytrace=False)
    return Path(found)
