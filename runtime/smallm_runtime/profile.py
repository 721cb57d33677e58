"""How a bundle is run on a machine: what `smallm tune` measures and the server reads."""

from __future__ import annotations

import hashlib
import logging
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smallm import atomic, bundle
from smallm.errors import ArtifactError
from smallm_runtime.sessions import available_cpus

_log = logging.getLogger(__name__)
FORMAT = 1
SMALL = 384  # hidden size up to which threads wait for one another longer than they share work
SMALL_PARALLEL = 4  # more rounds at once would wait for Python


@dataclass(frozen=True)
class Profile:
    """Settings of the encoder's session and of what goes into a round.

    threads: inside a session; parallel: rounds at once, each on a session's worth of threads;
    round_tokens: tokens (code points) gathered into a round; call_tokens: those of an encoder call with its padding
    (a CPU is fastest where a call's activations stay in its cache, and takes the least memory);
    padding_tokens: a text joins an encoder call if it needs no more padding than this, which is what a call's
    overhead is worth; spinning, arena: see `sessions.open_session`.
    """

    threads: int = field(default_factory=available_cpus)
    parallel: int = 1
    round_tokens: int = 2048
    call_tokens: int = 160
    padding_tokens: int = 16
    spinning: bool = False
    arena: bool = False

    def __post_init__(self) -> None:
        numbers = (self.threads, self.parallel, self.round_tokens, self.call_tokens)
        if not all(isinstance(one, int) and one > 0 for one in numbers) or self.padding_tokens < 0:
            raise ValueError(f"not a profile: {self}")


def untuned(hidden: int, device: str) -> Profile:
    """What suits an encoder of that hidden size where nobody has measured."""
    if device != "cpu":
        return Profile(call_tokens=Profile.round_tokens)
    if hidden <= SMALL:
        return Profile(threads=1, parallel=min(available_cpus(), SMALL_PARALLEL))
    return Profile()


def default_file(folder: Path) -> Path:
    """Where a bundle's profile lies: beside its folder, for it belongs to the machine and is not sealed with it."""
    resolved = folder.resolve()
    return resolved.with_name(f"{resolved.name}.profile.json")


def write(file: Path, folder: Path, profile: Profile, measured: list[dict[str, Any]]) -> None:
    """Write what was measured of the bundle in `folder` on this machine."""
    atomic.write_json(
        file, {"format": FORMAT, **_circumstances(folder), "profile": asdict(profile), "measured": measured}
    )


def read(folder: Path, file: Path | None = None) -> Profile | None:
    """The profile in `file` (None: beside the bundle in `folder`); None if there is none that was measured here.

    One that was measured on another machine or bundle is not used, and the log says so. Raises ArtifactError.
    """
    chosen = file or default_file(folder)
    if file is None and not chosen.is_file():
        return None
    value = atomic.read_versioned(chosen, FORMAT, "`smallm tune` writes it")
    try:
        profile = Profile(**value["profile"])
        stated = {name: value[name] for name in ("bundle", "cpu", "cpus")}
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{chosen}: damaged ({error}); run `smallm tune` again") from None
    different = [name for name, now in _circumstances(folder).items() if stated[name] != now]
    if different:
        _log.warning("%s was measured with another %s and is not used; run `smallm tune`", chosen, different[0])
        return None
    return profile


def _circumstances(folder: Path) -> dict[str, Any]:
    manifest = hashlib.sha256((folder / bundle.MANIFEST).read_bytes()).hexdigest()
    return {"bundle": manifest, "cpu": _cpu(), "cpus": available_cpus()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
