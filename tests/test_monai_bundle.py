"""The bundle of a version: MONAI alone runs it on a folder of patches, and its metadata say what goes in and out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from version_cohort import KINDS, some_patches, write_finished_run

from data_contracts.model_card import InputSpec, ModelCard
from data_contracts.volume import CTVolume
from flows.versions.contents import write_contents
from models.bundle import inference
from models.predict import Predictor
from pipeline.imaging.nifti import write_nifti

PLANES, CUBE = "slices as channels, eight views", "cube by its planes"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The completed run folders of planes and of cubes."""
    made = {}
    for name in (PLANES, CUBE):
        root = tmp_path_factory.mktemp("bundle")
        made[name] = write_finished_run(root, KINDS[name])
        write_contents(made[name], root / "datasets" / "d")
    return made


def predictions(run_folder: Path, patches: Path, out: Path) -> dict[str, tuple[float, float]]:
    """What MONAI's `run` writes: file -> (probability, logit)."""
    import monai.bundle

    bundle = run_folder / "bundle"
    config = str(bundle / "configs" / "inference.json")
    monai.bundle.run(config_file=config, bundle_root=str(bundle), dataset_dir=str(patches), output_dir=str(out))
    with (out / "predictions.csv").open(newline="") as stream:
        return {row["file"]: (float(row["probability"]), float(row["logit"])) for row in csv.DictReader(stream)}


@pytest.mark.parametrize("name", [PLANES, CUBE])
def test_monai_gives_the_logits_of_the_network_for_arrays_and_for_nifti(
    name: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = bundles[name]
    spec = ModelCard.read(folder / "model_card.json").input
    patches = some_patches(spec, 20)
    logits = Predictor.load(folder).logits(patches)
    source = tmp_path / "patches"
    (source / "deeper").mkdir(parents=True)
    for number, patch in enumerate(patches):
        np.save(source / f"{number:02d}.npy", patch)
    (source / "notes.txt").write_text("not a patch")
    # As this program exports patches; the same voxels stored from right to left and from front to back; and, where no
    # cube could be meant, the array as it is.
    write_nifti(source / "deeper" / "ours.nii.gz", CTVolume(patches[0].astype(np.int16), np.eye(4)[[2, 1, 0, 3]]))
    turned = patches[1].transpose(2, 1, 0)[::-1, ::-1].astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(turned, np.eye(4)), source / "deeper" / "turned.nii")
    expected = {f"{number:02d}.npy": value for number, value in enumerate(logits)}
    expected |= {"deeper/ours.nii.gz": logits[0], "deeper/turned.nii": logits[1]}
    if name == PLANES:
        nibabel.save(nibabel.Nifti1Image(patches[2].astype(np.float32), np.eye(4)), source / "as-it-is.nii.gz")
        expected["as-it-is.nii.gz"] = logits[2]
    found = predictions(folder, source, tmp_path / "out")
    assert list(found) == sorted(expected)
    for file, (probability, logit) in found.items():
        assert logit == pytest.approx(expected[file], abs=1e-3), file
        assert probability == pytest.approx(1 / (1 + np.exp(0.3 - 1.7 * logit)), abs=1e-5)


def test_a_patch_of_another_shape_and_an_empty_folder_end_in_one_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    np.save(tmp_path / "wrong" / "small.npy", np.zeros((3, 20, 20), dtype=np.uint8))
    with pytest.raises(SystemExit, match=r"no \.npy or \.nii below"):
        predictions(bundles[PLANES], tmp_path / "empty", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"small\.npy holds \[3, 20, 20\], a patch is \[3, 24, 24\]"):
        predictions(bundles[PLANES], tmp_path / "wrong", tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.parametrize("name", [PLANES, CUBE])
def test_the_metadata_have_what_monai_asks_for_and_fit_the_network(name: str, bundles: dict[str, Path]) -> None:
    import monai.bundle

    configs = bundles[name] / "bundle" / "configs"
    metadata = json.loads((configs / "metadata.json").read_text())
    texts = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description")
    for key in (*texts, "authors", "copyright", "intended_use", "data_source", "pred_classes"):
        assert isinstance(metadata[key], str) and metadata[key], key
    for key in ("changelog", "required_packages_version", "eval_metrics", "network_data_format"):
        assert isinstance(metadata[key], dict), key
    assert metadata["version"] in metadata["changelog"]
    formats = metadata["network_data_format"]
    for tensor in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        assert isinstance(tensor["num_channels"], int) and tensor["dtype"] == "float32"
        assert all(isinstance(length, int) for length in tensor["spatial_shape"])
        assert len(tensor["channel_def"]) == tensor["num_channels"]
        assert isinstance(tensor["value_range"], list) and tensor["type"] and tensor["format"]
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(configs.parent),
    )


def test_the_configuration_names_nothing_but_monai_torch_and_the_standard_library() -> None:
    text = json.dumps(inference(InputSpec(**{"spacing_mm": None, "input_size_px": 32, **KINDS[CUBE].input})))
    for name in ("flows", "models.", "pipeline", "data_contracts", "ignite", "pandas", "pickle"):
        assert name not in text.replace("'models', 'model.pt2'", "")


def test_the_folder_says_what_a_patch_is_whose_the_weights_are_and_that_it_is_no_diagnosis(
    bundles: dict[str, Path],
) -> None:
    bundle = bundles[CUBE] / "bundle"
    readme = (bundle / "docs" / "README.md").read_text()
    assert "float32 (N, 20, 24, 28), 3d patches in HU at 1 mm a pixel" in readme
    assert "Not for diagnostic use" in readme and "ln(d / 10 mm)" in readme
    assert "belong to the site that trained them" in (bundle / "LICENSE").read_text()
