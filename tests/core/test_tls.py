from __future__ import annotations

import datetime
import ipaddress
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tapestry.core import operator, settings
from tapestry.core.serve import serve
from tapestry.errors import SettingsError

SERVE = (
    "import sys; from pathlib import Path; from tapestry.core.serve import serve; serve(Path(sys.argv[1]))"
)


def write_certificate(folder: Path) -> None:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "core")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
    )
    (folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "tls.key").write_bytes(pem)


def test_tls(tmp_path: Path) -> None:
    root = tmp_path / "core"
    operator.init(root, settings.make(port=0, tls={"certificate": "tls.pem", "key": "tls.key"}))
    with pytest.raises(SettingsError, match="certificate"):
        serve(root)
    write_certificate(root)
    with subprocess.Popen([sys.executable, "-c", SERVE, str(root)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().split()[-1]
            assert url.startswith("https://127.0.0.1:")
            trust = ssl.create_default_context(cafile=str(root / "tls.pem"))
            with httpx.Client(verify=trust, trust_env=False) as http:
                assert http.get(url + "/v1/hello").status_code == 200
            with httpx.Client(trust_env=False) as http, pytest.raises(httpx.ConnectError):
                http.get(url + "/v1/hello")
        finally:
            process.terminate()
    assert process.returncode == 0
