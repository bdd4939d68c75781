"""The audit: appended, chained, verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_contracts.errors import ContractError, RegistryError, UsageError
from data_contracts.promotion import AuditRecord
from data_contracts.versions import AuditAnchor, ChainEnd
from flows.registry import anchor, audit
from flows.registry.anchor import digest_of_line, mac_of_line, write_anchor
from flows.registry.audit import append_audit, read_audit, verify_audit
from flows.registry.keys import audit_key
from flows.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / "ws").create()
    for version in range(4):
        append_audit(
            found, actor="a", action="promote_intent", subject=str(version), detail={"auc": 0.9 + version / 100}
        )
    return found


def lines_of(workspace: Workspace) -> list[str]:
    return workspace.audit_file.read_text().splitlines()


def test_an_untouched_chain_holds(workspace: Workspace) -> None:
    assert verify_audit(workspace) == []
    assert [record.sequence for record in read_audit(workspace)] == [0, 1, 2, 3]


def test_an_edited_line_is_found_and_named(workspace: Workspace) -> None:
    lines = lines_of(workspace)
    body = json.loads(lines[2])
    body["detail"]["auc"] = 0.99
    lines[2] = json.dumps(body)
    workspace.audit_file.write_text("\n".join(lines) + "\n")
    assert verify_audit(workspace) == ["line 3: its content was changed"]


def test_a_dropped_line_is_found_and_named(workspace: Workspace) -> None:
    lines = lines_of(workspace)
    workspace.audit_file.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert any(fault.startswith("line 2") for fault in verify_audit(workspace))


def test_swapped_lines_are_found(workspace: Workspace) -> None:
    lines = lines_of(workspace)
    workspace.audit_file.write_text("\n".join([lines[0], lines[2], lines[1], lines[3]]) + "\n")
    assert any(fault.startswith("line 2") for fault in verify_audit(workspace))


def test_a_line_torn_by_a_kill_is_dropped_and_the_chain_goes_on(workspace: Workspace) -> None:
    with workspace.audit_file.open("ab") as stream:
        stream.write(b'{"sequence": 4, "time_u')
    append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})
    assert verify_audit(workspace) == []
    assert len(read_audit(workspace)) == 5


def test_a_line_that_is_no_record_is_named(workspace: Workspace) -> None:
    workspace.audit_file.write_text("\n".join([*lines_of(workspace)[:1], "nonsense"]) + "\n")
    with pytest.raises(ContractError, match="audit line 2"):
        verify_audit(workspace)


def test_an_unknown_action_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="unknown audit action"):
        append_audit(workspace, actor="a", action="celebrate", subject="1", detail={})


def test_a_tail_that_was_cut_off_is_found_and_nothing_is_written_after_it(workspace: Workspace) -> None:
    workspace.audit_file.write_text("\n".join(lines_of(workspace)[:2]) + "\n")
    assert verify_audit(workspace) == ["lines 3 to 4 are gone: 4 records were written, says the anchor"]
    with pytest.raises(RegistryError, match="the audit was cut"):
        append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})
    assert len(lines_of(workspace)) == 2


def test_a_deleted_file_is_found(workspace: Workspace) -> None:
    workspace.audit_file.unlink()
    assert verify_audit(workspace) == ["the file is gone: 4 records were written, says the anchor"]
    with pytest.raises(RegistryError, match="4 records is gone"):
        append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})


def test_the_end_that_mlflow_knows_counts_where_the_anchor_was_cut_too(workspace: Workspace) -> None:
    early = workspace.root / "registry" / "anchor.json"
    kept = early.read_bytes(), workspace.audit_file.read_bytes()
    record = append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})
    early.write_bytes(kept[0])
    workspace.audit_file.write_bytes(kept[1])
    assert verify_audit(workspace) == []
    known = ChainEnd(length=5, head=record.digest)
    assert verify_audit(workspace, known) == ["line 5 is gone: 5 records were written, says MLflow"]


def test_a_chain_made_anew_without_the_key_is_found(workspace: Workspace) -> None:
    previous, lines = "0" * 64, []
    for record in read_audit(workspace):
        forged = record.model_copy(update={"actor": "nobody", "previous": previous})
        previous = digest_of_line(forged)
        lines.append(forged.model_copy(update={"digest": previous}).model_dump_json())
    workspace.audit_file.write_text("\n".join(lines) + "\n")
    faults = verify_audit(workspace)
    assert [f"line {n}: it was not sealed with the key of this workspace" in faults for n in (1, 2, 3, 4)] == [True] * 4
    with pytest.raises(RegistryError, match="audit line 4"):
        append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})


@pytest.mark.parametrize("n_lines", [1, 3, 4])
def test_lines_whose_seals_were_taken_are_found_also_where_they_are_the_first_or_all(
    workspace: Workspace, n_lines: int
) -> None:
    lines = lines_of(workspace)
    for number in range(n_lines):
        lines[number] = AuditRecord.from_json(lines[number]).model_dump_json(exclude={"mac"})
    workspace.audit_file.write_text("\n".join(lines) + "\n")
    assert verify_audit(workspace)[:n_lines] == [f"line {number + 1}: it has no seal" for number in range(n_lines)]


def test_lines_without_an_anchor_are_found_and_nothing_is_written_after_them(workspace: Workspace) -> None:
    (workspace.root / "registry" / "anchor.json").unlink()
    workspace.audit_file.write_text(lines_of(workspace)[0] + "\n")
    assert verify_audit(workspace) == ["the anchor of the audit is gone"]
    with pytest.raises(RegistryError, match="the anchor of the audit is gone"):
        append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})


def test_a_line_that_only_reads_alike_is_found(workspace: Workspace) -> None:
    lines = lines_of(workspace)
    lines[1] = json.dumps(json.loads(lines[1]))
    workspace.audit_file.write_text("\n".join(lines) + "\n")
    assert "line 2: its content was changed" in verify_audit(workspace)


def test_a_changed_anchor_is_found(workspace: Workspace) -> None:
    path = workspace.root / "registry" / "anchor.json"
    body = json.loads(path.read_text())
    body["end"]["length"] = 2
    path.write_text(json.dumps(body))
    assert "the anchor of the audit was changed, or is of another key" in verify_audit(workspace)
    with pytest.raises(RegistryError, match="anchor"):
        append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})


def test_an_anchor_of_another_program_says_how_to_go_on(workspace: Workspace) -> None:
    append_audit(workspace, actor="a", action="policy", subject="s", detail={})
    (workspace.root / "registry" / "anchor.json").write_text('{"last_move": null}')
    with pytest.raises(RegistryError, match="none that this program writes") as caught:
        append_audit(workspace, actor="a", action="policy", subject="s", detail={})
    assert "doctor --mend" in caught.value.todo


def test_the_key_is_for_its_owner_alone(workspace: Workspace) -> None:
    path = workspace.root / "registry" / "audit.key"
    path.chmod(0o644)
    append_audit(workspace, actor="a", action="promote_done", subject="3", detail={})
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_kill_between_the_line_and_its_anchor_loses_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(audit, "advanced", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append_audit(workspace, actor="a", action="promote_done", subject="9", detail={})
    assert verify_audit(workspace) == []
    record = append_audit(workspace, actor="a", action="promote_refused", subject="9", detail={})
    assert record.sequence == 5 and verify_audit(workspace) == []


def test_a_kill_behind_the_very_first_line_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Workspace(tmp_path / "new").create()
    with monkeypatch.context() as patched:
        patched.setattr(audit, "advanced", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append_audit(new, actor="a", action="promote_done", subject="9", detail={})
    assert verify_audit(new) == []
    assert append_audit(new, actor="a", action="promote_refused", subject="9", detail={}).sequence == 1


def test_an_append_reads_the_end_of_the_file_and_not_all_of_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 000 lines stand before it: only the last line and the anchor are looked at."""
    filler = lines_of(workspace)[-1]
    record = read_audit(workspace)[-1].model_copy(update={"sequence": 100_004})
    digest = digest_of_line(record)
    record = record.model_copy(update={"digest": digest, "mac": mac_of_line(audit_key(workspace), digest)})
    with workspace.audit_file.open("a") as stream:
        stream.write(f"{filler}\n" * 100_000 + record.model_dump_json() + "\n")
    size = workspace.audit_file.stat().st_size
    write_anchor(workspace, AuditAnchor(end=ChainEnd(length=100_005, head=digest, size_bytes=size)))
    parsed = []
    monkeypatch.setattr(anchor, "_parsed", lambda raw, number: parsed.append(number) or AuditRecord.from_json(raw))
    appended = append_audit(workspace, actor="a", action="promote_refused", subject="9", detail={})
    assert appended.sequence == 100_005
    assert len(parsed) == 1
