"""The two ways to receive: with the compiled data path, and with the Python that it is an extract of."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeward import native
from edgeward.native import build

LANES = ("compiled", "python")


@functools.cache
def compiled() -> Path:
    """The library, compiled as the set-up does, but without a warning."""
    folder = Path(tempfile.mkdtemp(prefix="edgeward-native-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    more = os.environ.get("EDGEWARD_TEST_CFLAGS", "").split()  # the sanitizers, in tests/faults
    return build.compile_library(folder / "lib.so", ["-Werror", *more])


@contextmanager
def lane(name: str) -> Iterator[None]:
    """What is opened within goes this way, also in processes that are started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWARD_COMPILED", str(compiled()) if name == "compiled" else "0")
        native.library.cache_clear()
        assert (native.library() is not None) == (name == "compiled")
        yield
    native.library.cache_clear()
