"""What both ends of a DICOM association need: titles that are ones, silence in the logs, no waiting for packets."""

from __future__ import annotations

import contextlib
import logging
import socket

from pynetdicom import _config, evt

from data_contracts.errors import UsageError


def check_ae_title(title: str) -> None:
    """Raises UsageError for what is no AE title (PS3.5 section 6.2: 1 to 16 printable characters)."""
    if not (0 < len(title.strip()) <= 16 and title.isascii() and title.isprintable() and "\\" not in title):
        raise UsageError("not an AE title", where=title[:20], todo="Give 1 to 16 printable characters.")


def send_at_once(event: evt.Event) -> None:
    """Small answers wait for nothing: with Nagle's algorithm each C-STORE takes some 40 ms longer."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        with contextlib.suppress(OSError):
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def silence_pynetdicom() -> None:
    """Its loggers write whole data sets; names would be in them."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    logger = logging.getLogger("pynetdicom")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("pynetdicom."):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
