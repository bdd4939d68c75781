"""CHAI's Applied Model Card of a version, as a record and as an XML document of its schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

from data_contracts.disclosure import (
    CHAI_NAMESPACE,
    AISystemFactsType,
    AppliedModelCard,
    BasicInfoType,
    EHRCompatibilityType,
    KeyMetricsType,
    KeyMetricType,
    KeywordsType,
    MetricResultsType,
    MetricResultType,
    ModelSummaryType,
    ReleaseInfoType,
    ResourcesType,
    TransparencyInformationType,
    TrustIngredientsType,
    UsesAndDirectionsType,
    WarningsType,
)
from data_contracts.evaluation import EvaluationReport, Figure
from data_contracts.model_card import ModelCard
from data_contracts.records import Record
from data_contracts.site_statements import SITE_QUESTIONS
from pipeline.review.facts import Fact, foreign
from pipeline.review.verdict import figure_of, verdict

Facts = Mapping[str, Fact]
Stated = Mapping[str, str]


def applied_model_card(
    report: EvaluationReport, card: ModelCard, facts: Facts, stated: Stated, *, made_on: str = "", n_open: int = 0
) -> AppliedModelCard:
    """The card; what only the site can state and has not is said to be so.

    Parameters
    ----------
    facts: of the run, by name. stated: by the site, by key. made_on: date of the version, YYYY-MM-DD.
    n_open: questions that wait for the site.
    """

    def told(*names: str) -> str:
        return " ".join(facts[name].text for name in names)

    def site(key: str) -> str:
        return stated.get(key) or f"Not stated by the site: {SITE_QUESTIONS[key]}"

    def both(key: str, *names: str) -> str:
        return " ".join([told(*names), *([stated[key]] if key in stated else [])])

    return AppliedModelCard(
        BasicInfo=BasicInfoType(
            ModelName=f"noduleflow {foreign(card.name)}",
            ModelDeveloper=site("developer"),
            DeveloperContact=site("contact"),
        ),
        ReleaseInfo=ReleaseInfoType(
            ReleaseStage=site("release_stage"),
            ReleaseDate=made_on or "Not recorded with the run",
            ReleaseVersion=f"run {card.run_id}",
            GlobalAvailability=site("availability"),
            EHRCompatibility=_systems(stated),
            RegulatoryApproval=site("regulatory_status"),
        ),
        ModelSummary=ModelSummaryType(
            Summary=told("title", "technology", "interpretation" if "interpretation" in facts else "flow"),
            Keywords=KeywordsType(Keyword=("lung nodule", "chest CT", "malignancy", "deep learning", "calibration")),
        ),
        UsesAndDirections=UsesAndDirectionsType(
            IntendedUseAndWorkflow=both("clinical_setting", "intended_use"),
            PrimaryIntendedUsers="Radiologists who read the study themselves; engineers who run the program.",
            HowToUse=told("interaction"),
            TargetedPatientPopulation=stated.get("target_population")
            or f"{site('target_population')} {told('population')}",
            CautionedOutOfScopeSettings=(
                "Diagnosis or any decision about a patient on the score alone; studies that the intake refuses; "
                "scanners, kernels and patients unlike those of the training, before an evaluation on them."
            ),
        ),
        Warnings=WarningsType(
            KnownRisksAndLimitations=told("limitations"),
            KnownBiasesOrEthicalConsiderations=" ".join([told("fairness"), site("health_inequalities")]),
            ClinicalRiskLevel=site("clinical_risk_level"),
        ),
        TrustIngredients=TrustIngredientsType(
            AISystemFacts=_system_facts(told, site, both, stated, n_open),
            TransparencyInformation=TransparencyInformationType(
                FundingSource=site("funding"),
                ThirdPartyInformation=" ".join([told("initialisation"), stated.get("third_party", "")]).strip(),
                StakeholdersConsulted=site("stakeholders"),
            ),
        ),
        KeyMetrics=_key_metrics(report, facts),
        Resources=ResourcesType(
            EvaluationReferences="evaluation.json and report.html of the run; predictions.parquet to compute it again.",
            ClinicalTrial=site("registration"),
            PeerReviewedPublications=site("publications"),
            ReimbursementStatus=stated.get("reimbursement"),
            PatientConsentOrDisclosure=site("consent"),
        ),
        Bibliography=stated.get("bibliography", ""),
    )


def _systems(stated: Stated) -> EHRCompatibilityType | None:
    names = tuple(name.strip() for name in stated.get("ehr", "").split(",") if name.strip())
    return EHRCompatibilityType(EHR=names) if names else None


def _system_facts(
    told: Callable[..., str], site: Callable[[str], str], both: Callable[..., str], stated: Stated, n_open: int
) -> AISystemFactsType:
    return AISystemFactsType(
        OutcomesAndOutputs=told("output", "reference"),
        ModelType=told("technology", "architecture"),
        FoundationModels=told("initialisation"),
        InputDataSource=both("data_origin", "data"),
        OutputAndInputDataTypes=told("input", "output"),
        DevelopmentDataCharacterization=both("demographics", "population", "partition_counts"),
        BiasMitigationApproaches=told("class_imbalance", "fairness"),
        OngoingMaintenance="Readers' answers come back as labels; a version becomes champion only through the gates of "
        f"`promote`, and steps down by `rollback`. {site('maintenance')}",
        Security=" ".join([told("identity"), stated.get("security", "")]).strip(),
        Transparency="Every answer of two reporting checklists stands beside this card (disclosure.html). "
        f"{n_open or 'No'} question{' waits' if n_open == 1 else 's wait'} for the site's statement"
        f"{', and what they ask is not answered' if n_open else ''}.",
    )


def _key_metrics(report: EvaluationReport, facts: Facts) -> KeyMetricsType:
    main, size = report.find("score"), report.find("score_size")
    common = {
        "TestType": facts["external" if report_is_external(facts) else "internal"].text,
        "TestingDataDescription": facts["flow"].text,
        "ValidationProcessAndJustification": f"{facts['metrics'].text} {facts['uncertainty'].text}",
    }
    useful = [
        ("AUC, image + size", figure_of(main, "auc_clustered", "auc")),
        ("AUC, size only", figure_of(size, "auc_clustered", "auc")),
        ("AUC difference to size only", report.size_auc_difference),
        ("Size-matched AUC", figure_of(main, "size_matched_auc")),
        ("Average precision", figure_of(main, "average_precision")),
        ("Sensitivity at the frozen threshold", figure_of(main, "sensitivity")),
        ("Specificity at the frozen threshold", figure_of(main, "specificity")),
    ]
    groups = [(f"AUC, {row.variable} {foreign(row.level)} (n {row.n})", row.auc) for row in report.subgroups] or [
        (f"AUC, site {foreign(row.site)}", row.auc) for row in report.figures if row.score == "score"
    ]
    safe = [
        ("Brier score", figure_of(main, "brier")),
        ("ECE", figure_of(main, "ece")),
        ("Calibration slope", figure_of(main, "calibration_slope")),
        ("Calibration intercept", figure_of(main, "calibration_intercept")),
        ("Source minus target AUC", report.source_minus_target),
    ]
    if report.conformal is not None:
        safe += [
            ("Coverage of prediction sets", report.conformal.coverage),
            ("Share of uncertain prediction sets", report.conformal.abstention),
        ]
    told = verdict(report)
    return KeyMetricsType(
        UsefulnessUsabilityEfficacy=_metric(
            "Whether the score tells malignant from benign nodules, and better than the diameter alone does.",
            useful,
            f"{told.headline}. {' '.join(told.sentences)}",
            common,
        ),
        FairnessEquity=_metric(
            "Whether the score works alike in each group of nodules, scanners and patients.",
            groups,
            facts["fairness"].text,
            common,
        ),
        SafetyReliability=_metric(
            "Whether its probabilities are true, here and on the target site.",
            safe,
            facts["limitations"].text,
            common,
        ),
    )


def report_is_external(facts: Facts) -> bool:
    """Whether the report is a test on another dataset."""
    return facts["internal"].status == "not_applicable"


def _metric(
    goal: str, named: Sequence[tuple[str, Figure | None]], interpretation: str, common: Stated
) -> KeyMetricType:
    """A metric with the figures that there are; those that are missing are named behind its interpretation."""
    results, gone = [], []
    for label, figure in named:
        if figure is not None and figure.value is not None:
            results.append(MetricResultType(Label=label, ValueJson=value_json(figure)))
        else:
            gone.append(f"{label} ({'not computed' if figure is None else figure.note or 'not computed'})")
    if not results:
        nothing = json.dumps({"kind": "text", "value": "no figure could be computed"})
        results.append(MetricResultType(Label=named[0][0] if named else "None", ValueJson=nothing))
    left = f" Without a figure: {'; '.join(gone)}." if gone else ""
    return KeyMetricType(
        MetricGoal=goal,
        Results=MetricResultsType(MetricResult=tuple(results)),
        Interpretation=interpretation + left,
        **common,
    )


def value_json(figure: Figure) -> str:
    """A figure as CHAI's examples write it: an estimate with its interval, or a single value."""
    assert figure.value is not None
    if figure.low is None or figure.high is None:
        value: dict[str, object] = {"kind": "single", "value": round(figure.value, 6)}
    else:
        bounds = {name: round(bound, 6) for name, bound in (("lower", figure.low), ("upper", figure.high))}
        value = {"kind": "estimate_ci", "estimate": round(figure.value, 6), **bounds, "level": 95}
    return json.dumps(value, separators=(",", ":"))


def model_card_xml(card: AppliedModelCard) -> bytes:
    """The card as a document of CHAI's XML schema, UTF-8."""
    ElementTree.register_namespace("", CHAI_NAMESPACE)
    root = ElementTree.Element(f"{{{CHAI_NAMESPACE}}}AppliedModelCard")
    _append(root, card)
    ElementTree.indent(root, "  ")
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _append(parent: ElementTree.Element, record: Record) -> None:
    for name in type(record).model_fields:
        value = getattr(record, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is None:
                continue
            child = ElementTree.SubElement(parent, f"{{{CHAI_NAMESPACE}}}{name}")
            if isinstance(one, Record):
                _append(child, one)
            else:
                # XML has no way to hold most control characters.
                child.text = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in str(one))
