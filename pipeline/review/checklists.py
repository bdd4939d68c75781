"""The items of two reporting guidelines as tables: what each asks, in our words, and from where it is answered.

Numbers and subjects are those of
- CLAIM 2024: Tejani AS et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 update.
  Radiology: Artificial Intelligence 2024;6(4):e240300, doi 10.1148/ryai.240300. 44 items.
- TRIPOD+AI: Collins GS et al., TRIPOD+AI statement. BMJ 2024;385:e078378, doi 10.1136/bmj-2023-078378.
  27 items, 52 with their parts.
The full wording is in those papers; nothing of it stands here.
"""

from __future__ import annotations

from dataclasses import dataclass

CLAIM_NAME, TRIPOD_NAME = "CLAIM 2024", "TRIPOD+AI 2024"
CLAIM_REFERENCE = "Radiology: Artificial Intelligence 2024;6(4):e240300, doi 10.1148/ryai.240300"
TRIPOD_REFERENCE = "BMJ 2024;385:e078378, doi 10.1136/bmj-2023-078378"


@dataclass(frozen=True)
class Item:
    """One item.

    facts: of the run, by name, in the order they are told. needs: key of the site's statements without which it is not
    answered. instead: key that answers it where the facts are missing. also: keys that add to it.
    """

    number: str
    topic: str
    facts: tuple[str, ...] = ()
    needs: str = ""
    instead: str = ""
    also: tuple[str, ...] = ()


def _facts(names: str) -> tuple[str, ...]:
    return tuple(names.split())


CLAIM_2024: dict[str, tuple[Item, ...]] = {
    "Title and abstract": (
        Item("1", "Kind of AI, named", _facts("title technology")),
        Item("2", "Summary of design, methods, results", _facts("objective flow performance interpretation")),
    ),
    "Introduction": (
        Item("3", "Background, intended use and role", _facts("intended_use"), needs="background"),
        Item("4", "Aims and hypotheses", _facts("objective")),
    ),
    "Methods: study design": (
        Item("5", "Prospective or retrospective", needs="study_design"),
        Item("6", "Goal of the study", _facts("objective")),
    ),
    "Methods: data": (
        Item("7", "Sources of the data", _facts("data"), needs="data_origin"),
        Item("8", "Who and what is let in or left out", _facts("selection_rules"), needs="eligibility"),
        Item("9", "Preprocessing", _facts("preprocessing input")),
        Item("10", "Choice of subsets", _facts("selection_rules")),
        Item("11", "De-identification", _facts("identity")),
        Item("12", "Missing data", _facts("missing_data")),
        Item("13", "How images were acquired", _facts("acquisition"), instead="acquisition"),
    ),
    "Methods: reference standard": (
        Item("14", "What the reference standard is", _facts("reference")),
        Item("15", "Why this reference standard", _facts("reference"), needs="reference_rationale"),
        Item("16", "Who annotated, how qualified", needs="readers"),
        Item("17", "How the test set was annotated", needs="reader_tools"),
        Item("18", "Variability between and within readers", needs="reader_agreement"),
    ),
    "Methods: partitions and test data": (
        Item("19", "How parts were assigned", _facts("partition")),
        Item("20", "At which level parts are disjoint", _facts("disjoint")),
        Item("21", "Intended sample size", _facts("sample_size"), also=("sample_size",)),
    ),
    "Methods: model": (
        Item("22", "The model in detail", _facts("architecture input formula")),
        Item("23", "Software", _facts("software")),
        Item("24", "Initial parameters", _facts("initialisation")),
    ),
    "Methods: training": (
        Item("25", "How it was trained", _facts("population training class_imbalance")),
        Item("26", "How the final model was chosen", _facts("selection adaptation")),
        Item("27", "Ensembles", _facts("ensembling")),
    ),
    "Methods: evaluation": (
        Item("28", "Measures of performance", _facts("metrics")),
        Item("29", "Significance and uncertainty", _facts("uncertainty")),
        Item("30", "Robustness", _facts("robustness")),
        Item("31", "Explanation of predictions", _facts("explainability")),
        Item("32", "Test on internal data", _facts("internal")),
        Item("33", "Test on external data", _facts("external")),
        Item("34", "Registration of a trial", needs="registration"),
    ),
    "Results: data": (
        Item("35", "How many were included and excluded", _facts("flow partition_counts")),
        Item("36", "Patients of each part", _facts("demographics"), instead="demographics"),
    ),
    "Results: performance": (
        Item("37", "Performance with uncertainty, by subgroup", _facts("performance subgroups")),
        Item("38", "Diagnostic performance and its precision", _facts("precision")),
        Item("39", "Failures", _facts("failures")),
    ),
    "Discussion": (
        Item("40", "Limitations", _facts("limitations")),
        Item("41", "Implications for practice", _facts("intended_use interpretation"), needs="implications"),
    ),
    "Other information": (
        Item("42", "Protocol or technical details", _facts("specification code"), also=("protocol",)),
        Item("43", "Availability of program, model, data", _facts("code"), needs="model_availability",
             also=("data_availability",)),
        Item("44", "Funding", needs="funding"),
    ),
}  # fmt: skip

TRIPOD_AI: dict[str, tuple[Item, ...]] = {
    "Title and abstract": (
        Item("1", "Title: model, population, outcome", _facts("title technology")),
        Item("2", "Abstract", _facts("objective flow performance interpretation")),
    ),
    "Introduction": (
        Item("3a", "Context of care and reason for the model", _facts("intended_use"), needs="background"),
        Item("3b", "Whom it is for, where in the pathway, who uses it", needs="clinical_setting",
             also=("target_population",)),
        Item("3c", "Known health inequalities", needs="health_inequalities"),
        Item("4", "Objectives", _facts("objective")),
    ),
    "Methods: data": (
        Item("5a", "Sources, why, how representative", _facts("data"), needs="data_origin"),
        Item("5b", "Dates of inclusion", needs="data_dates"),
        Item("6a", "Setting and centres", needs="centres"),
        Item("6b", "Eligibility", _facts("selection_rules"), needs="eligibility"),
        Item("6c", "Treatments", _facts("treatments")),
        Item("7", "Preparation and quality checks", _facts("preprocessing input poor_input")),
        Item("8a", "Outcome, how and when assessed", _facts("reference"), also=("reference_rationale",)),
        Item("8b", "Who assessed the outcome", needs="readers"),
        Item("8c", "Blinding of the assessment", needs="reader_blinding"),
        Item("9a", "Choice of predictors", _facts("predictors")),
        Item("9b", "Definition of predictors", _facts("input predictor_reading")),
        Item("9c", "Who assessed the predictors", _facts("predictor_reading"), needs="readers"),
        Item("10", "Sample size", _facts("sample_size partition_counts"), also=("sample_size",)),
        Item("11", "Missing data", _facts("missing_data")),
    ),
    "Methods: analysis": (
        Item("12a", "How the data were used", _facts("partition disjoint")),
        Item("12b", "How predictors entered", _facts("input formula")),
        Item("12c", "Model, building, tuning, internal validation", _facts("architecture training selection internal")),
        Item("12d", "Clusters and their heterogeneity", _facts("clusters")),
        Item("12e", "Measures and plots", _facts("metrics uncertainty")),
        Item("12f", "Updating of the model", _facts("updating")),
        Item("12g", "How predictions were computed", _facts("formula specification")),
        Item("13", "Class imbalance", _facts("class_imbalance")),
        Item("14", "Fairness", _facts("fairness")),
        Item("15", "Output and thresholds", _facts("output")),
        Item("16", "Training against evaluation data", _facts("differences")),
        Item("17", "Ethical approval and consent", needs="ethics", also=("consent",)),
    ),
    "Open science": (
        Item("18a", "Funding", needs="funding"),
        Item("18b", "Conflicts of interest", needs="conflicts_of_interest"),
        Item("18c", "Protocol", needs="protocol"),
        Item("18d", "Registration", needs="registration"),
        Item("18e", "Sharing of data", needs="data_availability"),
        Item("18f", "Sharing of code", _facts("code"), also=("model_availability",)),
    ),
    "Patient and public involvement": (
        Item("19", "Patients and the public", needs="public_involvement"),
    ),
    "Results": (
        Item("20a", "Flow of participants", _facts("flow partition_counts")),
        Item("20b", "Their characteristics", _facts("demographics"), instead="demographics"),
        Item("20c", "Comparison with the development data", _facts("differences")),
        Item("21", "Participants and events in each analysis", _facts("partition_counts flow")),
        Item("22", "The full model", _facts("formula specification"), also=("model_availability",)),
        Item("23a", "Performance with intervals, by subgroup", _facts("performance precision subgroups")),
        Item("23b", "Heterogeneity between clusters", _facts("heterogeneity")),
        Item("24", "Results of updating", _facts("updating")),
    ),
    "Discussion": (
        Item("25", "Interpretation", _facts("interpretation fairness"), also=("implications",)),
        Item("26", "Limitations", _facts("limitations")),
        Item("27a", "Poor or missing input", _facts("poor_input missing_data")),
        Item("27b", "What users do, and must be able to", _facts("interaction")),
        Item("27c", "Next steps", _facts("external"), needs="future_work"),
    ),
}  # fmt: skip
