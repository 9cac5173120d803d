from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import FormatError, SignatureError, TapestryError
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import COSIGNATURE, MAX_BYTES, PLAIN, Note, signature_id

KEY, OTHER = KeyPair.generate(), KeyPair.generate()
TEXT = "tapestry/one\n7\nroot\n"
# The example in the documentation of Go's golang.org/x/mod/sumdb/note, which made the format.
GO_KEY = "1a5cd907143c384c41e830c5bce12aa8817ec5649aaabf2c31388b35b2d744d6"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_the_example_of_the_formats_author_verifies() -> None:
    note = Note.from_bytes(GO_NOTE.encode())
    assert signature_id("PeterNeumann", PLAIN, GO_KEY).hex() == "c74f20a3"
    note.check("PeterNeumann", GO_KEY)
    with pytest.raises(SignatureError):
        Note(note.text.replace("don't", "do"), note.signatures).check("PeterNeumann", GO_KEY)


def test_signed_and_cosigned() -> None:
    note = Note(TEXT).signed("core", KEY).cosigned("acme/n1", OTHER, 1_700_000_000)
    again = Note.from_bytes(note.to_bytes())
    assert again == note
    again.check("core", KEY.public_key)
    assert again.cosigned_at("acme/n1", OTHER.public_key) == 1_700_000_000
    assert again.cosigned_at("core", KEY.public_key) is None, "a signature is no cosignature"
    assert again.cosigned_at("acme/n1", KEY.public_key) is None
    for name, key in (("acme/n1", OTHER.public_key), ("core", OTHER.public_key), ("another", KEY.public_key)):
        with pytest.raises(SignatureError, match="not signed by"):
            again.check(name, key)
    assert again.cosigned("acme/n1", OTHER, 5).cosigned_at("acme/n1", OTHER.public_key) == 5, "in its place"


def test_what_is_signed_binds_text_and_time() -> None:
    note = Note(TEXT).signed("core", KEY).cosigned("w", OTHER, 9)
    moved = Note(TEXT.replace("7", "8"), note.signatures)
    with pytest.raises(SignatureError):
        moved.check("core", KEY.public_key)
    with pytest.raises(SignatureError):
        moved.cosigned_at("w", OTHER.public_key)
    line = note.signatures[1]
    later = bytearray(line.data)
    later[11] += 1
    with pytest.raises(SignatureError):
        Note(TEXT, (type(line)(line.name, bytes(later)),)).cosigned_at("w", OTHER.public_key)
    assert signature_id("w", PLAIN, OTHER.public_key) != signature_id("w", COSIGNATURE, OTHER.public_key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n\n—", "\n—"),
        ("— core", "- core"),
        ("— core", "—  core"),
        ("— core", "— co re"),
        ("— core", "— co+re"),
        ("root\n", "root\r\n"),
        ("root\n", "ro\x00ot\n"),
        ("=\n", "\n"),
        ("=\n", "=\n\n"),
        ("=\n", "=\nmore\n"),
        ("=\n", "="),
        ("— core ", "— core A"),
    ],
)
def test_what_has_another_form_is_refused(old: str, new: str) -> None:
    whole = Note(TEXT).signed("core", KEY).to_bytes().decode()
    Note.from_bytes(whole.encode())
    assert old in whole
    with pytest.raises(FormatError):
        Note.from_bytes(whole.replace(old, new, 1).encode())


def test_limits_and_doubles() -> None:
    whole = Note(TEXT).signed("core", KEY).to_bytes()
    line = whole[whole.rindex("—".encode()) :]
    for data in (whole + line, b"\xff\n\n" + line, b"", b"\n\n" + line, TEXT.encode() * MAX_BYTES + line):
        with pytest.raises(FormatError):
            Note.from_bytes(data)
    many = b"".join(line.replace(b"core", f"c{i}".encode()) for i in range(1025))
    with pytest.raises(FormatError, match="at most 1024"):
        Note.from_bytes(TEXT.encode() + b"\n" + many)


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_note_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(TapestryError):
        assert Note.from_bytes(data).to_bytes() == data
