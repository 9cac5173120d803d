"""What a holder signs of a draft, and whether enough holders have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuf.api.metadata import Metadata, Root

from tapestry.errors import KeyRefused, Refused, ReleaseError, SignatureError, TapestryError
from tapestry.host import files
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.release import checking, derived, oms, roles
from tapestry.release.checking import Checked
from tapestry.release.messages import HolderSignature, ModelKey, ModelSignature
from tapestry.release.oms import ModelKeyPair


def signature(
    checked: Checked, member: str, pairs: Sequence[KeyPair], model: ModelKeyPair
) -> HolderSignature:
    """What a member signs of a draft that was checked.

    Args:
        pairs: its release keys, those before the one in force too.
        model: its key for model folders.

    Raises:
        KeyRefused: none of its keys is asked for.
    """
    own = {roles.tuf_id(pair.public_key): pair for pair in pairs}

    def asked(root: Root | None) -> list[str]:
        held = {} if root is None else roles.members_of(root)
        return [name for name, holder in held.items() if holder == member and name in own]

    before = checked.current.signed if checked.current is not None else None
    now = asked(checked.root)
    of_root = sorted({*now, *asked(before)}) if checked.new_root is not None else []
    if not now and not of_root:
        raise KeyRefused(
            f"the draft asks for no signature of {member} with a key that lies in its folder",
            hint="only holders of the charter sign; a new key counts from the next draft on",
        )
    of_model = None
    if now and checked.facts is not None:
        said = ModelKey(consortium=checked.consortium, member=member, public_key=model.public_pem)
        name = checked.facts.release
        of_model = ModelSignature(
            release=name,
            key=sign(said, own[now[0]]).to_bytes().decode("ascii"),
            bundle=model.sign(name, checked.digests),
        )
    new = checked.new_root
    return HolderSignature(
        consortium=checked.consortium,
        member=member,
        targets=roles.signature(checked.targets, own[now[0]]) if now else None,
        root=() if new is None else tuple(roles.signature(new, own[each]) for each in of_root),
        model=of_model,
    )


def write(checked: Checked, given: HolderSignature) -> str:
    """Put it into the draft; the file's name there."""
    path = checked.folder / derived.SIGNED / f"{given.member}.json"
    path.parent.mkdir(exist_ok=True)  # an empty folder is lost on some ways
    files.write_atomic(path, given.to_bytes())
    return path.relative_to(checked.folder).as_posix()


def read(checked: Checked) -> list[HolderSignature]:
    """What was sent back, each verified. Raises `SignatureError` naming the file."""
    found = []
    for path in sorted((checked.folder / derived.SIGNED).glob("*.json")):
        try:
            given = HolderSignature.from_bytes(files.read_limited(path, HolderSignature.MAX_BYTES))
            checking.signed_by(checked, given)
            _check_model(checked, given)
        except (OSError, TapestryError) as e:
            raise SignatureError(
                f"{path.name} is no signature of this draft: {e}",
                hint="ask for it anew: tapestry release sign; or go on without it, and take the file away",
            ) from e
        found.append(given)
    return found


def _check_model(checked: Checked, given: HolderSignature) -> None:
    if (given.model is not None) != (given.targets is not None and checked.facts is not None):
        raise ReleaseError(
            f"{given.member} has signed the list of files and not the model, or the other way round"
        )
    if given.model is not None:
        holders = roles.holders_of(checked.root)
        member = of_folder(given.model, checked.consortium, holders, checked.digests)
        if member[0] != given.member or checked.facts is None or given.model.release != checked.facts.release:
            raise ReleaseError(f"the model is signed by {member[0]}, or for another release")


def of_folder(
    given: ModelSignature,
    consortium: str,
    holders: Mapping[str, tuple[str, str]],
    digests: Mapping[str, str],
) -> tuple[str, str]:
    """The holder of an OpenSSF signature, and the key it was made with.

    Args:
        holders: as of `roles.holders_of`.
        digests: path → SHA-256 of the model's files.

    Raises:
        SignatureError, FormatError: it is not by such a holder, or of other files.
    """
    envelope = Envelope.from_bytes(given.key.encode())
    said = envelope.open_as(ModelKey, lambda name: holders.get(name, ("", None))[1])
    if any(holders[each.keyid][0] != said.member for each in envelope.signatures):
        raise SignatureError(f"the model key of {said.member} is signed for by another holder")
    if said.consortium != consortium:
        raise SignatureError(f"the model key of {said.member} is for another consortium")
    oms.verify(given.bundle, said.public_key, given.release, digests)
    return said.member, said.public_key


def collect(
    checked: Checked, given: Iterable[HolderSignature]
) -> tuple[Metadata[Any] | None, Metadata[Any], dict[str, ModelSignature]]:
    """New root (or None), targets and the model's signatures, with enough signatures on each.

    Raises:
        Refused: fewer than must have signed.
    """
    models = {}
    for each in given:
        if each.targets is not None:
            roles.add(checked.targets, each.targets)
        for said in each.root:
            if checked.new_root is not None:
                roles.add(checked.new_root, said)
        if each.model is not None:
            models[each.member] = each.model
    _enough(checked.root, "targets", checked.targets, "the release")
    if checked.new_root is not None:
        _enough(checked.root, "root", checked.new_root, "the new list of holders")
        if checked.current is not None:
            _enough(
                checked.current.signed, "root", checked.new_root, "the new list, of the holders before it,"
            )
    return checked.new_root, checked.targets, models


def _enough(root: Root, role: str, metadata: Metadata[Any], what: str) -> None:
    missing, names = roles.lacking(root, role, metadata)
    if missing:
        needed = root.roles[role].threshold
        raise Refused(
            f"{what} has {needed - missing} of the {needed} signatures that the charter asks for; "
            f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} not signed",
            hint=f"ask {names[0]} for its file: tapestry release sign DRAFT --member FOLDER --ledger WHERE",
        )
