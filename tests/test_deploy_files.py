"""What cannot be started here is held to its schema, and to what a site must be able to rely on."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".venv" / "tools" / "bin"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SCRIPTS = [
    DEPLOY / name for name in ("start", "as-service", "make-secrets", "local.sh", "setup.sh", "postgres/roles.sh")
]
#: kinds of the cluster that make pods, and where the pod stands in them
_PODS = {
    "Deployment": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}


def tool(name: str) -> str:
    """A checker of requirements-tools.txt, or of the machine."""
    found = TOOLS / name
    path = str(found) if found.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: make test installs it (requirements-tools.txt)")
    return path


def check(*command: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "secrets"
    check("sh", str(DEPLOY / "make-secrets"), "--containers", str(folder))
    return folder


@pytest.fixture(scope="module")
def compose(secrets: Path) -> dict[str, Any]:
    """compose.yaml as `docker compose` itself reads it, with every profile."""
    site = secrets.parent / "site.toml"
    site.write_text((DEPLOY / "night.toml").read_text())
    command = [tool("docker-compose"), "-f", str(DEPLOY / "compose.yaml"), "--profile", "backup", "config"]
    environment = {**os.environ, "SECRETS": str(secrets), "SITE_CONFIG": str(site)}
    found: dict[str, Any] = yaml.safe_load(check(*command, env=environment))
    return found


def test_compose_holds_to_its_specification() -> None:
    check(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


def test_every_service_is_pinned_checked_bounded_and_without_rights(compose: dict[str, Any]) -> None:
    assert {"postgres", "s3", "mlflow", "prefect", "worker", "orthanc", "review"} <= set(compose["services"])
    for name, service in compose["services"].items():
        assert re.search(r":\d[\w.-]*$", service["image"]), f"{name}: no exact version"
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["stop_grace_period"], name
        if name not in ("register", "backup"):  # single commands
            # Those of the image of noduleflow have the check that stands in it.
            assert service["image"].startswith("noduleflow") or service["healthcheck"]["test"], name
        if service["image"].startswith("noduleflow"):
            assert service["user"] == "10001:10001", name
            assert service["read_only"], name


def test_ports_are_published_on_loopback_alone_and_the_inner_network_leads_nowhere(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert compose["networks"]["inner"]["internal"] is True
    for name in ("postgres", "s3", "worker", "backup", "register"):
        assert list(compose["services"][name]["networks"]) == ["inner"]


def test_no_secret_stands_in_the_environment_of_a_container_and_every_named_file_is_handed_over(
    compose: dict[str, Any], secrets: Path
) -> None:
    values = [file.read_text().strip() for file in secrets.iterdir()]
    text = json.dumps(compose)
    assert not [value for value in values if value in text]
    for name, service in compose["services"].items():
        given = {secret["source"] for secret in service.get("secrets", [])}
        for variable, value in service.get("environment", {}).items():
            if not variable.endswith("_FILE"):
                assert not re.search(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|_KEY$", variable), f"{name}: {variable}"
            elif str(value).startswith("/run/secrets/"):
                assert Path(value).name in given, f"{name}: {variable}"


def test_volumes_have_names_and_databases_outlive_their_containers(compose: dict[str, Any]) -> None:
    assert {"postgres", "s3", "orthanc", "workspace", "backups"} <= set(compose["volumes"])
    mounts = compose["services"]["postgres"]["volumes"]
    assert any(mount["type"] == "volume" and mount["source"] == "postgres" for mount in mounts)


def test_the_image_passes_hadolint_and_is_built_from_hashes_for_a_user_without_rights() -> None:
    check(tool("hadolint"), str(DEPLOY / "Dockerfile"))
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("FROM python:${PYTHON_VERSION}-slim-bookworm${PYTHON_DIGEST}") == 2
    installs = [line for line in text.splitlines() if "pip install" in line and "-e ." not in line]
    assert installs
    assert all("--require-hashes" in line for line in installs)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())


def test_the_build_context_holds_no_data_no_secret_and_no_environment() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {line[1:].split("/")[0] for line in rules if line.startswith("!")}
    assert kept <= {
        "data_contracts", "pipeline", "models", "flows", "deploy", "pyproject.toml", "README.md", "LICENSE",
        "requirements.lock", "requirements-bootstrap.txt", "requirements-servers.txt",
    }  # fmt: skip


def test_a_lock_without_cuda_keeps_every_other_entry_with_its_hashes() -> None:
    made = check(sys.executable, str(DEPLOY / "without_cuda.py"), str(ROOT / "requirements.lock"))
    names = re.findall(r"^([\w.-]+)==", made, re.MULTILINE)
    everything = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    gone = set(everything) - set(names)
    assert {"torch", "torchvision", "nvidia-cublas"} <= gone
    assert all(re.match(r"torch|nvidia|cuda|triton", name) for name in gone)
    entries = re.split(r"\n(?=\S)", made.strip())
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck_and_may_be_run(script: Path) -> None:
    check(tool("shellcheck"), "--severity=warning", str(script))
    if script.name != "setup.sh":  # called by make as an argument of sh
        assert script.stat().st_mode & stat.S_IXUSR


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("the Debian package systemd is not installed")
    for unit in sorted((DEPLOY / "systemd").glob("noduleflow-*.*")):
        if unit.suffix in (".service", ".timer"):
            # The program is elsewhere on this machine.
            text = unit.read_text().replace("/opt/noduleflow/deploy/start", "/bin/true")
            (tmp_path / unit.name).write_text(text)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run([program, "verify", *files], capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "noduleflow" in line]
    assert said == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_hardened_ends_in_time_and_takes_secrets_as_credentials(unit: Path) -> None:
    text = unit.read_text()
    for line in (
        "User=noduleflow", "NoNewPrivileges=true", "ProtectSystem=strict", "ProtectHome=true", "PrivateTmp=true",
        "CapabilityBoundingSet=", "RestrictSUIDSGID=true", "IPAddressDeny=any", "UMask=0077",
        "EnvironmentFile=-/etc/noduleflow/noduleflow.env",
    ):  # fmt: skip
        assert re.search(f"^{re.escape(line)}$", text, re.MULTILINE), line
    if "Type=oneshot" not in text:
        assert re.search(r"^TimeoutStopSec=(30|45)$", text, re.MULTILINE)
    named = set(re.findall(r"_FILE=%d/(\S+)", text))
    loaded = set(re.findall(r"^LoadCredential=([\w.-]+):/etc/noduleflow/secrets/\1$", text, re.MULTILINE))
    assert named <= loaded
    started = re.findall(r"^Exec\w+=/opt/noduleflow/deploy/start (\w+)$", text, re.MULTILINE)
    assert started
    known = re.search(r"^mlflow \| (.+)\) \"\$service\"", (DEPLOY / "start").read_text(), re.MULTILINE)
    assert known
    assert {*started} <= {"mlflow", *known[1].split(" | "), "serve", "review"}


@cache
def manifests(folder: str) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    program = shutil.which("kubectl") or shutil.which("kustomize")
    if program is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    command = [program, "kustomize"] if program.endswith("kubectl") else [program, "build"]
    return list(yaml.safe_load_all(check(*command, str(DEPLOY / "kubernetes" / folder))))


def run_of_a_job() -> dict[str, Any]:
    """The job that Prefect's worker makes of the template for one run."""
    template = json.loads((DEPLOY / "kubernetes" / "jobs" / "base-job-template.json").read_text())
    values = {"env": [], "labels": {}, "annotations": {}, "command": ["prefect"], "backoff_limit": 0, "image": "a:1"}
    values |= {"finished_job_ttl": 1, "image_pull_policy": "IfNotPresent", "namespace": "a", "name": "a"}
    filled = json.dumps(template["job_configuration"]["job_manifest"])
    for name in template["variables"]["properties"]:
        filled = filled.replace(f'"{{{{ {name} }}}}"', json.dumps(values.get(name, "1")))
    found: dict[str, Any] = json.loads(filled.replace("{{ name }}", "a"))
    return found


def test_kubernetes_takes_what_kustomize_makes_and_the_jobs_of_prefects_worker(tmp_path: Path) -> None:
    for folder in ("base", "jobs"):
        (tmp_path / f"{folder}.yaml").write_text(yaml.safe_dump_all(manifests(folder)))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_of_a_job()))
    check(tool("kubernetes-validate"), "--strict", "--quiet", *(str(file) for file in tmp_path.iterdir()))


def pods(folder: str) -> dict[str, dict[str, Any]]:
    found = {}
    for manifest in manifests(folder):
        if manifest["kind"] in _PODS:
            pod = manifest
            for key in _PODS[manifest["kind"]]:
                pod = pod[key]
            found[manifest["metadata"]["name"]] = pod
    return found


@pytest.mark.parametrize("folder", ["base", "jobs"])
def test_every_pod_runs_without_rights_and_long_lived_ones_are_probed(folder: str) -> None:
    found = pods(folder)
    assert {"mlflow", "prefect", "worker", "review", "postgres", "backup"} == set(found)
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
            assert re.search(r":\d[\w.-]*$", container["image"]), container["image"]
            for variable in container["env"]:
                is_file = variable["name"].endswith(("_FILE", "_SECRET_NAME", "_SECRET_KEY"))
                assert is_file or not re.search(r"PASSWORD|SECRET|TOKEN|AUTH_STRING", variable["name"]), variable
        if name != "backup":
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert probe in pod["containers"][0], f"{name}: {probe}"


def test_nothing_of_the_cluster_goes_out_but_to_what_is_named() -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in manifests("base") if item["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in spec.get("egress", []):
            assert rule["to"], name  # an empty list would be everywhere
            assert rule["ports"], name
            blocks = [peer["ipBlock"]["cidr"] for peer in rule["to"] if "ipBlock" in peer]
            assert all(block.endswith("/32") for block in blocks)
    secrets = {item["metadata"]["name"] for item in manifests("base") if item["kind"] == "Secret"}
    assert secrets == set()  # they are referred to, never written here


def test_the_job_template_is_one_that_the_worker_of_prefect_takes() -> None:
    template = json.loads((DEPLOY / "kubernetes" / "jobs" / "base-job-template.json").read_text())
    assert set(template) == {"job_configuration", "variables"}
    Draft202012Validator.check_schema(template["variables"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    pod = run_of_a_job()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    default = template["variables"]["properties"]["env"]["default"]
    mounted = {item["path"] for item in pod["volumes"][0]["secret"]["items"]}
    assert {Path(value).name for name, value in default.items() if name.endswith("_FILE")} <= mounted


def test_the_plan_of_the_scheduled_jobs_is_one_that_noduleflow_reads(tmp_path: Path) -> None:
    from flows.scheduled.deployments import schedule_of
    from flows.whole.nightly_config import read_config

    for file in (DEPLOY / "night.toml", DEPLOY / "kubernetes" / "base" / "site.toml"):
        text = file.read_text().replace("@ORTHANC@", "http://127.0.0.1:8042/dicom-web")
        (tmp_path / "site.toml").write_text(text)
        assert set(schedule_of(read_config(tmp_path / "site.toml"))) >= {"ingest-watch", "nightly-review"}
    assert (DEPLOY / "kubernetes" / "base" / "roles.sh").read_text() == (DEPLOY / "postgres" / "roles.sh").read_text()


def test_the_packages_of_the_servers_agree_with_the_lock() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(), re.MULTILINE))

    lock, servers = pins("requirements.lock"), pins("requirements-servers.txt")
    assert {
        name: (version, lock[name]) for name, version in servers.items() if lock.get(name, version) != version
    } == {}
    for name in ("requirements-servers.txt", "requirements-tools.txt"):
        entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
        assert all("--hash=sha256:" in entry for entry in entries), name
