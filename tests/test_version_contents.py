"""Every kind of network travels as a traced program, a MONAI bundle and a model of MLflow, and answers as it did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from version_cohort import CALIBRATION, KINDS, some_patches, write_finished_run

from data_contracts.errors import WeightsError
from data_contracts.model_card import ModelCard
from flows.versions import contents
from flows.versions.contents import write_contents
from flows.versions.version_files import BUNDLE, SERVING_FILE, file_digests, shared_tree, version_files
from models import served
from models.bundle import PROGRAM_FILE
from models.predict import Predictor

#: tracing takes seconds; these stand for the rest where slow tests are left out
_QUICK = {"one slice", "members side by side"}
_NAMES = [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in KINDS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """The completed run folder of a kind, made once."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            root = tmp_path_factory.mktemp("version")
            made[name] = write_finished_run(root, KINDS[name])
            write_contents(made[name], root / "datasets" / "d")
        return made[name]

    return folder_of


def served_from(folder: Path, scratch: Path) -> tuple[Path, served.ServedVersion]:
    """The files of a version as MLflow gets them, and what loads them."""
    names = [name for name in version_files(folder) if name != SERVING_FILE]
    with shared_tree(folder, names, scratch) as tree:
        copy = Path(shutil.copytree(tree, scratch / "copy"))
    (copy / served.FILES).write_text(json.dumps(file_digests(copy, names)))
    return copy, served.ServedVersion(copy)


@pytest.mark.parametrize("name", _NAMES)
def test_the_served_version_answers_any_batch_as_the_network_does(name: str, finished, tmp_path: Path) -> None:
    folder = finished(name)
    card = ModelCard.read(folder / "model_card.json")
    _, version = served_from(folder, tmp_path)
    patches = some_patches(card.input, 64 if name in ("one slice", "members side by side") else 3)
    logits = Predictor.load(folder).logits(patches)
    for n in (1, 2, 3, len(patches)):
        table = version.predict(patches[:n].astype(np.float32), {"with_logit": True})
        np.testing.assert_allclose(table["logit"], logits[:n], atol=1e-3 * max(1, np.abs(logits).max()))
        np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(0.3 - 1.7 * table["logit"])), atol=1e-9)
    traced = torch.export.load(folder / SERVING_FILE).module()
    assert traced(torch.from_numpy(patches[:1].astype(np.float32))).shape == (1, 2)


def test_a_run_folder_is_completed_once_and_holds_the_program_once(finished) -> None:
    folder = finished("one slice")
    files = version_files(folder)
    expected = {"dataset.json", "serving/model.pt2", "bundle/configs/metadata.json", "bundle/configs/inference.json"}
    expected |= {"bundle/docs/README.md", "bundle/LICENSE", f"{BUNDLE}/{PROGRAM_FILE}", "model_card.json"}
    assert expected <= set(files) and not any(name.startswith("networks") for name in files)
    assert (folder / SERVING_FILE).samefile(folder / BUNDLE / PROGRAM_FILE)
    before = {name: (folder / name).stat().st_mtime_ns for name in files}
    write_contents(folder, folder.parent.parent / "datasets" / "d")
    assert {name: (folder / name).stat().st_mtime_ns for name in version_files(folder)} == before


def test_a_disk_without_hard_links_gets_copies(monkeypatch: pytest.MonkeyPatch, finished, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    folder = finished("one slice")
    monkeypatch.setattr(os, "link", refuse)
    with shared_tree(folder, [SERVING_FILE], tmp_path) as tree:
        assert (tree / SERVING_FILE).read_bytes() == (folder / SERVING_FILE).read_bytes()
        assert not (tree / SERVING_FILE).samefile(folder / SERVING_FILE)
    assert not any(tmp_path.iterdir())


def test_a_traced_program_that_answers_otherwise_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(program, path: Path) -> None:
        name = "network.head.logit.bias"  # a tensor of its own: the program shares those of the network
        program.state_dict[name] = torch.nn.Parameter(program.state_dict[name].detach() + 1.0)
        save(program, path)

    save = contents.save_program
    folder = write_finished_run(tmp_path, KINDS["one slice"])
    monkeypatch.setattr(contents, "save_program", wrong)
    with pytest.raises(WeightsError, match="differs from the network by"):
        write_contents(folder, tmp_path / "datasets" / "d")
    assert not (folder / "serving").exists() and not list(folder.glob(".serving*"))


def test_one_changed_byte_a_missing_file_and_a_stranger_are_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, finished, tmp_path: Path
) -> None:
    copy, _ = served_from(finished("one slice"), tmp_path)
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was loaded"))
    for name in json.loads((copy / served.FILES).read_text()):
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match="not what was registered"):
            served.ServedVersion(copy)
        (copy / name).unlink()
        with pytest.raises(ValueError, match="is missing or"):
            served.ServedVersion(copy)
        (copy / name).write_bytes(content)
    (copy / "bundle" / "more.py").write_text("")
    with pytest.raises(ValueError, match="no file of the registered version"):
        served.ServedVersion(copy)


def test_a_program_that_holds_a_pickle_is_refused(finished, tmp_path: Path) -> None:
    copy, _ = served_from(finished("one slice"), tmp_path)
    program = copy / served.PROGRAM
    program.unlink()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),)), program)
    listed = json.loads((copy / served.FILES).read_text())
    (copy / served.FILES).write_text(json.dumps({**listed, **file_digests(copy, [served.PROGRAM])}))
    with pytest.raises(ValueError, match="pickle"):
        served.ServedVersion(copy)


def test_the_diameter_joins_the_image_as_in_the_reports_and_nonsense_is_refused(finished, tmp_path: Path) -> None:
    from pipeline.scoring.fusion import apply_calibration

    folder = finished("one slice")
    _, version = served_from(folder, tmp_path)
    patches = some_patches(ModelCard.read(folder / "model_card.json").input, 3)
    diameters = [8.0, 0.0, 21.5]
    table = version.predict(patches, {"diameter_mm": diameters, "with_logit": True})
    expected = apply_calibration(CALIBRATION, table["logit"].to_numpy(), diameters)["score"]
    np.testing.assert_allclose(table["probability"], expected, rtol=1e-12)
    assert list(version.predict(patches)) == ["probability"]
    assert version.predict(patches[:0]).empty
    with pytest.raises(ValueError, match="diameter_mm has 2 values, there are 3 patches"):
        version.predict(patches, {"diameter_mm": [8.0, 9.0]})
    with pytest.raises(ValueError, match=r"patches are \(N, 24, 24\), not \(3, 24, 23\)"):
        version.predict(patches[:, :, 1:])
    with pytest.raises(ValueError, match="not finite"):
        version.predict(np.full((1, 24, 24), np.nan))


def test_the_loading_module_imports_nothing_of_this_program(tmp_path: Path) -> None:
    alone = Path(shutil.copyfile(served.__file__, tmp_path / "alone.py"))
    script = (
        "import sys, importlib.abc\n"
        "class No(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('models', 'flows', 'pipeline', 'data_contracts', 'monai', 'torchvision'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        f"import {alone.stem}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
