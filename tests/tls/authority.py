"""A certificate authority of our own, and the certificates that it issues."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_USE = ["-addext", "keyUsage=critical,keyCertSign"]


class Authority:
    """`file` is its certificate, for those who are to trust it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self.file, self._key = directory / f"{name}.crt", directory / f"{name}.key"
        _openssl("req", "-x509", *_KEY, *_USE, "-days", "2", "-subj", f"/CN={name}", *_to(self._key, self.file))

    def issue(self, name: str, *, days: int = 2) -> bytes:
        """A certificate for the host `name`, with its key; of -1 `days` it has expired."""
        stem = self._directory / f"{self._name}-{name}-{days}"
        key, request, certificate = (stem.with_suffix(suffix) for suffix in (".key", ".csr", ".crt"))
        extensions = stem.with_suffix(".ext")
        extensions.write_text(f"subjectAltName=DNS:{name}\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", *_to(key, request))
        signed = ["-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, *signed, "-days", str(days), "-out", certificate)
        return key.read_bytes() + certificate.read_bytes()


def _to(key: Path, out: Path) -> list[str | Path]:
    return ["-keyout", key, "-out", out]


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
