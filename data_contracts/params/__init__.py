"""One frozen parameter class a step. Defaults live here; a preset holds only what differs; unknown keys are refused."""

from data_contracts.params.base import Params
from data_contracts.params.cohort import ImageParams, LabelParams, PatchParams, PhantomParams, SplitParams
from data_contracts.params.detection import DetectionParams
from data_contracts.params.drift import DriftParams
from data_contracts.params.explanation import ExplainParams
from data_contracts.params.feedback import FeedbackParams
from data_contracts.params.few_shot import FewShotParams
from data_contracts.params.guidelines import GuidelineParams
from data_contracts.params.intake import DeidentifyParams, IngestParams
from data_contracts.params.learning import AdaptationGateParams, EvaluateParams, FeatureParams
from data_contracts.params.review import ReviewParams
from data_contracts.params.training import ADAPTATION_METHODS, TrainParams

__all__ = [
    "ADAPTATION_METHODS",
    "AdaptationGateParams",
    "DeidentifyParams",
    "DetectionParams",
    "DriftParams",
    "EvaluateParams",
    "ExplainParams",
    "FeatureParams",
    "FeedbackParams",
    "FewShotParams",
    "GuidelineParams",
    "ImageParams",
    "IngestParams",
    "LabelParams",
    "Params",
    "PatchParams",
    "PhantomParams",
    "ReviewParams",
    "SplitParams",
    "TrainParams",
]
