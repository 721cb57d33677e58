"""A typed gRPC client. Needs no more than a plain install."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import grpc
from google.rpc.status_pb2 import Status

from smallm.errors import ServerError
from smallm.ner.v1 import ner_pb2, ner_pb2_grpc


@dataclass(frozen=True)
class Entity:
    """A recognised entity; offsets in code points, end exclusive; `source` is llm, local or both."""

    start: int
    end: int
    type: str
    text: str
    score: float
    source: str


@dataclass(frozen=True)
class Result:
    """One text's answer. `llm` is fresh, cached or absent; `llm_reason` says why absent. Times in microseconds.

    `local_confidence` is the local model's in its own entities, None where the mode had no need of it.
    """

    entities: list[Entity]
    domain: str
    llm: str
    llm_reason: str
    timings: dict[str, int]
    local_confidence: float | None = None


class Client:
    """Talks to one server; use it in a `with` block."""

    def __init__(self, address: str, timeout_s: float = 60.0) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = ner_pb2_grpc.NerServiceStub(self._channel)
        self._address, self._timeout_s = address, timeout_s

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def recognize(self, text: str, *, domain: str = "", llm_mode: str = "", min_score: float = 0.0) -> Result:
        """Entities of one text. Raises ServerError.

        `llm_mode` is off, cached_only, wait, background, when_uncertain or '' for the server's.
        """
        request = _request(text, domain, llm_mode, min_score)
        try:
            return _result(self._stub.Recognize(request, timeout=self._timeout_s))
        except grpc.RpcError as error:
            raise self._error(error) from None

    def recognize_batch(
        self, texts: Sequence[str], *, domain: str = "", llm_mode: str = "", min_score: float = 0.0
    ) -> list[Result | ServerError]:
        """One result or error a text, in order. Raises ServerError if the call as a whole fails."""
        items = [_request(text, domain, llm_mode, min_score) for text in texts]
        try:
            response = self._stub.BatchRecognize(ner_pb2.BatchRecognizeRequest(items=items), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from None
        return [
            _result(item.response) if item.HasField("response") else _item_error(item.error) for item in response.items
        ]

    def recognize_stream(
        self, texts: Iterable[tuple[str, str]], *, domain: str = "", llm_mode: str = "", min_score: float = 0.0
    ) -> Iterator[tuple[str, Result | ServerError]]:
        """(id, result or error) as they are ready, for (id, text) pairs; no deadline. Raises ServerError."""
        requests = (
            ner_pb2.StreamRecognizeRequest(id=id_, request=_request(text, domain, llm_mode, min_score))
            for id_, text in texts
        )
        try:
            for one in self._stub.StreamRecognize(requests):
                yield one.id, _result(one.response) if one.HasField("response") else _item_error(one.error)
        except grpc.RpcError as error:
            raise self._error(error) from None

    def domains(self) -> dict[str, list[str]]:
        """The server's domains and their entity types. Raises ServerError."""
        try:
            response = self._stub.ListDomains(ner_pb2.ListDomainsRequest(), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from None
        return {domain.name: list(domain.types) for domain in response.domains}

    def _error(self, error: grpc.RpcError) -> ServerError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.UNAVAILABLE:
            return ServerError(code.name, f"no server answers at {self._address} ({details})")
        return ServerError(code.name, str(details))


def _request(text: str, domain: str, llm_mode: str, min_score: float) -> ner_pb2.RecognizeRequest:
    mode = ner_pb2.LlmMode.Value(f"LLM_MODE_{(llm_mode or 'unspecified').upper()}")
    return ner_pb2.RecognizeRequest(text=text, domain=domain, llm_mode=mode, min_score=min_score)


def _result(response: ner_pb2.RecognizeResponse) -> Result:
    entities = [
        Entity(one.start, one.end, one.type, one.text, one.score, _name(ner_pb2.EntitySource.Name(one.source)))
        for one in response.entities
    ]
    status = _name(ner_pb2.LlmStatus.Name(response.llm.status))
    timings = {field.name: value for field, value in response.timings.ListFields()}
    confidence = response.llm.local_confidence if response.llm.HasField("local_confidence") else None
    return Result(entities, response.domain, status, response.llm.reason, timings, confidence)


def _item_error(status: Status) -> ServerError:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return ServerError(names.get(status.code, "UNKNOWN"), status.message)


def _name(enum_name: str) -> str:
    return enum_name.rpartition("_")[2].lower()
