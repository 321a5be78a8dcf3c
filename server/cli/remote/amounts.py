"""Reads and writes amounts of money as people do: with the decimals that ISO 4217 gives a currency."""

import re
from collections.abc import Mapping
from typing import Final

# The largest amount and balance of the service.
AMOUNT_MAX: Final = 2**63 - 1

# Currencies by the number of their decimals in ISO 4217, without those that have no minor units, such as XAU.
_DECIMALS: Final[Mapping[int, str]] = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF
        CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG
        HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR
        MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD
        SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG
        YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
DECIMALS: Final = {currency: digits for digits, listed in _DECIMALS.items() for currency in listed.split()}

_CURRENCY: Final = re.compile(r"[A-Z0-9]{3,8}", re.ASCII)
_BESIDE: Final = re.compile(r"\b([0-9]{1,19}) ([A-Z0-9]{3,8})\b", re.ASCII)
_NUMBER: Final = re.compile(r"(-?)([0-9]{1,40})(?:\.([0-9]{1,40}))?", re.ASCII)


def read_currency(text: str) -> str:
    """
    Return the text if it can be a currency.

    Raises:
        ValueError: It cannot.
    """
    if not _CURRENCY.fullmatch(text):
        raise ValueError("a currency has 3 to 8 capital letters or digits, such as EUR")
    return text


def read_amount(text: str, currency: str, *, minor: bool = False, signed: bool = False) -> int:
    """
    Return an amount in minor units.

    Args:
        text: Decimals of the currency, such as 12.50, or minor units.

        minor: Whether the text is in minor units.

        signed: Whether the amount may be zero or negative, as the limits of accounts may be.

    Raises:
        ValueError: The text is not an amount, it has more decimals than the currency, or the decimals of the currency
            are unknown.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ValueError(f"an amount is written as {'1250' if minor else '12.50'}: digits, and a point for decimals")
    sign, whole, part = found.group(1), found.group(2), found.group(3) or ""
    digits = 0 if minor else DECIMALS.get(currency)
    if digits is None:
        raise ValueError(f"{currency} is not a currency of ISO 4217: give its amounts in minor units, with --minor")
    if len(part) > digits:
        what = "minor units have" if minor else f"{currency} has"
        raise ValueError(f"{what} {f'{digits} decimals' if digits else 'no decimals'}, but the amount has {len(part)}")
    amount = int(f"{sign}{whole}{part:0<{digits}}")
    if not signed and amount < 1:
        raise ValueError("an amount must be more than zero")
    if not -AMOUNT_MAX - 1 <= amount <= AMOUNT_MAX:
        raise ValueError(f"an amount must not be larger than {shown_amount(AMOUNT_MAX, None if minor else currency)}")
    return amount


def in_decimals(sentence: str) -> str:
    """Return a sentence of the service with each amount in minor units replaced by decimals of its currency."""
    return _BESIDE.sub(lambda found: f"{shown_amount(int(found[1]), found[2])} {found[2]}", sentence)


def shown_amount(amount: int | None, currency: str | None) -> str | None:
    """Return minor units as decimals of the currency, or unchanged if ISO 4217 gives it none."""
    digits = DECIMALS.get(currency or "", 0)
    if amount is None or not digits:
        return None if amount is None else str(amount)
    whole, part = divmod(abs(amount), 10**digits)
    return f"{'-' if amount < 0 else ''}{whole}.{part:0{digits}}"
