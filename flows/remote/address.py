"""Where a workspace is: a folder, or a bucket with a working copy of it on this machine. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+]*):(?:/+(?P<rest>.*))?")
#: file of a working copy that names its bucket
MARK = ".remote"


def is_url(place: str | Path) -> bool:
    """Whether a workspace is named by a URL, whole or not; a path may have lost its slashes."""
    found = _URL.fullmatch(str(place))
    return found is not None and len(found["scheme"]) > 1


def checked_url(place: str | Path) -> str:
    """The URL of a workspace in its one form; raises ValueError."""
    found = _URL.fullmatch(str(place))
    rest = "/".join(part for part in ((found["rest"] if found else "") or "").split("/") if part)
    # with a third slash there is no bucket, and what follows is none
    is_nameless = str(place).startswith("s3:///")
    if found is None or found["scheme"] != "s3" or not rest or is_nameless or ".." in rest.split("/"):
        raise ValueError("a workspace is a folder or s3://bucket/prefix")
    return f"s3://{rest}"


def working_copy(url: str, cache: Path | None) -> Path:
    """The folder on this machine that stands for a bucket; below `cache`, else below the user's cache."""
    base = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noduleflow"
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", url.removeprefix("s3://"))[:40]
    return base / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
