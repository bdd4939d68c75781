"""Write the generated parts of the documents: `make docs`. A test compares them with what stands in the files.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; deploy/.env.example is generated whole.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data_contracts import params
from data_contracts.promotion import PromotionPolicy
from data_contracts.reasons import ReasonCode
from flows.presets import preset_names, train_params
from flows.settings import Settings
from flows.whole.nightly_config import RunPlan

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("docs/configuration.md", "docs/ingest.md")
ENVIRONMENT_EXAMPLE = "deploy/.env.example"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def reason_table() -> str:
    """Every reason code, what it means and what the site can do."""
    return _table(("code", "what was found", "what to do"), [(f"`{c.value}`", c.meaning, c.todo) for c in ReasonCode])


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "must be given"
    if isinstance(value, BaseModel):
        return "as in its own table"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value not in ("", None, (), {}) else "empty"


def settings_table() -> str:
    """Every setting of the environment."""
    rows = [
        (f"`NODULEFLOW_{name.upper()}`", _default(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return _table(("variable", "default", "what it is"), rows)


def _kind(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(field.annotation))
    text = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    return re.sub(r"\b(typing|pathlib|data_contracts\.\w+|flows\.(?:\w+\.)?\w+)\.", "", text)


def _meanings(record: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """The first paragraph of the docstring, and what its `key: meaning` lines (and their continuations) say.

    What a record inherits has its meaning from where it is defined.
    """
    paragraph, _, notes = inspect.cleandoc(record.__doc__ or "").partition("\n\n")
    parents = (base for base in record.__bases__ if issubclass(base, BaseModel) and base.model_fields)
    meanings: dict[str, str] = {key: text for base in parents for key, text in _meanings(base)[1].items()}
    keys: list[str] = []
    for line in notes.splitlines():
        found = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if found:
            keys = found[1].split(", ")
            meanings |= dict.fromkeys(keys, found[2])
        elif line.startswith(" "):
            meanings |= {key: f"{meanings[key]} {line.strip()}" for key in keys}
    return " ".join(paragraph.split()), meanings


def parameter_tables() -> str:
    """Every parameter class: its meaning, keys, kinds and defaults."""
    classes = {
        "`ingest --set`": params.IngestParams,
        "`prepare --set`, patches": params.PatchParams,
        "`prepare --set`, `import-npz --set` and `import-images --set`, split": params.SplitParams,
        "`prepare --set` and `import-npz --set`, labels": params.LabelParams,
        "`import-images --set`, images": params.ImageParams,
        "`features --set` and `few-shot --set`": params.FeatureParams,
        "`few-shot --set`, episodes": params.FewShotParams,
        "`train --set` and presets": params.TrainParams,
        "`explain --set`": params.ExplainParams,
        "`review --set`": params.ReviewParams,
        "`drift --set`": params.DriftParams,
        "`promote --policy` and `[policy]` of `run`": PromotionPolicy,
        "`run --config`": RunPlan,
    }
    parts = []
    for title, record in classes.items():
        about, meanings = _meanings(record)
        rows = [
            (f"`{name}`", _kind(field), _default(field), meanings.get(name, ""))
            for name, field in record.model_fields.items()
        ]
        parts.append(f"### {title}\n\n{about}\n\n{_table(('key', 'kind', 'default', 'meaning'), rows)}")
    return "\n".join(parts)


def preset_table() -> str:
    """Every preset that comes with the program: what its heading says, and what differs from the defaults."""
    defaults = params.TrainParams()
    rows = []
    for name in preset_names():
        text = (ROOT / "flows" / "presets" / f"{name}.toml").read_text()
        heading = " ".join(line.removeprefix("#").strip() for line in _heading(text))
        values = train_params(name, {})
        differing = [f"{key}={value}" for key, value in values if key != "preset" and value != getattr(defaults, key)]
        rows.append((f"`{name}`", heading, f"`{', '.join(differing)}`" if differing else "nothing"))
    return _table(("preset", "what it is for", "differs from the defaults in"), rows)


def _heading(text: str) -> list[str]:
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


PARTS: dict[str, Callable[[], str]] = {
    "reasons": reason_table,
    "settings": settings_table,
    "parameters": parameter_tables,
    "presets": preset_table,
}


def document(name: str) -> str:
    """The text that the document should have: what stands there, with its generated parts made anew."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return _PART.sub(lambda found: found[1] + "\n" + PARTS[found[2]]() + "\n" + found[3], text)


#: what deploy/compose.yaml asks for beside the settings of noduleflow
_COMPOSE = """

# ---- for deploy/compose.yaml alone, in deploy/.env

# tag of the image, and its variant: empty or -cpu; how it is built: cuda or cpu
#NODULEFLOW_VERSION=0.1.0
#NODULEFLOW_VARIANT=
#BUILD_VARIANT=cuda

# digests that pin the images by content, such as @sha256:..., as `docker buildx imagetools inspect` names them
#PYTHON_DIGEST=
#POSTGRES_DIGEST=
#S3_DIGEST=
#ORTHANC_DIGEST=

# folders and files beside compose.yaml: secrets, the plan of the jobs, studies
#SECRETS=./secrets
#SITE_CONFIG=./site.toml
#STUDIES=./studies

# names by which browsers and clients may call
#MLFLOW_ALLOWED_HOSTS=mlflow:5000,localhost:5000,127.0.0.1:5000
#PREFECT_UI_API_URL=http://127.0.0.1:4200/api

# processes of the MLflow server, runs of the worker at a time, backups that are kept
#MLFLOW_WORKERS=2
#NODULEFLOW_RUNS_AT_A_TIME=2
#NODULEFLOW_BACKUPS_KEPT=14""".splitlines()


def environment_example() -> str:
    """deploy/.env.example: every setting, commented out, at its default."""
    lines = ["# Copy to .env in the folder noduleflow runs in, and set what differs. `noduleflow doctor` checks it."]
    for name, field in Settings.model_fields.items():
        value = field.get_default()
        # A secret is better named by its file than written here.
        key = f"NODULEFLOW_{name.upper()}{'_FILE' if 'SecretStr' in str(field.annotation) else ''}"
        lines += ["", f"# {field.description}", f"#{key}={'' if value is None else value}"]
    return "\n".join([*lines, *_COMPOSE]) + "\n"


def main() -> None:
    """Write every generated part; says which files changed."""
    texts = {name: document(name) for name in DOCUMENTS} | {ENVIRONMENT_EXAMPLE: environment_example()}
    for name, text in texts.items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {name}")


if __name__ == "__main__":
    main()
