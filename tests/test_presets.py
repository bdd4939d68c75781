"""Every preset that comes with the program is one that training knows, and says what it is for."""

from __future__ import annotations

import pytest

from flows.presets import preset_names, train_params


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
