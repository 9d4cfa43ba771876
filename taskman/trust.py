"""Whose certificates a server may have, and what to say of one that does not pass: for workers, CLI and SDK alike."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpcore2

from .errors import ConfigError

__all__ = ["distrust", "trusting"]

# Verdicts of OpenSSL, see x509_vfy.h. Python has no names for them.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME = frozenset({62, 64})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})


def trusting(ca_file: str = "") -> ssl.SSLContext:
    """A context that trusts the authorities in `ca_file`; when that is empty, those that SSL_CERT_FILE or SSL_CERT_DIR
    name, or the system's. Blocks for some milliseconds.

    Raises: ConfigError when they cannot be read.
    """
    try:
        if ca_file:
            return ssl.create_default_context(cafile=Path(ca_file).expanduser())
        return httpcore2.default_ssl_context()
    except OSError as error:
        why = "no certificate in PEM is in it" if isinstance(error, ssl.SSLError) else error.strerror or error
        raise ConfigError(f"{_authorities(ca_file)} cannot be read: {why}") from None


def distrust(error: BaseException, url: str, ca_file: str = "") -> str:
    """What is wrong with the certificate of the server at `url`, or its TLS, and what to do; '' for any other error."""
    found = _tls_error(error)
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"the certificate of {url} is refused, and no token was sent: {_fault(found, url, ca_file)}"
    if found is not None and found.reason in _NO_TLS:
        return f"{url} does not speak TLS: where that is right, write TASKMAN_SERVER with http://"
    return ""


def _fault(error: ssl.SSLCertVerificationError, url: str, ca_file: str) -> str:
    code = error.verify_code
    if code in _UNKNOWN_AUTHORITY:
        return (
            f"no authority in {_authorities(ca_file)} has issued it ({error.verify_message}). Set TASKMAN_CA_FILE to a "
            "file with the certificate of its authority, and let the server send what is between the two"
        )
    if code in _OTHER_NAME:
        host = urlsplit(url).hostname
        return f"it is for another name than '{host}'. Set TASKMAN_SERVER to a name that it is for, or add this one"
    if code == _EXPIRED:
        return f"it has expired. Renew it on the server; {_clock()}"
    if code == _NOT_YET_VALID:
        return f"it is not valid yet. Correct it on the server; {_clock()}"
    return f"{error.verify_message}. Replace it on the server"


def _clock() -> str:
    return f"here it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, if that is wrong set the clock"


def _authorities(ca_file: str) -> str:
    if ca_file:
        return f"'{ca_file}' (TASKMAN_CA_FILE)"
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if value := os.environ.get(name):
            return f"'{value}' ({name})"
    return "this machine's certificate store"


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The error of OpenSSL that others stand for."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error
