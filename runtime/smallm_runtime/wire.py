"""A message's bytes before they are parsed: how many objects parsing would make."""

from __future__ import annotations

from smallm.errors import MalformedMessageError, TooLargeError

MOST_FIELDS = 10_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_fields(raw: bytes, at_most: int = MOST_FIELDS) -> None:
    """Raises TooLargeError if `raw` has more than `at_most` fields, MalformedMessageError if it holds a group.

    Two million empty items fit into a message of 4 MiB; parsed, they take a second and half a gigabyte. Other
    damage is the parser's to find.
    """
    if len(raw) <= 2 * at_most:  # a field has at least two bytes
        return
    place, end = 0, len(raw)
    for _ in range(at_most):
        if place >= end:
            return
        tag, place = _varint(raw, place)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(raw, place)
        elif kind == _BYTES:
            length, place = _varint(raw, place)
            place += length
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:  # of an older protocol; what follows one could not be counted
            raise MalformedMessageError("the request's bytes hold a group")
    if place < end:
        raise TooLargeError("", f"the message has more than {at_most} fields")


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, and where it ends; past the end if it is cut off."""
    number = shift = 0
    while place < len(raw):
        byte = raw[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise MalformedMessageError("the request's bytes are no message of this method's kind")
    return number, place
