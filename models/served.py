"""What MLflow loads a registered version with: patches in, probabilities out.

This file travels with every logged version, so it imports nothing of this program. Before anything is loaded every file
of the version is compared with the sha256 that it had when it was logged; no pickle is ever loaded.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

#: {path below the version: sha256} of all its files but itself
FILES = "files.json"
CARD = "model_card.json"
PROGRAM = "bundle/models/model.pt2"
_AT_ONCE = 16
#: mm; the size enters as ln(diameter / 10 mm)
_REFERENCE_MM = 10.0


def holds_pickle(path: Path) -> bool:
    """Whether a .pt2 archive holds anything that torch would unpickle; raises BadZipFile or ValueError for no .pt2."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > 0 and "/sample_inputs/" in entry.filename:
                return True
            if entry.filename.endswith("_config.json"):
                config = json.loads(archive.read(entry))
                if not isinstance(config, dict):
                    raise ValueError("a configuration of the archive is no mapping")
                if any(item.get("use_pickle") for item in config.get("config", {}).values()):
                    return True
    return False


def verify(folder: Path) -> None:
    """Raises ValueError where a file of a version is missing, was changed, or is not one of its files."""
    listed: dict[str, str] = json.loads((folder / FILES).read_text())
    for name, expected in sorted(listed.items()):
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{name} is missing or not what was registered; nothing was loaded")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if strangers := sorted(there - set(listed) - {FILES}):
        raise ValueError(f"{strangers[0]} is no file of the registered version; nothing was loaded")


class ServedVersion:
    """A registered version as MLflow serves it.

    Parameters
    ----------
    folder: the files of a version, with `FILES`.
    """

    def __init__(self, folder: Path) -> None:
        verify(folder)
        if holds_pickle(folder / PROGRAM):
            raise ValueError(f"{PROGRAM} holds a pickle, which is never loaded")
        card = json.loads((folder / CARD).read_text())
        self.patch_shape = tuple(card["input"]["patch_shape"])
        self.calibration: dict[str, float] = card["calibration"]
        self.program = torch.export.load(folder / PROGRAM).module()

    def predict(self, patches: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row a patch, column `probability` of malignancy.

        Parameters
        ----------
        patches: (N, *patch_shape) in HU or grey values, as the dataset stores them; integers are taken, too.
        params: `diameter_mm`, one a patch, adds the size to the image, as in the score that reports show; where it is
            left out, or not above zero, the probability is that of the image alone. `with_logit` adds a column `logit`.

        Raises
        ------
        ValueError: patches of another shape, a value that is not finite, or diameters that are not one a patch.
        """
        import pandas as pd

        given = params or {}
        logits = self._logits(np.asarray(patches))
        table = pd.DataFrame({"probability": self._probability(logits, given.get("diameter_mm"))})
        return table.assign(logit=logits) if given.get("with_logit") else table

    def _logits(self, patches: NDArray[Any]) -> NDArray[np.float64]:
        if patches.shape[1:] != self.patch_shape:
            raise ValueError(f"patches are (N, {', '.join(map(str, self.patch_shape))}), not {patches.shape}")
        values = np.ascontiguousarray(patches, dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("a patch holds a value that is not finite")
        logits = np.zeros(len(values))
        with torch.inference_mode():
            for start in range(0, len(values), _AT_ONCE):
                part = self.program(torch.from_numpy(values[start : start + _AT_ONCE]))
                logits[start : start + _AT_ONCE] = part[:, 0].double().numpy()
        return logits

    def _probability(self, logits: NDArray[np.float64], diameter_mm: Any) -> NDArray[np.float64]:
        fitted = self.calibration
        image = _sigmoid(fitted["image_only_bias"] + fitted["image_only_weight"] * logits)
        diameters = np.asarray([] if diameter_mm is None else diameter_mm, dtype=np.float64)
        if diameters.size == 0:
            return image
        if diameters.shape != logits.shape:
            raise ValueError(f"diameter_mm has {diameters.size} values, there are {len(logits)} patches")
        known = diameters > 0
        size = fitted["size_weight"] * np.log(np.where(known, diameters, _REFERENCE_MM) / _REFERENCE_MM)
        return np.where(known, _sigmoid(fitted["bias"] + fitted["image_weight"] * logits + size), image)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -values))


def _load_pyfunc(data_path: str) -> ServedVersion:
    """What MLflow calls with the folder of the version's files."""
    return ServedVersion(Path(data_path))
