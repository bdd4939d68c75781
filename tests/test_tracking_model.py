"""What MLflow holds of a version: its whole folder once, loaded as probabilities with a signature, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from version_cohort import KINDS, some_patches, write_finished_run

from data_contracts.model_card import ModelCard
from data_contracts.records import sha256_file
from flows.versions import tracking
from flows.versions.contents import write_contents
from flows.versions.tracking_model import log_model
from flows.versions.version_files import SERVING_FILE, version_files
from flows.workspace import Workspace
from models.predict import Predictor


@dataclass(frozen=True)
class Logged:
    """A run folder, its card, the address of its logged model and where MLflow keeps the files."""

    folder: Path
    card: ModelCard
    address: str
    artifacts: Path
    workspace: Workspace


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    root = tmp_path_factory.mktemp("logged")
    folder = write_finished_run(root, KINDS["slices as channels, eight views"])
    write_contents(folder, root / "datasets" / "d")
    workspace, card = Workspace(root), ModelCard.read(folder / "model_card.json")
    client = tracking.connect(workspace)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    run = client.create_run(experiment.experiment_id)
    address = log_model(run.info.run_id, folder, card, workspace.scratch_root)
    (artifacts,) = workspace.mlflow_artifacts.glob("models/*/artifacts")
    return Logged(folder, card, address, artifacts, workspace)


def test_the_whole_version_is_logged_and_each_large_file_once(logged: Logged) -> None:
    data = logged.artifacts / "data" / "version"
    expected = {name for name in version_files(logged.folder) if name != SERVING_FILE}
    listed = json.loads((data / "files.json").read_text())
    assert set(listed) == expected
    assert {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()} == {
        *expected,
        "files.json",
    }
    assert all(
        sha256_file(logged.folder / name) == sha256 == sha256_file(data / name) for name, sha256 in listed.items()
    )
    everything = [path for path in logged.artifacts.rglob("*") if path.is_file()]
    assert len(list(logged.artifacts.rglob("*.pt2"))) == 1 and not list(logged.artifacts.rglob("*.pkl"))
    weights = (data / "checkpoint.safetensors").stat().st_size + (data / "bundle/models/model.pt2").stat().st_size
    assert sum(path.stat().st_size for path in everything) < weights + 1e6
    assert not list(logged.workspace.scratch_root.iterdir())


def test_requirements_are_exact_and_few(logged: Logged) -> None:
    lines = (logged.artifacts / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in lines] == ["mlflow", "torch", "numpy", "pandas"]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)


def test_pyfunc_gives_probabilities_of_any_batch_by_the_signature(logged: Logged) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model(logged.address)
    patches = some_patches(logged.card.input, 5)
    logits = Predictor.load(logged.folder).logits(patches)
    signature = model.metadata.signature
    (tensor,) = signature.inputs.inputs
    assert tensor.shape == (-1, 3, 24, 24) and tensor.type == np.float32
    assert [column.name for column in signature.outputs.inputs] == ["probability"]
    for n in (1, 2, 5):
        table = model.predict(patches[:n].astype(np.float32))
        np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(0.3 - 1.7 * logits[:n])), atol=1e-4)
        assert list(table) == ["probability"]
    both = model.predict(patches.astype(np.float32), params={"diameter_mm": [9.0] * 5, "with_logit": True})
    np.testing.assert_allclose(both["logit"], logits, atol=1e-4)
    assert not np.allclose(both["probability"], table["probability"])
    for wrong in (patches.astype(np.int16), patches[:, :2].astype(np.float32)):
        with pytest.raises(mlflow.exceptions.MlflowException, match="float32"):
            model.predict(wrong)


def test_a_changed_byte_of_the_logged_files_is_refused_by_pyfunc(logged: Logged) -> None:
    import mlflow

    program = logged.artifacts / "data" / "version" / "bundle" / "models" / "model.pt2"
    content = program.read_bytes()
    middle = len(content) // 2
    try:
        program.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(ValueError, match="not what was registered"):
            mlflow.pyfunc.load_model(logged.address)
    finally:
        program.write_bytes(content)
    mlflow.pyfunc.load_model(logged.address)


@pytest.mark.slow
def test_mlflow_predicts_from_a_file_without_this_program(logged: Logged, tmp_path: Path) -> None:
    patches = some_patches(logged.card.input, 2)
    (tmp_path / "input.json").write_text(json.dumps({"inputs": patches.tolist()}))
    # The packages are there, this program is not: it is found by the path of its repository alone.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('models', 'flows', 'pipeline', 'data_contracts'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment["MLFLOW_TRACKING_URI"] = tracking.tracking_uri(logged.workspace)
    words = ["models", "predict", "-m", logged.address, "-i", "input.json", "-t", "json", "--env-manager", "local"]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "mlflow"), *words],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout[done.stdout.index('{"predictions"') :])["predictions"]
    logits = Predictor.load(logged.folder).logits(patches)
    np.testing.assert_allclose([row["probability"] for row in answer], 1 / (1 + np.exp(0.3 - 1.7 * logits)), atol=1e-4)
