"""From two trained versions to a champion and back: gates, compare-and-set, seals, audit. All of it real."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

pytestmark = [pytest.mark.server, pytest.mark.slow]

PRESET = 'backbone = "resnet18"\nweights = "none"\nunfreeze = 1\nepochs = 2\naugmentations = 1\ninput_size_px = 32\n'
Run = Callable[..., subprocess.CompletedProcess[str]]


def write_npz(path: Path) -> None:
    """MedMNIST's form: bright discs are malignant, dim ones benign, sizes overlap."""
    random = np.random.default_rng(0)
    arrays = {}
    j, i = np.mgrid[:28, :28]
    for split, n in (("train", 60), ("val", 40), ("test", 60)):
        labels = np.arange(n) % 2
        radius = random.uniform(4, 9, n)[:, None, None]
        disc = (j - 13.5) ** 2 + (i - 13.5) ** 2 < radius**2
        grey = np.where(labels == 1, 200, 120)[:, None, None] * disc + random.normal(30, 12, (n, 28, 28))
        arrays[f"{split}_images"] = np.clip(grey, 0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("registry")
    write_npz(found / "discs.npz")
    (found / "small.toml").write_text(PRESET)
    return found


@pytest.fixture(scope="module")
def run(folder: Path, watched: Callable[[Path], dict[str, str]]) -> Run:
    environment = watched(folder / "hosts.txt")

    def noduleflow(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", "--workspace", str(folder / "ws"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=500, check=False, cwd=folder, env=environment
        )

    return noduleflow


@pytest.fixture(scope="module")
def versions(folder: Path, run: Run) -> list[dict[str, str]]:
    """Two registered versions of the same data, fitted from different seeds."""
    assert run("import-npz", "discs.npz", "--name", "discs").returncode == 0
    found = []
    for seed in (0, 1):
        done = run("train", "--preset", "small.toml", "--set", f"seed={seed}", "--json")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    return found


def aliases(run: Run) -> tuple[str | None, str | None, str | None]:
    status = json.loads(run("status", "--json").stdout)
    return status["champion"], status["challenger"], status["previous_champion"]


def test_the_life_of_a_champion(versions: list[dict[str, str]], run: Run, folder: Path) -> None:
    assert [version["version"] for version in versions] == ["1", "2"]
    assert aliases(run) == (None, "2", None)

    stale = run("promote", "1", "--expect", "7")
    assert stale.returncode == 4
    assert "the champion is none, not 7" in stale.stderr

    first = run("promote", "1", "--expect", "none")
    assert first.returncode == 0, first.stderr
    assert aliases(run) == ("1", "2", None)

    (folder / "strict.toml").write_text("min_auc = 0.9999\nmin_test_nodules = 1000\n")
    refused = run("promote", "challenger", "--expect", "1", "--policy", "strict.toml")
    assert refused.returncode == 4
    assert "is not promoted" in refused.stderr
    assert aliases(run)[0] == "1"

    (folder / "wrong.toml").write_text("min_acu = 0.9\n")
    wrong = run("promote", "challenger", "--expect", "1", "--policy", "wrong.toml")
    assert wrong.returncode == 2
    assert "unknown parameter 'min_acu'" in wrong.stderr

    (folder / "open.toml").write_text(
        "max_auc_drop_vs_champion = 1.0\nmin_auc = 0.0\nmin_auc_minus_size = -1\nmax_ece = 1\n"
    )
    second = run("promote", "2", "--expect", "1", "--policy", "open.toml")
    assert second.returncode == 0, second.stderr
    assert aliases(run) == ("2", "2", "1")

    back = run("rollback")
    assert back.returncode == 0, back.stderr
    assert aliases(run) == ("1", "2", "2")

    audit = json.loads(run("audit", "--verify", "--json").stdout)
    assert [record["action"] for record in audit["records"]] == [
        "promote_refused",
        "promote_intent",
        "promote_done",
        "promote_refused",
        "promote_intent",
        "promote_done",
        "rollback_intent",
        "rollback_done",
    ]


def test_the_same_training_again_does_nothing_and_says_so(versions: list[dict[str, str]], run: Run) -> None:
    again = run("train", "--preset", "small.toml", "--set", "seed=0", "--json")
    assert json.loads(again.stdout)["version"] == versions[0]["version"]
    assert "finished already" in again.stderr


def test_figures_can_be_computed_again_from_the_predictions(versions: list[dict[str, str]]) -> None:
    run_folder = Path(versions[0]["folder"])
    predictions = pd.read_parquet(run_folder / "predictions.parquet")
    report = json.loads((run_folder / "evaluation.json").read_text())
    figures = {(row["score"], row["site"]): row for row in report["figures"]}
    again = roc_auc_score(predictions["label"].astype(int), predictions["score_image"])
    assert figures["score_image", "all"]["auc"]["value"] == pytest.approx(again, abs=1e-12)
    assert set(predictions["split"]) == {"test"}
    assert report["pretrained"] is False


def test_a_version_is_compared_and_evaluated_by_name(versions: list[dict[str, str]], run: Run) -> None:
    compared = json.loads(run("compare", "1", "2", "--json").stdout)
    assert compared["n"] == 60
    evaluated = json.loads(run("evaluate", "2", "--json").stdout)
    ours = json.loads((Path(evaluated["folder"]) / "evaluation.json").read_text())
    registered = json.loads((Path(versions[1]["folder"]) / "evaluation.json").read_text())
    assert ours["figures"] == registered["figures"] or ours["figures"][0] == registered["figures"][0]
    unknown = run("evaluate", "99")
    assert unknown.returncode == 2
    assert "no version '99'" in unknown.stderr


def test_a_changed_checkpoint_is_refused(versions: list[dict[str, str]], run: Run) -> None:
    checkpoint = Path(versions[1]["folder"]) / "checkpoint.safetensors"
    original = checkpoint.read_bytes()
    try:
        checkpoint.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        done = run("evaluate", "2")
        assert done.returncode == 2
        assert "is not what was registered" in done.stderr
    finally:
        checkpoint.write_bytes(original)


def test_mlflow_serves_the_registered_version_without_pickle(versions: list[dict[str, str]], folder: Path) -> None:
    code = (
        "import mlflow, numpy as np\n"
        f"mlflow.set_tracking_uri('sqlite:///{folder}/ws/mlflow.db')\n"
        "model = mlflow.pyfunc.load_model('models:/noduleflow-nodule/1')\n"
        "print(np.asarray(model.predict(np.zeros((3, 1, 28, 28), dtype=np.float32))).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    assert done.stdout.splitlines()[-1] == "(3, 2)"


def test_with_weights_that_need_no_download_no_connection_leaves_the_machine(
    versions: list[dict[str, str]], folder: Path
) -> None:
    assert (folder / "hosts.txt").read_text() == ""
