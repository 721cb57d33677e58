"""Static int8 whose results do not depend on who shares the batch.

QDQ over MatMul with a constant second input only, U8 activations with calibrated scales, S8 weights
per channel; everything else stays fp32. Dynamic int8 takes its scales from the whole padded batch
and full QDQ lost accuracy; both are out.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

Feed = dict[str, Any]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def quantize(source: Path, target: Path, feeds: Iterable[Feed], nodes: Sequence[str], *, reduce_range: bool) -> None:
    """Quantise the MatMul `nodes` of the graph at `source` to `target`, calibrated on `feeds` (one run each).

    `reduce_range` keeps weights to 7 bits: without VNNI instructions a CPU adds pairs of 8-bit products in 16 bits,
    which overflow.
    """
    if not nodes:  # to quantize_static, none is all
        shutil.copy2(source, target)
        return
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing that optimum's graph does not need
    try:
        quantize_static(
            source,
            target,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(nodes),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    finally:
        logging.getLogger().setLevel(level)
