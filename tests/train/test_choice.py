"""What cross-fitting promises: a member learns nothing from its own fold, and choices are made on such scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from smallm.documents import Document, Span
from smallm.errors import DataError
from smallm.fusion import Way
from smallm.labels import LabelSet
from smallm.tokenization import Tokens
from smallm_train import choice as choices
from smallm_train.choice import best_way, choose
from smallm_train.examples import Example, collate
from smallm_train.head import LIMIT, FusionHead, build_head
from smallm_train.loop import Options, _loss, fit, member_scores
from smallm_train.material import Material, vary

LABELS = LabelSet(("A", "B"))
QUICK = Options(epochs=40, min_steps=1, batch_size=8)


def example(rng: np.random.Generator, *, llm_right: float = 0.5, clear: float = 2.0) -> Example:
    """Ten characters with one entity; the features tell its type more or less clearly, the LLM with a probability."""
    start, kind = int(rng.integers(1, 7)), int(rng.integers(2))
    tags = np.zeros(10, dtype=np.int64)
    tags[start : start + 2] = (2 * kind + 1, 2 * kind + 2)
    features = rng.normal(size=(10, 2, 6)).astype(np.float16)
    features[np.arange(10), 1, tags] += clear
    guess = kind if rng.random() < llm_right else 1 - kind
    votes = np.zeros((10, 5), dtype=np.float32)
    votes[np.arange(10), np.where(tags > 0, tags + 2 * (guess - kind), 0)] = 1
    gold, answer = (Span(start, start + 2, LABELS.types[index]) for index in (kind, guess))
    tokens = Tokens([0] * 10, [(i, i + 1) for i in range(10)])
    return Example(Document(str(start), "x" * 10, (gold,)), [answer], tokens, features, votes, tags)


def material(train: list[Example]) -> Material:
    return Material(train, np.arange(len(train)) % FusionHead.MEMBERS)


@pytest.fixture
def data() -> tuple[list[Example], list[Example]]:
    rng = np.random.default_rng(0)
    return [example(rng) for _ in range(40)], [example(rng) for _ in range(20)]


def test_no_gradient_reaches_a_member_from_its_own_fold(data: tuple[list[Example], list[Example]]) -> None:
    torch.manual_seed(0)
    head = FusionHead(LABELS, layers=2, hidden=6, width=8)
    torch.nn.init.normal_(head.last.weight)
    _loss(head, collate(data[0][:8]), np.full(8, 2)).backward()  # every text in member 2's fold
    assert head.transitions.grad is not None and head.last.weight.grad is not None
    by_member = head.last.weight.grad.view(2, head.members, -1).abs().sum((0, 2))
    assert by_member[2] == 0 and head.transitions.grad[2].abs().sum() == 0
    assert all(by_member[member] > 0 for member in (0, 1, 3))


def test_the_local_branch_never_sees_a_vote(data: tuple[list[Example], list[Example]]) -> None:
    head = build_head("fusion", LABELS, 2, 6, 8)
    fit(head, material(data[0]), QUICK)
    batch = collate(data[1])
    local = head.scores(batch.features, batch.votes, batch.mask).local
    torch.testing.assert_close(local, head.scores(batch.features, 0 * batch.votes, batch.mask).local)


def test_it_learns_where_the_llm_errs_and_chooses_to_fuse(data: tuple[list[Example], list[Example]]) -> None:
    train, dev = data
    torch.manual_seed(1)
    head = build_head("fusion", LABELS, 2, 6, 8)
    learned = material(train)
    fit(head, learned, QUICK)
    chosen = choose(head, LABELS, learned.known, dev)
    assert chosen.texts == 60
    assert chosen.way is Way.FUSED and chosen.f1["fused"] > 0.85 > 0.7 > max(chosen.f1["local"], chosen.f1["llm"])
    assert len(head.weights.alpha) == 3


def test_without_training_the_choice_is_the_llm_and_its_score(data: tuple[list[Example], list[Example]]) -> None:
    head = build_head("fusion", LABELS, 2, 6, 8)
    chosen = choose(head, LABELS, [], data[1])
    assert chosen.f1["fused"] == chosen.f1["llm"] and chosen.local_all == 0


def test_a_head_that_is_too_sure_gets_a_temperature_above_one(data: tuple[list[Example], list[Example]]) -> None:
    torch.manual_seed(1)
    head = build_head("fusion", LABELS, 2, 6, 8)
    fit(head, material(data[0]), QUICK)
    rng = np.random.default_rng(2)
    noisy = [
        choices._Honest(one, fused.mean(0), local.mean(0) + rng.normal(0, 3, (10, 5)).astype(np.float32), None)
        for one, (fused, local) in zip(data[1], member_scores(head, data[1]), strict=True)
    ]
    calm = choices._temperature(head, noisy, [text.local for text in noisy])
    loud = choices._temperature(head, noisy, [4 * text.local for text in noisy])
    assert loud > calm


@pytest.mark.parametrize("hidden", [256, 768, 1024])
def test_a_default_head_stays_within_the_limit(hidden: int) -> None:
    assert build_head("fusion", LabelSet(tuple("ABCDEFGHIJ")), 5, hidden).num_parameters() <= LIMIT


def outcomes(right: list[bool], texts: int) -> list[list[Span]]:
    """Per text one span, the gold one where `right` says so, in turn."""
    return [[Span(0, 2 if right[index % len(right)] else 3, "A")] for index in range(texts)]


@pytest.mark.parametrize("texts", [80, 800])
def test_fused_must_beat_the_better_single_way_by_more_than_chance(texts: int) -> None:
    gold = [[Span(0, 2, "A")]] * texts
    llm, local = outcomes([True, False, True, False], texts), outcomes([False, False, False, True], texts)
    fused = outcomes([True, False, False, True, True, True, False, False], texts)  # 4 of 8, as the LLM; other texts
    fused[0], fused[1] = gold[0], gold[1]  # and one more
    way, gain, error = best_way(gold, {Way.FUSED: fused, Way.LLM: llm, Way.LOCAL: local})
    assert 0 < gain < error / 2 and way is Way.LLM
    clear = outcomes([True, True, True, False], texts)
    assert best_way(gold, {Way.FUSED: clear, Way.LLM: llm, Way.LOCAL: local})[0] is Way.FUSED


def test_of_the_single_ways_the_better_is_kept_and_an_untrained_head_is_fused() -> None:
    gold = [[Span(0, 2, "A")]] * 8
    poor, good = outcomes([True, False], 8), outcomes([True, True, False, True], 8)
    assert best_way(gold, {Way.FUSED: poor, Way.LLM: poor, Way.LOCAL: good})[0] is Way.LOCAL
    assert best_way(gold, {Way.FUSED: poor, Way.LLM: good, Way.LOCAL: poor})[0] is Way.LLM
    assert best_way(gold, {Way.FUSED: good, Way.LLM: good, Way.LOCAL: poor})[:2] == (Way.FUSED, 0.0)


def test_unlabelled_texts_teach_the_local_scores_alone_what_the_llm_said() -> None:
    torch.manual_seed(1)
    head = build_head("fusion", LABELS, 2, 6, 8)
    rng = np.random.default_rng(5)
    weak = [replace(example(rng, llm_right=1.0, clear=5.0), tags=np.zeros(10, dtype=np.int64)) for _ in range(40)]
    fit(head, replace(material([]), unlabelled=weak), QUICK)
    unseen = [example(rng, clear=5.0) for _ in range(20)]
    fused, local = (np.concatenate(part, axis=1) for part in zip(*member_scores(head, unseen), strict=True))
    gold = np.concatenate([one.tags for one in unseen])
    assert np.all(fused == 0) and all((member.argmax(axis=1) == gold).mean() > 0.85 for member in local)
    assert choose(head, LABELS, [], []).way is Way.LLM


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="no training text holds a character"):
        fit(build_head("fusion", LABELS, 2, 6, 8), material([]), QUICK)


def test_a_variant_keeps_its_labels_and_takes_mentions_of_its_own_fold_alone() -> None:
    spans = (Span(1, 3, "A"), Span(4, 6, "B"))
    documents = [Document(str(index), f"换{'ABCDEFGH'[index]}泵啊{index}号坏", spans) for index in range(8)]
    documents.append(Document("none", "没有实体", ()))
    folds = np.arange(9) % 4
    variants = vary(documents, folds, seed=3)
    assert [document.id for document, _ in variants] == list("01234567") and vary(documents, folds, seed=3) == variants
    changed = 0
    for variant, fold in variants:
        donors = [document for document, other in zip(documents, folds, strict=True) if other == fold]
        for span in variant.spans:
            mention = variant.text[span.start : span.end]
            kinds = {d.text[s.start : s.end]: s.type for d in donors for s in d.spans}
            assert kinds[mention] == span.type
            changed += mention not in documents[int(variant.id)].text
        assert variant.text[0] == "换" and variant.text[-1] == "坏"
    assert 2 < changed < 14
