"""Where a DICOMweb service is, and how it is spoken to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from data_contracts.errors import UsageError


@dataclass(frozen=True)
class WebServer:
    """Address of a DICOMweb service and how to speak to it.

    url: the root to which /studies is added, without credentials in it. user, password; token: Basic, or Bearer.
    client_certificate, client_key, ca_bundle: PEM files for TLS. allow_plain_http: credentials may travel
    unencrypted to other hosts. timeout_s: to connect, between two pieces, and to receive 1 KB. attempts: how often a
    request is made before it counts as failed. connections: requests at a time.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    client_certificate: Path | None = None
    client_key: Path | None = None
    ca_bundle: Path | None = None
    allow_plain_http: bool = False
    timeout_s: float = 30.0
    attempts: int = 5
    connections: int = 4

    def __post_init__(self) -> None:
        """Raises UsageError for an address or credentials that cannot be used safely."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError("not the address of a DICOMweb server", todo="Give it as https://host[:port]/root.")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise UsageError(
                "the address of the server holds credentials or a query",
                todo="Set NODULEFLOW_DICOMWEB_USER and NODULEFLOW_DICOMWEB_PASSWORD, or NODULEFLOW_DICOMWEB_TOKEN.",
            )
        if bool(self.user) and bool(self.token):
            raise UsageError("both a user and a token are set for DICOMweb", todo="Set one of them.")
        if (self.user or self.token) and parts.scheme == "http" and not self.allow_plain_http and not _is_here(host):
            raise UsageError(
                "credentials would travel unencrypted to another host",
                where=self.name,
                todo="Use https, or set NODULEFLOW_DICOMWEB_PLAIN_HTTP=true where the network is trusted.",
            )
        for file in (self.client_certificate, self.client_key, self.ca_bundle):
            if file is not None and not file.is_file():
                raise UsageError("a certificate file of the DICOMweb settings is not there", where=file.name)

    @property
    def name(self) -> str:
        """Scheme, host and port: what a message may show."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def root(self) -> str:
        """The address without a slash at its end."""
        return self.url.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
