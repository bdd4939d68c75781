"""The documents are true: every command runs, every link leads somewhere, generated parts are what the code says."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from orthanc_server import Orthanc, free_port

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
#: commands that go on until they are ended, and the option that gives them a port
SERVERS = {"noduleflow serve": "", "noduleflow listen": "", "mlflow ui": "--port", "prefect server start": "--port"}
#: addresses of a PACS as they stand in the documents; the test has one of its own on free ports
PACS_HTTP, PACS_DICOM = "localhost:8042", "localhost:4242"
#: a gate may refuse what a document asks for: the cohort of this test is small and its weights are random
ALLOWED_STATUS = {"noduleflow promote": (0, 4)}
COMMAND_TIMEOUT_S = 600


def _blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands_of(document: str) -> list[str]:
    """Lines with a prompt in the console blocks of a document, in their order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    lines = [line for block in _blocks(text, "(?:console|bash)") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def files_of(document: str) -> dict[str, str]:
    """TOML blocks whose first line is a comment with a file name."""
    blocks = _blocks((ROOT / document).read_text(encoding="utf-8"), "toml")
    return {block.split("\n", 1)[0].removeprefix("# "): block for block in blocks if block.startswith("# ")}


def _environment(home: Path) -> dict[str, str]:
    ours = ("NODULEFLOW_", "PREFECT_", "MLFLOW_", "OMP_", "OPENBLAS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    programs = Path(sys.executable).parent
    return {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(home), "NO_COLOR": "1"}


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="session")
def demonstrated(
    demo: dict[str, Any], demo_workspace: Path, alone_on_demo: Callable[[], AbstractContextManager[None]]
) -> Path:
    """The folder of the session's demo, in which `make demo ARGS=--fast` was run too: its workspace and its cohort."""
    folder = demo_workspace.parent
    with alone_on_demo():
        done = _run(f"make -C {shlex.quote(str(ROOT))} demo ARGS=--fast WORKSPACE={folder}/workspace", folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def first_day(demonstrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the documents assume it: studies in ct, one of them in study.zip, nodules.csv, and weights."""
    import torch
    import torchvision

    folder = tmp_path_factory.mktemp("first-day")
    shutil.copytree(demonstrated / "workspace-cohort" / "site-a", folder / "ct")
    shutil.make_archive(str(folder / "study"), "zip", min(path for path in (folder / "ct").iterdir() if path.is_dir()))
    shutil.copy(demonstrated / "workspace-cohort" / "nodules.csv", folder / "nodules.csv")
    # The split of so few patients follows from the secret; with one of chance a split may lack a label.
    (folder / ".env").write_text("NODULEFLOW_SECRET=what stands in the documents\n")
    (folder / ".env").chmod(0o600)  # doctor refuses a key that others may read
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), folder / "resnet50.pth")
    return folder


def _answer_a_report(folder: Path) -> None:
    """feedback.json as the page of the first report would save it."""
    from data_contracts.feedback import FindingAnswer, ReaderFeedback
    from data_contracts.review import StudyReview

    reviews = [StudyReview.read(path) for path in sorted(folder.glob("workspace/reviews/*/review.json"))]
    review = next(review for review in reviews if review.findings)
    answers = tuple(
        FindingAnswer(finding_id=finding.finding_id, nodule_id=finding.nodule_id, answer="accept", malignant=False)
        for finding in review.findings
    )
    ReaderFeedback(
        study_key=review.study_key,
        model_version=review.model_version,
        reader="reader 1",
        time_utc="2026-11-21T00:00:00+00:00",
        model_visible_first=True,
        answers=answers,
    ).write(folder / "feedback.json")


def _serves_until_it_is_ended(command: str, port_option: str, folder: Path) -> None:
    """Start a server, wait until it answers (or, without a port, has lived for a while), and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    line = f"{command} {port_option} {port}" if port_option else command
    with log.open("w") as stream:
        server = subprocess.Popen(
            ["bash", "-c", line],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + (150 if port_option else 40)
        while not (port_option and _answers(port)):
            assert server.poll() is None, f"{line} ended:\n{log.read_text()[-3000:]}"
            if time.monotonic() > deadline:
                assert not port_option, f"{line} does not answer:\n{log.read_text()[-3000:]}"
                break
            time.sleep(0.5)
    finally:
        # Its own process group: nobody else's server is touched.
        for stop in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.pid, stop)
                server.wait(timeout=20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _make_target_exists(command: str) -> None:
    """`make test` inside the tests would run itself: make is only asked what it would do."""
    done = _run(f"{command} --dry-run", ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if commands_of(name)])
def test_every_command_of_the_document_runs(document: str, first_day: Path, tmp_path: Path) -> None:
    for name, text in files_of(document).items():
        (first_day / name).write_text(text)
    commands = commands_of(document)
    with ExitStack() as servers:
        if any(PACS_HTTP in command for command in commands):
            pacs = servers.enter_context(Orthanc(tmp_path / "pacs"))
            addresses = {PACS_HTTP: f"127.0.0.1:{pacs.http_port}", PACS_DICOM: f"127.0.0.1:{pacs.dicom_port}"}
            addresses |= {"--port 11112": f"--port {free_port()}"}
            for documented, own in addresses.items():
                commands = [command.replace(documented, own) for command in commands]
        _run_all(commands, first_day)


def _run_all(commands: list[str], first_day: Path) -> None:
    for command in commands:
        start = next((name for name in SERVERS if name in command), "")
        if command.startswith("make "):
            _make_target_exists(command)
        elif start:
            _serves_until_it_is_ended(command, SERVERS[start], first_day)
        else:
            if "feedback.json" in command:
                _answer_a_report(first_day)
            done = _run(command, first_day)
            allowed = ALLOWED_STATUS.get(" ".join(command.split()[:2]), (0,))
            assert done.returncode in allowed, f"$ {command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            assert "Traceback" not in done.stderr, f"$ {command}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_server_that_a_document_starts_by_hand_does_not_phone_home(document: str) -> None:
    for command in commands_of(document):
        if "mlflow ui" in command:
            assert command.startswith("MLFLOW_DISABLE_TELEMETRY=true "), command
        if "prefect server" in command:
            assert command.startswith("DO_NOT_TRACK=true PREFECT_SERVER_ANALYTICS_ENABLED=false "), command


def _inline_commands(document: str) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [span for span in spans if re.match(r"(noduleflow|make) [a-z]", span)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_named_in_a_sentence_exists_with_its_options(document: str) -> None:
    import typer.main

    from flows import cli

    cli._register()
    group = typer.main.get_command(cli.app)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for span in _inline_commands(document):
        words = span.split()
        if words[0] == "make":
            assert words[1] in targets, span
            continue
        assert words[1] in group.commands, span
        known = {option for parameter in group.commands[words[1]].params for option in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--json", "--debug"}, span


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_the_document_leads_to_a_file_and_a_heading(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.is_file(), f"{document} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_of_the_documents_are_what_the_code_says(generator: ModuleType) -> None:
    stale = [name for name in generator.DOCUMENTS if (ROOT / name).read_text() != generator.document(name)]
    assert stale == [], "run `make docs`"
    assert (ROOT / generator.ENVIRONMENT_EXAMPLE).read_text() == generator.environment_example(), "run `make docs`"


def test_every_reason_code_stands_in_the_document_of_ingest_and_no_other_does() -> None:
    from data_contracts.reasons import ReasonCode

    text = (ROOT / "docs" / "ingest.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert documented == [code.value for code in ReasonCode]


def test_every_setting_stands_in_the_example_of_an_environment() -> None:
    from flows.settings import Settings

    of_the_program = (ROOT / "deploy" / ".env.example").read_text().split("# ---- for deploy/compose.yaml alone")[0]
    named = re.findall(r"^#?NODULEFLOW_(\w+)=", of_the_program, flags=re.MULTILINE)
    # a secret stands there by the file that holds it
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    asked = [f"{name}_file" if name in secret else name for name in Settings.model_fields]
    assert [name.lower() for name in named] == asked
