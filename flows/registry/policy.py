"""The promotion policy: a TOML file, or the installation's, or the defaults."""

from __future__ import annotations

import tomllib
from pathlib import Path

from data_contracts.errors import UsageError
from data_contracts.params import Params
from data_contracts.promotion import PromotionPolicy
from flows.settings import Settings


class PolicyFile(Params, PromotionPolicy):
    """A policy as parameters, so that an unknown key is refused by name."""

    def policy(self) -> PromotionPolicy:
        return PromotionPolicy(**self.model_dump())


def read_policy(path: Path | None) -> PromotionPolicy:
    """The policy of a TOML file, or the default one; raises UsageError naming the key that is wrong."""
    if path is None:
        return PromotionPolicy()
    try:
        values = tomllib.loads(path.read_text())
    except OSError:
        raise UsageError("the policy file cannot be read", where=str(path)) from None
    except ValueError as error:
        raise UsageError(f"the policy file is not TOML ({error})", where=path.name) from None
    return PolicyFile.from_mapping(values, where=path.name).policy()


def policy_in_force(settings: Settings, given: Path | None) -> PromotionPolicy:
    """The policy that a promotion is judged by: the installation's where it has one, else the one given.

    Raises
    ------
    UsageError: another one is given than the installation's.
    """
    if settings.policy is None:
        return read_policy(given)
    fixed = read_policy(settings.policy)
    if given is not None and read_policy(given) != fixed:
        raise UsageError(
            "this installation fixes the policy",
            where=str(settings.policy),
            todo="Leave --policy away, or change NODULEFLOW_POLICY.",
        )
    return fixed
