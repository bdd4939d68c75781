"""The registry is not fooled: moved aliases, changed bytes, replayed accounts, cut-off moves; and it is mended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from registry_factory import OPEN, files_of, log_run, make_workspace, write_folder

from data_contracts.errors import (
    ContractError,
    GateRefusedError,
    RegistryError,
    StaleExpectationError,
    UsageError,
    WeightsDigestError,
    WeightsError,
)
from data_contracts.records import sha256_file
from flows.registry import seal
from flows.settings import Settings, apply_environment
from flows.workspace import Workspace

Site = tuple[Workspace, Settings]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three versions, 1 was champion and 2 is."""
    from flows.registry.promotion import promote

    folder = tmp_path_factory.mktemp("registry")
    before = dict(os.environ)
    apply_environment(Settings(workspace=folder / "ws", _env_file=None))
    workspace, settings = make_workspace(folder, versions=3)
    promote(workspace, settings, "1", expect="none", policy=OPEN)
    promote(workspace, settings, "2", expect="1", policy=OPEN)
    yield workspace, settings
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def site(base: Site, tmp_path: Path) -> Iterator[Site]:
    """The same for one test: whatever it does to database, audit and files is undone."""
    workspace, settings = base
    kept = tmp_path / "kept"
    for name in ("mlflow.db", "audit.jsonl", "registry", "runs", "mlartifacts"):
        path = workspace.root / name
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept / name if path.is_dir() else _made(kept) / name)
    yield workspace, settings
    for path in (*kept.iterdir(), *workspace.root.glob("audit-*.broken.jsonl")):
        target = workspace.root / path.name
        if path.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
        elif path.parent == kept:
            shutil.copy2(path, target)
        else:
            path.unlink()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def registry_of(site: Site):
    from flows.registry import Registry

    return Registry(site[0], site[1].model_name)


def champions(site: Site) -> tuple[str | None, str | None]:
    registry = registry_of(site)
    return registry.alias("champion"), registry.alias("previous_champion")


def steal(site: Site, alias: str, version: str | None) -> None:
    """What anybody with MLflow's address can do."""
    client = registry_of(site).client
    if version is None:
        client.delete_registered_model_alias(site[1].model_name, alias)
    else:
        client.set_registered_model_alias(site[1].model_name, alias, version)


def set_tag(site: Site, text: str | None) -> None:
    from flows.registry.state import STATE_TAG

    client = registry_of(site).client
    if text is None:
        client.delete_registered_model_tag(site[1].model_name, STATE_TAG)
    else:
        client.set_registered_model_tag(site[1].model_name, STATE_TAG, text)


def tag_of(site: Site) -> str:
    from flows.registry.state import raw_tag

    return str(raw_tag(registry_of(site).client, site[1].model_name)[1])


def faults(site: Site) -> list[str]:
    from flows.registry.faults import all_faults

    return [fault.what for fault in all_faults(registry_of(site))]


def promote_version(site: Site, version: str, expect: str, **changes: object):
    from flows.registry.promotion import promote

    return promote(*site, version, expect=expect, policy=OPEN.model_copy(update=changes))


def last_line(site: Site):
    from flows.registry.audit import read_audit

    return read_audit(site[0])[-1]


# --- moves


def test_a_promotion_that_expects_another_champion_is_refused_and_audited(site: Site) -> None:
    with pytest.raises(StaleExpectationError, match="the champion is 2, not 1"):
        promote_version(site, "3", "1")
    assert champions(site) == ("2", "1")
    line = last_line(site)
    assert (line.action, line.subject) == ("promote_refused", "3")
    assert line.detail == {"expected": "1", "found": "2", "model": site[1].model_name}


def test_a_rollback_that_expects_another_champion_is_refused(site: Site) -> None:
    from flows.registry.promotion import rollback

    with pytest.raises(StaleExpectationError):
        rollback(*site, expect="3")
    assert rollback(*site, expect="2") == {"champion": "1", "previous_champion": "2"}


def test_a_refusal_has_the_failed_gates_with_their_figures_in_the_audit(site: Site) -> None:
    with pytest.raises(GateRefusedError, match="test_nodules"):
        promote_version(site, "3", "2", min_test_nodules=1000, min_auc=2.0)
    detail = last_line(site).detail
    failed = {gate["gate"]: gate for gate in detail["gates"] if not gate["passed"]}
    assert set(failed) == {"test_nodules", "auc", "not_worse_than_champion"}
    assert failed["auc"]["bound"] == 2.0 and failed["auc"]["figure"] <= 1.0
    assert detail["policy"]["min_auc"] == 2.0 and detail["policy_digest"]


def test_a_version_without_disclosure_is_refused_by_the_default_policy(site: Site) -> None:
    with pytest.raises(GateRefusedError, match="card_complete: The version has no disclosure"):
        promote_version(site, "3", "2", require_card=True)


@pytest.mark.parametrize("step", ["audit", "account", "previous", "champion", "done"])
def test_a_promotion_killed_at_any_step_is_ended_by_whoever_opens_the_registry_next(
    site: Site, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry import aliases, moves
    from flows.registry.audit import verify_audit

    class Killed(BaseException):
        pass

    def stop(*arguments: object, **named: object) -> None:
        raise Killed

    real_point, real_append = aliases.point, moves.append_audit

    def point(client: object, model: str, alias: str, version: str) -> None:
        real_point(client, model, alias, version)
        if alias == {"previous": "previous_champion", "champion": "champion"}.get(step):
            raise Killed

    def append(workspace: Workspace, **named: object) -> object:
        record = real_append(workspace, **named)
        if step == "done" and str(named["action"]).endswith("_done"):
            raise Killed
        return record

    with monkeypatch.context() as patched:
        if step == "audit":
            patched.setattr(moves, "write_state", stop)
        elif step == "account":
            patched.setattr(aliases, "point", stop)
        else:
            patched.setattr(aliases, "point", point)
            patched.setattr(moves, "append_audit", append)
        with pytest.raises(Killed):
            promote_version(site, "3", "2")
    assert champions(site) == ("3", "2"), "opening the registry ended it"
    assert faults(site) == [] and verify_audit(site[0]) == []
    moves_made = [line for line in _lines(site) if line["action"].endswith("_done")]
    assert [line["detail"]["move"] for line in moves_made] == [1, 2, 3]


def _lines(site: Site) -> list[dict]:
    return [json.loads(line) for line in site[0].audit_file.read_text().splitlines()]


def test_a_version_that_was_changed_while_its_promotion_was_cut_off_does_not_become_champion(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry import aliases

    with monkeypatch.context() as patched:
        patched.setattr(aliases, "point", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promote_version(site, "3", "2")
    flip(site[0].runs_root / "run3" / "checkpoint.safetensors", 100)
    assert champions(site) == ("2", "1")
    assert last_line(site).action == "move_abandoned"
    assert "is not what was registered" in str(last_line(site).detail["reason"])
    assert faults(site) == []


# --- behind our back


@pytest.mark.parametrize(
    ("alias", "version", "words"),
    [
        ("champion", "3", "was pointed at version 3, the last move left it at 2"),
        ("champion", None, "was taken from version 2"),
        ("previous_champion", "3", "was pointed at version 3, the last move left it at 1"),
    ],
)
def test_an_alias_moved_behind_our_back_is_found_refused_and_mended(
    site: Site, alias: str, version: str | None, words: str
) -> None:
    from flows.registry.mend import mend
    from flows.registry.promotion import rollback
    from flows.status import describe

    steal(site, alias, version)
    assert len(faults(site)) == 1 and words in faults(site)[0]
    assert any(words in line and "doctor --mend" in line for line in describe(*site)[0]["stuck"])
    for act in (lambda: promote_version(site, "3", "2"), lambda: rollback(*site)):
        with pytest.raises(RegistryError, match="doctor --mend"):
            act()
    with pytest.raises(RegistryError, match=f"the alias {alias} names"):
        registry_of(site).verified_folder(alias)
    done = mend(*site)
    assert words in done["faults"][0] and done["left"] == []
    assert champions(site) == ("2", "1") and faults(site) == []
    assert last_line(site).action == "mend_done"
    assert mend(*site)["faults"] == []


def test_a_deleted_champion_is_found_and_the_previous_one_takes_its_place(site: Site) -> None:
    from flows.registry.mend import mend

    registry_of(site).client.delete_model_version(site[1].model_name, "2")
    assert "version 2, which is champion, was deleted from MLflow" in faults(site)[0]
    with pytest.raises(RegistryError):
        promote_version(site, "3", "2")
    mend(*site)
    assert champions(site) == ("1", None) and faults(site) == []
    promote_version(site, "3", "1")
    assert champions(site) == ("3", "1")


def test_an_account_of_an_earlier_move_that_is_put_back_is_found(site: Site) -> None:
    from flows.registry.mend import mend

    early = tag_of(site)
    promote_version(site, "3", "2")
    set_tag(site, early)
    steal(site, "champion", "2")
    steal(site, "previous_champion", "1")
    assert any("was set back to move 2, 3 were made" in fault for fault in faults(site))
    mend(*site)
    assert champions(site) == ("3", "2") and faults(site) == []


@pytest.mark.parametrize("text", [None, "0" * 64 + ' {"move":9,"champion":null}', "nonsense"])
def test_an_account_that_is_gone_or_not_ours_is_found_and_mended(site: Site, text: str | None) -> None:
    from flows.registry.mend import mend

    set_tag(site, text)
    assert any("account" in fault for fault in faults(site))
    with pytest.raises(RegistryError):
        promote_version(site, "3", "2")
    mend(*site)
    assert champions(site) == ("2", "1") and faults(site) == []


def test_a_champion_that_no_promotion_made_is_found_and_taken_away(tmp_path: Path, base: Site) -> None:
    from flows.registry.mend import mend

    before = dict(os.environ)
    try:
        apply_environment(Settings(workspace=tmp_path / "ws", _env_file=None))
        own = make_workspace(tmp_path, versions=1)
        steal(own, "champion", "1")
        assert faults(own) == ["version 1 is champion, and no promotion made it so"]
        with pytest.raises(RegistryError):
            promote_version(own, "1", "1")
        mend(*own)
        assert champions(own) == (None, None)
        promote_version(own, "1", "none")
        assert champions(own) == ("1", None)
    finally:
        os.environ.clear()
        os.environ.update(before)
        apply_environment(base[1])


def test_tags_of_one_version_under_another_are_refused(site: Site) -> None:
    registry = registry_of(site)
    tags = dict(registry.client.get_model_version(site[1].model_name, "1").tags)
    for key, value in tags.items():
        registry.client.set_model_version_tag(site[1].model_name, "3", key, value)
    with pytest.raises(RegistryError, match="version 3 is not sealed with our key"):
        registry.verified_folder("3")
    with pytest.raises(RegistryError):
        promote_version(site, "3", "2")
    assert last_line(site).action == "promote_refused"


# --- bytes


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte[0] ^ 0x10]))


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_single_byte_of_any_file_of_a_version_is_seen_at_load_and_at_promotion(
    base: Site, data: st.DataObject
) -> None:
    paths = files_of(base[0], "run3")
    assert len(paths) >= 9
    path = data.draw(st.sampled_from(paths), label="file")
    position = data.draw(st.integers(0, path.stat().st_size - 1), label="byte")
    flip(path, position)
    try:
        with pytest.raises(WeightsDigestError):
            registry_of(base).verified_folder("3")
        with pytest.raises(WeightsDigestError):
            promote_version(base, "3", "2")
    finally:
        flip(path, position)
    registry_of(base).verified_folder("3")
    assert champions(base) == ("2", "1")


def test_a_file_too_many_or_too_few_is_seen_and_a_link_too(site: Site) -> None:
    workspace, _ = site
    folder = workspace.runs_root / "run3"
    registry = registry_of(site)
    stranger = folder / "notes" / "hook.py"
    stranger.parent.mkdir()
    stranger.write_text("pass\n")
    with pytest.raises(WeightsDigestError, match=r"a file that was not registered: runs/run3/notes/hook\.py"):
        registry.verified_folder("3")
    shutil.rmtree(stranger.parent)
    registry.verified_folder("3")
    (folder / "environment.json").rename(workspace.root / "elsewhere.json")
    with pytest.raises(WeightsDigestError, match=r"misses a file: runs/run3/environment\.json"):
        registry.verified_folder("3")
    (folder / "environment.json").symlink_to(workspace.root / "elsewhere.json")
    with pytest.raises(WeightsDigestError, match="no file"):
        registry.verified_folder("3")
    (workspace.root / "elsewhere.json").replace(folder / "environment.json")
    model = next(path for path in files_of(site[0], "run3") if path.name == "weights.bin")
    (model.parent / "python_model.py").write_text("pass\n")
    with pytest.raises(WeightsDigestError, match=r"MLflow model/data/python_model\.py"):
        registry.verified_folder("3")
    shutil.rmtree(folder)
    with pytest.raises(WeightsDigestError, match="are not in this workspace"):
        registry.verified_folder("3")


def test_what_python_compiles_when_mlflow_serves_a_version_is_removed_and_anything_else_refused(site: Site) -> None:
    from data_contracts.versions import VersionManifest
    from flows.registry.seal import check_model, hashed, listed

    folder = site[0].root / "logged" / "served"
    cache = folder / "code" / "__pycache__"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "served.py").write_text("pass\n")
    manifest = VersionManifest(run_id="served", files={}, model_files=hashed(listed(folder)))
    cache.mkdir()
    (cache / "served.cpython-311.pyc").write_bytes(b"1")
    check_model(folder, manifest)
    assert list(cache.iterdir()) == []
    (cache / "other.cpython-311.pyc").write_bytes(b"1")
    with pytest.raises(WeightsDigestError, match="not registered"):
        check_model(folder, manifest)


def test_a_champion_that_was_loaded_by_its_alias_with_mlflow_is_promoted_and_rolled_back_as_before(site: Site) -> None:
    import mlflow

    from flows.registry.promotion import rollback

    model = mlflow.pyfunc.load_model(f"models:/{site[1].model_name}@champion")
    assert list(model.predict(np.array([[1.0], [2.0]]))) == [2.0, 4.0]
    folder = registry_of(site).model_dir("2", fetch=False)
    assert folder is not None
    note = folder / seal.LOADED_FILE
    assert note.is_file(), "MLflow wrote into the version's folder"
    registry_of(site).verified_folder("champion")
    assert faults(site) == []
    promote_version(site, "3", "2")
    assert rollback(*site) == {"champion": "2", "previous_champion": "3"}
    ours = note.read_text()
    for forged in (
        f"model_name: {site[1].model_name}\nmodel_version: '3'\n",
        ours + "more: 1\n",
        ours + "# " + "x" * 2000 + "\n",
        "!!python/object/apply:os.getcwd []\n",
        "",
    ):
        note.write_text(forged)
        with pytest.raises(WeightsDigestError, match="not registered: MLflow model/registered_model_meta"):
            registry_of(site).verified_folder("champion")
    note.unlink()
    (folder / "data" / seal.LOADED_FILE).write_text(ours)
    with pytest.raises(WeightsDigestError, match="not registered: MLflow model/data/registered_model_meta"):
        registry_of(site).verified_folder("champion")


def test_what_a_later_command_derives_from_a_version_is_no_file_of_it(site: Site) -> None:
    folder = site[0].runs_root / "run3" / "explanation"
    folder.mkdir()
    (folder / "map.npy").write_bytes(b"1")
    registry_of(site).verified_folder("3")


def test_no_version_holds_a_pickle_and_one_that_does_is_not_registered(site: Site) -> None:
    from flows.registry.formats import pickled_part

    workspace = site[0]
    assert [path for run in ("run1", "run2") for path in files_of(workspace, run) if pickled_part(path)] == []
    run_id = write_folder(workspace, 9)
    (workspace.runs_root / run_id / "extra.bin").write_bytes(b"\x80\x05K\x01.")
    registry = registry_of(site)
    with pytest.raises(WeightsError, match=r"holds a pickle, which is never loaded: extra\.bin"):
        registry.register(run_id, log_run(registry, workspace, run_id))
    assert registry.alias("challenger") == "3"


@pytest.mark.parametrize("kind", ["torch", "nested", "config", "npz", "name"])
def test_a_pickle_is_found_wherever_it_hides(tmp_path: Path, kind: str) -> None:
    import io

    import torch

    from flows.registry.formats import pickled_part

    path = tmp_path / "file.bin"
    if kind == "torch":
        torch.save({"a": torch.zeros(2)}, path)
    elif kind == "nested":
        inner = io.BytesIO()
        torch.save((torch.zeros(1),), inner)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data/sample_inputs/model.pt", inner.getvalue())
    elif kind == "config":
        with zipfile.ZipFile(path, "w") as archive:
            config = {"config": {"w": {"use_pickle": True}}}
            archive.writestr("model/data/weights/model_weights_config.json", json.dumps(config))
    elif kind == "npz":
        path = tmp_path / "file.npz"
        np.savez(path, a=np.array([{}], dtype=object), allow_pickle=True)
    else:
        path = tmp_path / "old.pkl"
        path.write_bytes(b"(dp0\n.")
    assert pickled_part(path)


def test_a_version_that_scores_its_golden_cases_otherwise_does_not_come_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry import golden, rehearsal
    from flows.registry.promotion import rollback

    monkeypatch.setattr(golden, "_TOLERANCE", -1.0)
    monkeypatch.setattr(rehearsal, "_answered", {})
    monkeypatch.setattr(golden, "ask_golden", _shifted(golden.ask_golden))
    with pytest.raises(GateRefusedError, match="does not score its golden cases"):
        rollback(*site)
    assert champions(site) == ("2", "1")
    assert last_line(site).action == "rollback_refused"


def _shifted(ask):
    return lambda folder: ask(folder).model_copy(update={"difference": 3.0})


# --- earlier programs


def test_a_version_of_an_earlier_program_is_read_but_not_promoted_until_it_is_sealed(site: Site) -> None:
    workspace, settings = site
    registry = registry_of(site)
    run_id = write_folder(workspace, 8)
    mlflow_id = log_run(registry, workspace, run_id)
    from flows.registry.versions import _OLD_SEALS, RUN_TAG

    client = registry.client
    found = client.create_model_version(
        settings.model_name,
        client.get_run(mlflow_id).info.artifact_uri + "/model",
        tags={
            RUN_TAG: run_id,
            **{f"noduleflow.sha256.{name}": registry._sha256(run_id, name) for name in _OLD_SEALS},
        },
    )
    number = str(found.version)
    registry.verified_folder(number)
    with pytest.raises(GateRefusedError, match="sealed: An earlier program registered the version"):
        promote_version(site, number, "2")
    assert registry.register(run_id, mlflow_id) == number
    promote_version(site, number, "2")
    assert champions(site) == (number, "2")


@pytest.mark.parametrize("version", ["9" * 23, "9999999999", "\u00b2", "\u0663", "0" * 30, "-1"])
def test_a_number_that_no_version_can_have_is_wrong_usage(site: Site, version: str) -> None:
    with pytest.raises(UsageError, match="no version"):
        promote_version(site, version, "2")


def test_an_audit_that_is_a_folder_is_said_in_one_line_and_mended(site: Site) -> None:
    from flows.registry.faults import audit_faults
    from flows.registry.mend import mend

    site[0].audit_file.rename(site[0].root / "logged" / "audit.jsonl")
    site[0].audit_file.mkdir()
    with pytest.raises(RegistryError, match="the audit is no file"):
        promote_version(site, "3", "2")
    with pytest.raises(ContractError, match="the audit is no file"):
        audit_faults(*site)
    try:
        assert mend(*site)["left"] == []
        promote_version(site, "3", "2")
    finally:
        for folder in site[0].root.glob("audit-*.broken.jsonl"):
            folder.rmdir()


def test_a_registered_model_that_was_deleted_is_mended_once_and_its_runs_are_registered_anew(site: Site) -> None:
    from flows.registry.mend import mend

    workspace, settings = site
    registry_of(site).client.delete_registered_model(settings.model_name)
    assert faults(site)[0] == "the registered model is gone from MLflow; champion was version 2"
    assert mend(*site)["left"] == []
    assert champions(site) == (None, None) and faults(site) == []
    registry = registry_of(site)
    run_id = write_folder(workspace, 4)
    assert registry.register(run_id, log_run(registry, workspace, run_id)) == "1"
    promote_version(site, "1", "none")
    assert champions(site) == ("1", None) and faults(site) == []


def test_a_damaged_database_of_mlflow_is_one_line_with_what_to_do(site: Site) -> None:
    site[0].mlflow_database.write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    done = noduleflow(site, "promote", "3", "--expect", "2")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "a database is damaged" in done.stderr and "mlflow.db" in done.stderr and "restore" in done.stderr
    assert "unexpected" not in done.stderr


# --- two models


def test_two_models_of_one_workspace_have_a_champion_each_and_a_mend_of_one_leaves_the_other(site: Site) -> None:
    from flows.registry import Registry
    from flows.registry.mend import mend
    from flows.registry.promotion import rollback

    workspace, first = site
    second = first.model_copy(update={"model_name": "another-model"})
    other: Site = (workspace, second)
    registry = Registry(workspace, second.model_name)
    for number in (6, 7):
        run_id = write_folder(workspace, number)
        registry.register(run_id, log_run(registry, workspace, run_id))
    promote_version(other, "1", "none")
    promote_version(other, "2", "1")
    promote_version(site, "3", "2")
    assert rollback(*other) == {"champion": "1", "previous_champion": "2"}
    assert (champions(site), champions(other)) == (("3", "2"), ("1", "2"))
    assert faults(site) == faults(other) == []
    assert mend(*site)["faults"] == mend(*other)["faults"] == []
    lines = workspace.audit_file.read_text().splitlines(keepends=True)
    workspace.audit_file.write_text("".join(lines[:-1]))
    assert mend(*other)["left"] == []
    assert faults(site) == faults(other) == []
    assert (champions(site), champions(other)) == (("3", "2"), ("1", "2"))
    steal(site, "champion", "1")
    assert faults(other) == []
    mend(*site)
    assert rollback(*site) == {"champion": "2", "previous_champion": "3"}
    assert champions(other) == ("1", "2")


def test_a_promotion_of_one_model_that_was_killed_is_ended_by_its_own_name_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry import Registry, moves

    workspace, first = site
    other: Site = (workspace, first.model_copy(update={"model_name": "another-model"}))
    registry = Registry(workspace, other[1].model_name)
    run_id = write_folder(workspace, 5)
    registry.register(run_id, log_run(registry, workspace, run_id))
    with monkeypatch.context() as patched:
        patched.setattr(moves, "write_state", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            promote_version(site, "3", "2")
    promote_version(other, "1", "none")
    assert champions(other) == ("1", None)
    assert champions(site) == ("3", "2")
    assert faults(site) == faults(other) == []


# --- forged audits


def test_an_audit_whose_anchor_and_seals_were_taken_and_whose_lines_were_rewritten_stops_promotions(site: Site) -> None:
    workspace, _ = site
    from flows.registry.anchor import digest_of_line
    from flows.registry.audit import read_audit, verify_audit
    from flows.registry.faults import audit_faults
    from flows.registry.mend import mend
    from flows.registry.promotion import rollback

    (workspace.root / "registry" / "anchor.json").unlink()
    previous, lines = "0" * 64, []
    for record in read_audit(workspace):
        plain = record.model_copy(update={"actor": "nobody", "mac": "", "previous": previous, "digest": ""})
        previous = digest_of_line(plain)
        lines.append(plain.model_copy(update={"digest": previous}).model_dump_json(exclude={"mac"}))
    workspace.audit_file.write_text("\n".join(lines) + "\n")
    found = audit_faults(*site)
    assert "the anchor of the audit is gone" in found and "line 1: it has no seal" in found
    for act in (lambda: promote_version(site, "3", "2"), lambda: rollback(*site)):
        with pytest.raises(RegistryError, match="the anchor of the audit is gone"):
            act()
    assert mend(*site)["left"] == []
    promote_version(site, "3", "2")
    assert champions(site) == ("3", "2") and verify_audit(workspace) == []


def test_lines_dropped_behind_the_end_that_mlflow_knows_are_found_by_the_missing_anchor(site: Site) -> None:
    from flows.registry.faults import audit_faults

    with pytest.raises(StaleExpectationError):
        promote_version(site, "3", "1")
    assert audit_faults(*site) == []
    site[0].audit_file.write_text("".join(site[0].audit_file.read_text().splitlines(keepends=True)[:-1]))
    (site[0].root / "registry" / "anchor.json").unlink()
    assert audit_faults(*site) == ["the anchor of the audit is gone"]
    with pytest.raises(RegistryError, match="the anchor of the audit is gone"):
        promote_version(site, "3", "2")


@pytest.mark.parametrize("begun", [False, True])
def test_an_audit_and_an_anchor_that_are_both_gone_stop_promotions_and_the_end_of_a_cut_off_one(
    site: Site, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry import aliases
    from flows.registry.faults import audit_faults

    if begun:
        with monkeypatch.context() as patched:
            patched.setattr(aliases, "point", lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                promote_version(site, "3", "2")
    site[0].audit_file.unlink()
    (site[0].root / "registry" / "anchor.json").unlink()
    with pytest.raises(RegistryError, match="the audit has 0 records, MLflow knows of"):
        promote_version(site, "3", "2")
    assert not site[0].audit_file.exists()
    assert "the anchor of the audit is gone" in audit_faults(*site)


# --- people


def test_a_policy_may_ask_for_two_people_who_did_not_train_the_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.registry.signoffs import sign_off, waiting

    workspace, settings = site
    asked = {"signoffs": 2, "signer_is_not_trainer": True}
    trainer = json.loads((workspace.runs_root / "run3" / "manifest.json").read_text())["trained_by"]
    by = settings.model_copy(update={"actor": "reading room"})
    sign_off(workspace, by, "3", name="Ada Quant", comment="looked at 40 cases")
    sign_off(workspace, by, "3", name="  ada   quant ")
    sign_off(workspace, by, "3", name=trainer)
    sign_off(workspace, settings.model_copy(update={"actor": trainer}), "3", name="Somebody Else")
    with pytest.raises(GateRefusedError, match=r"signoff: 1 people who did not train it signed .*; 2 are asked"):
        promote_version(site, "3", "2", **asked)
    assert waiting(registry_of(site), OPEN.model_copy(update=asked)) == [
        "version 3 has 1 of 2 sign-offs (ada quant)",
    ]
    sign_off(workspace, by, "3", name="Bo Reader")
    assert promote_version(site, "3", "2", **asked).promoted
    assert sum(line["action"] == "signoff" for line in _lines(site)) == 5


@pytest.mark.parametrize(
    "again", ["Rene\u0301 Reader", "REN\u00c9 READER", "\uff32\u0065\u006e\u00e9 Reader", "Ren\u00e9\u00a0Reader"]
)
def test_one_person_counts_once_however_the_name_is_encoded(site: Site, again: str) -> None:
    from flows.registry.signoffs import counted, sign_off, sign_offs

    first = sign_off(*site, "3", name="Ren\u00e9 Reader")
    sign_off(*site, "3", name=again)
    signed = sign_offs(registry_of(site), "3", first.manifest_sha256)
    assert len(signed) == 1
    asked = OPEN.model_copy(update={"signer_is_not_trainer": True})
    assert counted(signed, asked, trained_by="Ren\u0065\u0301 reader") == []


@pytest.mark.parametrize("hidden", ["\n", "\r", "\x1b[2K", "\u200b", "\u202e", "\u2028", "\x00"])
def test_a_name_or_comment_that_could_forge_a_listing_is_refused(site: Site, hidden: str) -> None:
    from flows.registry.signoffs import sign_off

    before = len(_lines(site))
    for words in ({"name": f"Ada{hidden}Quant"}, {"name": "Ada", "comment": f"40{hidden}cases"}):
        with pytest.raises(UsageError, match="control or invisible"):
            sign_off(*site, "3", **words)
    assert len(_lines(site)) == before


def test_an_actor_that_could_forge_a_listing_is_written_and_shown_with_replacements(
    site: Site,
) -> None:
    from flows.registry.audit import append_audit
    from flows.settings import actor_name

    name = "ada\n   9  promote_done\x1b[2K\u202e"
    assert actor_name(site[1].model_copy(update={"actor": name})) == "ada\ufffd   9  promote_done\ufffd[2K\ufffd"
    append_audit(site[0], actor=name, action="promote_refused", subject="3", detail={})
    said = noduleflow(site, "audit").stdout
    assert "promote_done\ufffd[2K\ufffd" in said and "\x1b" not in said


def test_a_sign_off_is_of_the_bytes_it_was_given_for_and_cannot_be_made_up(site: Site) -> None:
    from flows.registry.signoffs import sign_off, sign_offs

    workspace, settings = site
    signed = sign_off(workspace, settings, "3", name="Ada Quant")
    registry = registry_of(site)
    assert [one.name for one in sign_offs(registry, "3", signed.manifest_sha256)] == ["Ada Quant"]
    assert sign_offs(registry, "3", "0" * 64) == []
    forged = signed.model_copy(update={"name": "Bo Reader"})
    registry.client.set_model_version_tag(
        settings.model_name, "3", "noduleflow.signoff.forged", forged.model_dump_json()
    )
    assert [one.name for one in sign_offs(registry, "3", signed.manifest_sha256)] == ["Ada Quant"]
    flip(workspace.runs_root / "run3" / "evaluation.json", 40)
    with pytest.raises(WeightsDigestError):
        sign_off(workspace, settings, "3", name="Bo Reader")


def test_an_installation_that_fixes_its_policy_takes_no_other(tmp_path: Path) -> None:
    from flows.registry.policy import policy_in_force

    (tmp_path / "house.toml").write_text('name = "house"\nversion = 3\nmin_auc = 0.7\nsignoffs = 1\n')
    (tmp_path / "lax.toml").write_text("min_auc = 0.0\n")
    settings = Settings(policy=tmp_path / "house.toml", _env_file=None)
    assert policy_in_force(settings, None).signoffs == 1
    assert policy_in_force(settings, tmp_path / "house.toml").name == "house"
    with pytest.raises(UsageError, match="fixes the policy"):
        policy_in_force(settings, tmp_path / "lax.toml")


def test_what_readers_overrode_is_counted_once_a_reader(site: Site) -> None:
    from data_contracts.feedback import FindingAnswer, ReaderFeedback
    from flows.registry.judging import overridden

    answers = site[0].reviews_root / "study" / "answers"
    try:
        for hour, kinds in ((1, ("reject", "accept")), (2, ("accept", "accept"))):
            ReaderFeedback(
                study_key="study", model_version="3", reader="r", time_utc=f"2026-11-21T0{hour}:00:00+00:00",
                model_visible_first=True,
                answers=tuple(
                    FindingAnswer(finding_id=str(n), nodule_id=str(n), answer=kind) for n, kind in enumerate(kinds)
                ),
            ).write(answers / f"{hour}.json")  # fmt: skip
        assert overridden(site[0], "3") == (0, 2)
        assert overridden(site[0], "2") == (0, 0)
    finally:
        shutil.rmtree(site[0].reviews_root)


# --- the commands


def noduleflow(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", "--workspace", str(site[0].root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_person_on_call_rolls_back_and_sees_what_is_wrong_in_one_line(site: Site) -> None:
    done = noduleflow(site, "rollback")
    assert (done.returncode, done.stdout.strip()) == (0, "version 1 is champion again, 2 stepped down"), done.stderr
    flip(site[0].runs_root / "run2" / "checkpoint.safetensors", 9)
    refused = noduleflow(site, "rollback")
    assert refused.returncode == 2
    assert "is not what was registered: runs/run2/checkpoint.safetensors" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    lines = site[0].audit_file.read_text().splitlines(keepends=True)
    site[0].audit_file.write_text("".join(lines[:-1]))
    broken = noduleflow(site, "audit", "--verify")
    assert broken.returncode == 1
    assert f"line {len(lines)} is gone: {len(lines)} records were written, says the anchor" in broken.stderr
    stopped = noduleflow(site, "promote", "3", "--expect", "1")
    assert stopped.returncode == 1 and "doctor --mend" in stopped.stderr


def test_a_file_of_two_names_is_read_once_and_a_change_of_it_is_seen_under_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serving.pt2").write_bytes(b"network")
    os.link(tmp_path / "serving.pt2", tmp_path / "bundle.pt2")
    (tmp_path / "copy.pt2").write_bytes(b"network")
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(seal, "sha256_file", counted)
    assert len(set(seal.hashed(seal.listed(tmp_path)).values())) == 1
    assert len(read) == 2
    (tmp_path / "bundle.pt2").write_bytes(b"another")
    changed = seal.hashed(seal.listed(tmp_path))
    assert changed["serving.pt2"] == changed["bundle.pt2"] == sha256(b"another").hexdigest()
    assert changed["copy.pt2"] == sha256(b"network").hexdigest()
