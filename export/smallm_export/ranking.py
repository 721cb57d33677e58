"""Which MatMuls of an int8 encoder to leave in fp32 first: those without which its output is nearest to fp32's.

A MatMul's own error says little: what attention or a layer norm does to it afterwards may undo or multiply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from smallm_export.quantize import Feed

TEXTS = 32  # that the outputs are compared on
TINY = 1e-3


def by_help(exact: Path, int8: Path, nodes: Sequence[str], feeds: Sequence[Feed]) -> list[str]:
    """`nodes`, the most helpful first. `int8` is `exact` with these MatMul nodes between QDQ pairs, and more maybe.

    An output (b, n, layers, hidden) is compared as a head reads it, each feature by its own scale.
    """
    model, source = onnx.load(int8), onnx.load(exact)
    weights = {one.name: one for one in source.graph.initializer}
    names = {node.name: node.input[1] for node in source.graph.node if node.name in nodes}
    makers = {output: node for node in model.graph.node for output in node.output}
    matmuls = {node.name: node for node in model.graph.node if node.name in nodes}
    feeds = feeds[:: max(1, len(feeds) // TEXTS)][:TEXTS]
    wanted = _outputs(source, feeds)
    flat = np.concatenate([one.reshape(-1, *one.shape[2:]) for one in wanted])
    scale = flat.std(axis=0) + TINY

    def error(node: str) -> float:
        """What is left if `node` is not quantised."""
        matmul = matmuls[node]
        before = list(matmul.input)
        dequantized = makers[before[0]]
        matmul.input[0] = makers[dequantized.input[0]].input[0]
        weight = onnx.TensorProto()
        weight.CopyFrom(weights[names[node]])
        weight.name = matmul.input[1] = f"{node}_left_alone"
        model.graph.initializer.append(weight)
        found = _outputs(model, feeds)
        del model.graph.initializer[-1]
        matmul.input[:] = before
        return sum(float((((a - b) / scale) ** 2).sum()) for a, b in zip(found, wanted, strict=True))

    errors = {node: error(node) for node in nodes}
    return sorted(nodes, key=lambda node: errors[node])


def _outputs(model: Any, feeds: Sequence[Feed]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what is left alone leaves initialisers without a user
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0] for feed in feeds]
