"""Fuzz of the header and pixel path for as long as asked: python tests/benchmarks/bench_fuzz.py --seconds 600.

Prints each failing case with the command that makes it again and keeps its files below bench/fuzz.
"""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from trap_fuzz import FuzzReport, fuzz  # noqa: E402


def main() -> int:
    """Entry of the command line."""
    parser = argparse.ArgumentParser(description="Fuzz the header and pixel path of ingest.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    given = parser.parse_args()
    report = fuzz(given.seed, given.seconds, keep=ROOT / "bench" / "fuzz", start=given.start)
    print(f"{report.cases} cases of seed {report.seed} in {given.seconds:.0f} s, {len(report.failures)} failures")
    for number, why in report.failures.items():
        print(f"  python tests/trap_fuzz.py {report.seed} {number} {number + 1}: {why}")
    _write(report, given.seconds)
    return 1 if report.failures else 0


def _write(report: FuzzReport, seconds: float) -> None:
    machine = f"{platform.system()} {platform.machine()} Python {platform.python_version()}"
    common = {"n": report.cases, "machine": machine}
    entries = [
        {"work": "fuzz: failing cases", "value": len(report.failures), "at_most": 0, **common},
        {"work": "fuzz: cases a second", "value": round(report.cases / seconds, 1), **common},
    ]
    (ROOT / "bench").mkdir(exist_ok=True)
    (ROOT / "bench" / "fuzz.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
