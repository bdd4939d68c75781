"""disclose: a site states what only it can, and every model card written from then on holds it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from full_report import full_report
from two_sites import NARROW, make_workspace

from data_contracts.disclosure import Disclosure
from data_contracts.errors import UsageError
from data_contracts.model_card import ModelCard
from flows.cli import main
from flows.learning.network_fits import fit_network
from flows.learning.training import choose_and_evaluate
from flows.learning.wanted_networks import network_names
from flows.presets import train_params
from flows.versions.disclosure import DISCLOSURE_FILES, disclosure_of, site_statements, write_template
from flows.workspace import Workspace
from models.networks.backbones import build_backbone
from models.weights.zoo import load_weights


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path]:
    """A workspace with a finished run of a narrow network."""
    workspace, dataset_id = make_workspace(tmp_path_factory.mktemp("sites"), n=80)
    params = train_params("finetune", {**NARROW, "epochs": 1})
    (workspace.root / "disclosure.toml").write_text('[disclosure]\nfunding = "The hospital."\n')
    for name in network_names(params):
        fit_network.fn(workspace, "run", dataset_id, params, name, None)
    weights = load_weights(build_backbone(params.backbone, seed=0), params.weights)
    choose_and_evaluate.fn(workspace, "run", dataset_id, params, weights, network_names(params))
    return workspace, workspace.runs_root / "run"


def test_a_run_holds_its_model_card_with_what_the_site_stated(run):
    folder = run[1]
    assert all((folder / name).exists() for name in DISCLOSURE_FILES)
    disclosure = Disclosure.read(folder / "disclosure.json")
    assert disclosure.complete, disclosure.missing
    assert "funding" not in disclosure.not_stated and "ethics" in disclosure.not_stated
    card = disclosure.applied_model_card
    assert card.TrustIngredients.TransparencyInformation.FundingSource == "The hospital."
    day = datetime.fromtimestamp((folder / "evaluation.json").stat().st_mtime, UTC).date().isoformat()
    assert card.ReleaseInfo.ReleaseDate == day
    assert "random numbers" in card.TrustIngredients.AISystemFacts.FoundationModels
    assert "The hospital." in (folder / "disclosure.html").read_text()


def test_what_the_site_states_later_stands_in_the_card_made_later(run, tmp_path):
    workspace, folder = run
    registered = (folder / "disclosure.json").read_bytes()
    path = workspace.root / "disclosure.toml"
    before = path.read_text()
    try:
        path.write_text(before + 'ethics = "Committee of the hospital, 17/2026."\n')
        before_release = Disclosure.read(folder / "disclosure.json").applied_model_card.ReleaseInfo
        os.utime(folder / "evaluation.json", (0, 0))  # as a copy may leave it
        later = disclosure_of(workspace, folder)
        assert "ethics" not in later.not_stated
        assert later.applied_model_card.ReleaseInfo == before_release
    finally:
        path.write_text(before)
    assert (folder / "disclosure.json").read_bytes() == registered


def test_a_run_without_its_dataset_says_what_is_missing(run, tmp_path):
    workspace = Workspace(tmp_path / "other").create()
    folder = tmp_path / "run"
    folder.mkdir()
    full_report(dataset_id="gone").write(folder / "evaluation.json")
    disclosure = disclosure_of(workspace, folder, card=ModelCard.read(run[1] / "model_card.json"))
    assert not disclosure.complete
    assert any(name.startswith("CLAIM 2024 19") for name in disclosure.missing)


def test_a_workspace_without_a_file_states_nothing_and_a_named_file_must_be_there(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path).create()
    assert site_statements(workspace) == {}
    monkeypatch.setenv("NODULEFLOW_DISCLOSURE", str(tmp_path / "nowhere.toml"))
    with pytest.raises(UsageError, match="cannot read"):
        site_statements(workspace)


def test_the_template_is_written_once_and_never_over_answers(tmp_path):
    workspace = Workspace(tmp_path).create()
    path = write_template(workspace)
    assert site_statements(workspace) == {}
    path.write_text('[disclosure]\nfunding = "x"\n')
    with pytest.raises(UsageError, match="already"):
        write_template(workspace)
    assert site_statements(workspace) == {"funding": "x"}


@pytest.mark.parametrize(
    ("arguments", "status"), [(["disclose"], 2), (["disclose", "1", "--template"], 2), (["disclose", "--template"], 0)]
)
def test_the_command_asks_for_a_version_or_the_template(tmp_path, capsys, arguments, status):
    with pytest.raises(SystemExit) as ended:
        main(["--workspace", str(tmp_path / "w"), "--json", *arguments])
    assert ended.value.code == status
    assert json.loads(capsys.readouterr().out)
