"""The pre-training loop: resumable, its order and masking a function of seed and step alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import clip_grad_norm_

from smallm import atomic
from smallm.tokenization import TextTokenizer
from smallm_train.pretrain.batches import PADDING, SILVER_PADDING, Batch, Example, block_example, collate
from smallm_train.pretrain.corpus import TokenStream
from smallm_train.pretrain.evaluation import evaluate
from smallm_train.pretrain.model import PretrainingModel, losses

# Boundaries and parts of speech converge early; their share falls to leave room for the rest.
TASK_WEIGHTS = {"mlm": 1.0, "boundary": 0.5, "part": 0.5, "entity": 1.0}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `tokens` counts corpus and silver tokens, padding apart."""

    tokens: int = 60_000_000
    batch: int = 16
    peak_rate: float = 1e-3
    warmup_share: float = 0.02
    decay_share: float = 0.5
    silver_every: int = 20
    save_every: int = 500
    seed: int = 0

    def rate(self, seen: int) -> float:
        """Learning rate after `seen` tokens: linear warm-up, constant, then linearly to 2 % of the peak.

        A run can be lengthened before its decay begins, since nothing before depends on `tokens`
        (warm-up and stable phase as in Haegele et al. 2024).
        """
        progress = min(seen / self.tokens, 1.0)
        rising = progress / self.warmup_share + 1e-3
        falling = 0.02 + 0.98 * (1 - progress) / self.decay_share
        return self.peak_rate * min(1.0, rising, falling)


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class TrainingData:
    """Training blocks, silver sentences of each kind and what is held out of both."""

    stream: TokenStream
    blocks: np.ndarray
    silver: list[list[Example]]
    held_out_blocks: list[Example]
    held_out_silver: dict[str, list[Example]]


class Batches:
    """Batch number `step` of a run, whether or not the earlier ones were drawn."""

    def __init__(self, data: TrainingData, tokenizer: TextTokenizer, schedule: Schedule) -> None:
        self._data, self._tokenizer, self._schedule = data, tokenizer, schedule
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._lengths = [np.array([len(example.ids) for example in kind]) for kind in data.silver]

    def __getitem__(self, step: int) -> Batch:
        schedule, data = self._schedule, self._data
        rng = np.random.default_rng((schedule.seed, step))
        if data.silver and step % schedule.silver_every == 0:
            return collate(self._silver(rng), self._tokenizer, mask_share=0.1, rng=rng, multiple=SILVER_PADDING)
        per_epoch = max(len(data.blocks) // schedule.batch, 1)
        epoch, index = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((schedule.seed, 1, epoch)).permutation(len(data.blocks))
        rows = self._order[index * schedule.batch : (index + 1) * schedule.batch]
        examples = [block_example(data.stream, *data.blocks[row]) for row in rows]
        return collate(examples, self._tokenizer, mask_share=0.15, rng=rng, multiple=PADDING)

    def _silver(self, rng: np.random.Generator) -> list[Example]:
        """Sentences of one kind and similar length: padding short ones to the longest would cost more than they do."""
        sizes = np.array([len(kind) for kind in self._data.silver])
        kind = int(rng.choice(len(sizes), p=sizes / sizes.sum()))
        size = min(4 * self._schedule.batch, sizes[kind])
        order = np.argsort(self._lengths[kind] * rng.uniform(0.8, 1.25, sizes[kind]))
        first = int(rng.integers(len(order) - size + 1))
        return [self._data.silver[kind][index] for index in order[first : first + size]]


def pretrain(
    model: PretrainingModel,
    data: TrainingData,
    tokenizer: TextTokenizer,
    schedule: Schedule,
    work: Path,
    report: Callable[[Progress, dict[str, float]], None],
) -> Progress:
    """Train until `schedule.tokens`, from the checkpoint in `work` if there is one.

    `report` is called after every step with the losses by task, and after every checkpoint with
    the held-out scores too (their names start with `held_out_`).
    """
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    other = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": other, "weight_decay": 0.0}]
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(groups, lr=schedule.peak_rate, betas=(0.9, 0.98), fused=True)
    progress = restore(work, model, optimizer)
    batches = Batches(data, tokenizer, schedule)
    while progress.tokens < schedule.tokens:
        model.train()
        batch = batches[progress.step].to(device)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(progress.tokens)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device)):
            logits = model(batch)
        by_task = losses(logits, batch)
        total = torch.stack([TASK_WEIGHTS[task] * loss for task, loss in by_task.items()]).sum()
        total.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        progress.tokens += batch.tokens
        figures = {task: float(loss.detach()) for task, loss in by_task.items()}
        if progress.step % schedule.save_every == 0 or progress.tokens >= schedule.tokens:
            save(work, model, optimizer, progress)
            write_encoder(work / "encoder", model, tokenizer)
            scores = evaluate(model, data.held_out_blocks, data.held_out_silver, tokenizer)
            figures |= {f"held_out_{name}": value for name, value in scores.items()}
        report(progress, figures)
    return progress


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 saves time on `device`; a CPU without instructions for it emulates them, 40 times slower."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.cuda.is_bf16_supported())


def save(work: Path, model: PretrainingModel, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Replace the checkpoint in `work`, all of it or nothing."""
    with atomic.new_directory(work / "checkpoint") as folder:
        state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        moments = {
            f"{index}.{name}": value
            for index, entry in optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        save_file(moments, folder / "optimizer.safetensors")
        (folder / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")


def write_encoder(out: Path, model: PretrainingModel, tokenizer: TextTokenizer) -> None:
    """Write the encoder as a Hugging Face folder: fp16 safetensors, config, tokenizer."""
    with atomic.new_directory(out) as folder:
        model.mlm.config.save_pretrained(folder)
        state = model.mlm.state_dict()
        tied = "cls.predictions.decoder."  # the same tensors as the word embeddings and the bias
        half = {name: value.half().cpu().contiguous() for name, value in state.items() if not name.startswith(tied)}
        save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(folder / "tokenizer.json")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.mlm.config.max_position_embeddings,
        }
        config |= {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def restore(work: Path, model: PretrainingModel, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the checkpoint in `work` into model and optimizer; start afresh if there is none."""
    folder = work / "checkpoint"
    if not folder.is_dir():
        return Progress()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
