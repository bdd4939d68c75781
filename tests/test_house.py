"""The house rules that no linter holds: whose packages these are, how long a module is, what a file may hold."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

PACKAGES = ("data_contracts", "pipeline", "models", "flows")
ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git clone: cannot tell which files are tracked")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _tracked_text() -> dict[str, str]:
    texts = {}
    for path in _tracked():
        try:
            texts[_relative(path)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts


def _locked() -> dict[str, str]:
    """name -> version of requirements.lock, for the markers of this machine."""
    versions = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if found := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)(?: ; (.*?))? ?\\?$", line):
            name, version, marker = found.groups()
            if not marker or Marker(marker).evaluate():
                versions[name.lower().replace("_", "-")] = version
    return versions


def _pyproject() -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_of_that_name_is_ours_and_not_a_strangers(package: str) -> None:
    script = f"import {package} as package; print(package.__file__, *package.__path__)"
    # From a foreign folder and without PYTHONPATH: what an installed command would import.
    found = subprocess.run([sys.executable, "-I", "-c", script], cwd="/", capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(ROOT / package / "__init__.py"), str(ROOT / package)]


def test_no_installed_package_ships_a_name_of_ours() -> None:
    names = importlib.metadata.packages_distributions()
    strangers = {
        name: names[name] for name in (*PACKAGES, "deploy", "tests") if set(names.get(name, ())) - {"noduleflow"}
    }
    assert not any(strangers.values()), strangers


def test_no_module_of_a_package_is_named_like_a_module_of_python_or_a_package_of_ours() -> None:
    # Orchestrators put the folder of a flow on sys.path; flows/html.py would then be everybody's `html`.
    at_the_top = [path.stem for path in MODULES if len(path.relative_to(ROOT).parts) == 2 and path.stem != "__init__"]
    assert sorted({*at_the_top} & ({*sys.stdlib_module_names} | {*PACKAGES})) == []
    assert [_relative(path) for path in MODULES if path.stem in PACKAGES] == []


@pytest.mark.parametrize("path", MODULES, ids=_relative)
def test_a_module_is_at_most_300_lines_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), "no docstring"


def test_no_module_is_called_utils_common_helpers_or_misc() -> None:
    vague = re.compile(r"(^|_)(utils?|common|helpers?|misc)(_|$)")
    assert [_relative(path) for path in _tracked() if path.suffix == ".py" and vague.search(path.stem)] == []


def test_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_only_flows_reads_the_environment() -> None:
    readers = re.compile(r"\bos\.(environ|getenv|putenv)\b|from os import .*(environ|getenv)")
    inner = [path for path in MODULES if path.relative_to(ROOT).parts[0] != "flows"]
    assert [_relative(path) for path in inner if readers.search(path.read_text(encoding="utf-8"))] == []


def test_nothing_is_left_undone() -> None:
    unfinished = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|raise NotImplemented" + r"Error")
    texts = {name: text for name, text in _tracked_text().items() if name.endswith((".py", ".md", ".sh", ".toml"))}
    assert [name for name, text in texts.items() if unfinished.search(text)] == []


def test_no_pickle_is_loaded() -> None:
    unsafe = re.compile(
        r"pickle\.loads?\(|joblib\.load|cloudpickle|allow_pickle=True|torch\.load\((?![^\n]*weights_only=True)"
    )
    assert [_relative(path) for path in MODULES if unsafe.search(path.read_text(encoding="utf-8"))] == []


def test_one_module_points_the_aliases_of_the_registry() -> None:
    writes = re.compile(r"(set|delete)_registered_model_alias|registered_model_aliases")
    allowed = {"flows/registry/aliases.py", "flows/registry/direct.py"}  # the second is what the first is handed
    writers = {_relative(path) for path in MODULES if writes.search(path.read_text(encoding="utf-8"))}
    assert writers == allowed
    callers = re.compile(r"\baliases\.(point|remove)\(")
    assert {_relative(path) for path in MODULES if callers.search(path.read_text(encoding="utf-8"))} == {
        "flows/registry/moves.py",
        "flows/registry/versions.py",
    }


def test_no_tracked_file_names_a_package_index_or_a_path_of_a_machine() -> None:
    address = re.compile(r"(extra-)?index-url\s*[= ]\s*\S*:|https?://\S+/(simple|packages)/|registry=" + "http")
    machine = re.compile(r"(?<![\w.])/(home|root|Users|work|mnt)/\w")
    offenders = [
        name
        for name, text in _tracked_text().items()
        if address.search(text) or (name != "tests/test_house.py" and machine.search(text))
    ]
    assert offenders == []


def test_no_tracked_file_is_larger_than_a_megabyte() -> None:
    assert [_relative(path) for path in _tracked() if path.stat().st_size > 1_000_000] == []


def test_every_entry_of_the_lock_has_an_exact_version_and_hashes() -> None:
    for name in ("requirements.lock", "requirements-bootstrap.txt"):
        entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
        bare = [
            entry.split()[0] for entry in entries if "==" not in entry.split("\n")[0] or "--hash=sha256:" not in entry
        ]
        assert entries
        assert bare == [], name


def test_the_lock_covers_linux_on_two_processors_and_macos_on_arm() -> None:
    text = (ROOT / "requirements.lock").read_text()
    torch = text[text.index("\ntorch==") :].split("\n", 2)[1]
    for processor, system in (("x86_64", "linux"), ("aarch64", "linux"), ("arm64", "darwin")):
        environment = {"platform_machine": processor, "sys_platform": system, "python_version": "3.11"}
        assert Marker(torch.split(";")[1].rstrip("\\ ")).evaluate(environment)


def test_the_lock_satisfies_every_requirement_of_the_project() -> None:
    project = _pyproject()["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    locked = _locked()
    unmet = []
    for text in declared:
        requirement = Requirement(text)
        version = locked.get(requirement.name.lower().replace("_", "-"))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{text} but the lock has {version}")
    assert unmet == []


def test_what_is_installed_is_what_the_lock_says() -> None:
    differing = {}
    for name, version in _locked().items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "nothing"
        if installed == "nothing" or Version(installed) != Version(version):
            differing[name] = (version, installed)
    assert differing == {}


def test_the_two_packages_that_break_the_server_silently_are_held_back() -> None:
    locked = _locked()
    assert Version(locked["fastapi"]) < Version("0.151")
    assert Version(locked["sqlalchemy"]) < Version("2.1")
    requirements = {Requirement(text).name: Requirement(text) for text in _pyproject()["project"]["dependencies"]}
    assert not requirements["fastapi"].specifier.contains("0.155.0")
    assert not requirements["sqlalchemy"].specifier.contains("2.1.0")


def test_the_project_cannot_be_uploaded_by_mistake() -> None:
    assert "Private :: Do Not Upload" in _pyproject()["project"]["classifiers"]
