"""The contract that every `Runtime` fulfils; a new one subclasses `RuntimeContract`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgeward.compute.package import SHIPPED
from edgeward.compute.runtime import OnnxRuntime, Runtime, RuntimeFailure

MODEL = (SHIPPED / "model.onnx").read_bytes()


class RuntimeContract:
    """Runs against the shipped model, which takes ``image`` (batch, 1, rows, columns)."""

    def make(self, model: bytes, threads: int) -> Runtime:
        raise NotImplementedError

    @pytest.fixture
    def runtime(self):
        return self.make(MODEL, 1)

    @pytest.fixture
    def image(self, runtime):
        shape = [2 if d is None else d for d in runtime.inputs["image"]]
        return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def test_says_what_it_is(self, runtime):
        assert runtime.name
        assert set(runtime.outputs) == {"mask", "classes", "domain", "features"}

    def test_same_input_gives_the_same_output(self, runtime, image):
        first, second = runtime.run({"image": image}), runtime.run({"image": image})

        assert all(np.array_equal(first[k], second[k]) for k in runtime.outputs)

    def test_rows_of_a_batch_do_not_influence_one_another(self, runtime, image):
        together = runtime.run({"image": image})
        alone = runtime.run({"image": image[1:]})

        for name in runtime.outputs:
            np.testing.assert_allclose(together[name][1:], alone[name], atol=2e-3)

    def test_callers_at_once_get_their_own_answers(self, runtime, image):
        expected = [runtime.run({"image": image[i : i + 1]})["classes"] for i in (0, 1)]

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda i: runtime.run({"image": image[i : i + 1]})["classes"], [0, 1] * 6))

        for i, answer in enumerate(answers):
            np.testing.assert_allclose(answer, expected[i % 2], atol=1e-4)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda a: {},
            lambda a: {"picture": a},
            lambda a: {"image": a, "more": a},
            lambda a: {"image": a.astype(np.float64)},
            lambda a: {"image": a[:, :, 1:]},
            lambda a: {"image": a[0]},
            lambda a: {"image": a[:0]},
        ],
        ids=["none", "wrong name", "extra", "float64", "wrong rows", "no batch", "empty"],
    )
    def test_inputs_that_do_not_fit_are_refused(self, runtime, image, spoil):
        with pytest.raises(RuntimeFailure):
            runtime.run(spoil(image))

    @pytest.mark.parametrize("model", [b"", b"not a model", MODEL[: len(MODEL) // 2]], ids=["empty", "text", "half"])
    def test_a_broken_model_is_refused(self, model):
        with pytest.raises(RuntimeFailure):
            self.make(model, 1)


class TestOnnxRuntime(RuntimeContract):
    def make(self, model, threads):
        return OnnxRuntime(model, threads)

    def test_refuses_no_threads(self):
        with pytest.raises(ValueError, match="threads"):
            OnnxRuntime(MODEL, 0)
