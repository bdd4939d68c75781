"""What detectors are made of: DetectionHead, learned trees as numbers with their card; DetectorCard, of a bundle."""

from __future__ import annotations

import json
from typing import Literal, Self

from pydantic import Field, model_validator

from data_contracts.records import Record


class DetectionTree(Record):
    """A decision tree as parallel lists over its nodes, the root first.

    feature: number of the feature that a node asks for, -1 at a leaf. threshold: a value up to it goes left.
    left, right: numbers of the children, 0 at a leaf. value: what a leaf adds to the log-odds.
    """

    feature: tuple[int, ...] = Field(min_length=1)
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        count = len(self.feature)
        if any(len(part) != count for part in (self.threshold, self.left, self.right, self.value)):
            raise ValueError("the lists of a tree have different lengths")
        for node, asked in enumerate(self.feature):
            if asked >= 0 and not (node < self.left[node] < count and node < self.right[node] < count):
                raise ValueError("a node's children come after it")
        return self


class SensitivityFigure(Record):
    """What was found of known nodules in studies that did not teach.

    what: the studies. sensitivities: at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false marks a scan, LUNA16's seven points.
    mean_sensitivity: of the seven; interval: its 95 % interval, scans drawn again. at_threshold: sensitivity and false
    marks a scan at the threshold of the card.
    """

    what: str
    n_scans: int
    n_nodules: int
    sensitivities: tuple[float, float, float, float, float, float, float]
    mean_sensitivity: float
    interval: tuple[float, float] | None = None
    sensitivity_at_threshold: float
    false_marks_at_threshold: float


class DetectionHead(Record):
    """A sum of decision trees over features of a candidate; log-odds of a nodule.

    features: in the order in which the trees number them. baseline: log-odds before the first tree. threshold: a score
    below it is no finding; frozen on what taught. learned_from, how, made_by: the card. held_out: on studies that did
    not teach.
    """

    name: str
    features: tuple[str, ...] = Field(min_length=1)
    baseline: float
    trees: tuple[DetectionTree, ...]
    threshold: float = Field(ge=0, le=1)
    learned_from: tuple[str, ...]
    how: str
    made_by: str
    held_out: tuple[SensitivityFigure, ...]

    @model_validator(mode="after")
    def _knows_its_features(self) -> Self:
        if any(number >= len(self.features) for tree in self.trees for number in tree.feature):
            raise ValueError("a tree asks for a feature that has no name")
        return self

    def to_json(self) -> str:
        """As every record, but a tree a line."""
        body = {"schema_version": self.SCHEMA_VERSION, **self.model_dump(mode="json", exclude={"trees"})}
        trees = ",\n".join(json.dumps(tree.model_dump(mode="json"), separators=(",", ":")) for tree in self.trees)
        head = json.dumps(body, indent=2, ensure_ascii=False)
        return f'{head[:-2]},\n  "trees": [\n{trees}\n]\n}}\n'


class DetectorCard(Record):
    """detector.json of a folder that holds the weights of MONAI's lung_nodule_ct_detection bundle.

    The defaults are those of the bundle's configs/inference.json, which is not run: its expressions are code.

    weights_file: within the folder; safetensors, or a state dict that torch loads without unpickling objects.
    weights_sha256: of that file; checked before every load. backbone: a residual network of monai.networks.nets.
    spacing_xyz_mm: of the grid (right, anterior, superior) it was trained on. low_hu, high_hu: HU that become 0 and 1,
    clipped. patch_xyz: voxels that are looked at at once; each a multiple of 16. score_threshold: boxes below are left
    out by the network itself. threshold: candidates below are no findings. sensitivity: what it found of known nodules,
    and where; shown in every report. source: where the weights come from, and their licence.
    """

    name: str = Field(max_length=200)
    weights_file: str = Field("models/model.pt", pattern=r"^([A-Za-z0-9_-]+/)?[A-Za-z0-9_-]+\.(pt|safetensors)$")
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    spacing_xyz_mm: tuple[float, float, float] = (0.703125, 0.703125, 1.25)
    low_hu: float = -1024.0
    high_hu: float = 300.0
    conv1_stride: tuple[int, int, int] = (2, 2, 1)
    conv1_size: tuple[int, int, int] = (7, 7, 7)
    returned_layers: tuple[int, ...] = (1, 2)
    feature_map_scales: tuple[int, ...] = (1, 2, 4)
    base_anchor_shapes: tuple[tuple[float, float, float], ...] = ((6, 8, 4), (8, 6, 5), (10, 10, 6))
    size_divisible: tuple[int, int, int] = (16, 16, 8)
    patch_xyz: tuple[int, int, int] = (192, 192, 80)
    score_threshold: float = Field(0.02, ge=0, le=1)
    overlap_threshold: float = Field(0.22, gt=0, le=1)
    most_boxes: int = Field(300, ge=1, le=2000)
    threshold: float = Field(0.5, ge=0, le=1)
    sensitivity: str = Field("not stated by its card", max_length=1000)
    source: str = Field("", max_length=1000)

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if not self.low_hu < self.high_hu:
            raise ValueError("low_hu must be below high_hu")
        if min(self.spacing_xyz_mm) <= 0:
            raise ValueError("spacing_xyz_mm must be positive")
        if any(size % 16 or size <= 0 for size in self.patch_xyz):
            raise ValueError("patch_xyz must be multiples of 16")
        if len(self.feature_map_scales) != len(self.returned_layers) + 1:
            raise ValueError("feature_map_scales has one entry more than returned_layers")
        return self
