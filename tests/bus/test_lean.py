"""What a role loads of others' libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["client", "bulk", "reading", "stored"])
def test_the_bus_loads_no_web_client_and_leaves_it_to_others(module: str) -> None:
    code = f"import sys, edgeward.bus.{module}; print('aiohttp' in sys.modules); import aiohttp; print('taken')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "taken"]
