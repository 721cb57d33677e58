"""Which of a bundle's variants to run on this machine."""

from __future__ import annotations

import platform
from pathlib import Path

from smallm.bundle import Manifest
from smallm.errors import ArtifactError

PREFERRED = {"cpu": ("int8", "fp32"), "cuda": ("fp16", "fp32", "int8")}
_FLAGS = {"vnni": {"avx512_vnni", "avx_vnni"}}  # a feature as manifests name it: the kernel's names for it
_CPUINFO = Path("/proc/cpuinfo")


def lacking(needed: list[str]) -> list[str]:
    """Those of the x86 features `needed` that this machine's CPU does not have, as far as it says."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return []
    try:
        lines = _CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []  # not Linux: nobody to ask
    has = set(next((line for line in lines if line.startswith("flags")), "").split())
    return [name for name in needed if not _FLAGS.get(name, {name}) & has]


def choose(manifest: Manifest, device: str, asked: str = "") -> str:
    """The variant `asked` for, or the first that suits `device`. Raises ArtifactError if there is none."""
    if asked and asked not in manifest.variants:
        raise ArtifactError(f"the bundle has no variant {asked}, it has: {', '.join(manifest.variants)}")
    wanted = (asked,) if asked else PREFERRED[device]
    for name in wanted:
        if name in manifest.variants and not lacking(manifest.variants[name].cpu):
            return name
    needs = "; ".join(
        f"{name} needs a CPU with {', '.join(lacking(one.cpu))}"
        for name, one in manifest.variants.items()
        if lacking(one.cpu)
    )
    raise ArtifactError(
        f"no variant of the bundle runs here on {device}: it has {', '.join(manifest.variants)}"
        + (f" ({needs}; export it without --target-cpu)" if needs else f", of which {device} takes {', '.join(wanted)}")
    )
