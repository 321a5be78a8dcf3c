"""Amounts as people write them: read exactly, with the decimals of ISO 4217, or refused."""

import pytest

from server.cli.remote.amounts import AMOUNT_MAX, DECIMALS, in_decimals, read_amount, shown_amount

READ = [
    ("12.50", "EUR", 1250),
    ("12.5", "EUR", 1250),
    ("12", "EUR", 1200),
    ("0.01", "EUR", 1),
    ("007", "EUR", 700),
    ("1250", "JPY", 1250),
    ("0.001", "KWD", 1),
    ("1.0001", "CLF", 10001),
    ("0.29", "EUR", 29),
    ("1.15", "EUR", 115),
    ("92233720368547758.07", "EUR", AMOUNT_MAX),
    ("9223372036854775807", "JPY", AMOUNT_MAX),
]
REFUSED = [
    ("12.505", "EUR", "EUR has 2 decimals, but the amount has 3"),
    ("12.500", "EUR", "EUR has 2 decimals, but the amount has 3"),
    ("1.0", "JPY", "JPY has no decimals, but the amount has 1"),
    ("0.0001", "KWD", "KWD has 3 decimals"),
    ("0", "EUR", "an amount must be more than zero"),
    ("0.00", "EUR", "an amount must be more than zero"),
    ("-1", "EUR", "an amount must be more than zero"),
    ("92233720368547758.08", "EUR", "an amount must not be larger than 92233720368547758.07"),
    ("9" * 40, "JPY", "an amount must not be larger than 9223372036854775807"),
    ("5", "POINTS", "POINTS is not a currency of ISO 4217: give its amounts in minor units, with --minor"),
    ("5", "XAU", "XAU is not a currency"),
    *((text, "EUR", "an amount is written as 12.50") for text in ("", ".5", "5.", "1,50", "1 000", "1e3", "+1", "NaN")),
    *(
        (text, "EUR", "an amount is written as 12.50")
        for text in ("0x1", "1_000", "\N{FULLWIDTH DIGIT ONE}", "9" * 9999)
    ),
]


@pytest.mark.parametrize(("text", "currency", "amount"), READ)
def test_read(text: str, currency: str, amount: int) -> None:
    """An amount is read exactly into minor units, and its shown form reads as the same amount."""
    assert read_amount(text, currency) == amount
    assert read_amount(str(shown_amount(amount, currency)), currency) == amount


@pytest.mark.parametrize(("text", "currency", "sentence"), REFUSED)
def test_refused(text: str, currency: str, sentence: str) -> None:
    """A wrong or ambiguous amount is refused, never rounded."""
    with pytest.raises(ValueError, match=sentence):
        read_amount(text, currency)


def test_minor_units() -> None:
    """`--minor` reads minor units of any currency, without decimals."""
    assert read_amount("1250", "EUR", minor=True) == 1250
    assert read_amount("5", "POINTS", minor=True) == 5
    with pytest.raises(ValueError, match="minor units have no decimals"):
        read_amount("12.50", "EUR", minor=True)


def test_limits_may_be_negative() -> None:
    """A floor or ceiling may be negative."""
    assert read_amount("-12.50", "EUR", signed=True) == -1250
    assert read_amount("-0.05", "EUR", signed=True) == -5
    assert read_amount("0", "EUR", signed=True) == 0


def test_shown() -> None:
    """Amounts have all their decimals, also below one and below zero; currencies not in ISO 4217 have minor units."""
    cases = {(-5, "EUR"): "-0.05", (0, "EUR"): "0.00", (-1250, "EUR"): "-12.50", (7, "POINTS"): "7", (3, "JPY"): "3"}
    assert {case: shown_amount(*case) for case in cases} == cases
    assert shown_amount(None, "EUR") is None


def test_sentences_of_the_service() -> None:
    """Amounts in the service's messages are shown with decimals."""
    assert in_decimals("too little for 10000 EUR, 5 PTS and 7 days") == "too little for 100.00 EUR, 5 PTS and 7 days"


def test_the_table() -> None:
    """The table has the decimals of the currencies of ISO 4217, by three-letter code."""
    assert len(DECIMALS) > 150
    assert all(len(code) == 3 and code.isupper() for code in DECIMALS)
    assert {code: DECIMALS[code] for code in ("EUR", "USD", "JPY", "KRW", "KWD", "BHD", "CLF", "HUF")} == {
        "EUR": 2,
        "USD": 2,
        "JPY": 0,
        "KRW": 0,
        "KWD": 3,
        "BHD": 3,
        "CLF": 4,
        "HUF": 2,
    }
