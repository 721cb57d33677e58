"""The CRF of a domain in standard ONNX operators: Viterbi and posteriors, as `smallm.crf` has them.

Two decodings of each text lie side by side on axis 0, `way`: the local one and the one by which the
domain answers. Shapes below: w ways, b texts, n tokens, N tags; tokens past a text's length hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallm.crf import constrained
from smallm.fusion import Decoder, Way
from smallm_export.graph import BOOL, DOUBLE, FLOAT, INT64, Graph, Shape

WAYS = 2
LOWEST = -80.0  # log-odds below a token's best tag at which a probability is 0 for all purposes


@dataclass(frozen=True)
class Decoded:
    """Names of results: `tags` (w, b, n) int64, `scores` (w, b, n) and `confidence` (w, b), both float32.

    A score stands at an entity's first token and is the posterior probability of its tags, 0 elsewhere.
    `confidence` is that of all tags of a text, 1 for a text of no tokens.
    """

    tags: str
    scores: str
    confidence: str


def decode(graph: Graph, emissions: str, votes: str, lengths: str, decoder: Decoder, way: Way) -> Decoded:
    """Decode `emissions` (w, b, n, N) given `votes` (b, n, N) and `lengths` (b,).

    Of a text without votes only the local way means anything.
    """
    # Costs instead of scores, so that sums over a long text stay exact in float32.
    emissions = graph.add("Sub", emissions, graph.add("ReduceMax", emissions, graph.ints(-1)))
    searched, transitions = emissions, np.stack([decoder.transitions] * WAYS)
    if way is Way.LLM:  # the legal sequence nearest to the votes: themselves, if they are legal
        local = graph.add("Slice", emissions, graph.ints(0), graph.ints(1))
        searched = graph.add("Concat", local, graph.add("Unsqueeze", votes, graph.ints(0)), axis=0)
        transitions[1] = constrained(np.zeros_like(decoder.transitions), decoder.labels)[1]
    text = _Text.of(graph, emissions, lengths)
    tags = _search(graph, text, searched, decoder.start, transitions)
    return _score(graph, text, emissions, tags, decoder)


@dataclass(frozen=True)
class _Text:
    """Names of: (w, b) as a shape, `lengths` (b,), and for (b, n) which tokens are there and which is the last."""

    rows: str
    lengths: str
    real: str
    last: str

    @classmethod
    def of(cls, graph: Graph, emissions: str, lengths: str) -> _Text:
        shape = graph.add("Shape", emissions)
        size = graph.add("Squeeze", graph.add("Slice", shape, graph.ints(2), graph.ints(3)), graph.ints(0))
        zero, one = graph.scalar(0, np.int64), graph.scalar(1, np.int64)
        positions = graph.add("Unsqueeze", graph.add("Range", zero, size, one), graph.ints(0))
        column = graph.add("Unsqueeze", lengths, graph.ints(1))
        return cls(
            graph.add("Slice", shape, graph.ints(0), graph.ints(2)),
            lengths,
            graph.add("Less", positions, column),
            graph.add("Equal", positions, graph.add("Max", graph.add("Sub", column, one), zero)),
        )


def _search(
    graph: Graph, text: _Text, emissions: str, start: NDArray[np.float32], transitions: NDArray[np.float32]
) -> str:
    """Tags (w, b, n) by Viterbi: one scan forward, one back along the pointers. Ties take the lower tag."""
    count = len(start)
    forward = Graph("search_")
    score = forward.add("Add", "entering", "emission", result="score")
    moves = forward.add("Unsqueeze", score, forward.ints(-1))
    moves = forward.add("Add", moves, forward.constant(transitions[:, None]))
    forward.add("ReduceMax", moves, forward.ints(-2), keepdims=0, result="leaving")
    forward.add("ArgMax", moves, axis=-2, keepdims=0, result="pointer")
    row: Shape = [WAYS, "batch", count]
    body = forward.body(
        {"entering": (FLOAT, row), "emission": (FLOAT, row)},
        {"leaving": (FLOAT, row), "score": (FLOAT, row), "pointer": (INT64, row)},
    )
    shape = graph.add("Concat", text.rows, graph.ints(count), axis=0)
    entering = graph.add("Expand", graph.constant(start), shape)
    _, scores, pointers = graph.scan(body, [entering], [_by_token(graph, emissions, 4)])

    back = Graph("trace_")
    pointed = back.add("GatherElements", "pointer", "following", axis=-1)
    tag = back.add("Where", "is_last", "best", pointed, result="tag")
    back.add("Identity", tag, result="kept")
    one: Shape = [WAYS, "batch", 1]
    body = back.body(
        {
            "following": (INT64, one),
            "pointer": (INT64, row),
            "best": (INT64, one),
            "is_last": (BOOL, ["batch", 1]),
        },
        {"tag": (INT64, one), "kept": (INT64, one)},
    )
    nothing = graph.add("Expand", graph.ints(0), graph.add("Concat", text.rows, graph.ints(1), axis=0))
    is_last = graph.add("Unsqueeze", graph.add("Transpose", text.last, perm=[1, 0]), graph.ints(2))
    best = graph.add("ArgMax", scores, axis=-1)
    _, tags = graph.scan(body, [nothing], [pointers, best, is_last], reverse=True)
    tags = graph.add("Squeeze", graph.add("Transpose", tags, perm=[1, 2, 0, 3]), graph.ints(3))
    return graph.add("Where", text.real, tags, graph.scalar(0, np.int64))


def _score(graph: Graph, text: _Text, emissions: str, tags: str, decoder: Decoder) -> Decoded:
    """Posteriors of the runs in `tags`, from scaled forward and backward sums of probabilities in float64.

    Of a run from s to e under tags y: forward(s, y_s), times the moves and emissions after s, times
    backward(e, y_e), over the sum of forward(e) * backward(e) (Culotta and McCallum 2004).
    """
    temperatures = np.array([decoder.temperatures.local, decoder.temperatures.fused])
    divisors = graph.constant(temperatures.reshape(WAYS, 1, 1, 1))
    tempered = graph.add("Div", graph.add("Cast", emissions, to=DOUBLE), divisors)
    tempered = graph.add("Max", tempered, graph.scalar(LOWEST, np.float64))
    moves = decoder.transitions.astype(np.float64) / temperatures[:, None, None]
    forward, backward, scale = _sums(graph, text, graph.add("Exp", tempered), np.exp(moves), decoder)

    chosen = graph.add("Unsqueeze", tags, graph.ints(-1))
    forward_chosen, backward_chosen, emitted = (
        graph.add("Squeeze", graph.add("GatherElements", part, chosen, axis=-1), graph.ints(-1))
        for part in (forward, backward, tempered)
    )
    total = graph.add("ReduceSum", graph.add("Mul", forward, backward), graph.ints(-1), keepdims=0)
    steps = graph.add("Sub", graph.add("Add", _moved(graph, tags, moves), emitted), graph.add("Log", scale))
    path = graph.add("CumSum", steps, graph.scalar(2, np.int64))  # differences of it are the steps between two tokens
    opening = graph.add("Sub", graph.add("Log", forward_chosen), path)
    closing = graph.add("Add", path, graph.add("Log", graph.add("Div", backward_chosen, total)))
    scores = _of_runs(graph, tags, opening, closing)
    return Decoded(tags, scores, _of_texts(graph, text, opening, closing))


def _sums(graph: Graph, text: _Text, odds: str, moves: NDArray[np.float64], decoder: Decoder) -> tuple[str, str, str]:
    """Forward and backward sums (w, b, n, N), each scaled freely per token, and forward's scale (w, b, n).

    Backward runs as a second forward over the reversed text, so that one scan does both.
    """
    count = len(decoder.start)
    step = Graph("sum_")
    here = step.add("Mul", "entering", "odds")
    scale = step.add("ReduceSum", here, step.ints(-1), result="scale")
    scaled = step.add("Div", here, scale, result="scaled")
    step.add("MatMul", scaled, step.constant(np.stack([moves, moves.transpose(0, 2, 1)])), result="leaving")
    step.add("Identity", "entering", result="entered")
    row: list[str | int] = [2, WAYS, "batch", count]
    body = step.body(
        {"entering": (DOUBLE, row), "odds": (DOUBLE, row)},
        {
            "leaving": (DOUBLE, row),
            "scaled": (DOUBLE, row),
            "entered": (DOUBLE, row),
            "scale": (DOUBLE, [*row[:-1], 1]),
        },
    )
    first = np.stack([np.exp(decoder.start.astype(np.float64)), np.ones(count)])
    shape = graph.add("Concat", graph.ints(2), text.rows, graph.ints(count), axis=0)
    entering = graph.add("Expand", graph.constant(first[:, None, None]), shape)
    both = [graph.add("Unsqueeze", part, graph.ints(0)) for part in (odds, _reversed(graph, text, odds))]
    sequence = _by_token(graph, graph.add("Concat", *both, axis=0), 5)
    _, scaled, entered, scale = graph.scan(body, [entering], [sequence])

    def direction(value: str, index: int) -> str:
        one = graph.add("Gather", value, graph.scalar(index, np.int64), axis=1)
        return graph.add("Transpose", one, perm=[1, 2, 0, 3])

    backward = _reversed(graph, text, direction(entered, 1))
    return direction(scaled, 0), backward, graph.add("Squeeze", direction(scale, 0), graph.ints(-1))


def _reversed(graph: Graph, text: _Text, value: str) -> str:
    """The tokens of (w, b, n, N) in reverse, each text within its own length."""
    shape = graph.add("Shape", value)
    flat = graph.add(
        "Reshape",
        value,
        graph.add("Concat", graph.ints(-1), graph.add("Slice", shape, graph.ints(2), graph.ints(4)), axis=0),
    )
    lengths = graph.add("Concat", *[text.lengths] * WAYS, axis=0)
    turned = graph.add("ReverseSequence", flat, lengths, batch_axis=0, time_axis=1)
    return graph.add("Reshape", turned, shape)


def _moved(graph: Graph, tags: str, moves: NDArray[np.float64]) -> str:
    """Tempered score (w, b, n) of the move to each token's tag; that to the first one means nothing."""
    count = moves.shape[1]
    before = graph.add("Pad", tags, graph.ints(0, 0, 1, 0, 0, -1))
    offset = graph.constant(np.arange(WAYS, dtype=np.int64).reshape(WAYS, 1, 1) * count * count)
    index = graph.add("Add", graph.add("Mul", before, graph.scalar(count, np.int64)), graph.add("Add", tags, offset))
    return graph.add("Gather", graph.constant(moves.reshape(-1)), index, axis=0)


def _of_runs(graph: Graph, tags: str, opening: str, closing: str) -> str:
    """Scores (w, b, n): runs open at odd tags (B) and close where no even one (I) follows; both in the same order."""
    zero, two = graph.scalar(0, np.int64), graph.scalar(2, np.int64)
    tagged = graph.add("Greater", tags, zero)
    opens = graph.add("Equal", graph.add("Mod", tags, two), graph.scalar(1, np.int64))
    inside = graph.add("And", tagged, graph.add("Not", opens))
    after = graph.add("Cast", inside, to=INT64)
    after = graph.add("Cast", graph.add("Pad", after, graph.ints(0, 0, -1, 0, 0, 1)), to=BOOL)
    closes = graph.add("And", tagged, graph.add("Not", after))
    firsts, ends = (graph.add("Transpose", graph.add("NonZero", part), perm=[1, 0]) for part in (opens, closes))
    values = graph.add("Add", graph.add("GatherND", opening, firsts), graph.add("GatherND", closing, ends))
    nothing = graph.add("Expand", graph.scalar(0, np.float32), graph.add("Shape", tags))
    return graph.add("ScatterND", nothing, firsts, _probability(graph, values))


def _of_texts(graph: Graph, text: _Text, opening: str, closing: str) -> str:
    """Confidence (w, b): the run from the first token to the last."""
    first = graph.add("Gather", opening, graph.scalar(0, np.int64), axis=2)
    at_last = graph.add("Where", text.last, closing, graph.scalar(0, np.float64))
    whole = graph.add("Add", first, graph.add("ReduceSum", at_last, graph.ints(2), keepdims=0))
    some = graph.add("Greater", text.lengths, graph.scalar(0, np.int64))
    return graph.add("Where", some, _probability(graph, whole), graph.scalar(1, np.float32))


def _probability(graph: Graph, log: str) -> str:
    """exp of a logarithm that rounding may have pushed above 0, as float32."""
    return graph.add("Cast", graph.add("Exp", graph.add("Min", log, graph.scalar(0, np.float64))), to=FLOAT)


def _by_token(graph: Graph, value: str, rank: int) -> str:
    """Axis -2, tokens, first."""
    return graph.add("Transpose", value, perm=[rank - 2, *range(rank - 2), rank - 1])
