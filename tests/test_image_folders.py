"""Class folders as a dataset: labels, splits and patients; and hostile folders, each item of which is one line."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_contracts.errors import ContractError, LeakError, NothingUsableError, UsageError
from data_contracts.params import ImageParams, SplitParams
from data_contracts.reasons import ReasonCode
from data_contracts.series import REJECTED_TABLE
from flows.intake.images import import_folder
from flows.workspace import Workspace
from pipeline.cohort.dataset import PatchReader
from pipeline.cohort.image_import import ImageImport, import_images
from pipeline.deidentify.pseudonyms import Pseudonymizer

PSEUDONYMS = Pseudonymizer(b"secret")


def picture(seed: int, size: tuple[int, int] = (20, 24), mode: str = "L") -> Image.Image:
    rng = np.random.default_rng(seed)
    shape = size if mode in ("L", "I;16") else (*size, {"RGB": 3, "RGBA": 4, "CMYK": 4}[mode])
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 4096, shape).astype(np.uint16))
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode)


def folders(root: Path, n: int = 12, parents: tuple[str, ...] = ("",), ending: str = "png") -> Path:
    for number, parent in enumerate(parents):
        for label, name in enumerate(("benign", "malignant")):
            folder = root / "images" / parent / name
            folder.mkdir(parents=True)
            for item in range(n):
                picture(1000 * number + 100 * label + item).save(folder / f"{item:02d}.{ending}")
    return root / "images"


def run(folder: Path, root: Path, **options) -> ImageImport:
    scratch = root / "scratch"
    scratch.mkdir(exist_ok=True)
    for left in scratch.iterdir():
        left.unlink()
    given = {"name": "pictures", "images": ImageParams(size_px=24), "split": SplitParams(), "pseudonymizer": PSEUDONYMS}
    return import_images(folder, datasets_root=root / "datasets", scratch=scratch, **{**given, **options})


def opened(root: Path, done: ImageImport) -> PatchReader:
    return PatchReader(root / "datasets" / done.card.dataset_id)


def row_of(index: pd.DataFrame, relative: str) -> pd.Series:
    key = hashlib.sha256(b"noduleflow import image\0" + relative.encode()).hexdigest()[:16]
    return index.set_index("patch_id").loc[key]


def test_the_class_folder_is_the_label_and_every_pixel_arrives(tmp_path):
    done = run(folders(tmp_path), tmp_path, images=ImageParams(size_px=24, resize="never"))
    reader = opened(tmp_path, done)
    assert done.refused == ()
    assert reader.card.patch_shape == (1, 24, 24)
    assert reader.card.value_unit == "grey"
    assert reader.card.counts["label:0"] == reader.card.counts["label:1"] == 12
    assert reader.card.parameters["classes"] == {"0": "benign", "1": "malignant"}
    row = row_of(reader.index, "malignant/03.png")
    assert row["label"] == 1 and np.isnan(row["diameter_mm"]) and row["site"] == "pictures"
    stored = reader.load(reader.index["patch_id"] == row.name)[0, 0]
    assert np.array_equal(stored[2:22], np.asarray(picture(103)))
    assert not stored[:2].any() and not stored[22:].any() and row["padded"]


def test_without_patients_every_image_is_one_and_the_card_says_loudly_that_the_split_may_leak(tmp_path):
    done = run(folders(tmp_path), tmp_path)
    assert done.card.warnings[0].startswith("NO PATIENT IS KNOWN")
    assert done.card.counts["patients"] == 24
    assert set(opened(tmp_path, done).index["split"]) == {"train", "validation", "test"}


def test_copies_of_an_image_are_one_patient_and_told_of_where_their_labels_differ(tmp_path):
    folder = folders(tmp_path)
    for name in ("benign/a.png", "benign/b.png", "malignant/c.png"):
        picture(1).save(folder / name)
    done = run(folder, tmp_path)
    assert done.card.counts["patients"] == 24
    assert "1 images have identical pixels and both labels" in done.card.warnings


def table(root: Path, rows: list[tuple], columns: str = "file,patient") -> Path:
    path = root / "patients.csv"
    path.write_text("\n".join([columns, *(",".join(str(cell) for cell in row) for row in rows)]) + "\n")
    return path


def rows_of(folder: Path, per_patient: int = 3) -> list[tuple[str, str]]:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    return [(file, f"P-{number // per_patient}") for number, file in enumerate(files)]


def test_a_patient_of_the_table_is_in_one_split_under_the_key_that_ingest_gives(tmp_path):
    folder = folders(tmp_path)
    rows = [(file, patient, "north", 4 + number, 5) for number, (file, patient) in enumerate(rows_of(folder))]
    done = run(folder, tmp_path, patients=table(tmp_path, rows, "file,patient,site,diameter_mm,texture"))
    index = opened(tmp_path, done).index
    assert index["patient_key"].nunique() == 8
    assert (index.groupby("patient_key")["split"].nunique() == 1).all()
    row = row_of(index, rows[4][0])
    assert row["patient_key"] == PSEUDONYMS.patient_key("P-1")
    assert (row["diameter_mm"], row["site"], row["texture"]) == (8, "north", 5)
    assert not any("NO PATIENT" in warning for warning in done.card.warnings)
    for file in (tmp_path / "datasets" / done.card.dataset_id).iterdir():
        assert b"P-1" not in file.read_bytes() and b"03.png" not in file.read_bytes()


def test_an_image_without_a_row_is_refused_and_a_row_without_an_image_is_counted(tmp_path):
    folder = folders(tmp_path)
    rows = [*rows_of(folder)[1:], ("elsewhere/x.png", "P-9")]
    done = run(folder, tmp_path, patients=table(tmp_path, rows))
    assert [item.reason for item in done.refused] == [ReasonCode.PATIENT_UNKNOWN]
    assert "1 rows of the table of patients name no image of the folder" in done.card.warnings


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda rows: [(rows[0][0], ""), *rows[1:]], "'patient' is empty on line 2"),
        (lambda rows: [*rows, rows[3]], "names an image twice, again on line 26"),
        (lambda rows: [("03.png", "P-0"), *rows], "line 2 fits several images"),
        (lambda rows: [("nothing.png", "P-0")], "names none of the images"),
    ],
)
def test_a_wrong_table_of_patients_is_refused_by_its_line(tmp_path, change, word):
    folder = folders(tmp_path)
    with pytest.raises((ContractError, UsageError), match=word):
        run(folder, tmp_path, patients=table(tmp_path, change(rows_of(folder))))


def test_a_table_may_name_files_alone_with_backslashes_and_decomposed_letters(tmp_path):
    folder = tmp_path / "images"
    for name in ("benign", "malignant"):
        (folder / name).mkdir(parents=True)
    picture(1).save(folder / "benign" / "kn\u00f6tchen.png")
    picture(2).save(folder / "malignant" / "other.png")
    rows = [("benign\\kno\u0308tchen.png", "A"), ("other.png", "B")]
    done = run(folder, tmp_path, patients=table(tmp_path, rows))
    assert done.card.counts["patients"] == 2 and done.refused == ()


@pytest.mark.parametrize("columns", ["filename,patient_id", "path,patient"])
def test_the_columns_of_other_tables_are_understood(tmp_path, columns):
    folder = folders(tmp_path)
    assert run(folder, tmp_path, patients=table(tmp_path, rows_of(folder), columns)).card.counts["patients"] == 8
    with pytest.raises(UsageError, match="two names"):
        rows = [(file, file, patient) for file, patient in rows_of(folder)]
        run(folder, tmp_path, patients=table(tmp_path, rows, "filename,path,patient"))


def test_split_folders_keep_their_split_and_validation_comes_out_of_train(tmp_path):
    folder = folders(tmp_path, n=30, parents=("train", "test"))
    index = opened(tmp_path, run(folder, tmp_path)).index
    assert (index["split"] == "test").sum() == 60
    assert row_of(index, "test/benign/05.png")["split"] == "test"
    assert 0 < (index["split"] == "validation").sum() < 30


def test_split_folders_with_their_own_validation_are_left_alone(tmp_path):
    folder = folders(tmp_path, n=5, parents=("Train", "valid", "testing"))
    index = opened(tmp_path, run(folder, tmp_path)).index
    assert index["split"].value_counts().to_dict() == {"train": 10, "validation": 10, "test": 10}


def test_a_patient_in_two_split_folders_stops_the_import(tmp_path):
    folder = folders(tmp_path, n=5, parents=("train", "test"))
    rows = [(file, "P-1") for file, _ in rows_of(folder)]
    with pytest.raises(LeakError):
        run(folder, tmp_path, patients=table(tmp_path, rows))


def test_the_same_pixels_in_two_split_folders_are_warned_of(tmp_path):
    folder = folders(tmp_path, n=5, parents=("train", "val", "test"))
    picture(5).save(folder / "train" / "benign" / "x.png")
    picture(5).save(folder / "test" / "benign" / "y.png")
    assert "1 images have identical pixels in two splits" in run(folder, tmp_path).card.warnings


@pytest.mark.parametrize(
    ("names", "positive", "expected"),
    [
        (("benign", "malignant"), "", "malignant"),
        (("Malignant", "normal"), "", "Malignant"),
        (("cyst", "tumour"), "", "tumour"),
        (("cyst", "tumour"), "cyst", "cyst"),
    ],
)
def test_the_positive_class_is_the_one_named_else_malignant_else_the_last(tmp_path, names, positive, expected):
    for number, name in enumerate(names):
        (tmp_path / "images" / name).mkdir(parents=True)
        picture(number).save(tmp_path / "images" / name / "1.png")
    done = run(tmp_path / "images", tmp_path, positive=positive)
    assert done.card.parameters["classes"]["1"] == expected
    assert row_of(opened(tmp_path, done).index, f"{expected}/1.png")["label"] == 1


def test_a_folder_that_is_not_two_classes_is_refused_with_what_was_found(tmp_path):
    folder = folders(tmp_path, n=2)
    with pytest.raises(UsageError, match=r"no class folder 'odd'.*benign, malignant"):
        run(folder, tmp_path, positive="odd")
    (folder / "third").mkdir()
    picture(7).save(folder / "third" / "1.png")
    with pytest.raises(UsageError, match=r"3 class folders \(benign 2, malignant 2, third 1\)"):
        run(folder, tmp_path)
    with pytest.raises(UsageError, match="1 class folders"):
        run(folders(tmp_path / "two", n=2).parent, tmp_path)
    (folder / "third").rename(folder / "train")
    with pytest.raises(UsageError, match="splits, benign, malignant beside them are not"):
        run(folder, tmp_path)
    for nothing in (tmp_path / "none", tmp_path / "patients.csv"):
        with pytest.raises(UsageError, match="not a folder"):
            run(nothing, tmp_path)


def test_every_kind_of_image_arrives_in_one_size_and_colour_keeps_three_channels(tmp_path):
    folder = tmp_path / "images"
    for name in ("benign", "malignant"):
        (folder / name).mkdir(parents=True)
    picture(1, mode="RGB").save(folder / "benign" / "a.tif", compression="tiff_deflate")
    picture(2, mode="RGB").save(folder / "benign" / "b.JPG", quality=95)
    picture(3, mode="CMYK").save(folder / "benign" / "c.jpeg")
    picture(4, (30, 10)).convert("P").save(folder / "malignant" / "d.png")
    picture(5, (5, 90)).convert("1").save(folder / "malignant" / "e.png")
    clear = picture(6, mode="RGBA")
    clear.putalpha(0)
    clear.save(folder / "malignant" / "f.png")
    reader = opened(tmp_path, run(folder, tmp_path))
    assert reader.card.patch_shape == (3, 24, 24)
    assert reader.card.counts["patches"] == 6
    assert not reader.load([row_of(reader.index, "malignant/f.png").name]).any(), "behind transparency it is black"
    tall = reader.load([row_of(reader.index, "malignant/d.png").name])[0]
    assert tall[:, :, 8:16].any() and not tall[:, :, :8].any() and np.array_equal(tall[0], tall[2])
    grey = run(folder, tmp_path, images=ImageParams(size_px=24, channels="grey", resize="stretch"))
    assert grey.card.patch_shape == (1, 24, 24) and grey.card.counts["padded"] == 0


def test_deep_images_share_one_range_of_greys_that_is_stated(tmp_path):
    folder = tmp_path / "images"
    values = {"benign/a.png": (100, 600), "malignant/b.tif": (600, 1100)}
    for name, (low, high) in values.items():
        (folder / name).parent.mkdir(parents=True)
        deep = np.full((24, 24), low, dtype=np.uint16)
        deep[:12] = high
        Image.fromarray(deep).save(folder / name)
    done = run(folder, tmp_path)
    reader = opened(tmp_path, done)
    assert "2 images are deeper than 8 bits: 100 became 0 and 1100 became 255" in done.card.warnings
    found = {name: reader.load([row_of(reader.index, name).name])[0, 0] for name in values}
    assert [sorted(set(found[name].ravel().tolist())) for name in values] == [[0, 128], [128, 255]]
    stated = run(folder, tmp_path, images=ImageParams(size_px=24, grey_low=600, grey_high=601))
    assert sorted(set(opened(tmp_path, stated).load().ravel().tolist())) == [0, 255]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def hostile(folder: Path) -> dict[str, ReasonCode]:
    """Put what is no usable image beside the images; the reason that each should have."""
    good = io.BytesIO()
    picture(1).save(good, format="PNG")
    body = good.getvalue()
    frames = [picture(number) for number in range(3)]
    frames[0].save(folder / "benign" / "pages.tif", save_all=True, append_images=frames[1:])
    text = io.BytesIO()
    picture(1).save(text, format="GIF")
    Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)).save(folder / "benign" / "nan.tif")
    files = {
        "benign/empty.png": (b"", ReasonCode.UNREADABLE),
        "benign/torn.png": (body[:200], ReasonCode.PIXEL_DECODE_FAILED),
        "benign/flipped.png": (body[:80] + bytes([body[80] ^ 255]) + body[81:], ReasonCode.PIXEL_DECODE_FAILED),
        "benign/bomb.png": (bomb(60_000, 60_000), ReasonCode.IMAGE_TOO_LARGE),
        "malignant/larger-bomb.png": (bomb(2**31 - 1, 2**31 - 1), ReasonCode.IMAGE_TOO_LARGE),
        "malignant/text.png": (b"hello", ReasonCode.NOT_AN_IMAGE),
        "malignant/script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ReasonCode.NOT_AN_IMAGE),
        "malignant/a-gif.png": (text.getvalue(), ReasonCode.NOT_AN_IMAGE),
        "malignant/readme.txt": (b"hello", ReasonCode.NOT_AN_IMAGE),
        "loose.png": (body, ReasonCode.NOT_AN_IMAGE),
        ".hidden.png": (b"not looked at", None),
        "malignant/Thumbs.db": (b"not looked at", None),
    }
    expected = {"benign/pages.tif": ReasonCode.NOT_AN_IMAGE, "benign/nan.tif": ReasonCode.PIXEL_DECODE_FAILED}
    for name, (content, reason) in files.items():
        (folder / name).write_bytes(content)
        expected |= {} if reason is None else {name: reason}
    (folder / "malignant" / "loop").symlink_to(folder)
    (folder / "malignant" / "self.png").symlink_to(folder / "malignant" / "self.png")
    (folder / "malignant" / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "benign" / "pipe.png")
    return expected | {
        "malignant/loop": ReasonCode.UNREADABLE,
        "malignant/self.png": ReasonCode.UNREADABLE,
        "malignant/gone.png": ReasonCode.UNREADABLE,
        "benign/pipe.png": ReasonCode.NOT_AN_IMAGE,
    }


def test_what_is_no_image_is_one_row_each_and_the_rest_goes_in(tmp_path):
    folder = folders(tmp_path)
    expected = hostile(folder)
    said: list = []
    done = run(folder, tmp_path, pseudonymizer=Pseudonymizer(b"secret", True), on_refused=said.append)
    assert {item.path: item.reason for item in done.refused} == expected
    assert said == list(done.refused) and all(item.detail and "\n" not in item.detail for item in said)
    assert done.card.counts["patches"] == 24


def test_names_of_files_stay_out_of_the_table_of_refusals(tmp_path):
    folder = folders(tmp_path)
    (folder / "benign" / "Doe^John.png").touch()
    (refusal,) = run(folder, tmp_path).refused
    assert "Doe" not in refusal.model_dump_json() and "benign" not in refusal.path


def test_a_link_to_a_folder_is_followed_once(tmp_path):
    folder = folders(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    picture(50).save(tmp_path / "elsewhere" / "x.png")
    for name in ("benign/linked", "malignant/linked"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    done = run(folder, tmp_path)
    assert done.card.counts["patches"] == 25
    assert [item.reason for item in done.refused] == [ReasonCode.UNREADABLE]


def test_the_same_folder_gives_the_same_bytes_and_the_second_time_nothing_is_done(tmp_path):
    folder = folders(tmp_path, ending="jpg")
    first = run(folder, tmp_path)
    again = run(folder, tmp_path)
    assert (first.made, again.made) == (True, False) and again.card == first.card
    moved = folder.rename(tmp_path / "moved")
    (tmp_path / "else").mkdir()
    other = run(moved, tmp_path / "else")
    assert other.made and other.card == first.card
    for file in (tmp_path / "datasets" / first.card.dataset_id).iterdir():
        assert file.read_bytes() == (tmp_path / "else" / "datasets" / first.card.dataset_id / file.name).read_bytes()
    picture(99).save(moved / "benign" / "00.jpg")
    assert run(moved, tmp_path).card.dataset_id != first.card.dataset_id


def test_a_refusal_is_a_row_of_the_workspace_even_where_nothing_is_usable(tmp_path, capsys):
    folder = tmp_path / "images"
    for name in ("benign", "malignant"):
        (folder / name).mkdir(parents=True)
        (folder / name / "broken.png").write_bytes(b"x")
    workspace = Workspace(tmp_path / "workspace").create()
    arguments = (workspace, folder, "pictures", None, "", False, ImageParams(), SplitParams())
    with pytest.raises(NothingUsableError, match="no usable image among 2"):
        import_folder(*arguments)
    assert REJECTED_TABLE.read(workspace.rejected_table)["reason"].tolist() == ["not_an_image"] * 2
    assert capsys.readouterr().err.count("refused ") >= 2
    for name in ("benign", "malignant"):
        picture(3 if name == "benign" else 4).save(folder / name / "broken.png")
    record = import_folder(*arguments)
    assert record["made"] and record["n_refused"] == 0
    assert REJECTED_TABLE.read(workspace.rejected_table).empty
    assert "WARNING: NO PATIENT IS KNOWN" in capsys.readouterr().err
    assert not any(workspace.scratch_root.iterdir())


def test_a_wrong_command_forgets_no_refusal_and_a_loop_of_links_is_no_folder(tmp_path):
    folder = folders(tmp_path, n=3)
    (folder / "benign" / "empty.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    workspace = Workspace(tmp_path / "workspace").create()
    rest = (False, ImageParams(size_px=24), SplitParams())
    assert import_folder(workspace, folder, "pictures", None, "", *rest)["n_refused"] == 1
    assert import_folder(workspace, folder, "pictures", None, "", *rest)["made"] is False
    for wrong, positive in ((folder, "odd"), (tmp_path / "loop", "")):
        with pytest.raises(UsageError):
            import_folder(workspace, wrong, "pictures", None, positive, *rest)
    assert REJECTED_TABLE.read(workspace.rejected_table)["detail"].tolist() == ["is empty"]


@pytest.mark.parametrize(
    ("values", "word"),
    [({"size_px": 8}, "size_px"), ({"grey_low": 3}, "together"), ({"grey_low": 3, "grey_high": 3}, "below grey_high")],
)
def test_parameters_that_cannot_be_are_refused(values, word):
    with pytest.raises(UsageError, match=word):
        ImageParams.from_mapping(values)


def test_many_images_are_read_one_by_one_and_written_shard_by_shard(tmp_path):
    folder = folders(tmp_path, n=1)
    body = (folder / "benign" / "00.png").read_bytes()
    for name in ("benign", "malignant"):
        for number in range(400):
            (folder / name / f"{number:04d}.png").write_bytes(body + struct.pack(">I", number))
    tracemalloc.start()
    try:
        done = run(folder, tmp_path, images=ImageParams(size_px=512))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(done.card.shards) == 7
    assert peak < 0.6 * 800 * 512 * 512
