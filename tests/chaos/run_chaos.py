"""A night under every trouble, again and again for so many minutes; at the end each workspace is the undisturbed one.

    python tests/chaos/run_chaos.py --minutes 15 --seed 1

Prints a table and writes bench/chaos.json. The exit status is 1 where a workspace differs or a command ended without a
clear line. Two undisturbed nights come first; they say what is decided by content.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(Path(__file__).parent)]

import chaos_troubles as troubles  # noqa: E402
import prefect_server  # noqa: E402
import pytest  # noqa: E402
from chaos_compare import Contents, faults_within  # noqa: E402
from chaos_site import Site, import_everything  # noqa: E402
from chaos_troubles import Night, fresh  # noqa: E402
from prefect_server import PrefectServer  # noqa: E402
from small_disk import small_disk  # noqa: E402

#: a tmpfs with room for a night
_DISK = "1500m"
#: the embedded server of a workspace is started and found again by every command
_EMBEDDED = {"NODULEFLOW_PREFECT_API_URL": ""}


def main() -> int:
    """Run the troubles; 0 where all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=15.0, help="no new night is begun after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the choices; the cohort is always one")
    parser.add_argument("--patients", type=int, default=12, help="phantoms, half at each of two sites")
    parser.add_argument("--until", default="review", help="last command of a night, such as prepare")
    parser.add_argument("--kills", type=int, default=6, help="at most so many kills of a command")
    parser.add_argument("--away", type=float, default=60.0, help="seconds for which a server is away")
    parser.add_argument("--short", action="store_true", help="one undisturbed night and one with kills")
    parser.add_argument("--bench", default=str(REPOSITORY / "bench"), help="folder of chaos.json; empty for none")
    parser.add_argument("--only", default="", help="names of troubles, with commas")
    arguments = parser.parse_args()
    started = time.monotonic()
    prefect_server.START_TIMEOUT_S = 900  # a machine may be busy with something else
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["NODULEFLOW_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        server = PrefectServer(folder / "server", **_quiet_services())
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped on the way out
        with ExitStack() as ending:
            ending.callback(server.stop)
            server.start()
            os.environ["NODULEFLOW_PREFECT_API_URL"] = os.environ["PREFECT_API_URL"] = server.url
            rows = Chaos(folder, server, arguments, started).run()
    publish(rows, arguments, time.monotonic() - started)
    return 1 if any(row["differences"] or row["faults"] for row in rows) else 0


def _quiet_services() -> dict[str, str]:
    """Services that keep schedules are not needed here, and cost work."""
    from flows.running.embedded_server import CLOCK_SERVICES

    return {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in CLOCK_SERVICES}


class Chaos:
    """The troubles in turn."""

    def __init__(self, folder: Path, server: PrefectServer, arguments: argparse.Namespace, started: float) -> None:
        self.folder, self.server, self.arguments, self.started = folder, server, arguments, started
        self.random = random.Random(arguments.seed)
        self.site = Site(folder, arguments.patients, 0, arguments.until)
        import_everything()
        self.usual_s: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.is_first = True

    def run(self) -> list[dict[str, Any]]:
        """Two undisturbed nights, each trouble once, and kills until the time is up."""
        first = self._night("undisturbed", troubles.undisturbed)
        if self.arguments.short:
            self.reference, self.stable = first, first.by_content()
            self._night("kills", lambda night: troubles.kills(night, 2))
            return self.rows
        second = self._night("undisturbed again", troubles.undisturbed)
        self.reference, self.stable = first, first.stable(second)
        self._judge_undisturbed(second)
        wanted = self.arguments.only.split(",") if self.arguments.only else []
        for name, trouble in self._troubles().items():
            if (wanted and name not in wanted) or (self._is_late() and not wanted):
                continue
            self._night(name, trouble, embedded=name == "kills (embedded server)")
        while not self._is_late() and (not wanted or "kills" in wanted):
            self._night("kills", self._kills)
        return self.rows

    def _troubles(self) -> dict[str, Callable[[Night], None]]:
        away_s = self.arguments.away
        return {
            "kills": self._kills,
            "two nights at once": troubles.two_at_once,
            "full disk": self._on_small_disk(troubles.full_disk),
            "torn tables": troubles.torn_tables,
            "read-only store": self._on_small_disk(troubles.read_only),
            "clock jumps": troubles.clock_jumps,
            "Prefect away": lambda night: troubles.prefect_away(night, self.server, away_s),
            "MLflow away": lambda night: troubles.mlflow_away(night, self.folder / "mlflow", away_s),
            "kills (embedded server)": lambda night: troubles.kills(night, 2),
        }

    def _kills(self, night: Night) -> None:
        troubles.kills(night, self.arguments.kills)

    def _on_small_disk(self, trouble: Callable[[Night, object], None]) -> Callable[[Night], None]:
        def on_disk(night: Night) -> None:
            with small_disk(self.folder / "disk", _DISK) as disk:
                kept, night.workspace = night.workspace, disk.folder / "workspace"
                night.workspace.mkdir()
                trouble(night, disk)
                fresh(kept).rmdir()
                import shutil

                shutil.copytree(night.workspace, kept, copy_function=shutil.copy2)
                night.workspace = kept

        return on_disk

    def _night(self, name: str, trouble: Callable[[Night], None], *, embedded: bool = False) -> Contents:
        begun = time.monotonic()
        seed = self.random.randrange(2**32)
        workspace = fresh(self.folder / "workspace")
        environment = dict(_EMBEDDED) if embedded else {}
        night = Night(self.site, workspace, random.Random(seed), self.usual_s, environment)
        skipped = ""
        try:
            trouble(night)
        except pytest.skip.Exception as error:
            skipped = str(error)
        row: dict[str, Any] = {
            "trouble": name,
            "kills": night.kills,
            "notes": night.notes,
            "faults": night.faults,
            "differences": [],
            "skipped": skipped,
            "seconds": round(time.monotonic() - begun, 1),
        }
        contents = Contents.of(night.workspace)
        if hasattr(self, "reference") and not skipped:
            row["differences"] = contents.differences(self.reference, self.stable)
            row["compared"] = len(self.stable & set(contents.files))
            row["faults"] += faults_within(night.workspace)
        self.rows.append(row)
        print(_line(row), file=sys.stderr, flush=True)
        return contents

    def _judge_undisturbed(self, second: Contents) -> None:
        found = second.differences(self.reference, self.stable)
        self.rows[1]["differences"] = found
        self.rows[1]["compared"] = len(self.stable)

    def _is_late(self) -> bool:
        return time.monotonic() - self.started > self.arguments.minutes * 60


def _line(row: dict[str, Any]) -> str:
    if row["skipped"]:
        return f"{row['trouble']:<24} skipped: {row['skipped']}"
    bad = [*row["faults"], *row["differences"]]  # a fault tells why files differ
    verdict = f"{len(bad)} faults: {'; '.join(bad[:4])}" if bad else "the same workspace"
    return f"{row['trouble']:<24} {sum(row['kills'].values()):4d} kills {row['seconds']:7.1f} s  {verdict}"


def publish(rows: list[dict[str, Any]], arguments: argparse.Namespace, seconds: float) -> None:
    """The table on standard output, and bench/chaos.json."""
    nights: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        nights.setdefault(row["trouble"], []).append(row)
    print("| trouble | nights | kills | files compared | differ | faults |")
    print("|---|---|---|---|---|---|")
    published = []
    for name, own in nights.items():
        n_kills = sum(sum(row["kills"].values()) for row in own)
        counts = [sum(len(row[key]) for row in own) for key in ("differences", "faults")]
        compared = sum(row.get("compared", 0) for row in own)
        verdict = f"skipped: {own[0]['skipped']}" if own[0]["skipped"] else f"{compared} | {counts[0]} | {counts[1]}"
        print(f"| {name} | {len(own)} | {n_kills} | {verdict} |")
        published.append(
            {
                "work": f"chaos: {name}",
                "peer": "two undisturbed nights",
                "value": sum(counts),
                "at_most": 0,
                "n": len(own),
                "kills": n_kills,
                "seed": arguments.seed,
            }
        )
    kills: dict[str, int] = {}
    for row in rows:
        for command, count in row["kills"].items():
            kills[command] = kills.get(command, 0) + count
    by_command = ", ".join(f"{command} {count}" for command, count in kills.items())
    print(f"\n{sum(kills.values())} kills ({by_command}) in {len(rows)} nights and {seconds / 60:.1f} minutes")
    if not arguments.bench:
        return
    folder = Path(arguments.bench)
    folder.mkdir(exist_ok=True)
    (folder / "chaos.json").write_text(json.dumps(published, indent=2) + "\n")
    (folder / "chaos-nights.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
