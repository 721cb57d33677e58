"""What a raw reply says about a text: spans, or why it says nothing. The one door from replies to spans."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from smallm.documents import Span
from smallm.errors import LLMError
from smallm.llm import parse
from smallm.llm.align import align
from smallm.llm.parse import parse_reply
from smallm.llm.reasons import Reason

_HAN = re.compile(r"[\u3400-\u9fff]")


def read_reply(reply: str, text: str, types: Sequence[str]) -> list[Span]:
    """The spans of `text` that `reply` names. Raises LLMError with a Reason if it is no usable answer."""
    if not reply.strip():
        raise LLMError(Reason.EMPTY, "the LLM's reply is empty")
    mentions = parse_reply(reply)
    if mentions and _HAN.search(text) and not any(_HAN.search(one.text) or one.text in text for one in mentions):
        raise LLMError(Reason.WRONG_LANGUAGE, "the LLM answered in another language than the text's")
    return align(mentions, text, types)


def reader(types: Sequence[str]) -> str:
    """What derived tags are keyed with beside the request: the parser's version and the order of the types."""
    return _reader(tuple(types), parse.PARSER_VERSION)


@lru_cache(maxsize=256)
def _reader(types: tuple[str, ...], version: int) -> str:
    ordered = hashlib.sha256("\0".join(types).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{version}/{ordered[:16]}"
