"""Which licences are known, and what they let weights be."""

from __future__ import annotations

import pytest

from tapestry.catalog.licences import parse


@pytest.mark.parametrize(
    ("text", "written", "kind"),
    [
        ("MIT", "MIT", "open"),
        ("cc-by-4.0", "CC-BY-4.0", "open"),
        ("CC-BY-SA-3.0", "CC-BY-SA-3.0", "open"),
        ("CC0-1.0", "CC0-1.0", "open"),
        ("ODC-By-1.0", "ODC-By-1.0", "open"),
        ("PSF-2.0", "PSF-2.0", "open"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0",) * 2 + ("open",),
        ("CC-BY-NC-4.0", "CC-BY-NC-4.0", "restricted"),
        ("CC-BY-ND-4.0", "CC-BY-ND-4.0", "restricted"),
        ("CC-BY-NC-SA-3.0-IGO", "CC-BY-NC-SA-3.0-IGO", "restricted"),
        ("AFL-1.1", "AFL-1.1", "other"),
        ("LicenseRef-Acme-1", "LicenseRef-Acme-1", "own"),
        ("MIT AND CC-BY-NC-4.0", "MIT AND CC-BY-NC-4.0", "restricted"),
        ("MIT or CC-BY-NC-4.0", "MIT OR CC-BY-NC-4.0", "open"),
        ("MIT AND LicenseRef-Acme", "MIT AND LicenseRef-Acme", "own"),
        ("(LicenseRef-a OR LicenseRef-ab) AND MIT", "(LicenseRef-a OR LicenseRef-ab) AND MIT", "own"),
    ],
)
def test_what_a_licence_is(text: str, written: str, kind: str) -> None:
    found = parse(text)
    assert (found.text, found.kind) == (written, kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Foo-1.0",
        "MIT AND",
        "(MIT",
        "public domain",
        "MIT WITH MIT",
        "MIT, ISC",
        "tapestryown0",
        "AND",
        "()",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        parse(text)
