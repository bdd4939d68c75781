"""A version is loaded and asked its golden cases before it becomes champion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data_contracts.errors import ContractError, GateRefusedError, NoduleflowError
from data_contracts.versions import GoldenAnswer, VersionManifest

_TIMEOUT_S = 120
#: what versions of these manifests answered in this process; the same bytes answer the same
_answered: dict[str, GoldenAnswer] = {}


class Rehearsal:
    """Golden cases asked of one run folder, in another process while this one is busy, or in this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Rehearsal:
        """Begin in another process, where torch is not loaded in this one yet."""
        if "torch" not in sys.modules and (self.folder / "model_card.json").is_file():
            command = [sys.executable, "-m", "flows.registry.golden", str(self.folder)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def stop(self) -> None:
        """End the other process, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _answer(self) -> GoldenAnswer:
        if self._process is None:
            from flows.registry.golden import ask_golden

            return ask_golden(self.folder)
        try:
            said, complaint = self._process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.stop()
            raise GateRefusedError(f"the version gave no answer in {_TIMEOUT_S} s", where=self.folder.name) from None
        if self._process.returncode:
            lines = complaint.strip().splitlines()
            raise GateRefusedError(f"the version cannot be loaded ({lines[-1] if lines else 'killed'})")
        return GoldenAnswer.from_json(said)

    def judge(self, version: str, manifest: VersionManifest, digest: str) -> GoldenAnswer:
        """The answer, which must be that of the registered files and agree with the kept one.

        Raises
        ------
        GateRefusedError: it cannot be loaded, says something else than it did, or other files were loaded.
        """
        if digest and digest in _answered:
            self.stop()
            return _answered[digest]
        try:
            answer = self._answer()
        except GateRefusedError:
            raise
        except ContractError as error:
            raise GateRefusedError(f"version {version} gave no answer ({error.what})") from None
        except NoduleflowError as error:
            raise GateRefusedError(f"version {version} cannot be loaded ({error.line()})") from None
        changed = [name for name, sha256 in answer.files.items() if manifest.files.get(name, sha256) != sha256]
        if changed:
            raise GateRefusedError(f"version {version} was changed while it was loaded", where=changed[0])
        if not answer.difference <= 1.0:
            raise GateRefusedError(
                f"version {version} does not score its golden cases as it did: {answer.difference:.1f} times the "
                "difference that another processor makes",
                where=f"runs/{self.folder.name}",
                todo="Its files are whole, so this installation computes otherwise: `noduleflow doctor`.",
            )
        if digest:
            _answered[digest] = answer
        return answer
