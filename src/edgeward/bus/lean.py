"""Loads nats-py without aiohttp, which it takes for WebSockets if it is installed, and which nothing here uses.

Import it before anything of ``nats``: it saves each process 10 MB and a tenth of a second of CPU. Whoever needs aiohttp
for itself can still import it.
"""

from __future__ import annotations

import sys
from importlib import import_module

_LEFT_OUT = "aiohttp"

if "nats" not in sys.modules and _LEFT_OUT not in sys.modules:
    sys.modules[_LEFT_OUT] = None  # type: ignore[assignment]  # then importing it fails, which nats-py expects
    try:
        import_module("nats.aio.client")
    finally:
        del sys.modules[_LEFT_OUT]
