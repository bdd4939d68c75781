"""FewShotReport: what k labelled nodules a class give on frozen features, over many episodes."""

from __future__ import annotations

from data_contracts.records import Record


class FewShotFigure(Record):
    """A figure of one classifier at one k; value is None where no episode could be drawn (`note` says why).

    method: "prototypes" or "probe". metric: "auc", "accuracy" or "balanced_accuracy".
    value, low, high: mean over episodes and the 95 % interval of that mean, over draws of the support.
    episode_low, episode_high: between them lie 95 % of the single episodes: what one draw of k nodules may give.
    """

    k: int
    method: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    episode_low: float | None = None
    episode_high: float | None = None
    n_episodes: int
    note: str = ""


class FewShotReport(Record):
    """few_shot.json of a run.

    warnings: what a reader of the figures must know, such as that no patient is known.
    """

    run_id: str
    dataset_id: str
    backbone: str
    weights: str
    weights_sha256: str
    pretrained: bool
    parameters: dict[str, object]
    n_nodules: int
    n_positive: int
    n_patients: int
    figures: tuple[FewShotFigure, ...]
    warnings: tuple[str, ...] = ()

    def find(self, k: int, method: str, metric: str) -> FewShotFigure | None:
        """One figure, if it was computed."""
        key = (k, method, metric)
        return next((row for row in self.figures if (row.k, row.method, row.metric) == key), None)
