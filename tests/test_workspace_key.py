"""A workspace that holds studies takes no second secret: one patient would have two names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dicom_factory import slices_of, truth_of, write_series

from data_contracts.errors import UsageError
from data_contracts.params import IngestParams
from flows.cli import main
from flows.engine import engine
from flows.intake.ingest import ingest_flow
from flows.intake.sources import PrivatePaths
from flows.reviewing.feedback import take_in
from flows.reviewing.review import review_flow
from flows.reviewing.serving_page import serve_pages
from flows.settings import Settings
from flows.workspace import Workspace

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", autouse=True)
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One server for the flows of all tests here."""
    with engine(Workspace(tmp_path_factory.mktemp("prefect"))):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_series(folder / "one", slices_of(truth_of(), "P1"))
    return folder


@pytest.fixture
def filled(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace that has ingested the source with a key of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODULEFLOW_SECRET", raising=False)
    workspace = Workspace(tmp_path / "ws")
    ingest(workspace, source)
    return workspace


def ingest(workspace: Workspace, source: Path) -> int:
    """How many series are new."""
    record = ingest_flow(str(workspace.root), PrivatePaths(paths=(source,)), "site", IngestParams(), False)
    return int(record["new"])


def test_a_key_that_is_gone_is_not_made_anew(filled: Workspace, source: Path) -> None:
    key = filled.secret_file.read_text()
    filled.secret_file.unlink()
    with pytest.raises(UsageError, match="the key of the pseudonyms is gone") as refused:
        ingest(filled, source)
    assert "from the backup" in refused.value.todo
    assert not filled.secret_file.exists()
    assert len(filled.series_keys()) == 1
    filled.secret_file.write_text(key)
    assert ingest(filled, source) == 0


def test_another_secret_is_refused_and_the_first_one_still_counts(
    filled: Workspace, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = filled.secret_file.read_text().strip()
    monkeypatch.setenv("NODULEFLOW_SECRET", "another")
    with pytest.raises(UsageError, match="named with another secret"):
        ingest(filled, source)
    monkeypatch.setenv("NODULEFLOW_SECRET", key)
    assert ingest(filled, source) == 0
    assert len(filled.series_keys()) == 1


@pytest.mark.parametrize("sealed", [True, False])
def test_a_workspace_of_an_earlier_program_takes_its_key_up(
    filled: Workspace, source: Path, sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.secret_check_file.unlink()
    if not sealed:
        for file in filled.identity_root.glob("*.sealed"):
            file.unlink()
    else:
        monkeypatch.setenv("NODULEFLOW_SECRET", "another")
        with pytest.raises(UsageError, match="named with another secret"):
            ingest(filled, source)
        assert not filled.secret_check_file.exists()
        monkeypatch.delenv("NODULEFLOW_SECRET")
    assert ingest(filled, source) == 0
    with pytest.raises(UsageError, match="named with another secret"):
        filled.secret("another")


def test_an_empty_workspace_takes_any_secret_and_the_fingerprint_tells_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws").create()
    assert workspace.secret("first") == b"first"
    assert workspace.secret("second") == b"second"
    assert "second" not in workspace.secret_check_file.read_text()
    assert workspace.secret_check_file.stat().st_mode & 0o777 == 0o600


def test_a_backup_carries_the_fingerprint(filled: Workspace, tmp_path: Path) -> None:
    from flows.keeping.backup import back_up

    back_up(filled, Settings(workspace=filled.root, _env_file=None), tmp_path / "backup")
    copied = tmp_path / "backup" / "workspace" / filled.secret_check_file.name
    assert copied.read_bytes() == filled.secret_check_file.read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        "ingest SOURCE",
        "review SOURCE",
        "review KEY",
        "review --dicomweb http://127.0.0.1:9 --study 1.2",
        "review --serve",
        "feedback ANSWERS",
    ],
)
def test_another_secret_is_refused_in_one_line_before_anything_is_done(
    filled: Workspace, source: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (study_key,) = {record.study_key for record in filled.series_records()}
    named = {"SOURCE": str(source), "KEY": study_key, "ANSWERS": str(source.parent / "answers.json")}
    monkeypatch.setenv("NODULEFLOW_SECRET", "another")
    before = content_of(filled)
    with pytest.raises(SystemExit) as ended:
        main(["--workspace", str(filled.root), *(named.get(word, word) for word in words.split())])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    line = "noduleflow: the studies of this workspace were named with another secret"
    assert [said.startswith(line) for said in err.splitlines()] == [True], err
    assert content_of(filled) == before


@pytest.mark.parametrize("flow", ["review", "feedback", "serve"])
def test_flows_refuse_another_secret_themselves(filled: Workspace, flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (study_key,) = {record.study_key for record in filled.series_records()}
    monkeypatch.setenv("NODULEFLOW_SECRET", "another")
    calls: dict[str, Callable[[], object]] = {
        "review": lambda: review_flow(str(filled.root), [study_key], "noduleflow"),
        "feedback": lambda: take_in(filled, [filled.root / "none.json"]),
        "serve": lambda: serve_pages(filled, Settings(), [], host="127.0.0.1", port=0, is_blind=False),
    }
    with pytest.raises(UsageError, match="named with another secret"):
        calls[flow]()
    assert not filled.reviews_root.exists()


def content_of(workspace: Workspace) -> dict[str, bytes]:
    """Every file of the workspace but locks and what the server keeps."""
    files = (path for path in sorted(workspace.root.rglob("*")) if path.is_file())
    named = {str(path.relative_to(workspace.root)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith((".", "prefect/"))}
