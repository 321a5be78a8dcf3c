"""Values that JSON does not allow, and values that JSON allows but the contract does not, as test parameters."""

import pytest

NOT_JSON = [
    pytest.param(b"NaN", id="NaN"),
    pytest.param(b"Infinity", id="Infinity"),
    pytest.param(b"-Infinity", id="minus Infinity"),
    pytest.param(b"+1", id="a plus sign"),
    pytest.param(b"01", id="a leading zero"),
    pytest.param(b"0x1", id="hexadecimal"),
    pytest.param(b"1_000", id="underscores"),
    pytest.param("\u0661".encode(), id="foreign digits"),
    pytest.param(b"1.", id="a bare point"),
    pytest.param(b"", id="nothing"),
    pytest.param(b"undefined", id="a word"),
    pytest.param(b'"\xff"', id="a byte that is not UTF-8"),
    pytest.param(b'"\xc0\xaf"', id="an overlong sequence"),
    pytest.param(b'"\xed\xa0\x80"', id="a surrogate as bytes"),
    pytest.param(b'"\\ud800"', id="a lone high surrogate"),
    pytest.param(b'"\\udc00\\ud800"', id="surrogates the wrong way round"),
    pytest.param(b'"a\x00b"', id="a raw NUL"),
    pytest.param(b'"a\nb"', id="a raw line feed"),
    pytest.param(b'"\\x41"', id="an unknown escape"),
    pytest.param(b"'1'", id="single quotes"),
]
WRONG_NUMBERS = [
    pytest.param(b"1e400", id="1e400"),
    pytest.param(b"1e2", id="1e2"),
    pytest.param(b"1.0", id="1.0"),
    pytest.param(b"1.5", id="1.5"),
    pytest.param(b"true", id="true"),
    pytest.param(b"false", id="false"),
    pytest.param(b'"1"', id="a text"),
    pytest.param(b"[1]", id="a list"),
    pytest.param(b"{}", id="an object"),
    pytest.param(b"9223372036854775808", id="2^63"),
    pytest.param(b"-9223372036854775809", id="less than -2^63"),
    pytest.param(b"18446744073709551616", id="2^64"),
]
WRONG_TEXTS = [
    pytest.param(b"1", id="a number"),
    pytest.param(b"true", id="true"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b"{}", id="an object"),
    pytest.param(b'"\\u0000"', id="only NUL"),
    pytest.param(b'"a\\u0000b"', id="NUL inside"),
    pytest.param(b'"' + b"a" * 1001 + b'"', id="too long"),
]
WRONG_IDS = [
    pytest.param(b'""', id="empty"),
    pytest.param(b"null", id="null"),
    pytest.param(b'"alice\\n"', id="a line feed at the end"),
    pytest.param(b'" alice"', id="a space"),
    pytest.param(b'"-alice"', id="a hyphen at the start"),
    pytest.param(b'"a/b"', id="a slash"),
    pytest.param('"alice\u0661"'.encode(), id="foreign digits"),
    pytest.param('"\u0430lice"'.encode(), id="letters that look alike"),
    pytest.param(b'"' + b"a" * 65 + b'"', id="65 characters"),
]
WRONG_CURRENCIES = [
    pytest.param(b'""', id="empty"),
    pytest.param(b"null", id="null"),
    pytest.param(b'"EU"', id="two characters"),
    pytest.param(b'"EUROEUROS"', id="nine characters"),
    pytest.param(b'"eur"', id="small letters"),
    pytest.param(b'"EUR\\n"', id="a line feed at the end"),
    pytest.param('"EU\uff11"'.encode(), id="foreign digits"),
]
