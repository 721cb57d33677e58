"""Masking what must not leave the site, character for character: spans of the masked text are spans of the text.

A digit becomes 0, a Latin letter X, a Han character 某; what separates them stays, so that the LLM still sees
what kind of thing stood there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from smallm.errors import DataError, LLMError
from smallm.llm.align import align
from smallm.llm.parse import parse_reply
from smallm.llm.prompt import Demonstration, Prompt

# Numbers are bounded by what is no digit or Latin letter: neighbours are Han characters, where \b is no help,
# and a part number that contains eleven digits is no telephone.
_LEFT, _RIGHT = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"
_DAY = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领"
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
# Rules that begin with an alternation look at the first character by themselves: most characters are none of theirs.
BUILT_IN = {
    "url": r"(?i:https?://|ftp://|www\.)[!-~]+",
    "email": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
    "id": rf"{_LEFT}[1-9]\d{{5}}(?:(?:18|19|20)\d{{2}}{_DAY}\d{{3}}[\dXx]|\d{{2}}{_DAY}\d{{3}}){_RIGHT}",
    "phone": (
        rf"(?=[\d+(])(?:(?:(?<![0-9A-Za-z])|(?<=\+86)|(?<=0086))1[3-9]\d[- ]?\d{{4}}[- ]?\d{{4}}{_RIGHT}"
        rf"|{_LEFT}(?:\+86[- ]?)?[(]?0\d{{2,3}}[)]?[- ]?[2-9]\d{{2,3}}[- ]?\d{{4}}(?:-\d{{1,6}})?{_RIGHT}"
        rf"|{_LEFT}[48]00[- ]?\d{{3,4}}[- ]?\d{{3,4}}{_RIGHT})"
    ),
    "ip": (
        rf"(?=[0-9A-Fa-f:])(?:(?<![0-9A-Za-z.]){_OCTET}(?:\.{_OCTET}){{3}}(?::\d{{1,5}})?(?![0-9A-Za-z]|\.\d)"
        r"|(?<![0-9A-Za-z:])(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}(?![0-9A-Za-z:])"
        r"|(?<![0-9A-Za-z:])(?=[0-9A-Fa-f:]*::)(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6}(?![0-9A-Za-z:]))"
    ),
    "plate": rf"[{_PROVINCES}][A-Za-z][·•. ]?[A-Za-z0-9]{{4,6}}[挂学警港澳领]?{_RIGHT}",
}
DICTIONARY, NOT_ALLOWED = "dictionary", "not_allowed"
# Full-width letters, digits and what joins them are matched as what they look like; one code point stays one.
# Not the full-width comma and its like: in Chinese they end a URL or a number.
_NARROW = {code: code - 0xFEE0 for code in map(ord, "＋－．＠")} | {
    code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code - 0xFEE0).isalnum()
}
_WIDE = re.compile("[" + "".join(map(chr, _NARROW)) + "]")


@dataclass(frozen=True)
class Redacted:
    """A masked text of the same length, and how many places each rule masked. `bare`: nothing is left unmasked."""

    text: str
    counts: Mapping[str, int] = field(default_factory=dict)
    bare: bool = False


class Redactor:
    """Applies rules in order; a character that one rule masked is not looked at by the next."""

    def __init__(
        self,
        kinds: Iterable[str] = tuple(BUILT_IN),
        patterns: Mapping[str, str] | None = None,
        terms: Iterable[str] = (),
        allow: Sequence[str] = (),
    ) -> None:
        """`terms` are words of dictionaries. With `allow`, only what matches one of it stays."""
        rules = {kind: BUILT_IN[kind] for kind in BUILT_IN if kind in set(kinds)} | dict(patterns or {})
        # Longest first: a name must not leave its second half because a shorter one matched.
        words = sorted({term.translate(_NARROW) for term in terms}, key=lambda term: (-len(term), term))
        if words:
            rules[DICTIONARY] = "|".join(map(re.escape, words))
        self._rules = {name: re.compile(rule) for name, rule in rules.items()}
        self._allow = re.compile("|".join(f"(?:{pattern})" for pattern in allow)) if allow else None
        self._prompt = lru_cache(maxsize=64)(self._masked_prompt)

    def redact(self, text: str) -> Redacted:
        """Mask `text`; the result has its length."""
        seen = text.translate(_NARROW) if _WIDE.search(text) else text
        counts: Counter[str] = Counter()
        hidden = bytearray(len(text))
        for name, rule in self._rules.items():
            for match in rule.finditer(seen):
                start, end = match.span()
                if not all(hidden[start:end]):
                    counts[name] += 1
                    hidden[start:end] = b"\1" * (end - start)
        if self._allow is not None:
            allowed = bytearray(len(text))
            for match in self._allow.finditer(seen):
                allowed[match.start() : match.end()] = b"\1" * (match.end() - match.start())
            for index, kept in enumerate(allowed):
                if not kept and not hidden[index] and _mask(text[index]) != text[index]:
                    counts[NOT_ALLOWED] += 1
                    hidden[index] = 1
        if not counts:
            return Redacted(text)
        masked = "".join(_mask(text[i]) if hide else text[i] for i, hide in enumerate(hidden))
        bare = not any(_mask(text[i]) != text[i] and not hide for i, hide in enumerate(hidden))
        return Redacted(masked, dict(counts), bare)

    def prompt(self, prompt: Prompt) -> Prompt:
        """`prompt` with its demonstrations masked, answers in step with their texts."""
        return self._prompt(prompt)

    def _masked_prompt(self, prompt: Prompt) -> Prompt:
        return replace(prompt, demonstrations=tuple(self._demonstration(one, prompt) for one in prompt.demonstrations))

    def _demonstration(self, shown: Demonstration, prompt: Prompt) -> Demonstration:
        redacted = self.redact(shown.text)
        if not redacted.counts:
            return shown
        try:
            spans = align(parse_reply(shown.answer), shown.text, prompt.type_names)
        except LLMError:
            spans = []
        answer = [{"W": redacted.text[span.start : span.end], "L": span.type} for span in spans]
        return Demonstration(redacted.text, json.dumps(answer, ensure_ascii=False))


def read_terms(paths: Iterable[Path]) -> list[str]:
    """The words of dictionary files, one a line. Raises DataError naming the file."""
    terms: list[str] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read as a dictionary ({type(error).__name__})", source=str(path)) from None
        terms += [word for line in lines if (word := line.strip())]
    return terms


def _mask(character: str) -> str:
    if character.isdigit():
        return "0"
    narrow = character.translate(_NARROW)
    if narrow.isascii():
        return "X" if narrow.isalpha() else character
    return "某" if character.isalpha() or character.isnumeric() else character
