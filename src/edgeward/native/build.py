"""Compiling the data path: `python -m edgeward.native.build`, a step of the set-up.

Responsible for one command of the system's C compiler. Without one, or if it fails, nothing is lost but speed: the
gateway then receives with the Python that the compiled code is an extract of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeward.native import LIBRARY

SOURCE = Path(__file__).with_name("datapath.c")
SOURCES = (SOURCE, *map(SOURCE.with_name, ("admission.c", "large.c")))
FLAGS = (
    *("-std=c11", "-O2", "-fPIC", "-shared", "-pthread", "-fstack-protector-strong", "-U_FORTIFY_SOURCE"),
    *("-D_FORTIFY_SOURCE=2", "-Wall", "-Wextra", "-Wl,-z,relro,-z,now"),
)
_WITHOUT = "images are received without the compiled data path (slower, otherwise the same)"


class NotCompiled(RuntimeError):
    """There is no library; the text says why and what to do."""


def compile_library(out: Path = LIBRARY, more: Sequence[str] = ()) -> Path:
    """Compile the library and return where it is.

    Parameters
    ----------
    out
        The library; replaced in one step.
    more
        Further options of the compiler.

    Raises
    ------
    NotCompiled
        If there is no compiler, or it fails.
    """
    named = os.environ.get("CC", "cc gcc clang").split()
    compiler = next((path for name in named if (path := shutil.which(name))), None)
    if compiler is None:
        raise NotCompiled("no C compiler: install gcc, then run `make setup` again")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".compile-") as folder:
        made = Path(folder) / out.name
        command = [compiler, *FLAGS, *more, "-o", str(made), *map(str, SOURCES), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotCompiled(f"the C compiler failed: {done.stderr.strip()[-1500:]}")
        made.replace(out)
    return out


def main() -> int:
    """Compile, and say in one line what is missing if that fails. Never an error: it works without."""
    try:
        compile_library()
    except (NotCompiled, OSError) as error:
        print(f"      {error}\n      {_WITHOUT}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
