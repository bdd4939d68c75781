"""A network in the layout of a MONAI bundle, which `python -m monai.bundle` runs without this program.

The specification of the layout: https://docs.monai.io/en/stable/mb_specification.html. Where MONAI keeps a pickled
state the bundle has the traced program, `models/model.pt2`, so that no class of ours has to be imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from data_contracts.model_card import InputSpec, ModelCard
from models.export import takes

#: of the file by which MONAI checks metadata.json
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
PROGRAM_FILE = "models/model.pt2"
#: what MONAI's command line needs beside MONAI itself; not among the dependencies of this program
_FIRE = "0.7.1"
_GIVES = {"0": "logit of malignancy", "1": "probability of malignancy, of the image alone"}

_LICENSE = """The files in configs and docs: Apache License, Version 2.0, http://www.apache.org/licenses/LICENSE-2.0

The weights in models were made from patients' images. They belong to the site that trained them; nothing in this
bundle gives anybody else a right to use or pass them on. A site that gives such a right says so in this file.
"""

_README = """# {name}

{description}

{intended_use}

| held-out patients | |
| --- | --- |
{figures}
{warnings}
## Run

The environment needs `monai=={monai} torch=={torch} numpy=={numpy} nibabel=={nibabel} fire=={fire}`.

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir PATCHES --output_dir OUT

runs from this folder; from elsewhere add `--bundle_root THIS_FOLDER` and name the file by its whole path. Every `.npy`,
`.nii` and `.nii.gz` below PATCHES is one patch; OUT/predictions.csv has a line for each: file, probability, logit.

## What a patch is

{takes}.

A `.npy` holds the patch as it is, in this order of axes. A NIfTI file may hold it so, too; else, and always where the
patch is a cube, its affine says how it lies in the patient, and its axes are brought to (slice, row, column), slices
towards the head, rows towards the back, columns towards the patient's left.

## What comes out

The probability is that of the image alone. Where the diameter d of the nodule is known, the score of the reports is
sigmoid({bias:.6g} + {image_weight:.6g} * logit + {size_weight:.6g} * ln(d / 10 mm)).
"""


def bundle_files(
    card: ModelCard, packages: Mapping[str, str], figures: Mapping[str, float], *, program_version: str
) -> dict[str, str]:
    """Path below the bundle -> text of every file but `PROGRAM_FILE`.

    Parameters
    ----------
    packages: versions of monai, torch, numpy and nibabel.
    figures: what evaluation found, by name.
    program_version: of noduleflow.
    """
    name = f"CT lung nodule malignancy, {card.backbone}"
    description = (
        f"{card.backbone} with a {card.head} head, trained with noduleflow {program_version} on "
        f"{card.training.get('population', 'nodules')} (run {card.run_id})."
    )
    text = _README.format(
        name=name,
        description=description,
        intended_use=card.intended_use,
        figures="\n".join(f"| {key} | {value:.3f} |" for key, value in figures.items()),
        warnings="".join(f"\nWarning: {warning}\n" for warning in card.warnings),
        takes=takes(card.input),
        fire=_FIRE,
        **packages,
        **card.calibration.model_dump(),
    )
    metadata = _metadata(card, packages, figures, name, description, f"{program_version}+{card.run_id[:8]}")
    return {
        "configs/metadata.json": json.dumps(metadata, indent=4) + "\n",
        "configs/inference.json": json.dumps(inference(card.input), indent=4) + "\n",
        "docs/README.md": text,
        "LICENSE": _LICENSE,
    }


def _metadata(
    card: ModelCard,
    packages: Mapping[str, str],
    figures: Mapping[str, float],
    name: str,
    description: str,
    version: str,
) -> dict[str, Any]:
    channels, spatial = image_shape(card.input)
    unit = "HU" if card.input.value_unit == "HU" else "grey"
    return {
        "schema": SCHEMA,
        "version": version,
        "changelog": {version: f"as run {card.run_id} was registered"},
        "monai_version": packages["monai"],
        "pytorch_version": packages["torch"],
        "numpy_version": packages["numpy"],
        "required_packages_version": {"nibabel": packages["nibabel"], "fire": _FIRE},
        "name": name,
        "task": "Malignancy of a lung nodule on CT, from a patch around it",
        "description": description,
        "authors": f"The site that trained it, with noduleflow {version.split('+')[0]}",
        "copyright": "The site that trained it",
        "data_source": f"dataset {card.dataset_id} of that site",
        "data_type": "numpy, nibabel",
        "image_classes": takes(card.input),
        "label_classes": "0 benign, 1 malignant",
        "pred_classes": "; ".join(f"channel {channel}: {meaning}" for channel, meaning in _GIVES.items()),
        "eval_metrics": dict(figures),
        "intended_use": card.intended_use,
        "references": [],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if unit == "HU" else "magnitude",
                    "modality": "CT",
                    "num_channels": channels,
                    "spatial_shape": list(spatial),
                    "dtype": "float32",
                    "value_range": [] if unit == "HU" else [0, 255],
                    "is_patch_data": False,
                    "channel_def": _channel_names(card.input, channels, unit),
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(_GIVES),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": _GIVES,
                }
            },
        },
    }


def image_shape(spec: InputSpec) -> tuple[int, tuple[int, ...]]:
    """(channels, spatial shape) of a patch as MONAI sees images: planes are channels, a cube has one."""
    if len(spec.patch_shape) == 3 and spec.kind != "3d":
        return spec.patch_shape[0], spec.patch_shape[1:]
    return 1, spec.patch_shape


def _channel_names(spec: InputSpec, channels: int, unit: str) -> dict[str, str]:
    if channels == 1:
        return {"0": f"CT, {unit}"}
    what = "plane" if spec.kind == "2.5d" else "slice"
    return {str(channel): f"{what} {channel}, {unit}" for channel in range(channels)}


def inference(spec: InputSpec) -> dict[str, Any]:
    """configs/inference.json: a folder of patches in, predictions.csv out; nothing but MONAI, torch and nibabel."""
    _, spatial = image_shape(spec)
    has_channels = spec.patch_shape != spatial
    is_cube = spec.kind == "3d"
    return {
        "imports": ["$import csv", "$import glob", "$import os", "$import sys", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "patches",
        "output_dir": "eval",
        "batch_size": 16,
        "patch_shape": list(spec.patch_shape),
        "device": "$torch.device('cpu')",
        "program": "$torch.export.load(os.path.join(@bundle_root, 'models', 'model.pt2')).module()",
        # A traced program refuses eval(), which MONAI calls; what holds it unregistered need not pass that on.
        "network_def": "$type('Served', (torch.nn.Module,), {'forward': lambda self, image: @program("
        + ("image" if has_channels else "image.flatten(1, 2)")
        + ")})()",
        "network": "$@network_def.to(@device)",
        "inferer": {"_target_": "SimpleInferer"},
        "to_patient_axes": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "EnsureChannelFirst", "channel_dim": "no_channel"},
                {"_target_": "Orientation", "axcodes": "LPS"},
                {"_target_": "Lambda", "func": "$lambda image: image[0].permute(2, 1, 0)"},
            ],
        },
        "is_stored_as_patch": "$lambda image: image.ndim != 3 or str(image.meta['filename_or_obj']).endswith('.npy')"
        + ("" if is_cube else " or list(image.shape) == @patch_shape"),
        "as_patch": "$lambda image: image if @is_stored_as_patch(image) else @to_patient_axes(image)",
        "checked": "$lambda image: image if list(image.shape) == @patch_shape else sys.exit("
        "os.path.basename(str(image.meta['filename_or_obj'])) + ' holds ' + str(list(image.shape)) + "
        "', a patch is ' + str(@patch_shape))",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": False},
                {"_target_": "Lambdad", "keys": "image", "func": "@as_patch"},
                {"_target_": "Lambdad", "keys": "image", "func": "@checked"},
                *(
                    []
                    if has_channels
                    else [{"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"}]
                ),
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32", "track_meta": False},
            ],
        },
        "files": "$sorted(path for path in glob.glob(os.path.join(@dataset_dir, '**', '*'), recursive=True) "
        "if path.endswith(('.npy', '.nii', '.nii.gz'))) or sys.exit('no .npy or .nii below ' + @dataset_dir)",
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path, 'file': os.path.relpath(path, @dataset_dir)} for path in @files]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": "@batch_size",
            "shuffle": False,
            "num_workers": 0,
        },
        "rows": "$torch.inference_mode()(lambda: [(file, float(row[1]), float(row[0])) for batch in @dataloader "
        "for file, row in zip(batch['file'], @inferer(batch['image'].to(@device), @network))])()",
        "write": "$lambda rows, stream: (csv.writer(stream).writerows([('file', 'probability', 'logit'), *rows]), "
        "stream.close())",
        "run": [
            "$os.makedirs(@output_dir, exist_ok=True)",
            "$@write(@rows, open(os.path.join(@output_dir, 'predictions.csv'), 'w', newline=''))",
        ],
    }
