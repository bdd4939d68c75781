"""Probability of cancer of one nodule by the Brock (PanCan) models, with and without spiculation.

McWilliams 2013: logistic model of a first screening CT. Whatever input is unknown is named, never replaced.
"""

from __future__ import annotations

import math

from data_contracts.guideline_tables import BrockModel
from data_contracts.guidelines import BrockResult, GuidelineNodule, PatientContext
from data_contracts.params.guidelines import GuidelineParams
from pipeline.review.guidelines.asking import COUNT, needs
from pipeline.review.guidelines.sizes import relative_interval
from pipeline.review.guidelines.tables import brock_table

WITH_SPICULATION = "with spiculation"
WITHOUT_SPICULATION = "without spiculation"

#: Ages and sizes of the people and nodules that the model was made from (PanCan: 50-75 years, nodules up to 30 mm).
AGES_YEARS = (50, 75)
LARGEST_MM = 30


def brock(
    nodule: GuidelineNodule, context: PatientContext, count: int | None, params: GuidelineParams
) -> tuple[BrockResult, ...]:
    """Both variants. count: nodules in both lungs as a person counted them; None is unknown."""
    return tuple(_result(model, nodule, context, count, params) for model in brock_table().models)


def missing_inputs(
    model: BrockModel, nodule: GuidelineNodule, context: PatientContext, count: int | None
) -> tuple[str, ...]:
    """The inputs of a variant that are unknown, in words."""
    inputs = {
        "age": context.age_years,
        "sex": context.sex,
        "family history": context.family_history,
        "emphysema": context.emphysema,
        "long axis": nodule.long_axis_mm,
        "nodule type": nodule.nodule_type,
        "upper lobe": nodule.upper_lobe,
        COUNT: count,
    }
    if model.spiculation is not None:
        inputs["spiculation"] = nodule.spiculation
    missing = [name for name, value in inputs.items() if value is None]
    # A nodule whose probability is asked is itself one of those counted.
    return (*missing, *([f"{COUNT} of 1 or more, where 0 is stated"] if count == 0 else []))


def logit(
    model: BrockModel,
    nodule: GuidelineNodule,
    context: PatientContext,
    count: int,
    *,
    size_mm: float,
    centred: bool = True,
) -> float:
    """The model's linear term; every input is known. centred False: the form without centring, where one is printed."""
    centre = brock_table().figures
    age, size, number = float(context.age_years or 0), 1 / math.sqrt(size_mm / 10), float(count)
    if centred:
        age, size, number = (
            age - centre["centre_age_years"],
            size - centre["centre_size"],
            number - centre["centre_count"],
        )
        intercept = model.centred_intercept
    elif model.intercept is None:
        raise ValueError(f"the variant {model.variant!r} is not printed without centring")
    else:
        intercept = model.intercept
    return (
        intercept
        + model.age * age
        + model.female * (context.sex == "female")
        + model.family_history * bool(context.family_history)
        + model.emphysema * bool(context.emphysema)
        + model.size * size
        + model.part_solid * (nodule.nodule_type == "part_solid")
        + model.ground_glass * (nodule.nodule_type == "ground_glass")
        + model.upper_lobe * bool(nodule.upper_lobe)
        + model.count * number
        + (model.spiculation or 0.0) * bool(nodule.spiculation)
    )


def probability(value: float) -> float:
    """Logistic function."""
    return 1 / (1 + math.exp(-value))


def _result(
    model: BrockModel, nodule: GuidelineNodule, context: PatientContext, count: int | None, params: GuidelineParams
) -> BrockResult:
    common = {
        "variant": model.variant,
        "source": brock_table().source,
        "verified": model.checked != "unverified",
        "checked_against": model.against,
    }
    lacking = missing_inputs(model, nodule, context, count)
    if lacking or count is None or nodule.long_axis_mm is None:
        reason = needs("Brock", lacking)
        return BrockResult.model_validate({**common, "missing": lacking, "reason": reason})
    value = logit(model, nodule, context, count, size_mm=nodule.long_axis_mm)
    low, high = (
        probability(logit(model, nodule, context, count, size_mm=size_mm))
        for size_mm in relative_interval(nodule.long_axis_mm, params.reader_diameter_cv)
    )
    return BrockResult.model_validate(
        {
            **common,
            "logit": value,
            "probability": probability(value),
            "probability_interval": (low, high),
            "notes": _notes(model, nodule, context),
            "reason": (
                f"Brock {model.variant}: long axis {nodule.long_axis_mm:g} mm, {count} nodule(s), logit {value:.3f}"
            ),
        }
    )


def _notes(model: BrockModel, nodule: GuidelineNodule, context: PatientContext) -> tuple[str, ...]:
    notes = [model.note] if model.note else []
    notes.append("The interval holds the readers' error of the long axis only, not the model's own error.")
    age = context.age_years or 0
    if not AGES_YEARS[0] <= age <= AGES_YEARS[1]:
        notes.append(f"The model was made from people of {AGES_YEARS[0]}-{AGES_YEARS[1]} years.")
    if (nodule.long_axis_mm or 0) > LARGEST_MM:
        notes.append(f"The model was made from nodules up to {LARGEST_MM} mm.")
    if context.screening is not True:
        notes.append("The model was made from first screening CTs of smokers.")
    return tuple(notes)
