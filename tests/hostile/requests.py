"""Hostile requests as raw bytes, and what may come of each. The same seed gives the same requests."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smallm.ner.v1 import ner_pb2

NER = "/smallm.ner.v1.NerService"
RECOGNIZE, BATCH, STREAM, DOMAINS = (
    f"{NER}/{name}" for name in ("Recognize", "BatchRecognize", "StreamRecognize", "ListDomains")
)
KSERVE = "/inference.GRPCInferenceService"
LIMITS = ["--limits-text=20000", "--limits-batch-text=1000000"]  # of the server, whatever the default
CANARY = "密语canary"  # in texts; must come back in an answer only

Outcomes = frozenset[tuple[str, str]]
OK = ("OK", "")
MALFORMED = ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")
FIELD = ("INVALID_ARGUMENT", "INVALID_FIELD")
LARGE = ("INVALID_ARGUMENT", "TOO_LARGE")
NO_DOMAIN = ("NOT_FOUND", "UNKNOWN_DOMAIN")
NO_VERSION = ("NOT_FOUND", "UNKNOWN_VERSION")
NO_METHOD = ("UNIMPLEMENTED", "UNKNOWN_METHOD")
BY_GRPC = ("RESOURCE_EXHAUSTED", "")  # larger than a message may be: grpc itself refuses, before there are details
BUSY = ("RESOURCE_EXHAUSTED", "OVERLOADED")
ANY_CONTENT = frozenset({OK, MALFORMED, FIELD, LARGE, NO_DOMAIN, NO_VERSION})


@dataclass(frozen=True)
class Hostile:
    """One call: the messages' bytes, and the (code, reason) that are right. Of a stream the first trouble counts."""

    kind: str
    method: str
    messages: tuple[bytes, ...]
    right: Outcomes
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    cancel: bool = False
    timeout_s: float = 60.0


def requests(count: int, seed: int = 0) -> Iterator[Hostile]:
    """`count` of them, every kind in turn."""
    source = random.Random(seed)
    makers = list(_KINDS.items())
    for index in range(count):
        kind, make = makers[index % len(makers)]
        yield make(kind, source)


def valid(source: random.Random) -> ner_pb2.RecognizeRequest:
    """A request as clients send it."""
    text = CANARY + "".join(source.choices("3号泵漏油，更换机械密封。轴承 AB-7\n", k=source.randrange(60)))
    return ner_pb2.RecognizeRequest(
        text=text, min_score=source.random(), llm_mode=source.choice(ner_pb2.LlmMode.values()[:3])
    )


def mutated(content: bytes, source: random.Random) -> bytes:
    """`content` after one to eight small accidents."""
    data = bytearray(content)
    for _ in range(source.randint(1, 8)):
        where = source.randrange(len(data) + 1)
        accident = source.randrange(6)
        if accident == 0 and data:
            data[where % len(data)] ^= 1 << source.randrange(8)
        elif accident == 1:
            data[where:where] = source.randbytes(source.randint(1, 8))
        elif accident == 2:
            del data[where : where + source.randint(1, 8)]
        elif accident == 3:
            del data[where:]
        elif accident == 4:
            data[where:where] = data[: source.randrange(len(data) + 1)]
        else:
            data[where : where + 1] = source.choice([b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff\x0f"])
    return bytes(data)


def _mutation(kind: str, source: random.Random) -> Hostile:
    method = source.choice([RECOGNIZE, BATCH, STREAM])
    one = valid(source)
    if method == BATCH:
        content = ner_pb2.BatchRecognizeRequest(items=[one, valid(source)]).SerializeToString()
    elif method == STREAM:
        content = ner_pb2.StreamRecognizeRequest(id="1", request=one).SerializeToString()
    else:
        content = one.SerializeToString()
    return Hostile(kind, method, (mutated(content, source),), ANY_CONTENT)


def _noise(kind: str, source: random.Random) -> Hostile:
    method = source.choice([RECOGNIZE, BATCH, STREAM, DOMAINS])
    return Hostile(kind, method, (source.randbytes(source.randrange(200)),), ANY_CONTENT)


def _text(content: bytes) -> bytes:
    """A RecognizeRequest whose text has these bytes, be they UTF-8 or not."""
    return b"\x0a" + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_NO_UTF8 = [
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80",
    b"\xe6\xb3", b"\x80", b"\xfe\xff", b"\xf8\x88\x80\x80\x80", "泵".encode("gb18030"), "泵".encode("utf-16"),
]  # fmt: skip
_FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one sign of several code points
_STRANGE = [
    "\x00", "\x00" * 500, "\ufeff泵", "\ufffe\uffff", "\U0010ffff", "\u202e泵漏油", "泵" + "\u0301" * 3000,
    _FAMILY * 200, "\u200b" * 999, "\r\n\t\x0b\x0c\x1b[2J", "'; DROP TABLE answers; --", "${jndi:ldap://x}", "%s%n%x",
    "../../etc/passwd", "\ud7ff\ue000", "\ufdfd" * 300, "ａｂｃ１２３", "𠮷野家" * 99, " " * 5000,
    "泵" * 20_000, "a" * 20_000,
]  # fmt: skip


def _no_utf8(kind: str, source: random.Random) -> Hostile:
    content = CANARY.encode() + source.choice(_NO_UTF8) + source.choice([b"", b"abc", "泵".encode()])
    where = source.choice([0x0A, 0x12])  # text, domain
    return Hostile(kind, RECOGNIZE, (bytes([where]) + _text(content)[1:],), frozenset({MALFORMED}))


def _strange(kind: str, source: random.Random) -> Hostile:
    text = source.choice(_STRANGE)
    return Hostile(kind, RECOGNIZE, (_text(text.encode()),), frozenset({OK}))


def _huge(kind: str, source: random.Random) -> Hostile:
    """Up to, at and beyond what a message may hold."""
    size = source.choice([20_001, 70_000, 1_000_000, (4 << 20) - 4096])
    right = frozenset({LARGE})
    if source.random() < 0.5:
        size, right = source.choice([4 << 20, (4 << 20) + 1, 6 << 20]), frozenset({BY_GRPC})
    return Hostile(kind, RECOGNIZE, (_text(b"a" * size),), right)


def _counts(kind: str, source: random.Random) -> Hostile:
    """Absurdly many items, fields, levels, or only the claim of them."""
    claim = _varint(source.choice([1 << 31, 1 << 32, (1 << 63) - 1, (1 << 64) - 1, 5000]))
    empty = b"\x0a\x00"
    return source.choice([
        Hostile(kind, BATCH, (empty * source.choice([257, 10_000, 500_000]),), frozenset({LARGE})),
        Hostile(kind, BATCH, (empty * 256,), frozenset({OK, BUSY})),
        Hostile(kind, RECOGNIZE, (b"\x0a" + claim,), frozenset({MALFORMED})),
        Hostile(kind, RECOGNIZE, (_text(b"a") * 50_000,), frozenset({LARGE})),  # counted before parsing
        Hostile(kind, RECOGNIZE, (b"\xa3\x06" * source.choice([50, 99, 5000]),), frozenset({MALFORMED})),  # open groups
        Hostile(kind, RECOGNIZE, (b"\x80" * 11 + b"\x01",), frozenset({MALFORMED})),
        Hostile(kind, BATCH, (b"\x0a" + _varint(1_200_000) + _text(b"a" * 1_199_996),), frozenset({LARGE})),
    ])  # fmt: skip


def _wrong_types(kind: str, source: random.Random) -> Hostile:
    """Fields with another wire type, values that no field can have, enums that are none."""
    number = source.randrange(1, 9)
    value = source.choice([b"\x01", b"\x00" * 8, b"\x03abc", struct.pack("<f", 1.0)])
    right = ANY_CONTENT
    content = bytes([number << 3 | source.randrange(8)]) + value
    score = source.choice([float("nan"), float("inf"), -1.0, 1.5, -float("inf"), 3e38])
    if source.random() < 0.4:
        content, right = _text(b"a") + b"\x25" + struct.pack("<f", score), frozenset({FIELD})
    elif source.random() < 0.4:
        content = _text(b"a") + b"\x18" + _varint(source.choice([99, 1 << 31, (1 << 64) - 1]))
        right = frozenset({FIELD})
    return Hostile(kind, RECOGNIZE, (content,), right)


def _names(kind: str, source: random.Random) -> Hostile:
    """Domains and versions that are paths, long, or none."""
    name = source.choice(["../../etc/passwd", "a" * 60, "A" * 70_000, "x\x00y", "泵", "a/..", " ", "%2e%2e", "-"])
    if source.random() < 0.5:
        content = ner_pb2.RecognizeRequest(text=CANARY, domain=name).SerializeToString()
        return Hostile(kind, RECOGNIZE, (content,), frozenset({NO_DOMAIN, FIELD}))
    version = name if name.isascii() and name.isprintable() and len(name) < 100 else "none"
    right = frozenset({NO_VERSION} if version.strip() else {NO_VERSION, OK})
    return Hostile(kind, DOMAINS, (b"",), right, (("smallm-bundle-version", version),))


def _headers(kind: str, source: random.Random) -> Hostile:
    """Metadata of any kind beside a good request."""
    values = ["x" * 300, "a b;c", " " * 20, "Bearer " + "x" * 500, "%0d%0aset-cookie", '"}{"', "-1", "0" * 99]
    names = ["x-request-id", "authorization", "traceparent", "tracestate", "grpc-foo", "content-encoding", "te"]
    value, name = source.choice(values), source.choice(names)
    binary = (("evil-bin", source.randbytes(300)),) if source.random() < 0.5 else ()
    content = valid(source).SerializeToString()
    return Hostile(kind, RECOGNIZE, (content,), frozenset({OK}), ((name, value), *binary))


def _methods(kind: str, source: random.Random) -> Hostile:
    """Methods that are none."""
    path = source.choice([
        f"{NER}/Nothing", "/a.B/C", "/", "//", "/../etc/passwd", f"{NER}/" + "x" * 3000, f"{NER}/recognize",
        "/smallm.ner.v2.NerService/Recognize", f"{RECOGNIZE}/", f"{RECOGNIZE}?x",
    ])  # fmt: skip
    return Hostile(kind, path, (valid(source).SerializeToString(),), frozenset({NO_METHOD}))


def _streams(kind: str, source: random.Random) -> Hostile:
    """Streams that break off, carry garbage, or are cancelled."""
    good = [ner_pb2.StreamRecognizeRequest(id=str(n), request=valid(source)).SerializeToString() for n in range(9)]
    garbage = b"\x12" + _text(b"\xff")
    return source.choice([
        Hostile(kind, STREAM, (), frozenset({OK})),
        Hostile(kind, STREAM, (*good, garbage, *good), frozenset({MALFORMED})),
        Hostile(kind, STREAM, tuple(good), frozenset({OK, ("CANCELLED", "")}), cancel=True),
        Hostile(kind, STREAM, (b"",) * 50, frozenset({OK})),
        # grpc's asyncio server gives a unary call that ends without its message no status: its deadline ends it.
        Hostile(kind, RECOGNIZE, (), frozenset({("DEADLINE_EXCEEDED", "")}), timeout_s=0.5),
        Hostile(kind, RECOGNIZE, tuple(good[:3]), ANY_CONTENT),
    ])  # fmt: skip


def _structured(kind: str, source: random.Random) -> Hostile:
    """Well-formed messages with any values in their fields: what gets past the parser."""

    def one() -> ner_pb2.RecognizeRequest:
        points = [
            source.choice([0, 0x41, 0x6CF5, 0x10FFFF, 0x301, 0x200D, source.randrange(0xD800)]) for _ in range(40)
        ]
        request = ner_pb2.RecognizeRequest(text=CANARY + "".join(map(chr, points[: source.randrange(41)])))
        request.domain = source.choice(["", "", "work_orders", "x"])
        request.min_score = source.choice([0.0, 0.5, 1.0, 1e-45, -0.0, 2.0])
        request.llm_mode = source.choice([0, 1, 2, 3, 4, 5, 6])  # type: ignore[assignment]
        request.offset_unit = source.choice([0, 1, 2, 3, 4])  # type: ignore[assignment]
        return request

    method = source.choice([RECOGNIZE, BATCH, STREAM])
    if method == BATCH:
        content = ner_pb2.BatchRecognizeRequest(items=[one() for _ in range(source.randrange(20))]).SerializeToString()
        return Hostile(kind, method, (content,), frozenset({OK}))  # each item has its own fate
    if method == STREAM:
        several = (ner_pb2.StreamRecognizeRequest(id=chr(n), request=one()) for n in range(source.randrange(20)))
        return Hostile(kind, method, tuple(item.SerializeToString() for item in several), frozenset({OK}))
    return Hostile(kind, method, (one().SerializeToString(),), frozenset({OK, FIELD, NO_DOMAIN}))


def _others(kind: str, source: random.Random) -> Hostile:
    """Garbage for the other services."""
    method = source.choice([
        "/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/smallm.admin.v1.AdminService/GetStatus", "/smallm.admin.v1.AdminService/ListVersions", f"{KSERVE}/ModelInfer",
        f"{KSERVE}/ModelReady", f"{KSERVE}/ModelMetadata",
    ])  # fmt: skip
    content = mutated(b"\x0a\x0bwork_orders\x12\x03abc\x2a\x10\x0a\x04text\x12\x05BYTES\x1a\x01\x01", source)
    health = {("NOT_FOUND", "UNKNOWN_SERVICE")} if "Health" in method else set()
    return Hostile(kind, method, (content,), ANY_CONTENT | health | {NO_METHOD})


_KINDS: dict[str, Callable[[str, random.Random], Hostile]] = {
    "mutated bytes": _mutation,
    "noise": _noise,
    "no UTF-8": _no_utf8,
    "strange text": _strange,
    "absurd counts": _counts,
    "wrong types": _wrong_types,
    "names": _names,
    "metadata": _headers,
    "methods": _methods,
    "streams": _streams,
    "other services": _others,
    "any values": _structured,
    "huge": _huge,
}
KINDS = tuple(_KINDS)
