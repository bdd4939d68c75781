"""What only the site can state of a version: the keys of [disclosure] in its TOML file, read, checked and as template.

No program knows who paid, which committee approved, or where in the care of a patient a score is read.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from data_contracts.errors import UsageError

#: a statement is a few sentences; more belongs into a document that it names
LONGEST_STATEMENT = 5000

#: key: what the site is asked. The order is that of the template.
SITE_QUESTIONS: dict[str, str] = {
    "developer": "Who made this version: group, department or company?",
    "contact": "Whom to ask about it: an office or a function, with an address.",
    "release_stage": "In which stage is it: research, silent trial, in use ...?",
    "availability": "In which countries or hospitals may it be used?",
    "regulatory_status": "Which approval does it have as a medical device, or why does it need none?",
    "clinical_risk_level": "Which risk class or risk level does it have, by which rule?",
    "clinical_setting": "Where in the care of a patient is the score read, by whom, and what may follow from it?",
    "target_population": "For which patients is it meant?",
    "background": "Which clinical question is behind it, and which models exist already?",
    "health_inequalities": "Which inequalities between groups of patients are known for this disease and this care?",
    "study_design": "Were the data gathered before or after the question was asked: prospective or retrospective?",
    "data_origin": "Where do the studies come from (routine care, screening, trial, public set), and why these?",
    "data_dates": "From when to when were the patients included?",
    "centres": "How many centres, where, and which level of care?",
    "eligibility": "Which patients and studies were let in, and which were left out?",
    "acquisition": "How were the images acquired: scanners, kernels, dose, contrast?",
    "demographics": "Age, sex and other characteristics of the patients in each part of the data.",
    "reference_rationale": "Why this reference standard, and not pathology or follow-up?",
    "readers": "Who annotated: how many, with which training and experience?",
    "reader_tools": "With which program and instructions were the held-out nodules annotated?",
    "reader_agreement": "How well did the readers agree, and how were disagreements settled?",
    "reader_blinding": "What did the readers not know when they annotated?",
    "sample_size": "How was the number of patients decided?",
    "ethics": "Which committee approved (name, number), or who waived it?",
    "consent": "How did the patients consent, or how are they told?",
    "funding": "Who paid, and which part did they have in the work?",
    "conflicts_of_interest": "Which interests do the people behind it declare?",
    "protocol": "Where is the study protocol, or was there none?",
    "registration": "Register and number of the study, or that it was not registered.",
    "data_availability": "Who can get the data, and how?",
    "model_availability": "Who can get the trained model and this program, and how?",
    "public_involvement": "Which part did patients and the public have?",
    "stakeholders": "Which clinicians, administrators or patients were asked?",
    "implications": "What does it mean for practice, and what stands in the way?",
    "future_work": "What is to be found out next, above all for other hospitals?",
    "maintenance": "Who watches it in use, how often, and when is it trained again?",
    "publications": "Peer-reviewed publications on this model, or that there are none.",
}
#: may be left out: CHAI's schema asks for them where there is something to say
OPTIONAL_QUESTIONS: dict[str, str] = {
    "ehr": "Health record systems that it works with, with commas between them.",
    "security": "Measures and certificates of security.",
    "third_party": "Programs, data or services of others that it needs.",
    "reimbursement": "How its use is paid for.",
    "bibliography": "References, in BibTeX.",
}
_NOT_APPLICABLE = "not applicable, because"


def check_statements(values: Mapping[str, object], *, where: str = "") -> dict[str, str]:
    """Statements by key, cleaned of control characters; those that are empty are left out.

    Raises
    ------
    UsageError: a key that nobody asks for, a value that is no text, or is too long.
    """
    known = {**SITE_QUESTIONS, **OPTIONAL_QUESTIONS}
    stated = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(
                f"unknown key {key[:60]!r} in [disclosure]",
                where=where,
                todo="`noduleflow disclose --template` writes a file with all keys.",
            )
        if not isinstance(value, str) or len(value) > LONGEST_STATEMENT:
            raise UsageError(f"disclosure.{key} must be text of at most {LONGEST_STATEMENT} characters", where=where)
        text = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in value).strip()
        if text:
            stated[key] = text
    return stated


def read_statements(path: Path) -> dict[str, str]:
    """Statements of the TOML file `path`, table [disclosure].

    Raises
    ------
    UsageError: it cannot be read, is no TOML, has no such table, or says something that nobody asks.
    """
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("cannot read the statements of the site", where=path.name) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not TOML: {error}", where=path.name) from None
    table = body.get("disclosure")
    if not isinstance(table, dict):
        raise UsageError("no table [disclosure]", where=path.name, todo="`noduleflow disclose --template` writes one.")
    return check_statements(table, where=path.name)


def is_not_applicable(statement: str) -> bool:
    """Whether the site says that a question does not apply to it, and why."""
    return statement.lower().startswith(_NOT_APPLICABLE) and len(statement) > len(_NOT_APPLICABLE) + 3


def statements_template(stated: Mapping[str, str] | None = None) -> str:
    """A TOML file with every question and what was stated already."""
    lines = [
        "# What only the site can state of its models, for the model card (disclosure.html) of every version.",
        '# An empty answer is shown as "not stated by the site". A question that does not apply is answered by',
        f'# "{_NOT_APPLICABLE} ..." in full words.',
        "",
        "[disclosure]",
    ]
    for title, questions in (("", SITE_QUESTIONS), ("# Optional.", OPTIONAL_QUESTIONS)):
        lines += [title] if title else []
        for key, question in questions.items():
            # A JSON string is a TOML basic string, but for the sign DEL, which check_statements has removed.
            answer = json.dumps((stated or {}).get(key, ""), ensure_ascii=False)
            lines += [f"# {question}", f"{key} = {answer}", ""]
    return "\n".join(lines)
