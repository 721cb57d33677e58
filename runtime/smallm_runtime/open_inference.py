"""Messages and tensors of the Open Inference Protocol (KServe v2).

The messages live in a descriptor pool of their own: in the default one they would collide with those of a
`tritonclient` in the same process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from smallm.errors import InvalidRequestError, TooLargeError

FILES = FileDescriptorSet.FromString(files(__package__).joinpath("open_inference.binpb").read_bytes())
_POOL = DescriptorPool()
for _file in FILES.file:
    _POOL.Add(_file)
_SERVICE = _POOL.FindServiceByName("inference.GRPCInferenceService")
SERVICE: str = _SERVICE.full_name
_LENGTH = struct.Struct("<I")


def message(name: str) -> Any:
    """The class of a message by its name."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, tuple[Any, Any]]:
    """The classes of request and response by the method's name."""
    return {
        method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
        for method in _SERVICE.methods
    }


def pack(elements: Iterable[bytes]) -> bytes:
    """A BYTES tensor as raw contents: each element after its length, four bytes, little-endian."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def texts_of(request: Any, at_most: int) -> list[str]:
    """The texts of a ModelInferRequest's only input. Raises InvalidRequestError, TooLargeError above `at_most`."""
    if len(request.inputs) != 1 or request.inputs[0].name != "text":
        raise InvalidRequestError("inputs", "there must be exactly one input, 'text'")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidRequestError("inputs[0].datatype", "must be BYTES")
    if tensor.parameters:
        raise InvalidRequestError("inputs[0].parameters", "shared memory and other extensions are not supported")
    if len(request.raw_input_contents) > 1 or (request.raw_input_contents and tensor.HasField("contents")):
        raise InvalidRequestError("raw_input_contents", "one for the one input, and then no inputs[0].contents")
    if request.raw_input_contents:
        path, elements = "raw_input_contents[0]", _unpack(request.raw_input_contents[0])
    else:
        path, elements = "inputs[0].contents.bytes_contents", iter(tensor.contents.bytes_contents)
    texts: list[str] = []
    for element in elements:
        if len(texts) == at_most:
            raise TooLargeError(path, f"more than {at_most} texts")
        try:
            texts.append(element.decode())
        except UnicodeDecodeError as error:
            raise InvalidRequestError(path, f"element {len(texts)} is not UTF-8 at byte {error.start}") from None
    if not _holds(tensor.shape, len(texts)):
        raise InvalidRequestError("inputs[0].shape", f"does not hold {len(texts)} elements")
    return texts


def parameters_of(request: Any, known: Iterable[str]) -> dict[str, str | float | bool]:
    """A request's parameters. Raises InvalidRequestError for one that is not in `known`."""
    strange = sorted(set(request.parameters) - set(known))
    if strange:
        raise InvalidRequestError(f'parameters["{strange[0][:64]}"]', f"unknown; there are: {', '.join(known)}")
    return {name: getattr(value, kind) for name, value in request.parameters.items() if (kind := _kind(value))}


def _kind(value: Any) -> str | None:
    kind: str | None = value.WhichOneof("parameter_choice")
    return kind


def _holds(shape: Iterable[int], count: int) -> bool:
    size = 1
    for dimension in shape:
        if dimension < 0:
            return False
        size = min(size * dimension, count + 1)
    return size == count


def _unpack(raw: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(raw):
        begin = place + _LENGTH.size
        if begin > len(raw) or (end := begin + _LENGTH.unpack_from(raw, place)[0]) > len(raw):
            raise InvalidRequestError("raw_input_contents[0]", f"ends inside the element that begins at byte {place}")
        yield raw[begin:end]
        place = end
