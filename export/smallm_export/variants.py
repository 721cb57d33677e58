"""The precisions of a bundle's graphs, and how the graphs of each are made from the fp32 ones."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from smallm.bundle import SLOW_ON_CPU
from smallm.errors import ArtifactError
from smallm_export.embeddings import compress
from smallm_export.quantize import Feed, quantize
from smallm_export.ranking import by_help
from smallm_export.smooth import observe, smooth, weighted_names

EMBEDDINGS = "embeddings"  # what --exclude calls them
WORTH_FUSING = 0.97  # of the plain graph's time at most; the fused one needs ONNX Runtime's own operators
TIMED = 16  # calibration texts a graph is timed on, ROUNDS times
ROUNDS = 5


@dataclass
class Encoders:
    """The encoder in fp32 at `plain`, and calibration feeds."""

    plain: Path
    config: Path  # config.json of the encoder
    feeds: Sequence[Feed]
    reduce_range: bool

    def write(self, variant: str, target: Path, exclude: Sequence[str]) -> dict[str, Any]:
        """Write the encoder of `variant` to `target`; what was done, for the manifest. Raises ArtifactError."""
        if variant == "int8":
            return self._int8(target, exclude)
        if variant == "fp16":
            return self._fp16(target)
        return self._fp32(target)

    def excluded(self, names: Sequence[str]) -> list[str]:
        """The embeddings, and the MatMul nodes, that any of `names`, parts of their names, names.

        Raises ArtifactError if one names none.
        """
        nodes = [EMBEDDINGS, *self._matmuls]
        for name in names:
            if not any(name in node for node in nodes):
                raise ArtifactError(
                    f"--exclude {name}: no part of the encoder is called so; they are: {' '.join(nodes)}"
                )
        return [node for node in nodes if any(name in node for name in names)]

    def ranked(self, int8: Path, exclude: Sequence[str]) -> list[str]:
        """The MatMuls quantised in the graph at `int8`, written without `exclude`, those to leave alone first."""
        nodes = [name for name in self._matmuls if name not in exclude]
        return by_help(self._even, int8, nodes, self.feeds)

    @cached_property
    def _matmuls(self) -> list[str]:
        return weighted_names(self.plain)

    @property
    def _even(self) -> Path:
        return self.plain.with_name("even.onnx")

    def _int8(self, target: Path, exclude: Sequence[str]) -> dict[str, Any]:
        if not self._even.exists():
            smooth(self.plain, self._even, observe(self.plain, self.feeds), reduce_range=self.reduce_range)
        left = [name for name in self._matmuls if name not in exclude]
        quantize(self._even, target, self.feeds, left, reduce_range=self.reduce_range)
        embeddings = "fp32"
        if EMBEDDINGS not in exclude:
            compress(target)
            embeddings = "int8"
        made = {"reduce_range": self.reduce_range, "excluded": list(exclude)}
        return made | {"embeddings": embeddings, "graph": "plain"}

    def _fp16(self, target: Path) -> dict[str, Any]:
        onnx.save(convert_float_to_float16(onnx.load(self.plain), keep_io_types=True), target)
        session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
        longest = max(self.feeds, key=lambda feed: int(feed["input_ids"].shape[1]))
        padded = {name: np.pad(value, ((0, 1), (0, 7))) for name, value in longest.items()}  # a row of padding alone
        (features,) = session.run(None, padded)
        if not np.isfinite(features[padded["attention_mask"] > 0]).all():
            raise ArtifactError("fp16: not a number came out of the encoder for a padded batch; leave fp16 out")
        return {"embeddings": "fp16", "graph": "plain", "checked_on": session.get_providers()[0]}

    def _fp32(self, target: Path) -> dict[str, Any]:
        config, fused = json.loads(self.config.read_text(encoding="utf-8")), self.plain.with_name("fused.onnx")
        _fuse(self.plain, fused, config)
        times = _time([self.plain, fused], self.feeds[:: max(1, len(self.feeds) // TIMED)][:TIMED])
        better = times[1] < WORTH_FUSING * times[0]
        shutil.copy2(fused if better else self.plain, target)
        figures = {"plain_ms": round(times[0], 3), "fused_ms": round(times[1], 3)}
        return {"embeddings": "fp32", "graph": "fused" if better else "plain", "fusion": figures}


def _fuse(source: Path, target: Path, config: dict[str, Any]) -> None:
    """ONNX Runtime's transformer fusions (attention, GELU with bias); where none fits, a copy."""
    options = FusionOptions("bert")
    options.enable_skip_layer_norm = False  # see SLOW_ON_CPU; on other devices it is fused at loading
    logging.disable(logging.WARNING)
    try:
        optimized = optimize_model(
            str(source),
            model_type="bert",
            num_heads=int(config.get("num_attention_heads", 0)),
            hidden_size=int(config.get("hidden_size", 0)),
            opt_level=0,
            optimization_options=options,
        )
        optimized.save_model_to_file(str(target))
    finally:
        logging.disable(logging.NOTSET)


def _time(graphs: Sequence[Path], feeds: Sequence[Feed]) -> list[float]:
    """Median milliseconds a text on one thread, the graphs taking turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(one, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_ON_CPU)
        for one in graphs
    ]
    taken: list[list[float]] = [[] for _ in graphs]
    for _ in range(ROUNDS):
        for session, times in zip(sessions, taken, strict=True):
            session.run(None, feeds[0])
            begin = time.thread_time()  # of this thread alone, so that a busy machine does not decide
            for feed in feeds:
                session.run(None, feed)
            times.append(1000 * (time.thread_time() - begin) / len(feeds))
    return [statistics.median(times) for times in taken]
