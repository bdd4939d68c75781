"""What a pull is asked for, as a parameter of a flow."""

from __future__ import annotations

from pydantic import BaseModel, model_serializer


class PrivatePull(BaseModel):
    """What to pull. UIDs and dates are identity, so Prefect's database sees only how many studies are named.

    since: "", a moment as QIDO compares it, or "auto". limit: most studies that are fetched, 0 for all. settle_s: a
    study waits until the server has counted as many instances of it for so long.
    """

    url: str
    study_uids: tuple[str, ...] = ()
    since: str = ""
    modality: str = "CT"
    limit: int = 0
    keep_files: bool = False
    settle_s: float = 0.0

    @model_serializer
    def hide(self) -> dict[str, int]:
        return {"n_studies": len(self.study_uids)}
