"""A trained head as one ONNX graph, written from its weights: from the encoder's output to tags and scores.

The members' networks lie side by side: one MatMul, then convolutions in as many groups. Only the
MatMul is quantised. Decoding follows in `crf_graph`; nothing outside the standard opset is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from smallm.errors import ArtifactError
from smallm.fusion import Way
from smallm.model_folder import HeadShape, Model
from smallm_export.crf_graph import Decoded, decode
from smallm_export.graph import FLOAT, INT64, Graph

Array = NDArray[np.float32]


def export_head(model: Model, output: Path) -> None:
    """Write the head to `output` in fp32. Raises ArtifactError for a kind of head this cannot export.

    Inputs, b and n dynamic and at least 1: `features` (b, n, layers, hidden), the encoder's output without
    [CLS] and [SEP]; `votes` (b, n, N), the LLM's BIO tags one-hot, all zero for a text without an answer;
    `lengths` (b,) int64, 0 to n. What stands past a text's length changes nothing.

    Outputs: `tags` (b, n) int64, BIO-legal, 0 past the length, by the way chosen in training where there are
    votes, else local; `scores` (b, n), at an entity's first token the calibrated posterior probability of its
    tags, else 0; `local_tags` and `local_scores`, the same as if there were no votes; `local_confidence` (b,),
    the posterior of all local tags, 1 for an empty text; `emissions` (b, n, N), fused where there are votes.
    """
    builders = {"fusion": _fusion, "paper": _paper}
    if model.head.kind not in builders:
        raise ArtifactError(f"cannot export a '{model.head.kind}' head; known: {', '.join(builders)}")
    weights = {name: np.asarray(value, dtype=np.float32) for name, value in model.weights.items()}
    graph, count = Graph(), model.labels.num_tags
    fused, local = builders[model.head.kind](graph, weights, model.head)
    voted = graph.add("Greater", graph.add("ReduceMax", "votes", graph.ints(1, 2)), graph.scalar(0, np.float32))
    emissions = graph.add("Where", voted, fused, local, result="emissions")
    served = local if model.way is Way.LOCAL else emissions
    both = [graph.add("Unsqueeze", part, graph.ints(0)) for part in (local, served)]
    decoded = decode(graph, graph.add("Concat", *both, axis=0), "votes", "lengths", model.decoder(), model.way)
    _outputs(graph, decoded, voted, model.way)
    whole = graph.model(
        {
            "features": (FLOAT, ["batch", "length", len(model.head.layers), model.head.hidden]),
            "votes": (FLOAT, ["batch", "length", count]),
            "lengths": (INT64, ["batch"]),
        },
        {
            "tags": (INT64, ["batch", "length"]),
            "scores": (FLOAT, ["batch", "length"]),
            "local_tags": (INT64, ["batch", "length"]),
            "local_scores": (FLOAT, ["batch", "length"]),
            "local_confidence": (FLOAT, ["batch"]),
            "emissions": (FLOAT, ["batch", "length", count]),
        },
    )
    onnx.save(whole, output)


def _outputs(graph: Graph, decoded: Decoded, voted: str, way: Way) -> None:
    """Name the two decodings: a text without votes takes the local one for both."""
    if way is not Way.LOCAL:
        voted = graph.add("Squeeze", voted, graph.ints(2))
    for name, value in (("tags", decoded.tags), ("scores", decoded.scores)):
        local = graph.add("Gather", value, graph.scalar(0, np.int64), axis=0, result=f"local_{name}")
        if way is Way.LOCAL:
            graph.add("Identity", local, result=name)
        else:
            served = graph.add("Gather", value, graph.scalar(1, np.int64), axis=0)
            graph.add("Where", voted, served, local, result=name)
    graph.add("Gather", decoded.confidence, graph.scalar(0, np.int64), axis=0, result="local_confidence")


def _fusion(graph: Graph, weights: dict[str, Array], shape: HeadShape) -> tuple[str, str]:
    """Fused and local emissions (b, n, N) of a FusionHead."""
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
    hidden = graph.add("Unsqueeze", graph.add("Transpose", hidden, perm=[0, 2, 1]), graph.ints(2))
    mask = _mask(graph)
    for name in ("near", "wide"):
        convolved = _convolution(graph, graph.add("Mul", hidden, mask), weights, name, 2 * members)
        hidden = graph.add("Add", hidden, graph.add("Tanh", convolved))
    scored = graph.add("Squeeze", _convolution(graph, hidden, weights, "last", 2 * members), graph.ints(2))
    scored = graph.add("Transpose", scored, perm=[0, 2, 1])
    mean = np.concatenate([np.eye(count, dtype=np.float32)] * members, axis=1) / members
    local = graph.linear(scored, np.concatenate([mean, 0 * mean], axis=1), None)
    alpha, added = shape.weights.by_tag(count)
    trust = mean @ weights["trust.weight"] + np.diag(alpha)
    both = graph.linear(scored, np.concatenate([shape.weights.gamma * mean, mean], axis=1), added)
    return graph.add("Add", both, graph.linear("votes", trust, None)), local


def _paper(graph: Graph, weights: dict[str, Array], shape: HeadShape) -> tuple[str, str]:
    """Fused and local emissions (b, n, N) of a PaperHead."""
    last_layer = graph.add("Gather", "features", graph.scalar(-1, np.int64), axis=2)
    read = graph.linear(last_layer, weights["first.weight"], weights["first.bias"], quantized=True)
    local = graph.linear(graph.add("Tanh", read), weights["last.weight"], weights["last.bias"])
    voted = graph.linear("votes", np.diag(shape.weights.by_tag(len(weights["last.bias"]))[0]), None)
    return graph.add("Add", local, voted), local


def _mask(graph: Graph) -> str:
    """(b, 1, 1, n), 1 for a token within its text's length."""
    size = graph.add("Squeeze", graph.add("Shape", "votes", start=1, end=2), graph.ints(0))
    positions = graph.add("Range", graph.scalar(0, np.int64), size, graph.scalar(1, np.int64))
    real = graph.add("Less", positions, graph.add("Unsqueeze", "lengths", graph.ints(1, 2, 3)))
    return graph.add("Cast", real, to=FLOAT)


def _convolution(graph: Graph, value: str, weights: dict[str, Array], name: str, groups: int) -> str:
    """A same-length convolution over tokens; weight (out, in of a group, odd size), value (b, in, 1, n).

    Two-dimensional, for ONNX Runtime has faster kernels for those: a quarter less time.
    """
    weight = weights[f"{name}.weight"][:, :, None]
    pad = weight.shape[3] // 2
    constants = graph.constant(weight), graph.constant(weights[f"{name}.bias"])
    return graph.add("Conv", value, *constants, group=groups, pads=[0, pad, 0, pad])
