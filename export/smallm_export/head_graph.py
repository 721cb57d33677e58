"""A trained head as an ONNX graph, written from its weights.

The members' networks lie side by side: one MatMul, then convolutions in as many groups. Only the
MatMul is quantised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from smallm.errors import ArtifactError
from smallm.model_folder import HeadShape, Model

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
    builders[model.head.kind](graph, weights, model.head)
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


def _fusion(graph: _Graph, weights: dict[str, Array], shape: HeadShape) -> None:
    members, count = weights["transitions"].shape[:2]
    mix = np.exp(weights["mix"] - weights["mix"].max())
    scale = weights["scale"] * (mix / mix.sum())[:, None]
    weighted = graph.add("Mul", "features", graph.constant(scale))
    summed = graph.add("ReduceSum", weighted, graph.ints(2), keepdims=0)
    mixed = graph.add("Sub", summed, graph.constant((weights["mean"] * scale).sum(0)))
    first = graph.linear(mixed, weights["first.weight"], weights["first.bias"], quantized=True)
    unread = np.zeros_like(weights["read.weight"])  # the local branch comes first and sees no votes
    read = graph.linear("votes", np.concatenate([unread, weights["read.weight"]]), None)
    hidden = graph.add("Tanh", graph.add("Add", first, read))
    hidden = graph.add("Transpose", hidden, perm=[0, 2, 1])
    mask = graph.add("Unsqueeze", "mask", graph.ints(1))
    for name in ("near", "wide"):
        convolved = _convolution(graph, graph.add("Mul", hidden, mask), weights, name, 2 * members)
        hidden = graph.add("Add", hidden, graph.add("Tanh", convolved))
    scored = graph.add("Transpose", _convolution(graph, hidden, weights, "last", 2 * members), perm=[0, 2, 1])
    mean = np.concatenate([np.eye(count, dtype=np.float32)] * members, axis=1) / members
    local = graph.linear(scored, np.concatenate([mean, 0 * mean], axis=1), None)
    trust = mean @ weights["trust.weight"] + shape.alpha * np.eye(count, dtype=np.float32)
    both = graph.linear(scored, np.concatenate([shape.gamma * mean, mean], axis=1), None)
    _choose(graph, graph.add("Add", both, graph.linear("votes", trust, None)), local)


def _paper(graph: _Graph, weights: dict[str, Array], shape: HeadShape) -> None:
    last_layer = graph.add("Gather", "features", graph.constant(np.array(-1, dtype=np.int64)), axis=2)
    read = graph.linear(last_layer, weights["first.weight"], weights["first.bias"], quantized=True)
    local = graph.linear(graph.add("Tanh", read), weights["last.weight"], weights["last.bias"])
    voted = graph.add("Mul", "votes", graph.constant(np.array(shape.alpha, dtype=np.float32)))
    _choose(graph, graph.add("Add", local, voted), local)


def _choose(graph: _Graph, fused: str, local: str) -> None:
    """Fused emissions for a text that has votes, else local ones."""
    votes = graph.add("ReduceMax", "votes", graph.ints(1, 2), keepdims=1)
    voted = graph.add("Greater", votes, graph.constant(np.array(0, dtype=np.float32)))
    graph.add("Where", voted, fused, local, to=OUTPUT)


def _convolution(graph: _Graph, value: str, weights: dict[str, Array], name: str, groups: int) -> str:
    """A same-length convolution over tokens; weight (out, in of a group, odd size), value (b, in, n)."""
    weight = weights[f"{name}.weight"]
    pad = weight.shape[2] // 2
    constants = graph.constant(weight), graph.constant(weights[f"{name}.bias"])
    return graph.add("Conv", value, *constants, group=groups, pads=[pad, pad])
