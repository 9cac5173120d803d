"""Invitations: long, random, and of the form a Join accepts."""

from __future__ import annotations

import hashlib

from tapestry.identity.invitations import make_token, open_join, token_hash
from tapestry.identity.keyring import make_join
from tapestry.identity.keys import KeyPair


def test_tokens_differ_and_fit_a_join() -> None:
    tokens = {make_token() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert len(token) == 43
    token = tokens.pop()
    join = make_join(KeyPair.generate(), consortium="c" * 64, invitation=token, member="m")
    assert open_join(join, "c" * 64).invitation == token


def test_what_is_kept_is_a_hash() -> None:
    assert token_hash("abc") == hashlib.sha256(b"abc").hexdigest()
