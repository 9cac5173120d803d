"""Check digits of account, card and identity numbers, each by its own public rule.

Each function takes the number without blanks and signs, in the form that its pattern in `pii` found.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

_IBAN_LENGTHS: Final = {
    pair[:2]: int(pair[2:])
    for pair in re.findall(
        "....",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29"
        "ES24FI18FO18FR27GB22GE22GI23GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20"
        "LB28LC32LI21LT20LU20LV21MC27MD24ME22MK19MR27MT31MU30NL18NO15PK24PL28PS29PT25QA29"
        "RO24RS22SA24SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20",
    )
}
"""Of the SWIFT registry."""
_VERHOEFF: Final = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
"""The permutation of a digit from one place to the next."""
_CODICE_ODD: Final = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21),
            *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        ),
        strict=True,
    )
)


def iban_length(text: str) -> int | None:
    """Letters of the IBAN that a text begins with, if it does (ISO 13616, ISO 7064 MOD 97-10)."""
    length = _IBAN_LENGTHS.get(text[:2])
    if length is None or len(text) < length:
        return None
    turned = text[4:length] + text[:4]
    return length if int("".join(str(int(letter, 36)) for letter in turned)) % 97 == 1 else None


def luhn(digits: str) -> bool:
    """Cards (ISO/IEC 7812)."""
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def ean13(digits: str) -> bool:
    """AHV numbers of Switzerland."""
    return sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10 == 0


def nir(digits: str) -> bool:
    """Of France: 13 digits, and 97 less their remainder by 97."""
    month = int(digits[3:5])
    return (1 <= month <= 12 or month >= 20) and 97 - int(digits[:13]) % 97 == int(digits[13:])


def dni(text: str) -> bool:
    """Of Spain: 8 digits and a letter."""
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(text[:8]) % 23] == text[8]


def codice_fiscale(text: str) -> bool:
    """Of Italy: 16 letters and digits."""
    total = sum(_CODICE_ODD[c] if place % 2 == 0 else int(c, 36) - 10 * c.isalpha() for place, c in
                enumerate(text[:15]))  # fmt: skip
    return chr(ord("A") + total % 26) == text[15]


def cpf(digits: str) -> bool:
    """Of Brazil: 9 digits and two of check."""
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(int(digits[place]) * (length + 1 - place) for place in range(length))
        if total * 10 % 11 % 10 != int(digits[length]):
            return False
    return True


def resident(text: str) -> bool:
    """Of China (GB 11643): region, birthday, order, and a check digit by ISO 7064 MOD 11-2."""
    try:
        datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17].upper()


def aadhaar(digits: str) -> bool:
    """Of India: 12 digits, by Verhoeff."""
    found = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _VERHOEFF[value]
        found = _dihedral(found, value)
    return found == 0 and re.match("[2-9]", digits) is not None


def _dihedral(left: int, right: int) -> int:
    """The product in the group of the ten symmetries of a pentagon."""
    if left < 5:
        return (left + right) % 5 if right < 5 else 5 + (left + right) % 5
    return 5 + (left - right) % 5 if right < 5 else (left - right) % 5
