"""Evening out the inputs of MatMuls before int8.

An activation's few large channels take up the range of all; dividing each channel by a factor and multiplying
the weight's row by it moves part of the range into the weights, which have a scale per column (SmoothQuant, Xiao
et al. 2023). The fp32 graph computes the same as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from smallm_export.quantize import Feed

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of an activation's range that may move into the weights
ROWS = 2000  # of each activation kept to compare int8 with fp32 on


@dataclass(frozen=True)
class Input:
    """What the calibration texts brought to one or more MatMuls: rows (r, k) and largest |x| by channel (k,)."""

    rows: NDArray[np.float32]
    highest: NDArray[np.float32]


def weighted(model: Any) -> list[Any]:
    """The MatMul nodes whose second input is a constant."""
    constants = {one.name for one in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]


def weighted_names(graph: Path) -> list[str]:
    """Names of the weighted MatMul nodes of the graph in a file."""
    return [node.name for node in weighted(onnx.load(graph))]


def observe(source: Path, feeds: Iterable[Feed]) -> dict[str, Input]:
    """Run the graph at `source` on `feeds`: what comes to its weighted MatMuls, by tensor name."""
    model = onnx.load(source)
    names = sorted({node.input[0] for node in weighted(model)})
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    highest: dict[str, NDArray[np.float32]] = {}
    for feed in feeds:
        for name, value in zip(names, session.run(names, feed), strict=True):
            flat = value.reshape(-1, value.shape[-1])
            highest[name] = np.maximum(highest.get(name, np.float32(0)), np.abs(flat).max(axis=0))
            if sum(map(len, rows[name])) < ROWS:
                rows[name].append(flat)
    return {name: Input(np.concatenate(rows[name])[:ROWS], highest[name]) for name in names}


def smooth(source: Path, target: Path, inputs: dict[str, Input], *, reduce_range: bool) -> None:
    """Write the graph at `source` to `target` with its MatMuls' inputs evened out, each by the share that serves it.

    The share is the one under which int8 (weights of 7 bits with `reduce_range`) disturbs the products least.
    """
    model = onnx.load(source)
    constants = {one.name: one for one in model.graph.initializer}
    nodes = weighted(model)
    for name, seen in inputs.items():
        users = [node for node in nodes if node.input[0] == name]
        weights = [numpy_helper.to_array(constants[node.input[1]]) for node in users]
        factors = [_factor(seen.highest, weights, share) for share in SHARES]
        factor = min(
            factors, key=lambda one: sum(_disturbance(seen.rows, one, weight, reduce_range) for weight in weights)
        )
        model.graph.initializer.append(numpy_helper.from_array(1 / factor, f"{name}_factor"))
        scaled = helper.make_node("Mul", [name, f"{name}_factor"], [f"{name}_even"], name=f"{name}_even")
        first = next(index for index, node in enumerate(model.graph.node) if node.name == users[0].name)
        model.graph.node.insert(first, scaled)
        for node, weight in zip(users, weights, strict=True):
            node.input[0] = f"{name}_even"
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(weight * factor[:, None], node.input[1]))
    onnx.save(model, target)


def _factor(highest: NDArray[np.float32], weights: Sequence[NDArray[np.float32]], share: float) -> NDArray[np.float32]:
    tiny = np.float32(1e-6)
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0) + tiny
    factor = (highest + tiny) ** share / rows ** (1 - share)
    return np.asarray(factor / np.exp(np.log(factor).mean()), dtype=np.float32)


def _disturbance(
    rows: NDArray[np.float32], factor: NDArray[np.float32], weight: NDArray[np.float32], reduce_range: bool
) -> float:
    """Relative error of rows @ weight, evened by `factor`, in int8 as `quantize` does it: U8 a tensor, S8 a column."""
    rows, weight = rows / factor, weight * factor[:, None]
    low, high = min(0.0, float(rows.min())), max(1e-9, float(rows.max()))
    step, steps = (high - low) / 255, np.maximum(np.abs(weight).max(axis=0), 1e-9) / (63 if reduce_range else 127)
    exact = rows @ weight
    rounded = (np.round(rows / step) * step) @ (np.round(weight / steps) * steps)
    return float(np.linalg.norm(rounded - exact) / max(float(np.linalg.norm(exact)), 1e-9))
