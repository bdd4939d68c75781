"""The audit: appended, chained, verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_contracts.errors import ContractError, UsageError
from flows.registry.audit import append_audit, read_audit, verify_audit
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
