"""import-images: class folders into the workspace, refusals into its table, warnings where nobody can miss them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from data_contracts.params import ImageParams, SplitParams
from data_contracts.series import Rejection
from flows.progress import say
from flows.settings import configured_secret
from flows.workspace import Workspace
from pipeline.cohort.image_import import ImageImport, import_images
from pipeline.deidentify.pseudonyms import Pseudonymizer


def import_folder(
    workspace: Workspace,
    folder: Path,
    name: str,
    patients: Path | None,
    positive: str,
    keep_identity: bool,
    images: ImageParams,
    split: SplitParams,
) -> dict[str, Any]:
    """Import class folders once; every refusal is a line on standard error and a row of rejected.parquet.

    Raises
    ------
    NothingUsableError: no image could be used; rejected.parquet says why.
    """
    pseudonymizer = Pseudonymizer(workspace.secret(configured_secret()), keep_identity)
    refused: list[Rejection] = []

    def note(rejection: Rejection) -> None:
        refused.append(rejection)
        say(f"refused {ascii(rejection.path)[1:-1]} ({rejection.reason.value}): {rejection.detail}")

    scratch = workspace.scratch_root / f"images-{os.getpid()}"
    scratch.mkdir(parents=True, exist_ok=True)
    done: ImageImport | None = None
    try:
        done = import_images(
            folder,
            name=name,
            datasets_root=workspace.datasets_root,
            scratch=scratch,
            images=images,
            split=split,
            pseudonymizer=pseudonymizer,
            patients=patients,
            positive=positive,
            on_refused=note,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        source = pseudonymizer.key("images", f"{folder.absolute()}\0{name}")
        mended = done is not None and done.made and workspace.rejection_reasons(source)
        if refused or mended:
            workspace.add_rejections(source, refused)
            workspace.rebuild_series_tables()
    if refused and not keep_identity:
        say("refused: names of files stay out of tables and logs; --keep-identity shows them")
    card = done.card
    for warning in card.warnings:
        say(f"WARNING: {warning}")
    return {
        **card.model_dump(mode="json"),
        "n_patches": sum(shard.n_patches for shard in card.shards),
        "n_refused": len(refused),
        "made": done.made,
    }
