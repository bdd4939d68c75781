"""MONAI's nodule detector from a folder: loaded by digest, run as MONAI runs it, its boxes brought to the patient."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from monai.apps.detection.transforms.dictionary import AffineBoxToWorldCoordinated, ConvertBoxModed
from monai.data import MetaTensor
from monai.transforms import Compose, ScaleIntensityRanged
from safetensors.torch import save_file

from data_contracts.detection import DetectorCard
from data_contracts.errors import ContractError, WeightsDigestError, WeightsError
from data_contracts.params import DetectionParams
from data_contracts.records import sha256_file
from data_contracts.volume import CTVolume
from flows.reviewing.finding_by_bundle import bundle_finder
from models.detection.bundle import CARD_FILE, build_network, load_bundle_detector
from pipeline.imaging.lungs import LungMask

SHAPE_XYZ = (48, 64, 32)
SPACING = (0.703125, 0.703125, 1.25)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return build_network(DetectorCard(name="random", weights_sha256="0" * 64, backbone="resnet10"))


def folder_of(place, network, *, weights_file="models/model.pt", nested=False, **card):
    """A folder as the bundle unpacks, with detector.json added."""
    path = place / weights_file
    path.parent.mkdir(parents=True, exist_ok=True)
    state = network.state_dict()
    if path.suffix == ".pt":
        torch.save({"model": state} if nested else state, path)
    else:
        save_file(state, path)
    values = {"name": "random", "backbone": "resnet10", "score_threshold": 0.0, "threshold": 0.0, "most_boxes": 40}
    DetectorCard(
        **{**values, "weights_file": weights_file, "weights_sha256": sha256_file(path), **card},
    ).write(place / CARD_FILE)
    return place


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("detectors") / "random", network)


def card_of(place, content=None, *, like=None, **card):
    """A folder with the weights of another, or with this content for weights, and a card of its own."""
    path = place / "models" / "model.pt"
    path.parent.mkdir(parents=True)
    if like is not None:
        path.hardlink_to(like / "models" / "model.pt")
    else:
        path.write_bytes(content)
    values = {"name": "other", "backbone": "resnet10", "score_threshold": 0.0, "threshold": 0.0, "most_boxes": 40}
    DetectorCard(**{**values, "weights_sha256": sha256_file(path), **card}).write(place / CARD_FILE)
    return place


def hu_of(shape) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 400, shape).astype(np.int16)


def test_boxes_are_those_that_monai_finds_with_the_settings_of_its_bundle(folder, network):
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

    hu = hu_of(SHAPE_XYZ)
    boxes, scores = load_bundle_detector(folder)(hu)
    shapes = [[6, 8, 4], [8, 6, 5], [10, 10, 6]]
    theirs = RetinaNetDetector(network, AnchorGeneratorWithAnchorShape((1, 2, 4), shapes)).eval()
    theirs.set_target_keys(box_key="box", label_key="label")
    theirs.set_box_selector_parameters(0.0, 1000, 0.22, 40)
    scaled = ScaleIntensityRanged("image", -1024.0, 300.0, 0.0, 1.0, clip=True)({"image": torch.from_numpy(hu)[None]})
    with torch.inference_mode():
        found = theirs([scaled["image"].float()], use_inferer=False)[0]
    assert len(boxes) == 40
    assert scores == pytest.approx(np.sort(found["label_scores"].numpy())[::-1], abs=1e-6)
    mine, order = boxes[0], int(found["label_scores"].argmax())
    assert mine == pytest.approx(found["box"][order].numpy(), abs=1e-3)


def test_its_boxes_lie_in_the_patient_where_monai_puts_them(folder):
    """The volume is on the detector's own grid, so that resampling plays no part."""
    hu = hu_of(SHAPE_XYZ)
    # RAS array to a volume (k, j, i) that grows to the head, the front and the right
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, -SPACING[0]], [0, -SPACING[1], 0], [SPACING[2], 0, 0]])
    affine[:3, 3] = (30.0, 40.0, -50.0)
    volume = CTVolume(np.ascontiguousarray(hu.transpose(2, 1, 0)), affine)
    ones = np.ones((volume.shape_kji[0], volume.shape_kji[1], volume.shape_kji[2]), np.uint8)
    lungs = LungMask(ones, affine, 2000.0, 2000.0, ())
    find, card = bundle_finder(folder)
    # margins around the lungs would change what the network sees
    import flows.reviewing.finding_by_bundle as module

    candidates = _without_margin(module, find, volume, lungs)
    assert card.name == "random"
    boxes, scores = load_bundle_detector(folder)(hu)
    ras = np.diag([*SPACING, 1.0])
    ras[:3, 3] = (-30.0, -40.0, -50.0)
    place = Compose(
        [
            AffineBoxToWorldCoordinated("box", "image", affine_lps_to_ras=False),
            ConvertBoxModed("box", "xyzxyz", "cccwhd"),
        ]
    )
    image = MetaTensor(torch.from_numpy(hu)[None].float(), affine=torch.from_numpy(ras))
    world = place({"box": torch.from_numpy(boxes), "image": image})["box"].numpy()
    best = candidates[0]
    number = int(np.argmin(np.abs(scores - best.score)))
    assert np.array(best.lps_mm) == pytest.approx(world[number, :3] * (-1, -1, 1), abs=1e-3)
    assert best.diameter_mm == pytest.approx(world[number, 3:].mean(), rel=1e-4)


def _without_margin(module, find, volume, lungs):
    kept = module._MARGIN_MM
    module._MARGIN_MM = 0.0
    try:
        return find(volume, lungs, DetectionParams(detection_threshold=0.0, smallest_mm=2.0, max_candidates=1000))
    finally:
        module._MARGIN_MM = kept


def test_a_chest_larger_than_a_patch_is_looked_at_in_windows(folder, tmp_path):
    place = card_of(tmp_path / "small", like=folder, patch_xyz=(32, 32, 32))
    boxes, scores = load_bundle_detector(place)(hu_of((40, 32, 32)))
    assert len(boxes) == len(scores) == 40
    assert boxes[:, 3].max() > 33
    assert (boxes[:, :3] < boxes[:, 3:]).all()


def test_nothing_is_searched_where_the_lungs_are_not_plausible(folder):
    volume = CTVolume(np.zeros((8, 8, 8), np.int16), np.eye(4))
    lungs = LungMask(np.zeros((4, 4, 4), np.uint8), np.eye(4), 0.0, 0.0, ("no lung was found",))
    assert list(bundle_finder(folder)[0](volume, lungs, DetectionParams())) == []


@pytest.mark.parametrize(("name", "nested"), [("weights.safetensors", False), ("models/model.pt", True)])
def test_safetensors_and_a_nested_state_dict_are_taken_too(network, tmp_path, folder, name, nested):
    place = folder_of(tmp_path / "other", network, weights_file=name, nested=nested)
    hu = hu_of((32, 32, 16))
    assert load_bundle_detector(place)(hu)[1] == pytest.approx(load_bundle_detector(folder)(hu)[1])


def test_other_weights_than_the_card_names_are_never_opened(tmp_path):
    place = card_of(tmp_path / "swapped", b"weights", weights_sha256="0" * 64)
    with pytest.raises(WeightsDigestError, match="not those its card names"):
        load_bundle_detector(place)


class _Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle was run')",))


def test_a_pickle_with_code_what_is_no_file_of_tensors_and_other_tensors_are_refused_in_one_line(folder, tmp_path):
    contents = pickle.dumps({"model": _Malicious()}), b"PK\x03\x04 not tensors"
    for number, content in enumerate(contents):
        with pytest.raises(WeightsError, match="no tensors that fit"):
            load_bundle_detector(card_of(tmp_path / f"bad{number}", content))
    with pytest.raises(WeightsError, match="no tensors that fit"):
        load_bundle_detector(card_of(tmp_path / "misfit", like=folder, base_anchor_shapes=((6, 8, 4), (8, 6, 5))))


def test_what_is_missing_is_named_with_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match="no detector 'absent'"):
        load_bundle_detector(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(WeightsError, match=CARD_FILE):
        load_bundle_detector(tmp_path / "bare")
    place = card_of(tmp_path / "gone", b"weights")
    (place / "models/model.pt").unlink()
    with pytest.raises(WeightsError, match="has no models"):
        load_bundle_detector(place)
    (place / CARD_FILE).write_text('{"schema_version": 1, "name": "x", "weights_file": "../../secret.pt"}')
    with pytest.raises(ContractError):
        load_bundle_detector(place)
