"""Asking a loaded bundle what it was asked when it was exported."""

from __future__ import annotations

from smallm.canaries import Canary
from smallm_runtime.engine import Engine, Item


def verify_canaries(engine: Engine) -> list[str]:
    """What an engine answers otherwise than its bundle says, a line each; [] if nothing. Takes a few milliseconds.

    The lines hold no text. A bundle without canaries passes.
    """
    asked = [
        (name, number, Canary.from_json(one))
        for name, domain in engine.manifest.domains.items()
        for number, one in enumerate(domain.canaries)
    ]
    found = engine.run([Item(canary.text, name, canary.answer) for name, _, canary in asked])
    said = []
    for (name, number, canary), recognized in zip(asked, found, strict=True):
        wrong = canary.differs(engine.variant, recognized.entities, recognized.confidence)
        if wrong:
            said.append(f"domain '{name}', variant {engine.variant}, canary {number}: {wrong}")
    return said
