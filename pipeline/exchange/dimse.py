"""C-STORE SCU (PS3.4 annex B): files to a DICOM node as they are, with the fate of each."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association

from data_contracts.errors import DecodeError, ExchangeError, UsageError
from pipeline.exchange.associations import check_ae_title, send_at_once, silence_pynetdicom
from pipeline.exchange.instance_file import InstanceFacts, examine
from pipeline.exchange.push_result import PushBrokenError, PushResult, failure_of

#: presentation contexts of one association (PS3.8 section 9.3.2.2: odd numbers up to 255)
_MAX_CONTEXTS = 128
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_CHECK = "Check host, port, and the AE titles on both sides."
_VERIFICATION = "1.2.840.10008.1.1"
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


@dataclass(frozen=True)
class DicomNode:
    """A DICOM node. called_aet: its AE title. calling_aet: ours. attempts: associations tried before it is given up."""

    host: str
    port: int
    called_aet: str
    calling_aet: str = "NODULEFLOW"
    timeout_s: float = 30.0
    attempts: int = 4

    def __post_init__(self) -> None:
        """Raises UsageError for titles and ports that DICOM does not know."""
        check_ae_title(self.called_aet)
        check_ae_title(self.calling_aet)
        if not self.host or not 0 < self.port < 65536:
            raise UsageError("not the address of a DICOM node", where=self.name, todo="Give it as HOST:PORT.")

    @property
    def name(self) -> str:
        """Host and port: what a message may show."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class _File:
    path: Path
    facts: InstanceFacts

    @property
    def context(self) -> tuple[str, str]:
        return self.facts.sop_class_uid, self.facts.transfer_syntax


class _LostError(Exception):
    """The association is gone; what was not answered is sent again."""


def echo(node: DicomNode) -> None:
    """C-ECHO; raises ExchangeError where the node does not answer."""
    association = _associate(node, {(_VERIFICATION, "1.2.840.10008.1.2")})
    try:
        if association.send_c_echo().get("Status") != 0:
            raise ExchangeError("the DICOM node does not answer an echo", where=node.name)
    finally:
        association.release()


def push_dimse(files: Sequence[Path], node: DicomNode) -> PushResult:
    """Send DICOM files as they are, with a presentation context for each SOP Class and transfer syntax.

    Nothing is transcoded: a file whose transfer syntax the node refuses is listed as failed. Where the association
    breaks, a new one goes on with the files that were not acknowledged; the node takes a repeated one as the same.

    Raises
    ------
    PushBrokenError: the node cannot be reached, refuses the association, or is lost again and again.
    """
    silence_pynetdicom()
    # the file's own bytes are sent, in pieces, and never decoded
    _config.STORE_SEND_CHUNKED_DATASET = True
    result = PushResult()
    ready: list[_File] = []
    for path in files:
        try:
            ready.append(_File(path, examine(path)))
        except DecodeError as error:
            result.failed[path] = error.what
        except OSError as error:
            result.failed[path] = error.strerror or "cannot be read"
    for group in _groups(ready):
        _push_group(group, node, result)
    return result


def _groups(files: Sequence[_File]) -> Iterator[list[_File]]:
    """Files that fit into one association."""
    group: list[_File] = []
    contexts: set[tuple[str, str]] = set()
    for file in files:
        if len(contexts | {file.context}) > _MAX_CONTEXTS:
            yield group
            group, contexts = [], set()
        group.append(file)
        contexts.add(file.context)
    if group:
        yield group


def _push_group(files: list[_File], node: DicomNode, result: PushResult) -> None:
    left = files
    for attempt in range(1, node.attempts + 1):
        is_last = attempt == node.attempts
        try:
            left = _send(left, node, result, is_last)
        except _LostError:
            done = {*result.stored, *result.failed}
            left = [file for file in left if file.path not in done]
            if is_last:
                raise _broken(f"the DICOM node was lost {attempt} times", node, result) from None
        except ExchangeError as error:
            if is_last:
                raise _broken(error.what, node, result) from None
        if not left:
            return
        time.sleep(min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1))


def _broken(what: str, node: DicomNode, result: PushResult) -> PushBrokenError:
    todo = f"{len(result.stored)} files were stored. Send the same files again to go on."
    return PushBrokenError(what, where=node.name, todo=todo if result.stored else _CHECK, result=result)


def _send(files: list[_File], node: DicomNode, result: PushResult, is_last: bool) -> list[_File]:
    """Send over one association; returns the files for which the node had no room now."""
    association = _associate(node, {file.context for file in files})
    taken = {(str(item.abstract_syntax), str(item.transfer_syntax[0])) for item in association.accepted_contexts}
    crowded = []
    try:
        for number, file in enumerate(files):
            if file.context not in taken:
                result.enter(file.path, "the node does not take this SOP Class in this transfer syntax")
                continue
            try:
                status = association.send_c_store(file.path, msg_id=number % 65535 + 1).get("Status")
            except (RuntimeError, OSError):
                raise _LostError from None
            except (AttributeError, ValueError):
                result.enter(file.path, "its file meta information is not complete")
                continue
            if status is None:
                raise _LostError
            if status in _OUT_OF_RESOURCES and not is_last:
                crowded.append(file)
            else:
                result.enter(file.path, "" if status == 0 or 0xB000 <= status <= 0xBFFF else failure_of(status))
    finally:
        if association.is_established:
            association.release()
    return crowded


def _associate(node: DicomNode, contexts: set[tuple[str, str]]) -> Association:
    silence_pynetdicom()
    entity = AE(ae_title=node.calling_aet)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = node.timeout_s
    for sop_class, syntax in sorted(contexts):
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate(
        node.host, node.port, ae_title=node.called_aet, evt_handlers=[(evt.EVT_CONN_OPEN, send_at_once)]
    )
    if association.is_established:
        return association
    what = "the DICOM node refuses the association" if association.is_rejected else "the DICOM node cannot be reached"
    raise ExchangeError(what, where=node.name, todo=_CHECK)
