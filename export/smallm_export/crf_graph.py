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
    `confidence` is that of the least certain tag of a text, 1 for a text of no tokens.
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
    temperatures = np.array([decoder.temperatures.local, decoder.temperatures.fused])
    divisors = graph.constant(temperatures.reshape(WAYS, 1, 1, 1))
    tempered = graph.add("Div", graph.add("Cast", emissions, to=DOUBLE), divisors)
    tempered = graph.add("Max", tempered, graph.scalar(LOWEST, np.float64))
    moves = decoder.transitions.astype(np.float64) / temperatures[:, None, None]

    text = _Text.of(graph, emissions, lengths)
    passed = _pass(graph, text, searched, transitions, graph.add("Exp", tempered), np.exp(moves), decoder.start)
    tags = _traced(graph, text, passed.best, passed.pointers)
    return _score(graph, text, tempered, moves, tags, passed)


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


@dataclass(frozen=True)
class _Pass:
    """Names of what one pass over the tokens finds.

    `best` (n, w, b, 1), the best tag of a text that ends at a token, and `pointers` (n, w, b, N), the best tag of
    a token given the next one's; `forward` and `backward` sums (w, b, n, N), each scaled freely per token, and
    forward's `scale` (w, b, n).
    """

    best: str
    pointers: str
    forward: str
    backward: str
    scale: str


def _pass(
    graph: Graph,
    text: _Text,
    emissions: str,
    transitions: NDArray[np.float32],
    odds: str,
    moves: NDArray[np.float64],
    start: NDArray[np.float32],
) -> _Pass:
    """Viterbi's search and both sums in one scan, for a step costs more than what is done in it.

    Backward sums run as second forward ones over the reversed text. Ties of the search take the lower tag.
    """
    count = len(start)
    step = Graph("pass_")
    score = step.add("Add", "entering", "emission", result="score")
    moved = step.add("Add", step.add("Unsqueeze", score, step.ints(-1)), step.constant(transitions[:, None]))
    step.add("ReduceMax", moved, step.ints(-2), keepdims=0, result="leaving")
    step.add("ArgMax", moved, axis=-2, keepdims=0, result="pointer")
    here = step.add("Mul", "entering_sum", "odds")
    scale = step.add("ReduceSum", here, step.ints(-1), result="scale")
    scaled = step.add("Div", here, scale, result="scaled")
    step.add("MatMul", scaled, step.constant(np.stack([moves, moves.transpose(0, 2, 1)])), result="leaving_sum")
    row: Shape = [WAYS, "batch", count]
    both: Shape = [2, *row]
    body = step.body(
        {"entering": (FLOAT, row), "entering_sum": (DOUBLE, both), "emission": (FLOAT, row), "odds": (DOUBLE, both)},
        {
            "leaving": (FLOAT, row),
            "leaving_sum": (DOUBLE, both),
            "score": (FLOAT, row),
            "pointer": (INT64, row),
            "scaled": (DOUBLE, both),
            "scale": (DOUBLE, [2, WAYS, "batch", 1]),
        },
    )
    shape = graph.add("Concat", text.rows, graph.ints(count), axis=0)
    entering = graph.add("Expand", graph.constant(start), shape)
    first = np.stack([np.exp(start.astype(np.float64)), np.ones(count)])[:, None, None]
    entering_sum = graph.add("Expand", graph.constant(first), graph.add("Concat", graph.ints(2), shape, axis=0))
    turned = _reversed(graph, text, odds)
    directions = [graph.add("Unsqueeze", part, graph.ints(0)) for part in (odds, turned)]
    sequences = [_by_token(graph, emissions, 4), _by_token(graph, graph.add("Concat", *directions, axis=0), 5)]
    _, _, scores, pointers, scaled, scale = graph.scan(body, [entering, entering_sum], sequences)

    def direction(value: str, index: int) -> str:
        one = graph.add("Gather", value, graph.scalar(index, np.int64), axis=1)
        return graph.add("Transpose", one, perm=[1, 2, 0, 3])

    entered = graph.add("Div", direction(scaled, 1), turned)  # without what its own token adds
    return _Pass(
        graph.add("ArgMax", scores, axis=-1),
        pointers,
        direction(scaled, 0),
        _reversed(graph, text, entered),
        graph.add("Squeeze", direction(scale, 0), graph.ints(-1)),
    )


def _traced(graph: Graph, text: _Text, best: str, pointers: str) -> str:
    """Tags (w, b, n): the pointers followed back from each text's last token.

    By doubling (Hillis and Steele 1986): after k rounds a token's row leads 2^k tokens on, so that few rounds do.
    """
    is_last = graph.add("Unsqueeze", graph.add("Transpose", text.last, perm=[1, 0]), graph.ints(1, 3))
    known = graph.add("Where", is_last, best, pointers)  # whatever would follow the last token
    size = graph.add("Shape", known, start=0, end=1)
    step = Graph("trace_")
    back = step.add("Neg", "reach")
    near = step.add("Slice", "known", step.ints(0), back, step.ints(0))
    far = step.add("Slice", "known", "reach", size, step.ints(0))
    rest = step.add("Slice", "known", back, size, step.ints(0))
    step.add("Concat", step.add("GatherElements", near, far, axis=-1), rest, axis=0, result="better")
    further = step.add("Add", "reach", "reach", result="further")
    step.add("Squeeze", step.add("Less", further, size), step.ints(0), result="again")
    rows: Shape = ["length", WAYS, "batch", "tags"]
    body = step.body(
        {"round": (INT64, []), "on": (BOOL, []), "known": (INT64, rows), "reach": (INT64, [1])},
        {"again": (BOOL, []), "better": (INT64, rows), "further": (INT64, [1])},
    )
    traced, _ = graph.loop(body, [known, graph.ints(1)])
    tags = graph.add("Gather", traced, graph.scalar(0, np.int64), axis=-1)
    return graph.add("Where", text.real, graph.add("Transpose", tags, perm=[1, 2, 0]), graph.scalar(0, np.int64))


def _score(graph: Graph, text: _Text, tempered: str, moves: NDArray[np.float64], tags: str, passed: _Pass) -> Decoded:
    """Posteriors of the runs in `tags`, from scaled forward and backward sums of probabilities in float64.

    Of a run from s to e under tags y: forward(s, y_s), times the moves and emissions after s, times
    backward(e, y_e), over the sum of forward(e) * backward(e) (Culotta and McCallum 2004).
    """
    chosen = graph.add("Unsqueeze", tags, graph.ints(-1))
    forward, backward, emitted = (
        graph.add("Squeeze", graph.add("GatherElements", part, chosen, axis=-1), graph.ints(-1))
        for part in (passed.forward, passed.backward, tempered)
    )
    total = graph.add("ReduceSum", graph.add("Mul", passed.forward, passed.backward), graph.ints(-1), keepdims=0)
    rest = graph.add("Div", backward, total)
    steps = graph.add("Sub", graph.add("Add", _moved(graph, tags, moves), emitted), graph.add("Log", passed.scale))
    path = graph.add("CumSum", steps, graph.scalar(2, np.int64))  # differences of it are the steps between two tokens
    opening = graph.add("Sub", graph.add("Log", forward), path)
    closing = graph.add("Add", path, graph.add("Log", rest))
    alone = graph.add("Where", text.real, graph.add("Mul", forward, rest), graph.scalar(1, np.float64))
    least = graph.add("ReduceMin", alone, graph.ints(2), keepdims=0)
    confidence = graph.add("Cast", graph.add("Min", least, graph.scalar(1, np.float64)), to=FLOAT)
    return Decoded(tags, _of_runs(graph, tags, opening, closing), confidence)


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


def _probability(graph: Graph, log: str) -> str:
    """exp of a logarithm that rounding may have pushed above 0, as float32."""
    return graph.add("Cast", graph.add("Exp", graph.add("Min", log, graph.scalar(0, np.float64))), to=FLOAT)


def _by_token(graph: Graph, value: str, rank: int) -> str:
    """Axis -2, tokens, first."""
    return graph.add("Transpose", value, perm=[rank - 2, *range(rank - 2), rank - 1])
