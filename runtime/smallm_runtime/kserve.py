"""The Open Inference Protocol (KServe v2) beside the native service: a domain is a model, texts in, JSON out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import grpc

from smallm import __version__
from smallm.client.answers import Result, result_of
from smallm.errors import InvalidRequestError, UnavailableError, UnknownDomainError, UnknownVersionError
from smallm.ner.v1 import ner_pb2
from smallm_runtime import open_inference
from smallm_runtime.recognition import Recognition
from smallm_runtime.versions import Versions, asked_version

SERVICE = open_inference.SERVICE
OUTPUTS = ("entities", "details")
PARAMETERS = ("llm_mode", "min_score", "offset_unit")


class InferenceService:
    """Six methods, with the errors of the native service. One text that fails fails its request: the protocol is so."""

    def __init__(self, versions: Versions, recognition: Recognition, ready: Callable[[], bool]) -> None:
        """`ready` says whether the server answers."""
        self._versions, self._recognition, self._ready = versions, recognition, ready

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                _method(getattr(self, name), response),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (request, response) in open_inference.methods().items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def ServerLive(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: N802
        """It answers."""
        return {"live": True}

    async def ServerReady(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: N802
        """As health says."""
        return {"ready": self._ready()}

    async def ModelReady(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: N802
        """Whether the domain is there and the server ready."""
        try:
            with self._versions.use(request.version or asked_version(context)) as version:
                version.engine.domain(request.name)
        except (UnavailableError, UnknownDomainError, UnknownVersionError):
            return {"ready": False}
        return {"ready": self._ready()}

    async def ServerMetadata(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: N802
        """Name and version."""
        return {"name": "smallm", "version": __version__}

    async def ModelMetadata(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: N802
        """Tensors of a domain, and the bundles that have it."""
        with self._versions.use(request.version or asked_version(context)) as version:
            name = version.engine.domain(request.name)
        tensor = {"datatype": "BYTES", "shape": [-1]}
        return {
            "name": name,
            "versions": [one.name for one in self._versions.serving if name in one.engine.domains],
            "platform": "smallm",
            "inputs": [{"name": "text", **tensor}],
            "outputs": [{"name": output, **tensor} for output in OUTPUTS],
        }

    async def ModelInfer(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: N802
        """Texts to JSON: `entities` a list of objects a text, `details` what else `smallm recognize` prints of it."""
        outputs = _outputs(request)
        template = _template(request)
        texts = open_inference.texts_of(request, self._recognition.limits.batch_items)
        self._recognition.check_batch(len(texts), map(len, texts), "inputs[0]")
        with self._versions.use(request.model_version or asked_version(context)) as version:
            template.domain = version.engine.domain(request.model_name)
            remaining_s = context.time_remaining()
            asked = [ner_pb2.RecognizeRequest(text=text) for text in texts]
            for one in asked:
                one.MergeFrom(template)
            answers = await asyncio.gather(
                *(
                    self._recognition.recognize(version, one, f"inputs[0].contents[{index}].", remaining_s)
                    for index, one in enumerate(asked)
                ),
                return_exceptions=True,  # they share the version, which may not go while one runs
            )
        results = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            results.append(result_of(answer))
        shape = request.inputs[0].shape
        return {
            "model_name": template.domain,
            "model_version": version.name,
            "id": request.id,
            "outputs": [{"name": output, "datatype": "BYTES", "shape": shape} for output in outputs],
            "raw_output_contents": [open_inference.pack(_json(one, output) for one in results) for output in outputs],
        }


def _method(
    method: Callable[[Any, Any], Awaitable[dict[str, Any]]], response: Any
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        return response(**await method(request, context))

    return call


def _outputs(request: Any) -> list[str]:
    for index, output in enumerate(request.outputs):
        if output.name not in OUTPUTS:
            raise InvalidRequestError(f"outputs[{index}].name", f"unknown; there are: {', '.join(OUTPUTS)}")
        if output.parameters:
            raise InvalidRequestError(f"outputs[{index}].parameters", "no extension is supported")
    return [output.name for output in request.outputs] or list(OUTPUTS)


def _template(request: Any) -> ner_pb2.RecognizeRequest:
    """What the request's parameters say of every text."""
    told, template = open_inference.parameters_of(request, PARAMETERS), ner_pb2.RecognizeRequest()
    for name, enum, prefix in (
        ("llm_mode", ner_pb2.LlmMode, "LLM_MODE_"),
        ("offset_unit", ner_pb2.OffsetUnit, "OFFSET_UNIT_"),
    ):
        if name in told:
            value = f"{prefix}{str(told[name]).upper()}"
            if value not in enum.keys():  # noqa: SIM118 - no mapping
                names = ", ".join(key.removeprefix(prefix).lower() for key in enum.keys()[1:])
                raise InvalidRequestError(f'parameters["{name}"]', f"must be one of {names}")
            setattr(template, name, enum.Value(value))
    if "min_score" in told:
        try:
            template.min_score = float(told["min_score"])
        except (ValueError, OverflowError):
            raise InvalidRequestError('parameters["min_score"]', "must be a number") from None
    return template


def _json(result: Result, output: str) -> bytes:
    value = asdict(result)
    entities = value.pop("entities")
    told = entities if output == "entities" else value
    return json.dumps(told, ensure_ascii=False, default=datetime.isoformat).encode()
