"""Model packages: a folder that carries a model and everything needed to trust and use it.

Responsible for reading ``package.toml``, verifying that the files are the ones it names, and running the golden vectors
before the model serves (law 5). Not responsible for signatures and rollout, nor for what the thresholds mean.

A package holds ``package.toml``, and the files it lists under ``[files]`` with their SHA-256: ``model.onnx`` (weights),
``golden.npz`` (an input and the outputs it must give) and ``domain.npz`` (statistics of familiar images).
"""

from __future__ import annotations

import hashlib
import io
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.compute.runtime import Arrays, OnnxRuntime, Runtime, RuntimeFailure

SCHEMA = 1
SHIPPED = Path(__file__).parent / "models" / "breast_ultrasound"
_LARGEST_FILE = 512 * 1024 * 1024


class PackageError(RuntimeError):
    """The package is incomplete, altered, or does not compute what it promises on this machine. It must not serve."""


@dataclass(frozen=True)
class Package:
    """A verified package.

    Attributes
    ----------
    name, version : identity of the model, as written in every finding
    manifest : the whole of ``package.toml``
    runtime : the loaded model
    domain : arrays of ``domain.npz``
    """

    name: str
    version: str
    manifest: dict[str, Any]
    runtime: Runtime
    domain: dict[str, NDArray[np.float32]]

    def number(self, section: str, key: str) -> float:
        """Return one number of the manifest.

        Raises
        ------
        PackageError
            If it is missing or not a number.
        """
        value = self.manifest.get(section, {}).get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PackageError(f"package {self.name}: [{section}] {key} must be a number, found {value!r}")
        return float(value)


def load_package(
    folder: Path = SHIPPED, *, threads: int = 1, runtime: Callable[[bytes, int], Runtime] = OnnxRuntime
) -> Package:
    """Read, verify and self-test a package.

    Parameters
    ----------
    folder : the package's folder
    threads : passed to the runtime
    runtime : builds the runtime from the model's bytes and the number of threads

    Raises
    ------
    PackageError
        If a file is missing or altered, the manifest is wrong, the model does not load, or a golden vector fails.
    """
    manifest = _manifest(folder)
    files = {name: _verified(folder, name, digest) for name, digest in manifest["files"].items()}
    for name in ("model.onnx", "golden.npz", "domain.npz"):
        if name not in files:
            raise PackageError(f"{folder / 'package.toml'}: [files] does not list {name}")
    try:
        engine = runtime(files["model.onnx"], threads)
    except RuntimeFailure as error:
        raise PackageError(f"{folder / 'model.onnx'}: {error}") from error
    _self_test(engine, _arrays(files["golden.npz"], folder / "golden.npz"), float(manifest["golden"]["tolerance"]))
    domain = _arrays(files["domain.npz"], folder / "domain.npz")
    return Package(manifest["package"]["name"], manifest["package"]["version"], manifest, engine, domain)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "package.toml"
    try:
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackageError(f"{path} is not valid TOML: {error}") from error
    if manifest.get("schema") != SCHEMA:
        raise PackageError(f"{path}: schema {manifest.get('schema')!r} is not the supported {SCHEMA}")
    for section, keys in (("package", ("name", "version")), ("files", ()), ("golden", ("tolerance",))):
        table = manifest.get(section)
        if not isinstance(table, dict) or any(key not in table for key in keys):
            raise PackageError(f"{path}: section [{section}] with {', '.join(keys) or 'entries'} is missing")
    return manifest


def _verified(folder: Path, name: str, digest: object) -> bytes:
    """Return the file's bytes if its SHA-256 is the listed one; what is checked is what is used."""
    path = folder / name
    if Path(name).name != name:
        raise PackageError(f"{folder / 'package.toml'}: file name {name!r} must not contain a path")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise PackageError(f"{path} is larger than {_LARGEST_FILE} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise PackageError(f"{path} was altered: SHA-256 is {found}, the package lists {digest}")
    return data


def _arrays(data: bytes, path: Path) -> Arrays:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: np.asarray(archive[name], dtype=np.float32) for name in archive.files}
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise PackageError(f"{path} is not a readable array archive: {error}") from error


def _self_test(engine: Runtime, golden: Arrays, tolerance: float) -> None:
    """Law 5: the model must give its golden outputs on this machine before it serves."""
    inputs = {name.removeprefix("input."): a for name, a in golden.items() if name.startswith("input.")}
    expected = {name.removeprefix("output."): a for name, a in golden.items() if name.startswith("output.")}
    if not inputs or not expected:
        raise PackageError("the package has no golden vectors")
    try:
        outputs = engine.run(inputs)
    except RuntimeFailure as error:
        raise PackageError(f"the golden vectors cannot be run: {error}") from error
    for name, want in expected.items():
        have = outputs.get(name)
        if have is None or have.shape != want.shape:
            raise PackageError(f"golden vectors: output {name!r} is missing or has another shape")
        worst = float(np.max(np.abs(have - want)))
        if not worst <= tolerance:  # also false for NaN
            raise PackageError(f"golden vectors: output {name!r} is off by {worst:.3g}, allowed is {tolerance:.3g}")
