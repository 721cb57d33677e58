"""Install a wheelhouse into a clean virtual environment with the network off, and run what it installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

UNROUTABLE = "http://192.0.2.1:9"  # RFC 5737: for documents, leads nowhere
PROBE = """
import sys
import smallm_runtime.server, smallm_runtime.doctor, redis, opentelemetry.sdk, cryptography
assert not {"torch", "transformers"} & set(sys.modules)
print("imports are complete")
"""


def main(archive: Path) -> int:
    """Raises CalledProcessError for the first step that fails."""
    with tempfile.TemporaryDirectory(prefix="smallm-airgap-") as name:
        scratch = Path(name)
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (folder,) = scratch.glob("smallm-*")
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
        subprocess.run([sys.executable, "-m", "venv", str(scratch / "venv")], check=True)
        python = str(scratch / "venv" / "bin" / "python")
        options = ["--no-index", "--find-links", "wheels", "--require-hashes", "-r", "requirements.txt"]
        _offline([python, "-m", "pip", "--isolated", "install", "--quiet", *options], folder)
        _offline([python, "-c", PROBE], folder)
        _offline([python, "-m", "pip", "check"], folder)
        for words in (["--version"], ["serve", "--help"], ["bundle", "keygen", str(scratch / "key")]):
            _offline([str(scratch / "venv" / "bin" / "smallm"), *words], folder, quiet=True)
    print(f"{archive.name}: installs and runs without a network")
    return 0


def _offline(command: list[str], folder: Path, quiet: bool = False) -> None:
    """Run without a network: in a namespace of its own, else behind a proxy that is not there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    environment |= {name: UNROUTABLE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    unshare = shutil.which("unshare")
    apart = [unshare, "--map-root-user", "--net"] if unshare else []
    if apart and subprocess.run([*apart, "true"], capture_output=True).returncode:
        apart = []
    print(f"{'in a network namespace' if apart else 'behind an unroutable proxy'}: {' '.join(command)[-100:]}")
    out = subprocess.DEVNULL if quiet else None
    subprocess.run([*apart, *command], cwd=folder, env=environment, check=True, stdout=out)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
