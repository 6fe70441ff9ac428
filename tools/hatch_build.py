"""Puts the compiled data path into a wheel, where there is a C compiler; without one the wheel works too, slower."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileDataPath(BuildHookInterface[Any]):
    """Runs ``edgeward.native.build`` before a wheel is put together."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; an editable installation leaves that to the set-up."""
        if version == "editable":
            return
        sys.path.insert(0, str(Path(self.root) / "src"))
        try:
            from edgeward.native.build import NotCompiled, compile_library

            library = compile_library()
        except NotCompiled as error:
            self.app.display_warning(f"{error}: the wheel is built without the compiled data path")
            return
        finally:
            sys.path.pop(0)
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
