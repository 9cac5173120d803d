"""Private files and certificates: who may read them, and until when they hold."""

from __future__ import annotations

import datetime
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tapestry.cli.checkup.finding import Finding, fail, ok, warn
from tapestry.cli.output import human_seconds

DAY_S: Final = 86_400.0
SOON_S: Final = 30 * DAY_S


def check_modes(folder: Path, names: tuple[str, ...], what: str) -> Iterator[Finding]:
    """That nobody but their owner may read these files of a folder; those that are not there are passed
    over."""
    open_to_others = []
    found = [path for name in names for path in sorted(folder.glob(name))]
    for path in found:
        if _open_to_others(path):
            open_to_others.append(path)
    if open_to_others:
        listed = ", ".join(path.name for path in open_to_others)
        paths = " ".join(str(path) for path in open_to_others)
        yield fail(what, f"others may read {listed} in {folder}", f"run: chmod 600 {paths}")
    elif found:
        yield ok(what, f"{len(found)} in {folder}, for their owner alone")


def _open_to_others(path: Path) -> bool:
    """A file of root's that its group may only read is how a secret is handed to a service that is not root:
    a secret volume of Kubernetes is one."""
    found = path.stat()
    handed = found.st_uid == 0 and os.geteuid() != 0 and not found.st_mode & 0o020
    return bool(found.st_mode & (0o007 if handed else 0o077))


def check_end(check: str, what: str, begins: float, ends: float, now: float, mend: str) -> Finding:
    """Of something that holds from `begins` to `ends`, in seconds since 1970."""
    until = datetime.datetime.fromtimestamp(ends, datetime.UTC).strftime("%Y-%m-%d")
    if now < begins:
        return fail(check, f"{what} holds only in {human_seconds(begins - now)}", "set the clock, or " + mend)
    if now >= ends:
        return fail(check, f"{what} has expired on {until}", mend)
    if ends - now < SOON_S:
        return warn(check, f"{what} holds until {until}, {(ends - now) / DAY_S:.0f} days", mend)
    return ok(check, f"{what} holds until {until}")


def check_tls(certificate: Path, key: Path) -> Iterator[Finding]:
    """A core's own certificate and its key. Raises `OSError`."""
    from cryptography import x509

    mend = "put a new certificate and its key in place, and start the core again"
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    except ValueError as e:
        yield fail("certificate", f"{certificate} is no PEM file of certificates: {e}", mend)
        return
    first = chain[0]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as e:
        yield fail("certificate", f"{key} is not the key of {certificate}: {e.reason or e}", mend)
        return
    names = []
    try:
        said = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*said.get_values_for_type(x509.DNSName), *map(str, said.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        yield fail("certificate", f"{certificate} names no host", "have one made with subjectAltName")
        return
    begins, ends = first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
    what = f"the certificate for {', '.join(names[:4])}"
    yield check_end("certificate", what, begins, ends, time.time(), mend)
    yield from check_modes(key.parent, (key.name,), "certificate's key")
