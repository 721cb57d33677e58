"""Text to encoder tokens with code-point offsets: the one place that decides what a token is.

One token per character, except that a run of Latin letters is one word for the encoder's
WordPiece model. White space and control characters carry no token. Every token knows the code
points it covers, so spans survive any text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from smallm.errors import ArtifactError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECES = Regex(r"[A-Za-zＡ-Ｚａ-ｚ]+|[^A-Za-zＡ-Ｚａ-ｚ]")
# Characters that no normalisation joins with a neighbour: ASCII, general and CJK punctuation, Han, full-width ASCII.
_PLAIN = re.compile("[\\t\\n\\r -~·×°±‐-‧、-〟\u3400-\u4dbf\u4e00-\u9fff！-～]*")
_PIECE = re.compile("[A-Za-zＡ-Ｚａ-ｚ]+|[^A-Za-zＡ-Ｚａ-ｚ]")  # as _PIECES
_REMEMBERED = 20_000  # pieces
_LONGEST_PIECE = 30  # code points of those
BLOCK = 8192  # code points of a long text that are tokenised at a time
_BORDER = re.compile("[\n\u4e00-\u9fff，。；]")  # neither joins what stands before it, whatever the normalisation


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text without special tokens.

    ids: vocabulary ids, length n.
    offsets: n pairs (start, end) in code points of the original text, end exclusive, ascending; a
    character that normalises to several (㎡ to m2) has several tokens with the same pair.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(self.ids[part], self.offsets[part])


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Tokens of a long text at 12 bytes each: `ids` (n,) and `offsets` (n, 2), both int32. A slice is Tokens."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(self.ids[part].tolist(), [(start, end) for start, end in self.offsets[part].tolist()])


class TextTokenizer:
    """Wraps a BERT-style `tokenizers` tokenizer with this project's pre-tokenisation."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(_PIECES, behavior="isolated")]
        )
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self._special_id(token) for token in SPECIAL_TOKENS
        )

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Load `tokenizer.json`, or build one from a BERT `vocab.txt`, in `folder`.

        Raises ArtifactError if neither is there or they lack BERT's special tokens.
        """
        if (folder / "tokenizer.json").is_file():
            return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))
        if (folder / "vocab.txt").is_file():
            return cls(_from_vocab_txt(folder))
        raise ArtifactError(f"{folder}: no tokenizer.json or vocab.txt; is this an encoder folder?")

    @classmethod
    def from_vocabulary(cls, vocabulary: list[str]) -> TextTokenizer:
        """A tokenizer whose vocabulary is `vocabulary`, special tokens first (see `pretrain`)."""
        ids = {token: index for index, token in enumerate(vocabulary)}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.BertNormalizer(handle_chinese_chars=False)]
        )
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
        return cls(tokenizer)

    @property
    def vocabulary_size(self) -> int:
        """Number of entries in the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> Tokens:
        """Tokenise `text`; see Tokens for shapes and units."""
        if _PLAIN.fullmatch(text):
            return self._encode_plain(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return Tokens(encoding.ids, encoding.offsets)

    def encode_batch(self, texts: list[str]) -> list[Tokens]:
        """Tokenise several texts."""
        return [self.encode(text) for text in texts]

    def encode_long(self, text: str) -> PackedTokens:
        """As `encode`, in memory that grows by 12 bytes a token only."""
        ids: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
        offsets: list[NDArray[np.int32]] = [np.zeros((0, 2), dtype=np.int32)]
        for begin, end in _blocks(text):
            tokens = self.encode(text[begin:end])
            if len(tokens):
                ids.append(np.array(tokens.ids, dtype=np.int32))
                offsets.append(np.array(tokens.offsets, dtype=np.int32) + begin)
        return PackedTokens(np.concatenate(ids), np.concatenate(offsets))

    def encoder_inputs(self, parts: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
        """`input_ids` and `attention_mask`, (batch, length), of id sequences between [CLS] and [SEP], padded."""
        longest = max(len(part) for part in parts) + 2
        ids = np.full((len(parts), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, part in enumerate(parts):
            ids[row, : len(part) + 2] = [self.cls_id, *part, self.sep_id]
            mask[row, : len(part) + 2] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def extended(self, characters: Iterable[str]) -> TextTokenizer:
        """This tokenizer with those of `characters` that it does not know appended to its vocabulary, in order."""
        state = json.loads(self._tokenizer.to_str())
        vocabulary = state["model"]["vocab"]
        for character in characters:
            vocabulary.setdefault(character, len(vocabulary))
        return TextTokenizer(Tokenizer.from_str(json.dumps(state)))

    def normalize(self, text: str) -> str:
        """The text as the vocabulary sees it (case, width), for counting characters."""
        return str(self._tokenizer.normalizer.normalize_str(text))

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` to `path`."""
        self._tokenizer.save(str(path))

    def _encode_plain(self, text: str) -> Tokens:
        """Piece by piece from memory: the library's splitting by a regular expression takes twenty times as long."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        position = 0
        for piece in _PIECE.findall(text):
            known = self._pieces.get(piece)
            if known is None:
                known = self._learn(piece)
            if len(piece) == 1 == len(known[0]):
                ids.append(known[0][0])
                offsets.append((position, position + 1))
            else:
                ids += known[0]
                offsets += [(position + start, position + end) for start, end in known[1]]
            position += len(piece)
        return Tokens(ids, offsets)

    def _learn(self, piece: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._tokenizer.encode(piece, add_special_tokens=False)
        if len(piece) <= _LONGEST_PIECE and len(self._pieces) < _REMEMBERED:
            self._pieces[piece] = encoding.ids, encoding.offsets
        return encoding.ids, encoding.offsets

    def _special_id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ArtifactError(f"the tokenizer has no {token} token; a BERT-style vocabulary is needed")
        return int(found)


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Cuts where no token and no normalisation reaches across."""
    begin = 0
    while begin < len(text):
        border = _BORDER.search(text, begin + BLOCK)
        end = border.start() if border else len(text)
        yield begin, end
        begin = end


def _from_vocab_txt(folder: Path) -> Tokenizer:
    """BERT's own normalisation over `vocab.txt`; `tokenizer_config.json` may say it keeps case."""
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    vocabulary = {token: index for index, token in enumerate(lines)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=bool(config.get("do_lower_case", True)))
    return tokenizer
