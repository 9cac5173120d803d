"""The other side of signing in: what `tapestry web login` asks a dashboard, believing none of its answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tapestry.errors import FormatError, TooLarge, Unreachable
from tapestry.identity.envelope import Envelope
from tapestry.identity.logins import origin_of
from tapestry.protocol import canonical
from tapestry.transport import wire
from tapestry.transport.connection import tls

PATIENCE_S: Final = 20.0
MAX_ANSWER_BYTES: Final = 64 << 10
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{32,64}")


@dataclass(frozen=True)
class Entered:
    """
    Args:
        link: signs in once, whoever opens it.
        seconds: it is good for so long, as the dashboard says.
    """

    link: str
    seconds: int


def sign_in(url: str, sign: Callable[[str, str], Envelope], *, ca: Path | None = None) -> Entered:
    """Have a dashboard's challenge signed, and get a link for it.

    Args:
        url: of the dashboard.
        sign: from its origin and a challenge to a `WebLogin`.
        ca: PEM file of the authority of its certificate, where the system does not know it.

    Raises:
        InputError: no address of a dashboard.
        Unreachable: nobody answers there, or what is no dashboard.
        AuthError: who signed may not sign in; also its subclasses.
    """
    origin = origin_of(url)
    with httpx.Client(
        base_url=origin,
        verify=tls(ca) if origin.startswith("https:") else True,
        headers={"Accept-Encoding": "identity", "User-Agent": "tapestry", "Origin": origin},
        trust_env=False,
        follow_redirects=False,
        timeout=PATIENCE_S,
    ) as client:
        challenge = _text(_ask(client, "/login/challenge", b""), "challenge", _CHALLENGE)
        answer = _ask(client, "/login/answer", sign(origin, challenge).to_bytes())
    seconds = answer.get("seconds")
    if type(seconds) is not int or not 0 < seconds < 1 << 20:
        raise FormatError("the dashboard does not say how long its link is good")
    return Entered(f"{origin}/login/{_text(answer, 'token', _TOKEN)}", seconds)


def _ask(client: httpx.Client, path: str, body: bytes) -> dict[str, Any]:
    where = str(client.base_url)
    try:
        with client.stream("POST", path, content=body) as answer:
            data = b""
            for piece in answer.iter_raw():
                data += piece
                if len(data) > MAX_ANSWER_BYTES:
                    raise TooLarge(f"{where} answers with more than {MAX_ANSWER_BYTES} bytes")
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
        raise Unreachable(
            f"no dashboard answers at {where}: {e}", hint="is it the address in your browser, and is it up?"
        ) from e
    if status != httpx.codes.OK:
        raise wire.read_error(status, data)[0]
    value = canonical.decode(data, what="answer of the dashboard")
    if not isinstance(value, dict):
        raise FormatError("the answer of the dashboard is no JSON object")
    return value


def _text(answer: dict[str, Any], field: str, form: re.Pattern[str]) -> str:
    found = answer.get(field)
    if not isinstance(found, str) or not form.fullmatch(found):
        raise FormatError(f"the dashboard gives no {field}")
    return found
