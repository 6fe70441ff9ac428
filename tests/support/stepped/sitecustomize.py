"""Lets a test set the wall clock of the roles it starts: put this folder on PYTHONPATH and a file in EDGEWARD_TEST_CLOCK.

The file holds by how many nanoseconds the clock is set (8 bytes, little-endian); it may change at any time.
"""

import mmap
import os
import struct
import time

if path := os.environ.get("EDGEWARD_TEST_CLOCK"):
    with open(path, "rb") as file:
        _shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    _time_ns, _time = time.time_ns, time.time
    _offset = struct.Struct("<q").unpack_from

    def _stepped_ns() -> int:
        return _time_ns() + _offset(_shared)[0]

    def _stepped() -> float:
        return _time() + _offset(_shared)[0] / 1e9

    time.time_ns, time.time = _stepped_ns, _stepped
