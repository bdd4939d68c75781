"""Described blobs of the studies that teach and of those that judge, kept in bench/cache/detection between runs."""

from __future__ import annotations

import ast
import hashlib
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from detection_studies import Purpose, Study, phantom_studies, real_studies, with_nodules  # noqa: E402

from data_contracts.params import DetectionParams  # noqa: E402
from pipeline.detection.blobs import Blobs  # noqa: E402
from pipeline.detection.froc import ScanMarks  # noqa: E402
from pipeline.detection.propose import described, judged  # noqa: E402
from pipeline.imaging.lungs import segment_lungs  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "bench" / "cache" / "detection"
SHARED = REPOSITORY.parent / "shared" / "data"
#: whatever changes these files changes the examples
_SOURCES = (
    *(f"pipeline/detection/{name}.py" for name in ("kernels", "levels", "blobs", "features")),
    "tests/benchmarks/detection_studies.py",
)
PHANTOM_SEEDS: dict[Purpose, int] = {"teach": 4100, "judge": 9200}
_N_PHANTOMS: dict[Purpose, int] = {"teach": 16, "judge": 8}
_N_COPIES: dict[Purpose, int] = {"teach": 5, "judge": 2}
#: of a radius: a blob so near the middle is the nodule, and one beyond this is something else
_IS_NODULE, _IS_OTHER = 0.8, 1.6


@dataclass(frozen=True, eq=False)
class Examples:
    """One study: its blobs, described, and its truth.

    features: (n, f); regions_mm: diameters by region (n,); nodules_mm, ignored_mm: (m, 4); texture: (m,).
    label: (n,), 1 nodule, 0 not, -1 neither.
    """

    name: str
    group: str
    blobs: Blobs
    regions_mm: np.ndarray
    features: np.ndarray
    nodules_mm: np.ndarray
    texture: np.ndarray
    ignored_mm: np.ndarray
    is_read: bool

    @property
    def label(self) -> np.ndarray:
        label = np.zeros(len(self.blobs), dtype=np.int64)
        for ball in np.concatenate([self.nodules_mm, self.ignored_mm]):
            away = np.linalg.norm(self.blobs.lps_mm - ball[:3], axis=1) / (ball[3] / 2)
            label[away < _IS_OTHER] = -1
        for ball in self.nodules_mm:
            away = np.linalg.norm(self.blobs.lps_mm - ball[:3], axis=1) / (ball[3] / 2)
            similar = self.regions_mm > 0.4 * ball[3]
            label[(away < _IS_NODULE) & similar] = 1
        return label

    def marks(self, scores: np.ndarray, params: DetectionParams) -> ScanMarks:
        """What the search would mark with these scores at any threshold from 0.01 on."""
        found = judged(self.blobs, self.regions_mm, scores, params, 0.01)
        places = np.array([candidate.lps_mm for candidate in found]).reshape(-1, 3)
        values = np.array([candidate.score for candidate in found])
        return ScanMarks(places, values, self.nodules_mm, self.ignored_mm)


def unpacked(folder: Path) -> Path:
    """The real studies' archives, unpacked once."""
    for name in ("LIDC-IDRI-0001", "Lung_Dx-A0002", "traps"):
        if not (folder / f".{name}").exists():
            with tarfile.open(SHARED / "dicom" / f"{name}.tar.xz") as members:
                members.extractall(folder, filter="data")
            (folder / f".{name}").touch()
    return folder


def phantom_examples(purpose: Purpose) -> list[Examples]:
    """Phantom patients of this purpose."""
    seed, count = PHANTOM_SEEDS[purpose], _N_PHANTOMS[purpose]
    key = f"phantom-{purpose}-{seed}-{count}"
    return _kept(key, lambda: phantom_studies(purpose, seed, count))


def real_examples(purpose: Purpose) -> list[Examples]:
    """The real studies as they are, then their copies with nodules put in.

    The chest that nobody read judges and never teaches.
    """
    return _kept(f"real-{purpose}-{_N_COPIES[purpose]}", lambda: _real(purpose))


def _real(purpose: Purpose) -> Iterator[Study]:
    CACHE.mkdir(parents=True, exist_ok=True)
    for study in real_studies(unpacked(CACHE), SHARED):
        if not study.is_read and purpose == "teach":
            continue
        yield study
        for copy in range(_N_COPIES[purpose]):
            yield with_nodules(study, purpose, PHANTOM_SEEDS[purpose] + copy)


def _kept(key: str, studies: Callable[[], Iterator[Study]]) -> list[Examples]:
    folder = CACHE / f"{key}-{_digest_of_sources()}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number, study in enumerate(studies()):
            np.savez(folder / f"{number:03d}.npz", **_arrays(study))
            print(f"described {study.name}", file=sys.stderr, flush=True)
        (folder / "done").touch()
    return [_read(path) for path in sorted(folder.glob("*.npz"))]


def _digest_of_sources() -> str:
    """Of what the sources do: another layout or docstring makes no other examples."""
    found = hashlib.sha256()
    for name in _SOURCES:
        tree = ast.parse((REPOSITORY / name).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()[:12]


def _arrays(study: Study) -> dict[str, np.ndarray]:
    lungs = segment_lungs(study.volume)
    blobs, regions, features = described(study.volume, lungs)
    parts = {f"blobs_{name}": getattr(blobs, name) for name in Blobs.__dataclass_fields__}
    nodules = np.concatenate([study.places_mm, study.diameters_mm[:, None]], axis=1)
    return parts | {
        "regions_mm": regions,
        "features": features,
        "nodules_mm": nodules,
        "texture": study.texture,
        "ignored_mm": study.ignored_mm,
        "is_read": np.array(study.is_read),
        "name": np.array(study.name),
        "group": np.array(study.group),
    }


def _read(path: Path) -> Examples:
    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    blobs = Blobs(*(arrays.pop(f"blobs_{name}") for name in Blobs.__dataclass_fields__))
    named = {name: str(arrays.pop(name)) for name in ("name", "group")}
    return Examples(**named, blobs=blobs, is_read=bool(arrays.pop("is_read")), **arrays)


if __name__ == "__main__":
    {"phantom": phantom_examples, "real": real_examples}[sys.argv[1]](sys.argv[2])  # type: ignore[index,arg-type]
