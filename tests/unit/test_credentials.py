"""Keys come from the environment and are never shown."""

import time

import pytest

from trader.errors import ConfigError
from trader.exchange.credentials import Credentials, read_credentials, refuse_secrets, scrub

KEYS = {"MAIN_API_KEY": "key-123456", "MAIN_SECRET": "s3cr+t/abc=", "MAIN_PASSWORD": "hunter22"}


def test_credentials_come_from_the_prefix() -> None:
    assert read_credentials("MAIN", KEYS) == Credentials("MAIN", "key-123456", "s3cr+t/abc=", "hunter22")


def test_a_password_is_optional() -> None:
    environ = {name: value for name, value in KEYS.items() if name != "MAIN_PASSWORD"}
    assert read_credentials("MAIN", environ).password is None


@pytest.mark.parametrize("name", ["MAIN_API_KEY", "MAIN_SECRET"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_variable_is_named(name: str, value: str | None) -> None:
    environ = {**KEYS, name: value} if value is not None else {n: v for n, v in KEYS.items() if n != name}
    with pytest.raises(ConfigError, match=name):
        read_credentials("MAIN", environ)  # type: ignore[arg-type]


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    assert read_credentials("MAIN").api_key == "key-123456"


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{0!r}".format])
def test_no_way_of_printing_shows_a_secret(show: object) -> None:
    shown = show(read_credentials("MAIN", KEYS))  # type: ignore[operator]
    assert shown == "Credentials(prefix='MAIN')"


@pytest.mark.parametrize("key", ["apiKey", "api_key", "API-KEY", "secret", "password", "privateKey", "clientSecret"])
def test_secrets_in_options_are_refused_at_any_depth(key: str) -> None:
    for options in ({key: "x"}, {"options": {key: "x"}}, {"list": [{"deep": {key: "x"}}]}):
        with pytest.raises(ConfigError, match=key) as caught:
            refuse_secrets(options)
        assert "'x'" not in str(caught.value)


def test_ordinary_options_are_no_secrets() -> None:
    refuse_secrets(
        {"urls": {"api": {"public": "http://127.0.0.1:1"}}, "options": {"recvWindow": 5000, "types": ["spot"]}}
    )


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET https://x.io/order?symbol=A&signature=abc 400", "GET https://x.io/order?*** 400"),
        ("body signature=abc&x=1", "body signature=***&x=1"),
        ('{"X-MBX-APIKEY": "abc"}', '{"X-MBX-APIKEY": "***"}'),
        ("Signature for this request is not valid.", "Signature for this request is not valid."),
        ("Invalid API-key, IP, or permissions for action.", "Invalid API-key, IP, or permissions for action."),
        ("echo key-123456 and s3cr+t/abc= and s3cr%2Bt%2Fabc%3D and hunter22", "echo *** and *** and *** and ***"),
    ],
)
def test_messages_are_scrubbed(text: str, clean: str) -> None:
    assert scrub(text, read_credentials("MAIN", KEYS)) == clean


@pytest.mark.parametrize(("key", "shown"), [("a", True), ("1234567", True), ("12345678", False)])
def test_what_is_too_short_to_be_a_secret_leaves_the_message_whole(key: str, shown: bool) -> None:
    text = f"a rate limit of 1200 was met at 12:00 by {key}"
    assert (scrub(text, Credentials("MAIN", key, key, key)) == text) == shown
    assert (key in scrub(text, Credentials("MAIN", key, key, key))) == shown


@pytest.mark.parametrize("piece", ["x", "x://", "a b ", "<a href='https://x.io/?a=b'>", "token=", 'x="'])
def test_a_page_of_html_is_cut_short_and_quickly(piece: str) -> None:
    """The trader waits for it: a page of 100 kB once took ten seconds."""
    began = time.process_time()
    assert len(scrub(piece * (100_000 // len(piece)), Credentials("MAIN", "key-123456", "s3cr+t/abc=", None))) < 500
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("length", range(390, 402))
@pytest.mark.parametrize("times", [1, 10])
def test_no_cut_leaves_half_a_secret(length: int, times: int) -> None:
    text = "x" * (length * times) + " s3cr+t/abc= https://x.io/order?signature=abcdef&timestamp=1 signature=abcdef"
    for half in ("s3cr", "abcd"):
        assert half not in scrub(text, read_credentials("MAIN", KEYS))
