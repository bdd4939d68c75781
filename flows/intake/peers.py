"""The servers and nodes we speak to, as the command line and the settings describe them."""

from __future__ import annotations

from pathlib import Path

from data_contracts.errors import UsageError
from flows.settings import Settings
from pipeline.exchange.dimse import DicomNode
from pipeline.exchange.listener import ListenerParams
from pipeline.exchange.web_server import WebServer


def dicomweb_server(url: str) -> WebServer:
    """The server at an address, with the credentials and limits of the settings.

    Raises
    ------
    UsageError: an address that is none, or credentials that would travel in the open.
    """
    settings = Settings()
    return WebServer(
        url,
        user=settings.dicomweb_user,
        password=settings.dicomweb_password.get_secret_value() if settings.dicomweb_password else "",
        token=settings.dicomweb_token.get_secret_value() if settings.dicomweb_token else "",
        client_certificate=_file(settings.dicomweb_client_certificate),
        client_key=_file(settings.dicomweb_client_key),
        ca_bundle=_file(settings.dicomweb_ca_bundle),
        allow_plain_http=settings.dicomweb_plain_http,
        timeout_s=settings.exchange_timeout_s,
        attempts=settings.exchange_attempts,
        connections=settings.dicomweb_connections,
    )


def dicom_node(address: str, called_aet: str, calling_aet: str) -> DicomNode:
    """The DICOM node at HOST:PORT; raises UsageError where it is not written so."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise UsageError("not the address of a DICOM node", todo="Give it as HOST:PORT.")
    settings = Settings()
    return DicomNode(
        host.strip("[]"), int(port), called_aet, calling_aet, settings.exchange_timeout_s, settings.exchange_attempts
    )


def listener_params(host: str, port: int, aet: str) -> ListenerParams:
    """Where to listen, with the limits of the settings."""
    settings = Settings()
    return ListenerParams(
        host,
        port,
        aet,
        calling_aets=_words(settings.dicom_calling_aets),
        calling_hosts=_words(settings.dicom_calling_hosts),
        check_called_aet=settings.dicom_check_called_aet,
        max_pdu_bytes=settings.dicom_max_pdu_bytes,
        max_associations=settings.dicom_max_associations,
        timeout_s=settings.exchange_timeout_s,
    )


def _file(path: Path | None) -> Path | None:
    """The path, or None for a variable that is set and empty."""
    return None if path is None or path == Path() else path


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
