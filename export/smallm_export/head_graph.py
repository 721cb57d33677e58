"""A trained head as an ONNX graph, written from its weights.

Convolutions over tokens become one MatMul over shifted copies, so that the quantiser, which only
touches MatMul, reaches them too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from smallm.errors import ArtifactError
from smallm.model_folder import Model

INPUTS = ("features", "votes", "mask")
OUTPUT = "emissions"
OPSET = 18
QUANTIZED = "_q"  # names of the MatMul nodes worth quantising end in it
Array = NDArray[np.float32]


def export_head(model: Model, output: Path) -> None:
    """Write the head to `output` in fp32. Raises ArtifactError for a kind of head this cannot export.

    Inputs `features` (b, n, layers, hidden), `votes` (b, n, N) and `mask` (b, n), 1 for a token;
    output `emissions` (b, n, N); all float32, b and n dynamic.
    """
    builders = {"fusion": _fusion, "paper": _paper}
    if model.head.kind not in builders:
        raise ArtifactError(f"cannot export a '{model.head.kind}' head; known: {', '.join(builders)}")
    weights = {name: np.asarray(value, dtype=np.float32) for name, value in model.weights.items()}
    graph = _Graph()
    builders[model.head.kind](graph, weights, model.head.alpha)
    count = model.labels.num_tags
    shapes: dict[str, list[str | int]] = {
        "features": ["batch", "length", len(model.head.layers), model.head.hidden],
        "votes": ["batch", "length", count],
        "mask": ["batch", "length"],
    }
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in INPUTS]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", "length", count])]
    proto = helper.make_graph(graph.nodes, "head", inputs, outputs, graph.constants)
    whole = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="smallm")
    whole.ir_version = 8
    onnx.checker.check_model(whole, full_check=True)
    onnx.save(whole, output)


class _Graph:
    """Nodes and constants under construction; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def add(self, operation: str, *inputs: str, to: str = "", quantized: bool = False, **attributes: Any) -> str:
        name = f"{operation}_{len(self.nodes)}" + (QUANTIZED if quantized else "")
        result = to or name
        self.nodes.append(helper.make_node(operation, list(inputs), [result], name=name, **attributes))
        return result

    def linear(self, value: str, weight: Array, bias: Array | None, quantized: bool = False) -> str:
        """`weight` in PyTorch's (out, in)."""
        product = self.add("MatMul", value, self.constant(weight.T), quantized=quantized)
        return product if bias is None else self.add("Add", product, self.constant(bias))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))


def _fusion(graph: _Graph, weights: dict[str, Array], alpha: float) -> None:
    mix = np.exp(weights["mix"] - weights["mix"].max())
    scale = weights["scale"] * (mix / mix.sum())[:, None]
    weighted = graph.add("Mul", "features", graph.constant(scale))
    summed = graph.add("ReduceSum", weighted, graph.ints(2), keepdims=0)
    mixed = graph.add("Sub", summed, graph.constant((weights["mean"] * scale).sum(0)))
    hidden_size = mixed_size = weights["mean"].shape[1]
    first = weights["first.weight"]
    read = graph.linear(mixed, first[:, :mixed_size], weights["first.bias"], quantized=True)
    hidden = graph.add("Tanh", graph.add("Add", read, graph.linear("votes", first[:, hidden_size:], None)))
    mask = graph.add("Unsqueeze", "mask", graph.ints(2))
    for name in ("near", "wide"):
        inside = graph.add("Mul", hidden, mask)
        convolved = _convolution(graph, inside, weights[f"{name}.weight"], weights[f"{name}.bias"])
        hidden = graph.add("Add", hidden, graph.add("Tanh", convolved))
    local = graph.linear(hidden, weights["last.weight"], weights["last.bias"])
    vote_weight = weights["trust.weight"] + alpha * np.eye(len(weights["trust.bias"]), dtype=np.float32)
    voted = graph.linear("votes", vote_weight, weights["trust.bias"])
    graph.add("Add", local, voted, to=OUTPUT)


def _paper(graph: _Graph, weights: dict[str, Array], alpha: float) -> None:
    last_layer = graph.add("Gather", "features", graph.constant(np.array(-1, dtype=np.int64)), axis=2)
    read = graph.linear(last_layer, weights["first.weight"], weights["first.bias"], quantized=True)
    local = graph.linear(graph.add("Tanh", read), weights["last.weight"], weights["last.bias"])
    voted = graph.add("Mul", "votes", graph.constant(np.array(alpha, dtype=np.float32)))
    graph.add("Add", local, voted, to=OUTPUT)


def _convolution(graph: _Graph, value: str, weight: Array, bias: Array) -> str:
    """A same-length convolution over tokens; weight (out, in, odd size), value (b, n, in)."""
    size = weight.shape[2]
    padded = graph.add("Pad", value, graph.ints(0, size // 2, 0, 0, size // 2, 0))
    shifted = [
        graph.add("Slice", padded, graph.ints(k), graph.ints(k + 1 - size if k + 1 < size else 2**31), graph.ints(1))
        for k in range(size)
    ]
    joined = graph.add("Concat", *shifted, axis=2)
    return graph.linear(joined, weight.transpose(0, 2, 1).reshape(len(weight), -1), bias, quantized=True)
