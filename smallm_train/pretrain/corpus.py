"""Corpus text to token blocks with silver word-boundary and part-of-speech labels from jieba."""

from __future__ import annotations

import hashlib
import lzma
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jieba
import jieba.posseg
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from smallm import atomic
from smallm.errors import DataError
from smallm.tokenization import SPECIAL_TOKENS, TextTokenizer

IGNORED = 255  # label of positions that carry none (special tokens)
BOUNDARIES = ("B", "M", "E", "S")
# jieba's tags by first letter, with the proper-noun kinds kept apart.
PARTS_OF_SPEECH = ("nr", "ns", "nt", "nz", *"nvadmqrpcufxetlijkbsyozgh")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class TokenStream:
    """Tokens of many lines end to end.

    ids, boundaries, parts: arrays of length n (boundary and part-of-speech label ids, IGNORED = none).
    starts: ascending index of the first token of each line.
    """

    ids: NDArray[np.uint16]
    boundaries: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    starts: NDArray[np.int64]

    def blocks(self, length: int) -> NDArray[np.int64]:
        """(start, end) of blocks of at most `length` tokens, cut at line starts where possible."""
        cuts, position, total = [], 0, len(self.ids)
        while position < total:
            end = min(position + length, total)
            if end < total:
                line = self.starts[np.searchsorted(self.starts, end, side="right") - 1]
                end = int(line) if line > position else end
            cuts.append((position, end))
            position = end
        return np.array(cuts, dtype=np.int64)


def read_lines(paths: list[Path]) -> list[str]:
    """Every non-empty line of the text files (`.txt` or `.txt.xz`, or folders of them)."""
    files = [file for path in paths for file in (sorted(path.glob("*.txt*")) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"no .txt or .txt.xz files in {', '.join(map(str, paths))}")
    return [line for file in files for line in _lines(file)]


def build_vocabulary(lines: list[str], min_count: int) -> list[str]:
    """Special tokens, Latin letters (as first and continuing piece), then the corpus's frequent characters."""
    tokenizer = TextTokenizer.from_vocabulary([*SPECIAL_TOKENS])
    letters = [*_LETTERS, *("##" + letter for letter in _LETTERS)]
    return [*SPECIAL_TOKENS, *letters, *frequent_characters(lines, tokenizer, min_count)]


def frequent_characters(lines: list[str], tokenizer: TextTokenizer, min_count: int) -> list[str]:
    """Characters, Latin letters apart, seen at least `min_count` times after normalisation, most frequent first."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(tokenizer.normalize(line))
    kept = [char for char, count in counts.most_common() if count >= min_count and not char.isspace()]
    return [char for char in kept if char not in _LETTERS]


def tokenize(lines: list[str], tokenizer: TextTokenizer, cache: Path) -> TokenStream:
    """Tokenise and label `lines` on all cores; the result is kept under `cache`."""
    digest = hashlib.sha256("\n".join([str(tokenizer.vocabulary_size), *lines]).encode()).hexdigest()[:16]
    file = cache / f"tokens-{digest}.safetensors"
    if not file.is_file():
        vocabulary_file = cache / f"tokenizer-{digest}.json"
        cache.mkdir(parents=True, exist_ok=True)
        tokenizer.save(vocabulary_file)
        chunks = [lines[index : index + 2000] for index in range(0, len(lines), 2000)]
        with multiprocessing.Pool(initializer=_start_worker, initargs=(vocabulary_file,)) as pool:
            parts = pool.map(_label_chunk, chunks, chunksize=1)
        vocabulary_file.unlink()
        lengths = np.concatenate([part[3] for part in parts])
        with atomic.new_file(file) as temporary:
            arrays = {
                "ids": np.concatenate([part[0] for part in parts]),
                "boundaries": np.concatenate([part[1] for part in parts]),
                "parts": np.concatenate([part[2] for part in parts]),
                "starts": np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
            }
            save_file(arrays, temporary)
    return TokenStream(**load_file(file))


def label_words(text: str, offsets: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Boundary and part-of-speech label ids for tokens at `offsets`, from jieba's words."""
    boundary_of = [0] * len(text)
    part_of = [0] * len(text)
    position = 0
    for word in jieba.posseg.cut(text):
        size = len(word.word)
        marks = [3] if size == 1 else [0] + [1] * (size - 2) + [2]
        boundary_of[position : position + size] = marks
        part_of[position : position + size] = [_part_id(word.flag)] * size
        position += size
    return [boundary_of[start] for start, _ in offsets], [part_of[start] for start, _ in offsets]


def _part_id(flag: str) -> int:
    for name in (flag[:2], flag[:1]):
        if name in PARTS_OF_SPEECH:
            return PARTS_OF_SPEECH.index(name)
    return PARTS_OF_SPEECH.index("x")


def _lines(file: Path) -> Iterator[str]:
    opener = lzma.open if file.suffix == ".xz" else open
    with opener(file, "rt", encoding="utf-8") as handle:
        yield from (line.strip() for line in handle if line.strip())


_tokenizer: TextTokenizer


def _start_worker(tokenizer_file: Path) -> None:
    global _tokenizer
    from tokenizers import Tokenizer

    jieba.setLogLevel("WARNING")
    _tokenizer = TextTokenizer(Tokenizer.from_file(str(tokenizer_file)))


def _label_chunk(
    lines: list[str],
) -> tuple[NDArray[np.uint16], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Tokens and labels of some lines, each line closed by [SEP]; and the lines' lengths."""
    ids: list[int] = []
    boundaries: list[int] = []
    parts: list[int] = []
    lengths: list[int] = []
    for line in lines:
        tokens = _tokenizer.encode(line)
        line_boundaries, line_parts = label_words(line, tokens.offsets)
        ids += [*tokens.ids, _tokenizer.sep_id]
        boundaries += [*line_boundaries, IGNORED]
        parts += [*line_parts, IGNORED]
        lengths.append(len(tokens) + 1)
    return (
        np.array(ids, dtype=np.uint16),
        np.array(boundaries, dtype=np.uint8),
        np.array(parts, dtype=np.uint8),
        np.array(lengths, dtype=np.int64),
    )
