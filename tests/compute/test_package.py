import hashlib
import shutil

import numpy as np
import pytest

from edgeward.compute.analyser import Analyser, load_analyser
from edgeward.compute.package import SHIPPED, PackageError, load_package
from edgeward.compute.runtime import OnnxRuntime


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "package")


def relist(folder, name):
    """Make the manifest agree with a changed file, as an attacker without the signing key would."""
    manifest = folder / "package.toml"
    lines = [
        f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"'
        if line.startswith(f'"{name}"')
        else line
        for line in manifest.read_text().splitlines()
    ]
    manifest.write_text("\n".join(lines))


def test_the_shipped_package_loads_and_states_its_identity():
    package = load_package()

    assert package.name == "breast-ultrasound"
    assert package.version
    assert "Not a medical device" in package.manifest["package"]["intended_use"]


def test_the_shipped_package_is_small_enough_to_ship():
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) < 8_000_000


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "domain.npz"])
def test_one_changed_byte_is_refused(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)

    with pytest.raises(PackageError, match=f"{name} was altered"):
        load_package(copy)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "domain.npz", "package.toml"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()

    with pytest.raises(PackageError, match=name):
        load_package(copy)


def test_a_model_that_computes_something_else_fails_its_golden_vectors(copy):
    golden = dict(np.load(copy / "golden.npz"))
    golden["output.classes"] = golden["output.classes"] + 0.5
    np.savez(copy / "golden.npz", **golden)
    relist(copy, "golden.npz")

    with pytest.raises(PackageError, match=r"golden vectors: output 'classes' is off by 0\.5"):
        load_package(copy)


def test_a_model_that_computes_nothing_fails_its_golden_vectors():
    class Broken(OnnxRuntime):
        def run(self, inputs):
            return {name: array * np.nan for name, array in super().run(inputs).items()}

    with pytest.raises(PackageError, match="golden vectors"):
        load_package(runtime=Broken)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "schema"),
        ("[golden]", "[silver]", "golden"),
        ('"model.onnx"', '"../model.onnx"', "must not contain a path"),
        ('"golden.npz"', '"other.npz"', "other.npz"),
        ("schema = 1", "schema = ", "TOML"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(copy, old, new, message):
    manifest = copy / "package.toml"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))

    with pytest.raises(PackageError, match=message):
        load_package(copy)


def test_a_threshold_that_is_missing_is_named(copy):
    package = load_package(copy)

    with pytest.raises(PackageError, match=r"\[thresholds\] no_such_thing"):
        package.number("thresholds", "no_such_thing")


def test_a_model_of_another_kind_is_refused():
    class Other(OnnxRuntime):
        @property
        def outputs(self):
            return ("boxes",)

    with pytest.raises(PackageError, match="lacks the outputs"):
        Analyser(load_package(runtime=Other))


def test_a_folder_can_be_named_instead_of_the_shipped_package(copy):
    assert load_analyser(folder=copy).package.name == "breast-ultrasound"
    with pytest.raises(PackageError, match="cannot be read"):
        load_analyser(folder=copy / "nowhere")
