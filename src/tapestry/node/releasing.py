"""A holder's keys for releases; they lie in the member's folder and on no node.

release.key 0600, release.cert.json    Ed25519, certified by the root key; signs lists of releases
former/KEY_ID.key 0600                 those before it: a change of holders is signed with these, too
model.key 0600                         P-256; signs model folders for tools that know no TUF
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tapestry.errors import InputError, SettingsError, TapestryError
from tapestry.host import files
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.node.council import Council
from tapestry.node.member import MAX_KEY_BYTES, load_member, read_key
from tapestry.release.oms import ModelKeyPair

KEY, CERTIFICATE, MODEL_KEY, FORMER = "release.key", "release.cert.json", "model.key", "former"
NEXT: Final = "next."
_HINT: Final = "make them: tapestry member key release FOLDER --core URL"


def make_release_key(folder: Path, core_url: str | None = None) -> str:
    """Give a member a release key that the core knows, and end the one it had; goes on where it was cut off.

    The member must have a vote key, with which it asks the core. Returns the id of the key.

    Raises:
        SettingsError: what lies in the folder cannot be used.
        Conflict, KeyRefused: the core's reasons.
    """
    member = load_member(folder)
    with Council(folder, core_url) as council:
        client = council.client
        if (folder / (NEXT + CERTIFICATE)).exists():
            pair = read_key(folder / (NEXT + KEY))
            data = files.read_limited(folder / (NEXT + CERTIFICATE), Envelope.MAX_BYTES)
            certificate = Envelope.from_bytes(data)
        else:
            pair = KeyPair.generate()
            certificate = member.certify(
                node=None, role="release", public_key=pair.public_key, now=client.hello().time
            )
            files.private_write(folder / (NEXT + KEY), pair.to_pem(), replace=True)
            files.write_atomic(folder / (NEXT + CERTIFICATE), certificate.to_bytes())
        client.post_certificate(certificate.model_dump(mode="json"))
        old = read_key(folder / KEY) if (folder / KEY).exists() else None
        if old is not None and old.key_id != pair.key_id:
            (folder / FORMER).mkdir(mode=0o700, exist_ok=True)
            files.private_write(folder / FORMER / f"{old.key_id}.key", old.to_pem(), replace=True)
            ended = make_revocation(member.root, member=member.name, revoked=old.key_id, reason="rotated")
            client.post_revocation(ended.model_dump(mode="json"))
    if old is not None or not (folder / MODEL_KEY).exists():  # who copied the one has copied the other
        files.private_write(folder / MODEL_KEY, ModelKeyPair.generate().to_pem(), replace=True)
    files.write_atomic(folder / CERTIFICATE, certificate.to_bytes())
    files.private_write(folder / KEY, pair.to_pem(), replace=True)
    for name in (KEY, CERTIFICATE):
        (folder / (NEXT + name)).unlink(missing_ok=True)
    return pair.key_id


def release_keys(folder: Path) -> list[KeyPair]:
    """The key in force first, then those before it. Raises `SettingsError`."""
    if not (folder / KEY).exists():
        raise SettingsError(f"the member in {folder} has no release key", hint=_HINT)
    former = sorted((folder / FORMER).glob("*.key")) if (folder / FORMER).is_dir() else []
    return [read_key(folder / KEY), *map(read_key, former)]


def model_key(folder: Path) -> ModelKeyPair:
    """Raises `SettingsError`, which never repeats the content."""
    path = folder / MODEL_KEY
    try:
        return ModelKeyPair.from_pem(files.read_limited(path, MAX_KEY_BYTES))
    except (OSError, InputError, TapestryError) as e:
        raise SettingsError(f"key {path} cannot be read: {e}", hint=_HINT) from e
