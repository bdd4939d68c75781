"""Golden cases: a few held-out patches with the logits that a version gave when it was registered.

A rollback loads the version and asks them again before any alias moves. `python -m flows.registry.golden FOLDER` does
so in a process of its own, which imports torch while the caller talks to MLflow.
"""

from __future__ import annotations

import gc
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.errors import NoduleflowError, WeightsError
from data_contracts.records import sha256_file, write_bytes_atomic
from data_contracts.versions import GoldenAnswer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GOLDEN_FILE = "golden.safetensors"
CASES = 4
#: another processor or number of threads changes a logit by some 1e-5; other weights change it by far more
_TOLERANCE = 1e-3


def write_golden(folder: Path, patches: NDArray[np.generic]) -> None:
    """Ask the network of a run folder about some patches (n, *patch_shape), and keep both."""
    import numpy as np
    from safetensors.numpy import save

    from models.predict import Predictor

    patches = np.ascontiguousarray(patches)
    logits = Predictor.load(folder).logits(patches)
    write_bytes_atomic(folder / GOLDEN_FILE, save({"patches": patches, "logits": np.asarray(logits, dtype=np.float64)}))


def ask_golden(folder: Path) -> GoldenAnswer:
    """Load the network of a run folder and compare what it says with what was kept.

    Without golden cases, as versions of earlier programs are, it must say something finite of an empty patch.

    Raises
    ------
    WeightsError: the files do not fit together, or a logit is not finite.
    """
    import numpy as np
    from safetensors.numpy import load

    from models.predict import Predictor

    predictor = Predictor.load(folder)
    # The card's own digest of the checkpoint was compared with the bytes that were loaded.
    files = {
        "checkpoint.safetensors": predictor.card.checkpoint_sha256,
        "model_card.json": sha256_file(folder / "model_card.json"),
    }
    kept = folder / GOLDEN_FILE
    if kept.is_file():
        content = kept.read_bytes()
        tensors = load(content)
        patches, expected = tensors["patches"], tensors["logits"]
        files[GOLDEN_FILE] = hashlib.sha256(content).hexdigest()
    else:
        patches, expected = np.zeros((2, *predictor.card.input.patch_shape), dtype=np.int16), None
    logits = predictor.logits(patches)
    if logits.shape != (len(patches),) or not np.isfinite(logits).all():
        raise WeightsError("the version gives no finite score", where=f"runs/{folder.name}")
    if expected is None:
        return GoldenAnswer(n=0, difference=0.0, files=files)
    allowed = _TOLERANCE * np.maximum(1.0, np.abs(expected))
    return GoldenAnswer(n=len(patches), difference=float(np.max(np.abs(logits - expected) / allowed)), files=files)


def _main(folder: str) -> int:
    # Imports make nothing but what stays: looking for garbage among it took a tenth of this process's time.
    gc.disable()
    try:
        print(ask_golden(Path(folder)).model_dump_json())
    except NoduleflowError as error:
        print(error.line(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
