"""What runs a model on this machine: the `Runtime` port and its ONNX Runtime implementation.

Responsible for executing one model graph over arrays. Not responsible for what the arrays mean, for verification of
the weights (``package.py``) or for scheduling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]


class RuntimeFailure(RuntimeError):
    """The model could not be loaded or run: broken graph, wrong inputs, or the engine below gave up."""


class Runtime(Protocol):
    """Runs one model. Implementations MUST pass the contract test in ``tests/compute/test_runtime.py``.

    - `run` MUST be pure: the same inputs give the same outputs, and no state is kept between calls.
    - `run` MUST be safe to call from several threads at once.
    - Rows of a batch MUST NOT influence one another beyond rounding.
    - Wrong names, shapes or types MUST raise `RuntimeFailure`, never crash or be repaired silently.
    """

    @property
    def name(self) -> str:
        """Name and version of what runs underneath, for the record of a finding."""
        ...

    @property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """Expected shape of each input; ``None`` where any size is accepted."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        ...

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        """Compute all outputs.

        Raises
        ------
        RuntimeFailure
            If the inputs do not fit the model or the computation fails.
        """
        ...


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Parameters
    ----------
    model : the ONNX file's bytes
    threads : threads inside one operator. One, with several callers sharing the session, gave the highest rate on two
        cores; spinning is off because it starves neighbours on a shared host.

    Raises
    ------
    RuntimeFailure
        If the bytes are not a model that ONNX Runtime accepts.
    """

    def __init__(self, model: bytes, threads: int = 1) -> None:
        import onnxruntime as ort

        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        options: Any = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RuntimeFailure(f"ONNX Runtime does not accept the model: {error}") from error
        self._name = f"onnxruntime {ort.__version__}"
        self._inputs: dict[str, tuple[int | None, ...]] = {
            node.name: tuple(d if isinstance(d, int) else None for d in node.shape)
            for node in self._session.get_inputs()
        }
        self._outputs = tuple(node.name for node in self._session.get_outputs())

    @property
    def name(self) -> str:
        """See `Runtime`."""
        return self._name

    @property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """See `Runtime`."""
        return dict(self._inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Runtime`."""
        return self._outputs

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        """See `Runtime`."""
        check_inputs(self._inputs, inputs)
        try:
            values = self._session.run(None, dict(inputs))
        except Exception as error:
            raise RuntimeFailure(f"inference failed: {error}") from error
        return dict(zip(self._outputs, values, strict=True))


def check_inputs(expected: Mapping[str, tuple[int | None, ...]], given: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise `RuntimeFailure` unless names, types and shapes are the expected ones."""
    if set(given) != set(expected):
        raise RuntimeFailure(f"the model takes inputs {sorted(expected)}, not {sorted(given)}")
    for name, array in given.items():
        shape = expected[name]
        if array.dtype != np.float32:
            raise RuntimeFailure(f"input {name!r} must be float32, not {array.dtype}")
        if len(array.shape) != len(shape) or any(
            w is not None and w != h for w, h in zip(shape, array.shape, strict=True)
        ):
            raise RuntimeFailure(f"input {name!r} must have shape {shape}, not {array.shape}")
        if array.size == 0:
            raise RuntimeFailure(f"input {name!r} is empty")
