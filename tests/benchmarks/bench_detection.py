"""FROC of the search on phantoms and on real chests, and where its time goes; writes bench/detection.json.

No study judges a head that it taught: phantom patients are of a seed and of LIDC patients of their own, each real chest
is judged by a head that is learned here without it, and the NLST chest teaches none.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import numpy as np  # noqa: E402
from detection_examples import CACHE, SHARED, phantom_examples, real_examples, unpacked  # noqa: E402
from detection_studies import phantom_studies, real_studies  # noqa: E402
from fit_detection_head import held_out  # noqa: E402
from paired import Row, publish, value_row  # noqa: E402

from data_contracts.params import DetectionParams  # noqa: E402
from pipeline.detection.blobs import find_blobs  # noqa: E402
from pipeline.detection.features import describe  # noqa: E402
from pipeline.detection.froc import OPERATING_POINTS  # noqa: E402
from pipeline.detection.head import builtin_head, score  # noqa: E402
from pipeline.detection.levels import build_pyramid  # noqa: E402
from pipeline.detection.propose import MOST_BLOBS, judged  # noqa: E402
from pipeline.imaging.lungs import segment_lungs  # noqa: E402

_STAGES = ("lungs", "grids", "blobs", "features", "head", "one a place")
_MOST_S = 15.0


def sensitivity_rows() -> list[Row]:
    """The mean of LUNA16's seven points, the seven, and what the frozen threshold gives."""
    real = real_examples("judge") if SHARED.is_dir() else []
    teach = [*phantom_examples("teach"), *real_examples("teach")] if real else []
    head = builtin_head()
    if not real:
        print("real studies are left out: there is no ../shared/data", file=sys.stderr)
    rows = []
    for found in held_out(head, teach, phantom_examples("judge"), real):
        seven = dict(zip((f"{point:g}" for point in OPERATING_POINTS), found.sensitivities, strict=True))
        rows.append(
            value_row(
                f"FROC, {found.what}",
                found.mean_sensitivity,
                "mean sensitivity",
                n=found.n_nodules,
                interval=found.interval,
                scans=found.n_scans,
                sensitivity_at_false_marks=seven,
                at_threshold=[found.sensitivity_at_threshold, found.false_marks_at_threshold],
            )
        )
    return rows


def speed_rows(rounds: int) -> list[Row]:
    """Processor seconds of a search, least of the rounds, and each stage's share of it."""
    volumes = {"phantom, 176 slices": next(iter(phantom_studies("judge", 1, 2))).volume}
    if SHARED.is_dir():
        chests = real_studies(unpacked(CACHE), SHARED)
        volumes["LIDC-IDRI-0001, 133 slices of 2.5 mm"] = chests[0].volume
        volumes["NLST chest, 143 slices of 2 mm"] = chests[-1].volume
    rows = []
    for name, volume in volumes.items():
        timed = [_timed(volume) for _ in range(rounds + 1)][1:]
        total = min(sum(stages.values()) for stages in timed)
        shares = {stage: float(np.mean([one[stage] / sum(one.values()) for one in timed])) for stage in _STAGES}
        said = ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())
        print(f"{name}: {said}", file=sys.stderr)
        rows.append(
            value_row(f"search, {name}", total, "processor s", n=rounds, at_most=_MOST_S, shares=shares, interval=None)
        )
    return rows


def _timed(volume: Any) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def stage(name: str, run: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = run()
        seconds[name] = time.process_time() - started
        return result

    params, head = DetectionParams(), builtin_head()
    lungs = stage("lungs", lambda: segment_lungs(volume))
    pyramid = stage("grids", lambda: build_pyramid(volume, lungs))
    blobs = stage("blobs", lambda: find_blobs(pyramid, MOST_BLOBS))
    features, diameters = stage("features", lambda: describe(pyramid, blobs))
    scores = stage("head", lambda: score(head, features))
    stage("one a place", lambda: judged(blobs, diameters, scores, params, head.threshold))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("froc", "speed"))
    arguments = parser.parse_args()
    rows = [] if arguments.only == "speed" else sensitivity_rows()
    rows += [] if arguments.only == "froc" else speed_rows(arguments.rounds)
    for row in rows:
        if seven := row.get("sensitivity_at_false_marks"):
            print(row["work"] + ": " + "  ".join(f"{point}: {value:.2f}" for point, value in seven.items()))
    print(f"written: {publish('detection', rows)}")


if __name__ == "__main__":
    main()
