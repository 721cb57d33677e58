"""What the server does in bad times. Figures: docs/reliability.md.

    python benchmarks/reliability chaos BUNDLE OTHER_BUNDLE
    python benchmarks/reliability drain BUNDLE OTHER_BUNDLE
    python benchmarks/reliability soak BUNDLE
    python benchmarks/reliability overload BUNDLE

The bundles are two exports of the sample domain, examples/work_orders. Every answer is
computed again afterwards and compared. The exit status is 0 if nothing was lost, wrong or unexplained. `chaos`
mounts a small tmpfs, for which it needs root; `--only clock` shifts the clock, for which it needs libfaketime.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for tests.fake_llm

import chaos
import drain
import overload
import soak


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for logs and stores (default: a new one under /tmp)")
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("chaos")
    one.add_argument("bundles", type=Path, nargs=2)
    one.add_argument("--seconds", type=float, default=6.0, help="a fault lasts")
    one.add_argument("--share", type=float, default=0.7, help="of capacity")
    one.add_argument("--only", default="", help="faults with this in their name; clock: those")
    one = kinds.add_parser("drain")
    one.add_argument("bundles", type=Path, nargs=2)
    one.add_argument("--reloads", type=int, default=50)
    one.add_argument("--stops", type=int, default=20)
    one = kinds.add_parser("soak")
    one.add_argument("bundle", type=Path)
    one.add_argument("--requests", type=int, default=200_000)
    one.add_argument("--share", type=float, default=0.7)
    one = kinds.add_parser("overload")
    one.add_argument("bundle", type=Path)
    one.add_argument("--seconds", type=float, default=15.0)
    one.add_argument("--times", type=float, default=3.0)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="smallm-reliability-"))
    if args.kind == "chaos":
        work = chaos.run((args.bundles[0], args.bundles[1]), folder, args.seconds, args.share, args.only)
    elif args.kind == "drain":
        work = drain.run((args.bundles[0], args.bundles[1]), folder, args.reloads, args.stops)
    elif args.kind == "soak":
        work = soak.run(args.bundle, folder, args.requests, args.share)
    else:
        work = overload.run(args.bundle, folder, args.seconds, args.times)
    fine = asyncio.run(work)
    print("as it should be" if fine else "NOT as it should be")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
