"""Frozen consumer models of contracts: vectors in, scores out. Nothing is unpickled."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from backstay.errors import InputError
from backstay.evaluation.consumers.model import Consumer

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Float32 = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

_ROWS = 1 << 15  # rows scored at once


class FrozenModel(Protocol):
    """A model that scores input rows."""

    def predict(self, rows: Float32) -> Scores:
        """(n, D) input rows -> (n,) scores, or (n, C) scores of C classes."""

    @property
    def threshold(self) -> float:
        """The score from which a row counts as positive."""


class MlpModel:
    """A consumer of Backstay's own kind; its scores are logits."""

    threshold = 0.0

    def __init__(self, data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "consumer.safetensors"
            path.write_bytes(data)
            self.consumer = Consumer.load(path)

    def predict(self, rows: Float32) -> Scores:
        """Logits (n,)."""
        return self.consumer.scores(rows).astype(np.float64)


class OnnxModel:
    """Any ONNX model with one float32 input (n, D); its last output holds the scores."""

    threshold = 0.5

    def __init__(self, data: bytes) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise InputError(
                "an ONNX model needs onnxruntime, which is not installed: "
                "`pip install backstay[onnx]`."
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # our one line says what failed
        try:
            self.session: InferenceSession = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions have no common class
            raise InputError(
                f"the model is no ONNX file that onnxruntime reads ({error})."
            ) from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise InputError(
                f"an ONNX model must have one input, the rows (n, D); found {len(inputs)} inputs."
            )
        self.input, self.output = inputs[0].name, self.session.get_outputs()[-1].name

    def predict(self, rows: Float32) -> Scores:
        """The last output, (n,) or (n, C)."""
        blocks = []
        for start in range(0, len(rows), _ROWS):
            block = np.ascontiguousarray(rows[start : start + _ROWS])
            try:
                (scores,) = self.session.run([self.output], {self.input: block})
            except Exception as error:  # see above
                raise InputError(
                    f"the ONNX model can't score rows of {rows.shape[1]} dimensions ({error})."
                ) from error
            if not isinstance(scores, np.ndarray) or len(scores) != len(block):
                raise InputError(
                    "the ONNX model's last output must be a tensor with one row of scores an input "
                    f"row; found {type(scores).__name__}. Export it without ZipMap."
                )
            blocks.append(scores)
        whole = np.concatenate(blocks).astype(np.float64)
        return whole.reshape(len(rows)) if whole.size == len(rows) else whole.reshape(len(rows), -1)


MODELS: Mapping[str, Callable[[bytes], FrozenModel]] = {"safetensors": MlpModel, "onnx": OnnxModel}
"""File extension -> the class that reads such a model."""


def load_model(data: bytes, extension: str) -> FrozenModel:
    """A frozen model out of the bytes of its file; `extension` without a dot."""
    if extension not in MODELS:
        raise InputError(
            f"--model must be a file {' or '.join(f'*.{name}' for name in MODELS)}; found "
            f"*.{extension}."
        )
    return MODELS[extension](data)
