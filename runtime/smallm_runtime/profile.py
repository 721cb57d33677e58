"""How a bundle is run on a machine: what `smallm tune` measures and the server reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from smallm_runtime.sessions import available_cpus


@dataclass(frozen=True)
class Profile:
    """Settings of the encoder's session and of what goes into a round.

    threads: inside a session; parallel: rounds at once, each on a session's worth of threads;
    round_tokens: tokens (code points) gathered into a round, and the bound of an encoder call with its padding;
    padding_tokens: a text joins an encoder call if it needs no more padding than this, which is what a call's
    overhead is worth; spinning, arena: see `sessions.open_session`.
    """

    threads: int = field(default_factory=available_cpus)
    parallel: int = 1
    round_tokens: int = 2048
    padding_tokens: int = 16
    spinning: bool = False
    arena: bool = False
