"""Every preset that comes with the program is one that training knows, and says what it is for."""

from __future__ import annotations

import pytest

from data_contracts.errors import UsageError
from data_contracts.params import ADAPTATION_METHODS
from flows.presets import assignments, preset_names, train_params


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_holds_known_parameters_and_a_heading(name, repository):
    params = train_params(name, {})
    assert params.preset == name
    lines = (repository / "flows" / "presets" / f"{name}.toml").read_text().splitlines()
    heading = "\n".join(line for line in lines if line.startswith("#"))
    assert "noduleflow " in heading
    assert any(word in heading for word in ("Score", "score", "not what it can"))


def test_only_the_presets_that_say_so_start_from_random_weights():
    assert [name for name in preset_names() if train_params(name, {}).weights == "none"] == [
        "scratch",
        "small-cnn",
        "student",
    ]


def test_every_adaptation_has_a_preset_and_these_differ_in_the_method_alone():
    named = {method: f"finetune-{method.removesuffix('-e')}" for method in ADAPTATION_METHODS if method != "cdan"}
    same = {"preset": "finetune-dann", "adaptation": ("dann",)}
    for method, name in named.items():
        params = train_params(name, {})
        assert params.adaptation == (method,)
        assert params.model_copy(update=same) == train_params("finetune-dann", {})


def test_presets_of_joint_training_and_concepts_differ_from_fine_tuning_in_that_alone():
    plain = train_params("finetune", {})
    for name, key in (("joint", "target_label_weight"), ("multi-task", "auxiliary_weight")):
        params = train_params(name, {})
        assert getattr(params, key) > 0
        assert params.model_copy(update={"preset": "finetune", key: 0.0}) == plain


def test_a_version_or_a_site_may_be_called_by_a_number():
    params = train_params("student", assignments(["teacher=1", "source_site=2"]))
    assert (params.teacher, params.source_site) == ("1", "2")


@pytest.mark.parametrize("pair", ["seed=-1", "auxiliary_weights={margin = -5}", "auxiliary_weights={margin = nan}"])
def test_numbers_that_no_fit_can_mean_are_refused_before_it(pair):
    with pytest.raises(UsageError, match=pair.partition("=")[0]):
        train_params("finetune", assignments([pair]))
