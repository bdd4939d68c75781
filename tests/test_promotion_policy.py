"""A policy that cannot mean what it says is refused when it is read, in one line that names its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_contracts.errors import UsageError
from flows.registry.policy import read_policy
from flows.whole.nightly_config import read_config


def policy_file(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('require_statements = ["ethicss"]', "'require_statements': 'ethicss' is no key of .disclosure.; 'ethics' is"),
        ('require_statements = ["security"]', "'require_statements': 'security' is optional"),
        ("min_auc = nan", "'min_auc'.*finite"),
        ("max_ece = inf", "'max_ece'.*finite"),
        ("max_calibration_slope = nan", "'max_calibration_slope'.*finite"),
        ("min_auc = true", "'min_auc'.*number"),
        ("min_auc = 80", "'min_auc'.*less than or equal to 1"),
        ('min_auc = "0.8"', "'min_auc'.*number"),
        ("min_test_nodules = -5", "'min_test_nodules'.*greater"),
        ("min_test_nodules = 20.0", "'min_test_nodules'.*integer"),
        ("require_pretrained = 1", "'require_pretrained'.*boolean"),
        ("min_calibration_slope = 1.2\nmax_calibration_slope = 0.8", "min_calibration_slope 1.2 is above max_"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        read_policy(policy_file(tmp_path, text))
    assert "\n" not in refused.value.line()


def test_the_policy_of_a_whole_run_is_read_as_strictly(tmp_path: Path) -> None:
    path = policy_file(tmp_path, 'sources = [{path = "scans"}]\n[policy]\nrequire_statements = ["ethicss"]\n')
    with pytest.raises(UsageError, match="ethicss"):
        read_config(path)


def test_a_policy_that_means_something_is_read(tmp_path: Path) -> None:
    text = (
        'min_auc = 1\nmin_calibration_slope = 0.8\nmax_calibration_slope = 1.2\nrequire_statements = ["ethics", "all"]'
    )
    policy = read_policy(policy_file(tmp_path, text))
    assert policy.min_auc == 1.0 and policy.require_statements == ("ethics", "all")
