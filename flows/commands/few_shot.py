"""few-shot."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import app, session
from flows.commands.data import SetOption


@app.command("few-shot")
def few_shot(
    dataset: Annotated[str, typer.Option(help="Dataset id or name; the newest by default.")] = "",
    weights: Annotated[str, typer.Option(help="auto, none, or a local file.")] = "auto",
    backbone: Annotated[str, typer.Option(help="Name of the backbone.")] = "resnet50",
    episodes: Annotated[int, typer.Option(min=1, help="Random draws of the labelled nodules, for each k.")] = 200,
    settings_: SetOption = None,
) -> None:
    """Score prototypes and a linear probe on k labelled nodules a class.

    The features are those of `noduleflow features`, computed once and kept. An episode draws k nodules of each class,
    each of another patient, and is asked about every labelled nodule of all other patients. The interval is that of the
    mean over episodes.
    """
    from data_contracts.few_shot import FewShotReport
    from data_contracts.params import FeatureParams, FewShotParams
    from flows.presets import assignments, distribute

    values = {"weights": weights, "backbone": backbone, "episodes": episodes, **assignments(settings_)}
    features, params = distribute(values, (FeatureParams, FewShotParams), where="--set")
    session.open()[1].require().dataset(dataset)
    with session.engine("flows.learning.few_shot") as (_, workspace):
        from flows.learning.few_shot import few_shot_flow, few_shot_text

        record = few_shot_flow(str(workspace.root), dataset, features, params)
        known = {key: value for key, value in record.items() if key != "folder"}
        text = few_shot_text(FewShotReport.model_validate(known))
    session.emit(record, f"{text}\nwritten to {record['folder']}")
