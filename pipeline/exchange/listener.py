"""A C-STORE SCP (PS3.4 annex B): what a PACS sends goes to the inbox, and is acknowledged once it is safe."""

from __future__ import annotations

import errno
import ipaddress
import threading
import time
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from typing import cast

from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import ThreadedAssociationServer

from data_contracts.errors import DecodeError, ExchangeError, UsageError
from pipeline.exchange.associations import check_ae_title, send_at_once, silence_pynetdicom
from pipeline.exchange.inbox import Inbox, MismatchError
from pipeline.pixels.codecs import is_supported

_VERIFICATION = "1.2.840.10008.1.1"
_SUCCESS, _NO_ROOM, _FAILED, _MISMATCH, _MALFORMED = 0x0000, 0xA700, 0x0110, 0xA900, 0xC000
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class ListenerParams:
    """Where to listen and whom to serve.

    aet: our AE title. calling_aets, calling_hosts: who may send; empty is everybody. Hosts are addresses or networks
    (10.1.2.0/24). check_called_aet: turn away who calls another title than ours. max_pdu_bytes: largest PDU we take.
    timeout_s: of a silent association.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    aet: str = "NODULEFLOW"
    calling_aets: tuple[str, ...] = ()
    calling_hosts: tuple[str, ...] = ()
    check_called_aet: bool = False
    max_pdu_bytes: int = 131_072
    max_associations: int = 10
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises UsageError for values that DICOM does not know."""
        for title in (self.aet, *self.calling_aets):
            check_ae_title(title)
        for host in self.calling_hosts:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError:
                raise UsageError("a calling host is no address or network", where=host) from None

    def serves(self, address: str) -> bool:
        """Whether a host may send."""
        if not self.calling_hosts:
            return True
        return any(
            ipaddress.ip_address(address) in ipaddress.ip_network(host, strict=False) for host in self.calling_hosts
        )


class Listener:
    """Receives until it is stopped. `outcomes` counts what became of the C-STORE requests."""

    def __init__(self, inbox: Inbox, params: ListenerParams) -> None:
        self.outcomes: Counter[str] = Counter()
        self._inbox = inbox
        self._params = params
        self._lock = threading.Lock()
        self._stopping = threading.Lock()
        self._busy: dict[Association, set[str]] = {}
        self._last_s = time.monotonic()
        silence_pynetdicom()
        entity = AE(ae_title=params.aet)
        entity.maximum_pdu_size = params.max_pdu_bytes
        entity.maximum_associations = params.max_associations
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = params.timeout_s
        entity.require_called_aet = params.check_called_aet
        entity.require_calling_aet = list(params.calling_aets)
        entity.supported_contexts = contexts_we_take()
        self._entity = entity
        self._server: ThreadedAssociationServer | None = None

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        ExchangeError: the port is taken, or may not be used.
        """
        self._inbox.clear_unfinished()
        handlers = [
            (evt.EVT_CONN_OPEN, send_at_once),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_end),
            (evt.EVT_ABORTED, self._on_end),
            (evt.EVT_CONN_CLOSE, self._on_end),
        ]
        address = (self._params.host, self._params.port)
        try:
            self._server = self._entity.start_server(address, block=False, evt_handlers=handlers)  # type: ignore[arg-type]
        except OSError as error:
            raise ExchangeError(
                f"cannot listen ({error.strerror})",
                where=f"{self._params.host}:{self._params.port}",
                todo="Another listener runs there, or the address is not this machine's. Choose another --port.",
            ) from None

    def busy(self) -> set[str]:
        """Folders of the inbox to which open associations have written."""
        with self._lock:
            return set().union(*self._busy.values())

    def idle_s(self) -> float:
        """Seconds since the last request; 0 while an association is open."""
        with self._lock:
            return 0.0 if self._busy else time.monotonic() - self._last_s

    def stop(self, grace_s: float) -> None:
        """Take no new association, let the open ones end within `grace_s`, then abort them; returns when it is done."""
        with self._stopping:
            server, self._server = self._server, None
            if server is not None:
                self._stop(server, grace_s)

    def _stop(self, server: ThreadedAssociationServer, grace_s: float) -> None:
        server.shutdown()
        deadline = time.monotonic() + grace_s
        while server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        for association in server.active_associations:
            association.abort()
        self._entity.shutdown()

    def _on_request(self, event: evt.Event) -> None:
        association = event.assoc
        with self._lock:
            self._last_s = time.monotonic()
        if not self._params.serves(str(association.requestor.address)):
            association.acse.send_reject(0x01, 0x01, 0x01)
            association.kill()  # waits until the refusal is sent
            self._count("association refused")
            return
        with self._lock:
            self._busy[association] = set()
        _prefer_as_asked(association)

    def _on_end(self, event: evt.Event) -> None:
        with self._lock:
            if self._busy.pop(event.assoc, None) is not None:
                self._last_s = time.monotonic()

    def _on_echo(self, event: evt.Event) -> int:
        self._count("echo")
        return _SUCCESS

    def _on_store(self, event: evt.Event) -> int:
        """Store one instance; anything but success tells the sender to keep it."""
        status, outcome = _FAILED, "failed"
        try:
            request = cast(C_STORE, event.request)
            head = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
            received = self._inbox.put(
                event.assoc.requestor.ae_title.strip(),
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                (head, cast(BytesIO, request.DataSet).getbuffer()),
            )
            with self._lock:
                self._busy.setdefault(event.assoc, set()).add(received.study)
            status, outcome = _SUCCESS, "stored" if received.is_new else "repeated"
        except MismatchError:
            status, outcome = _MISMATCH, "not as announced"
        except DecodeError:
            status, outcome = _MALFORMED, "malformed"
        except OSError as error:
            if error.errno in _FULL:
                status, outcome = _NO_ROOM, "no room on the disk"
        except Exception:  # a hostile request must not end the association of an honest one
            status = _FAILED
        self._count(outcome)
        return status

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            self._last_s = time.monotonic()


def contexts_we_take() -> list[PresentationContext]:
    """Every storage SOP Class, in every transfer syntax whose pixels can be decoded, and verification.

    What is no CT is taken too: senders pass on whole studies, and ingest lists what it cannot use.
    """
    syntaxes: list[str | UID] = [syntax for syntax in AllTransferSyntaxes if is_supported(str(syntax))]
    contexts = [build_context(context.abstract_syntax or "", syntaxes) for context in AllStoragePresentationContexts]
    return [*contexts, build_context(_VERIFICATION)]


def _prefer_as_asked(association: Association) -> None:
    """Choose, of several transfer syntaxes of one context, the one the sender names first: it need not transcode."""
    asked: dict[str, list[str]] = {}
    for context in association.requestor.primitive.presentation_context_definition_list:  # type: ignore[union-attr]
        asked.setdefault(str(context.abstract_syntax), []).extend(str(syntax) for syntax in context.transfer_syntax)
    ours = {str(context.abstract_syntax): context for context in association.acceptor.supported_contexts}
    chosen = []
    for sop_class, syntaxes in asked.items():
        if sop_class in ours:
            taken = {str(syntax) for syntax in ours[sop_class].transfer_syntax}
            common = [syntax for syntax in dict.fromkeys(syntaxes) if syntax in taken]
            chosen.append(build_context(sop_class, common) if common else ours[sop_class])
    association.acceptor.supported_contexts = chosen
