"""Static int8 whose results do not depend on who shares the batch.

QDQ over MatMul with a constant second input only, U8 activations with calibrated scales, S8 weights
per channel; everything else stays fp32. Dynamic int8 takes its scales from the whole padded batch
and full QDQ lost accuracy; both are out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

Feed = dict[str, Any]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def quantize(source: Path, target: Path, feeds: Iterable[Feed], suffix: str = "") -> None:
    """Quantise the graph at `source` to `target`, calibrated on `feeds` (inputs by name, one run each).

    `suffix` restricts it to MatMul nodes whose names end in it.
    """
    nodes = [node.name for node in onnx.load(source).graph.node if node.op_type == "MatMul"]
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing that optimum's graph does not need
    try:
        quantize_static(
            source,
            target,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[name for name in nodes if name.endswith(suffix)],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    finally:
        logging.getLogger().setLevel(level)
