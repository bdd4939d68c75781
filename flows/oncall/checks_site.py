"""What the doctor asks of a site: its servers, its schedules, its weights, its tables and its registry."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from data_contracts.errors import ContractError, NoduleflowError
from flows.oncall.check import Check, State, worst
from flows.oncall.findings import Findings, cause_of
from flows.oncall.judging import judge_schedules
from flows.oncall.prefect_view import reading, server_note, view
from flows.oncall.registry_view import probe_server
from flows.oncall.volumes import MEND, lacking_volumes, told
from flows.settings import Settings
from flows.workspace import Workspace


def tables(workspace: Workspace) -> Check:
    """Every table read and checked whole, and every record of a series; a look at the size of every volume."""
    from data_contracts.nodules import NODULE_TABLE
    from data_contracts.series import REJECTED_TABLE, SERIES_TABLE, SeriesRecord

    faults: list[tuple[State, str, str]] = []
    for path, contract, todo in (
        (workspace.series_table, SERIES_TABLE, "`noduleflow ingest` of any source writes it again."),
        (workspace.rejected_table, REJECTED_TABLE, "`noduleflow ingest` of any source writes it again."),
        (workspace.nodule_table, NODULE_TABLE, "The next command that reads it writes it again."),
    ):
        if not path.exists():
            continue
        try:
            contract.read(path)
        except NoduleflowError as error:
            faults.append(("failed", error.what if path.name in error.what else f"{path.name}: {error.what}", todo))
        except Exception as error:  # of pyarrow, and of whatever a torn file makes it do
            faults.append(("failed", f"{path.name} cannot be read ({cause_of(error)})", todo))
    torn = []
    for key in sorted(workspace.series_keys()):
        try:
            SeriesRecord.read(workspace.series_root / key / "series.json")
        except ContractError:
            torn.append(key)
    if torn:
        what = f"{len(torn)} records of series cannot be read ({', '.join(torn[:3])})"
        faults.append(("failed", what, "Ingest their source again."))
    try:
        if lacking := lacking_volumes(workspace):
            faults.append(("failed", told(lacking), f"{MEND}."))
    except (OSError, ValueError):
        pass  # a table that cannot be read was named above
    return worst("tables", faults, "tables and records of series can be read")


def weights(workspace: Workspace) -> Check:
    """Pretrained files at hand are what their digests say; nothing is asked of the network."""
    faults: list[tuple[State, str, str]] = []
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "torch"
    home = Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub" / "checkpoints"
    found = sorted(home.glob("resnet50-*")) if home.is_dir() else []
    for path in found:
        named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
        if named and not _sha256(path).startswith(named.group(1)):
            faults.append(("failed", f"{path.name} is not what its name says", f"Delete {path} and fetch it again."))
    for folder in (workspace.segmenters_root, workspace.detectors_root):
        for card in sorted(folder.glob("*/*.json")):
            faults += _against_card(card)
    if not found:
        what = "no pretrained ResNet50 in torchvision's cache"
        faults.append(("warning", what, "Offline, give `--weights FILE`; docs/configuration.md has the ways."))
    return worst("weights", faults, f"pretrained ResNet50 is cached ({found[0].name})" if found else "")


def _against_card(card: Path) -> list[tuple[State, str, str]]:
    """Weights beside a card that names their sha256."""
    import json

    try:
        body = json.loads(card.read_bytes())
    except (OSError, ValueError):
        return [("failed", f"{card.parent.name}/{card.name} cannot be read", "Install that network again.")]
    digest = next((body[key] for key in ("weights_sha256", "sha256") if isinstance(body, dict) and body.get(key)), None)
    files = sorted(card.parent.glob("*.safetensors"))
    if digest is None or len(files) != 1 or _sha256(files[0]) == digest:
        return []
    what = f"{card.parent.name}/{files[0].name} is not what its card says"
    return [("failed", what, "Install that network again; it is not used as it is.")]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def prefect(workspace: Workspace, settings: Settings) -> Check:
    """A server answers: the one of the settings, or one that this workspace starts now."""
    if settings.prefect_api_url:
        seen = view(workspace, settings)
        return Check("prefect", "ok", f"a server answers at {seen.where}, {len(seen.schedules)} deployments")
    database = workspace.prefect_home / "prefect.db"
    aside = f"Move {database} aside: it holds the history of runs and nothing else."
    if database.is_file():
        try:
            with reading(database) as rows:
                if (answer := rows.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                    return Check("prefect", "failed", f"prefect.db is damaged ({str(answer)[:60]})", aside)
        except Exception as error:
            return Check("prefect", "failed", f"prefect.db cannot be read ({cause_of(error)})", aside)
    from flows.engine import engine

    with engine(workspace) as address:
        return Check("prefect", "ok", f"the embedded server answers at {address}")


def schedules(workspace: Workspace, settings: Settings) -> Check:
    """Deployments that are paused, late, or whose schedule creates no runs; jobs of the configuration that are none."""
    found = Findings()
    seen = view(workspace, settings)
    note = server_note(workspace) if seen.where == "embedded" else None
    served = seen.where != "embedded" or bool(note and note.get("by_the_clock"))
    judge_schedules(seen, found, is_served=served)
    faults: list[tuple[State, str, str]] = []
    for line in found.lines:
        what, _, todo = line.partition(": ")
        faults.append(("warning" if what.startswith("nobody keeps") else "failed", what, f"{todo}." if todo else ""))
    faults += _not_deployed(settings, {one.name for one in seen.schedules})
    shown = ", ".join(f"{one.name} {one.coming[0]:%H:%M} UTC" for one in seen.schedules if one.coming)
    return worst("schedules", faults, f"next: {shown}" if shown else "nothing is scheduled")


def _not_deployed(settings: Settings, there: set[str]) -> list[tuple[State, str, str]]:
    if settings.config is None:
        return []
    from flows.scheduled.deployments import schedule_of
    from flows.whole.nightly_config import read_config

    try:
        wanted = schedule_of(read_config(settings.config))
    except NoduleflowError as error:
        return [("failed", error.line(), "")]
    missing = sorted(set(wanted) - there)
    if not missing:
        return []
    todo = "Run `noduleflow deploy`, or start `noduleflow serve`."
    return [("failed", f"the configuration schedules {', '.join(missing)}, and Prefect does not know them", todo)]


def policy(settings: Settings) -> Check:
    """The installation's promotion policy can be read, and every key of it is one."""
    from flows.registry.policy import read_policy

    todo = "Mend the file that NODULEFLOW_POLICY names, or unset it; until then every promotion is refused."
    try:
        found = read_policy(settings.policy)
    except NoduleflowError as error:
        return Check("policy", "failed", f"{error.what} ({error.where})", f"{error.todo} {todo}".strip())
    if settings.policy is None:
        return Check("policy", "ok", "the installation fixes none; promote takes --policy, or its defaults")
    return Check("policy", "ok", f"{found.name}, version {found.version}, of {settings.policy}")


def mlflow(workspace: Workspace) -> Check:
    """The embedded database is whole; a server is asked by the registry's check."""
    database = workspace.mlflow_database
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return Check("mlflow", "ok", "a server or database of the settings; see registry")
    if not database.exists():
        return Check("mlflow", "ok", "nothing is logged yet")
    todo = "Restore mlflow.db from a backup; runs/ and mlartifacts/ stay as they are."
    try:
        with reading(database) as rows:
            answer = str(rows.execute("PRAGMA quick_check(1)").fetchone()[0])
    except Exception as error:
        return Check("mlflow", "failed", f"mlflow.db cannot be read ({cause_of(error)})", todo)
    if answer != "ok":
        return Check("mlflow", "failed", f"mlflow.db is damaged ({answer[:60]})", todo)
    return Check("mlflow", "ok", "mlflow.db is whole")


def registry(workspace: Workspace, settings: Settings) -> Check:
    """Aliases against the account of the last move, files of champion and previous champion, audit, lock."""
    from flows.registry import CHAMPION, Registry
    from flows.registry.faults import all_faults
    from flows.registry.lock import lock_database

    if settings.mlflow_tracking_uri.startswith("http"):
        probe_server(settings.mlflow_tracking_uri)
    made = Registry(workspace, settings.model_name)
    if faults := all_faults(made):
        return worst("registry", [("failed", fault.what, fault.todo) for fault in faults], "")
    detail = f"MLflow answers, the audit holds; champion: {made.alias(CHAMPION) or 'none'}"
    if settings.mlflow_tracking_uri.startswith("http") and not lock_database(workspace):
        return Check(
            "registry",
            "warning",
            f"{detail}. Promotions of this machine wait for each other, those of others do not",
            "Where machines share the MLflow server, set NODULEFLOW_REGISTRY_LOCK_URL to a PostgreSQL database.",
        )
    return Check("registry", "ok", detail)
