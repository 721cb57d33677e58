"""Everything a server without a network needs, as one archive: our wheel, pinned dependencies, their hashes.

Run it on a machine like the server (system, processor, Python) that pip can fetch from; see docs/operations.md.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "smallm", "smallm_train", "export", "runtime")
INSTALL = """\
smallm {version}, for {machine} and Python {python}

    sha256sum -c SHA256SUMS
    python3 -m venv /opt/smallm
    /opt/smallm/bin/pip install --no-index --find-links wheels --require-hashes -r requirements.txt
    /opt/smallm/bin/smallm doctor --config /etc/smallm/smallm.toml
"""


def main() -> int:
    """Build it; prints the archive's path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--extras", default="cpu,redis,otel", help="of pyproject.toml (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="smallm-wheelhouse-") as scratch:
        print(build(Path(scratch), args.out, args.extras))
    return 0


def build(scratch: Path, out: Path, extras: str) -> Path:
    """The archive in `out`, made in `scratch`."""
    wheels = scratch / "wheels"
    source = _copied_sources(scratch / "source")  # setuptools leaves its build folder where it builds
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
    subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), f"{source}[{extras}]"], check=True)
    version = _parts(next(wheels.glob("smallm-*.whl")))[1]
    python, machine = f"{sys.version_info.major}.{sys.version_info.minor}", f"{sys.platform}-{platform.machine()}"
    folder = scratch / f"smallm-{version}-{machine}-py{python}"
    folder.mkdir()
    wheels.rename(folder / "wheels")
    names = sorted(folder.glob("wheels/*.whl"))
    (folder / "requirements.txt").write_text("".join(_requirement(wheel, extras) for wheel in names))
    (folder / "INSTALL.txt").write_text(INSTALL.format(version=version, machine=machine, python=python))
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sums = "".join(f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    (folder / "SHA256SUMS").write_text(sums)
    archive = out / f"{folder.name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    archive.with_name(f"{archive.name}.sha256").write_text(f"{_sha256(archive)}  {archive.name}\n")
    return archive


def _copied_sources(target: Path) -> Path:
    target.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy2(source, target / name)
    return target


def _requirement(wheel: Path, extras: str) -> str:
    name, version = _parts(wheel)
    chosen = f"[{extras}]" if name == "smallm" else ""
    return f"{name}{chosen}=={version} --hash=sha256:{_sha256(wheel)}\n"


def _parts(wheel: Path) -> tuple[str, str]:
    name, version, *_ = wheel.name.split("-")
    return name.replace("_", "-"), version


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
