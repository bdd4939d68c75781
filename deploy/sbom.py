"""Write what a lock installs as a CycloneDX 1.6 bill of materials: `sbom.py requirements.lock sbom.cdx.json`.

The same lock gives the same file, byte for byte: its serial number comes from its content, and no time stands in it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
import uuid
from pathlib import Path

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from lock_entries import Entry, entries_of
from packageurl import PackageURL

_SPACE = uuid.UUID("6f1d7c3e-52d6-4b0a-9c55-0d4f0a1c6b11")
_NOTE = "noduleflow:"


def bill_of(lock: Path) -> str:
    """The bill as JSON text; raises ValueError where it does not hold to CycloneDX's schema."""
    project = tomllib.loads((lock.parent / "pyproject.toml").read_text())["project"]
    root = Component(
        name=project["name"], version=project["version"], type=ComponentType.APPLICATION, bom_ref=project["name"]
    )
    bom = Bom(components=[_component(entry) for entry in entries_of(lock)])
    bom.metadata.component = root
    bom.register_dependency(root, bom.components)
    text = json.loads(JsonV1Dot6(bom).output_as_string())
    text["metadata"].pop("timestamp", None)
    text.pop("serialNumber", None)
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()
    text["serialNumber"] = f"urn:uuid:{uuid.uuid5(_SPACE, digest)}"
    content = json.dumps(text, indent=2, sort_keys=True) + "\n"
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(content):
        raise ValueError(f"the bill does not hold to CycloneDX 1.6: {fault}")
    return content


def _component(entry: Entry) -> Component:
    """A package. A version has several files, one a platform; their digests are notes, not the digest of one thing."""
    url = PackageURL("pypi", name=entry.name, version=str(entry.version))
    notes = [Property(name=f"{_NOTE}sha256", value=digest) for digest in entry.hashes]
    if entry.marker:
        notes.append(Property(name=f"{_NOTE}marker", value=entry.marker))
    return Component(
        name=entry.name,
        version=str(entry.version),
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=url.to_string(),
        properties=notes,
    )


def main(arguments: list[str]) -> int:
    """Exit status 0, or 2 for a wrong line."""
    if len(arguments) != 2:
        print("sbom.py LOCK OUT", file=sys.stderr)
        return 2
    lock, out = Path(arguments[0]), Path(arguments[1])
    content = bill_of(lock.resolve())
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(content)
    temporary.replace(out)
    print(f"{out}: {len(json.loads(content)['components'])} components, CycloneDX 1.6")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
