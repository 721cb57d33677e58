"""An ONNX graph under construction, written node by node with operators of the standard opset only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 8  # the oldest that knows the opset, for the sake of older runtimes
QUANTIZED = "_q"  # names of the MatMul nodes worth quantising end in it
FLOAT, DOUBLE, INT64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
Shape = Sequence[str | int]


class Graph:
    """Nodes and constants; every method returns the name of its result. The body of a scan or loop is a Graph too."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._prefix = prefix

    def constant(self, value: NDArray[Any]) -> str:
        """A constant tensor."""
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant(np.array(values, dtype=np.int64))

    def scalar(self, value: float | int | bool, type_: type[np.generic]) -> str:
        """A constant of rank 0."""
        return self.constant(np.array(value, dtype=type_))

    def add(self, operation: str, *inputs: str, result: str = "", quantized: bool = False, **attributes: Any) -> str:
        """A node with one output, named `result` if that is given."""
        name = f"{self._prefix}{operation}_{len(self.nodes)}" + (QUANTIZED if quantized else "")
        self.nodes.append(helper.make_node(operation, list(inputs), [result or name], name=name, **attributes))
        return result or name

    def linear(self, value: str, weight: NDArray[Any], bias: NDArray[Any] | None, quantized: bool = False) -> str:
        """`weight` in PyTorch's (out, in)."""
        product = self.add("MatMul", value, self.constant(weight.T), quantized=quantized)
        return product if bias is None else self.add("Add", product, self.constant(bias))

    def scan(self, body: Any, states: Sequence[str], sequences: Sequence[str]) -> list[str]:
        """Run `body` (see `body`) along axis 0 of `sequences`: its final states, then its stacked outputs."""
        return self._over(body, "Scan", [*states, *sequences], num_scan_inputs=len(sequences))

    def loop(self, body: Any, states: Sequence[str]) -> list[str]:
        """Run `body` at least once and until its first output is false: its final states.

        Before the states, `body` takes the number of the round and a truth.
        """
        return self._over(body, "Loop", ["", "", *states])

    def _over(self, body: Any, operation: str, inputs: Sequence[str], **attributes: Any) -> list[str]:
        name = f"{self._prefix}{operation}_{len(self.nodes)}"
        count = len(body.output) - (operation == "Loop")
        results = [f"{name}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(operation, inputs, results, name=name, body=body, **attributes))
        return results

    def body(self, inputs: Mapping[str, tuple[int, Shape]], outputs: Mapping[str, tuple[int, Shape]]) -> Any:
        """This graph as the body of a scan, states first in both, then sequences' items and outputs, or of a loop."""
        return helper.make_graph(self.nodes, self._prefix, _infos(inputs), _infos(outputs), self.constants)

    def model(self, inputs: Mapping[str, tuple[int, Shape]], outputs: Mapping[str, tuple[int, Shape]]) -> Any:
        """This graph as a checked model."""
        graph = helper.make_graph(self.nodes, "head", _infos(inputs), _infos(outputs), self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="smallm")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model


def _infos(values: Mapping[str, tuple[int, Shape]]) -> list[Any]:
    return [helper.make_tensor_value_info(name, type_, list(shape)) for name, (type_, shape) in values.items()]
