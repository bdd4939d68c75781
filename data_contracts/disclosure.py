"""Disclosure: what a version tells of itself, as CHAI's Applied Model Card and two reporting checklists.

Element names and their order are those of CHAI's schema v0.2 (https://mc.chai.org/v0.2/schema.xsd): a record of this
module has one field an element. Optional elements are None where nobody states them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data_contracts.records import Record

CHAI_NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
CHAI_NAME = "CHAI Applied Model Card, schema v0.2"

Text = Annotated[str, Field(min_length=1)]

#: answered: from the run, the site, or both. not_applicable: the text says why. not_stated: only the site can say it,
#: and has not. missing: the run should hold it, and does not.
Status = Literal["answered", "not_applicable", "not_stated", "missing"]


class BasicInfoType(Record):
    """Whose model it is."""

    ModelName: Text
    ModelDeveloper: Text
    DeveloperContact: Text


class EHRCompatibilityType(Record):
    """Health record systems that it was made to work with."""

    EHR: tuple[Text, ...] = ()


class ReleaseInfoType(Record):
    """Which release, and what it is cleared for."""

    ReleaseStage: Text
    ReleaseDate: Text
    ReleaseVersion: Text
    GlobalAvailability: Text
    EHRCompatibility: EHRCompatibilityType | None = None
    RegulatoryApproval: Text | None = None


class KeywordsType(Record):
    """Words to find it by."""

    Keyword: tuple[Text, ...] = ()


class ModelSummaryType(Record):
    """The model in a few sentences."""

    Summary: Text
    Keywords: KeywordsType


class UsesAndDirectionsType(Record):
    """What it is for, and what not."""

    IntendedUseAndWorkflow: Text
    PrimaryIntendedUsers: Text
    HowToUse: Text
    TargetedPatientPopulation: Text
    CautionedOutOfScopeSettings: Text


class WarningsType(Record):
    """What can go wrong."""

    KnownRisksAndLimitations: Text
    KnownBiasesOrEthicalConsiderations: Text
    ClinicalRiskLevel: Text


class AISystemFactsType(Record):
    """How it is made."""

    OutcomesAndOutputs: Text
    ModelType: Text
    FoundationModels: Text | None = None
    InputDataSource: Text
    OutputAndInputDataTypes: Text
    DevelopmentDataCharacterization: Text
    BiasMitigationApproaches: Text
    OngoingMaintenance: Text
    Security: Text | None = None
    Transparency: Text | None = None


class TransparencyInformationType(Record):
    """Who paid, and who was asked."""

    FundingSource: Text
    ThirdPartyInformation: Text | None = None
    StakeholdersConsulted: Text


class TrustIngredientsType(Record):
    """Facts and transparency."""

    AISystemFacts: AISystemFactsType
    TransparencyInformation: TransparencyInformationType


class MetricResultType(Record):
    """A figure; ValueJson is {"kind": "estimate_ci", "estimate", "lower", "upper", "level"} or {"kind": "single", ...}
    or {"kind": "text", ...} as a JSON string."""

    Label: Text
    ValueJson: Text


class MetricResultsType(Record):
    """One figure or more."""

    MetricResult: tuple[MetricResultType, ...] = Field(min_length=1)


class KeyMetricType(Record):
    """What was measured to what end, on which data, and what it says."""

    MetricGoal: Text
    Results: MetricResultsType
    Interpretation: Text
    TestType: Text
    TestingDataDescription: Text
    ValidationProcessAndJustification: Text


class KeyMetricsType(Record):
    """The three ends of CHAI."""

    UsefulnessUsabilityEfficacy: KeyMetricType
    FairnessEquity: KeyMetricType
    SafetyReliability: KeyMetricType


class ResourcesType(Record):
    """Where to read on."""

    EvaluationReferences: Text | None = None
    ClinicalTrial: Text | None = None
    PeerReviewedPublications: Text
    ReimbursementStatus: Text | None = None
    PatientConsentOrDisclosure: Text


class AppliedModelCard(Record):
    """The root element of CHAI's schema; Bibliography is BibTeX and may be empty."""

    BasicInfo: BasicInfoType
    ReleaseInfo: ReleaseInfoType
    ModelSummary: ModelSummaryType
    UsesAndDirections: UsesAndDirectionsType
    Warnings: WarningsType
    TrustIngredients: TrustIngredientsType
    KeyMetrics: KeyMetricsType
    Resources: ResourcesType
    Bibliography: str = ""


class Answer(Record):
    """The answer to one item of a checklist.

    item: its number, such as "12a". topic: what it asks, in our words. site_key: of [disclosure] in the site's file,
    where the site answers it.
    """

    item: str
    section: str
    topic: str
    status: Status
    text: Text
    site_key: str = ""


class Checklist(Record):
    """A reporting guideline with an answer to every item, in its order."""

    name: str
    reference: str
    answers: tuple[Answer, ...]

    def count(self, status: Status) -> int:
        """How many items have this status."""
        return sum(answer.status == status for answer in self.answers)


class Disclosure(Record):
    """disclosure.json of a run.

    schema_name: of applied_model_card. complete: the program answered all that it can know, in the checklists and in
    the card; False names what is missing in `missing`. not_stated: keys of [disclosure] that the site has left open,
    in the order of the template; a promotion policy may ask for some of them or all.
    """

    run_id: str
    dataset_id: str
    schema_name: str = CHAI_NAME
    complete: bool
    missing: tuple[str, ...] = ()
    not_stated: tuple[str, ...] = ()
    applied_model_card: AppliedModelCard
    checklists: tuple[Checklist, ...]
