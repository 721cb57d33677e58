"""Messages to what a caller sees, and back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

from smallm.client.failures import failure_of
from smallm.errors import DataError, ServerError
from smallm.ner.v1 import ner_pb2


class Options(TypedDict, total=False):
    """What may be said of a text. What is left out is the server's default.

    `llm_mode` is off, cached_only, wait, background or when_uncertain; `offset_unit` code_points (the default),
    utf16_code_units or utf8_bytes; entities below `min_score` (0 to 1) are left out.
    """

    domain: str
    llm_mode: str
    min_score: float
    offset_unit: str


@dataclass(frozen=True)
class Entity:
    """A recognised entity; offsets in the unit asked for, end exclusive; `source` is llm, local or both."""

    start: int
    end: int
    type: str
    text: str
    score: float
    source: str


@dataclass(frozen=True)
class Provenance:
    """What answered: sha256 of the bundle's manifest and of the domain's head, and the encoder's number format."""

    bundle_sha256: str
    head_sha256: str
    variant: str


@dataclass(frozen=True)
class Result:
    """One text's answer. `llm` is fresh, cached or absent; `llm_reason` says why absent. Times in microseconds.

    `local_confidence` is the local model's in its own entities, None where the mode had no need of it.
    `llm_answered` is when the LLM gave its part, None if absent or not known.
    """

    entities: list[Entity]
    domain: str
    llm: str
    llm_reason: str
    timings: dict[str, int]
    provenance: Provenance
    local_confidence: float | None = None
    llm_answered: datetime | None = None


Outcome = Result | ServerError


def request_of(text: str, options: Options) -> ner_pb2.RecognizeRequest:
    """The message for a text. Raises DataError for what no message can hold."""
    try:
        return ner_pb2.RecognizeRequest(
            text=text,
            domain=options.get("domain", ""),
            llm_mode=ner_pb2.LlmMode.Value(f"LLM_MODE_{(options.get('llm_mode') or 'unspecified').upper()}"),
            min_score=options.get("min_score", 0.0),
            offset_unit=ner_pb2.OffsetUnit.Value(
                f"OFFSET_UNIT_{(options.get('offset_unit') or 'unspecified').upper()}"
            ),
        )
    except UnicodeEncodeError as error:
        raise DataError(f"a lone surrogate at character {error.start}; it is no Unicode text", field="text") from None
    except ValueError as error:
        raise DataError(str(error)) from None


def result_of(response: ner_pb2.RecognizeResponse) -> Result:
    """The answer in a message."""
    llm, provenance = response.llm, response.provenance
    return Result(
        entities=[
            Entity(one.start, one.end, one.type, one.text, one.score, _name(ner_pb2.EntitySource, one.source))
            for one in response.entities
        ],
        domain=response.domain,
        llm=_name(ner_pb2.LlmStatus, llm.status),
        llm_reason=llm.reason,
        timings={field.name: value for field, value in response.timings.ListFields()},
        provenance=Provenance(provenance.bundle_sha256, provenance.head_sha256, provenance.variant),
        local_confidence=llm.local_confidence if llm.HasField("local_confidence") else None,
        llm_answered=llm.answered_at.ToDatetime(UTC) if llm.HasField("answered_at") else None,
    )


def outcome_of(item: ner_pb2.BatchItem | ner_pb2.StreamRecognizeResponse) -> Outcome:
    """The answer or the error of one item."""
    return result_of(item.response) if item.HasField("response") else failure_of(item.error)


def _name(enum: Any, number: int) -> str:
    """The last word of a value's name; the number where a newer server has further ones."""
    return enum.Name(number).rpartition("_")[2].lower() if number in enum.values() else str(number)
