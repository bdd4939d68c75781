"""People's words for a version: audited, signed, and bound to the bytes that the version had."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from data_contracts.errors import ContractError, UsageError
from data_contracts.promotion import PromotionPolicy
from data_contracts.records import digest_of
from data_contracts.spelling import is_plain, one_spacing, same_name
from data_contracts.versions import SignOff
from flows.registry.audit import append_audit
from flows.registry.keys import audit_key, same, sign_record
from flows.settings import Settings, actor_name
from flows.workspace import Workspace

if TYPE_CHECKING:
    from flows.registry.versions import Registry

_TAG, _PURPOSE = "noduleflow.signoff.", "sign-off"


def sign_off(workspace: Workspace, settings: Settings, version: str, *, name: str, comment: str = "") -> SignOff:
    """Write a person's word for a version into the audit and beside the version; again, it is renewed.

    Raises
    ------
    UsageError: no such version, no name, one that cannot be shown as it is, or a version of an earlier program, which
        has no manifest to sign.
    WeightsDigestError: the version is not what was registered, so nobody can sign it.
    """
    from flows.registry.versions import Registry

    if not is_plain(name) or not is_plain(comment):
        raise UsageError("a sign-off's name and comment hold no control or invisible characters, and no line ends")
    name, comment = one_spacing(name), one_spacing(comment)
    if not same_name(name) or len(name) > 80 or len(comment) > 500:
        raise UsageError("a sign-off needs a name of 1 to 80 characters, and a comment of at most 500")
    registry = Registry(workspace, settings.model_name)
    number = registry.resolve(version)
    named = registry.named(number)
    if not named.manifest_sha256:
        raise UsageError(
            f"version {number} was registered by an earlier program and has no manifest to sign",
            todo="Give the `noduleflow train` that made it once more: it seals the version.",
        )
    registry.verified(named)
    signed = SignOff(
        version=number,
        manifest_sha256=named.manifest_sha256,
        name=name,
        comment=comment,
        actor=actor_name(settings),
        time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    signed = signed.model_copy(update={"mac": sign_record(audit_key(workspace), _PURPOSE, signed)})
    append_audit(
        workspace,
        actor=signed.actor,
        action="signoff",
        subject=number,
        detail=signed.model_dump(mode="json", exclude={"actor", "time_utc", "mac"}),
        model_name=settings.model_name,
    )
    registry.client.set_model_version_tag(
        settings.model_name, number, _TAG + digest_of(same_name(name)), signed.model_dump_json()
    )
    return signed


def sign_offs(registry: Registry, version: str, manifest_sha256: str) -> list[SignOff]:
    """The words for these bytes of a version, one a name, by name; what is not signed with our key does not count."""
    found = []
    tags = dict(registry.client.get_model_version(registry.model_name, version).tags)
    for tag, text in sorted(tags.items()):
        if not tag.startswith(_TAG):
            continue
        try:
            signed = SignOff.from_json(text)
        except ContractError:
            continue
        ours = same(signed.mac, sign_record(audit_key(registry.workspace), _PURPOSE, signed))
        if ours and (signed.version, signed.manifest_sha256) == (version, manifest_sha256):
            found.append(signed)
    return sorted({same_name(signed.name): signed for signed in found}.values(), key=lambda signed: signed.name)


def counted(signed: list[SignOff], policy: PromotionPolicy, trained_by: str) -> list[SignOff]:
    """Those that a policy counts: of people who did not train the version, where it asks for that."""
    if not policy.signer_is_not_trainer:
        return signed
    return [one for one in signed if same_name(trained_by) not in (same_name(one.name), same_name(one.actor))]


def waiting(registry: Registry, policy: PromotionPolicy) -> list[str]:
    """Versions newer than the champion that still need people's words, a sentence each."""
    if not policy.signoffs:
        return []
    champion = int(registry.alias("champion") or 0)
    sentences = []
    for found in registry.versions():
        number = str(found.version)
        if int(number) <= champion:
            continue
        manifest = found.tags.get("noduleflow.manifest_sha256", "")
        signed = counted(sign_offs(registry, number, manifest), policy, found.tags.get("noduleflow.trained_by", ""))
        if len(signed) < policy.signoffs:
            names = f" ({', '.join(one.name for one in signed)})" if signed else ""
            sentences.append(f"version {number} has {len(signed)} of {policy.signoffs} sign-offs{names}")
    return sentences


def policy_of(settings: Settings) -> PromotionPolicy:
    """The installation's policy, or the default one."""
    from flows.registry.policy import read_policy

    return read_policy(settings.policy)
