"""Trap series in fresh variants with their truth: volume x pose x encoding x damage, all out of one stream of draws.

`draw` takes a `random.Random` of a seed: a set on disk and a search by hypothesis make the same trap of the same seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import trap_damage  # noqa: F401  registers its kinds
import trap_multiframe  # noqa: F401  registers its kinds
from trap_files import LAYOUTS, LOSSLESS, NATIVE, QUIRKS, write_planes
from trap_kinds import KINDS, Draft
from trap_series import Plan, draw_plan, truth_and_planes


def draw(
    rng: random.Random,
    kind: str,
    patient: str,
    sources: Sequence[str] = (),
    *,
    small: bool = True,
    change: Callable[[Plan], None] | None = None,
) -> Draft:
    """One trap of a kind; everything the kind leaves open is drawn, and then changed by `change`."""
    chosen = KINDS[kind]
    plan = draw_plan(rng, sources, small=small)
    if "rescale" in chosen.fixed:
        plan.slope, plan.intercept, plan.signed, plan.high = 1.0, -1024.0, True, 3071
    if "syntax" not in chosen.fixed:
        plan.syntax = rng.choice([NATIVE[0], NATIVE[0], NATIVE[1], *NATIVE, *LOSSLESS])
    if "layout" not in chosen.fixed:
        plan.layout = rng.choice([*LAYOUTS, "flat", "flat"])
    if "quirks" not in chosen.fixed:
        plan.quirks = tuple(rng.sample(sorted(QUIRKS), rng.choice([0, 0, 1, 2, 3])))
    chosen.prepare(plan, rng)
    if change is not None:
        change(plan)
    truth, planes = truth_and_planes(plan, rng, patient)
    draft = Draft(rng, plan, patient, truth, planes, slack_mm=2 * plan.jitter_mm)
    for number, plane in enumerate(planes):
        for name in plan.quirks:
            if name == "untidy_numbers" and plan.rescale_of is not None:
                continue
            QUIRKS[name](plane, number, rng)
    chosen.damage(draft)
    return draft


def write(draft: Draft, folder: Path) -> None:
    """The files of a trap below a folder."""
    folder.mkdir(parents=True)
    write_planes(folder, draft.planes, draft.plan.layout, draft.rng)
    for name, data in draft.junk:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_set(
    folder: Path, seed: int, count: int, kinds: Sequence[str] = (), sources: Sequence[str] = (), *, small: bool = True
) -> dict[str, Draft]:
    """`count` traps below `folder`, every kind in turn, with truth and cases.json as judge_traps.py wants them."""
    names = list(kinds or KINDS)
    drafts = {}
    for number in range(count):
        kind = names[number % len(names)]
        case = f"{number:03d}_{kind}"
        draft = draw(random.Random(f"{seed} {number} {kind}"), kind, case, sources, small=small)
        write(draft, folder / case)
        draft.truth.save(folder / f"{case}.truth.npz")
        drafts[case] = draft
    cases = {case: {"expect": draft.expect} for case, draft in drafts.items()}
    (folder / "cases.json").write_text(json.dumps(cases, indent=1))
    return drafts


def described(draft: Draft) -> str:
    """The plan of a trap in one line, for a failing test."""
    plan: Plan = draft.plan
    return (
        f"{plan.voxels.rsplit('/', 1)[-1]} {plan.n}x{plan.rows}x{plan.columns} {plan.pose} step {plan.step_mm} "
        f"ps {plan.ps} shear {plan.shear} x{plan.slope} {plan.intercept:+} bits {plan.bits} signed {plan.signed} "
        f"{plan.syntax} preamble {plan.preamble} {plan.layout} "
        f"decimals {plan.decimals}/{plan.iop_decimals} {plan.quirks}"
    )
