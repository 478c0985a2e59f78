"""Secrets stay out of what is shown and stored, and nothing else does."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsas import InputError
from rsas.errors import Halted
from rsas.redact import HIDDEN, is_redacted, redact

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2Vj",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse",
    "OTHER_PASSWD": "correct-horse-battery",  # begins with the one before
    "my_api_key": "0123456789",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:pw@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("postgresql://me:p@ss@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p/w@host/db", "postgresql://me:***@host/db"),  # SQLAlchemy takes it
        ("postgresql://me:p'w\"@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p:w@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@server:pw@host/db", "postgresql://me@server:***@host/db"),
        ("redis://:pw@host", "redis://:***@host"),
        ("'s3://AKIA:se/cret@bucket/f': no", "'s3://AKIA:***@bucket/f': no"),
        ("from a://u:p@h to b://v:q@i", "from a://u:***@h to b://v:***@i"),
        ("http://h/f?x=1&token=abc&y=2", "http://h/f?x=1&token=***&y=2"),
        ("https://h/f?X-Amz-Signature=ab%2Fc", "https://h/f?X-Amz-Signature=***"),
        ("s3://b/f?secret_key=abc", "s3://b/f?secret_key=***"),
        ("s3://b/f?ACCESS_KEY=abc;x=1", "s3://b/f?ACCESS_KEY=***;x=1"),
        ("key wJalrXUtnFEMI/K7MDENG!", "key ***!"),
        ("tokenIQoJb3JpZ2luX2Vj, 0123456789", "token***, ***"),
        ("correct-horse-battery", "***"),  # no part of it is left by the shorter one
        ("two\nlines of 0123456789\n", "two\nlines of ***\n"),
    ],
)
def test_secrets_are_hidden(text, shown):
    assert redact(text) == shown
    assert is_redacted(shown) == (text != shown)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "postgresql://me@host/db",
        "http://localhost:5000/#/experiments/1",
        "s3://bucket/folder",
        "s3://bucket/folder@2",
        "http://host:5000, or write to me@host",
        "http://h/f?page=2&tokens",
        "/var/run/secrets/token",
        "my word is short",
        "cannot import 'nothing' (ModuleNotFoundError: no: a@b)",
    ],
)
def test_all_else_is_left_as_it_is(text, monkeypatch):
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_PATH", "/var/run/secrets/token")
    monkeypatch.setenv("SHORT_PASSWORD", "short")
    monkeypatch.setenv("EMPTY_TOKEN", "")
    monkeypatch.setenv("NO_WORD_OF_IT", "bucket/folder")
    assert redact(text) == text
    assert not is_redacted(text)


PIECES = st.sampled_from(
    ["://", "@", ":", "/", "?", "&", ";", "=", "'", '"', " ", "\n", "token", "a", "b.c", HIDDEN]
)
TEXTS = st.lists(PIECES | st.sampled_from([*SECRETS.values()]) | st.text(max_size=3)).map("".join)


@given(TEXTS)
@example("a://b?token=c/d&:x@h")  # without the token, what is before the @ looks like a password
@example(f"a://u:x{SECRETS['AWS_SECRET_ACCESS_KEY']}@h")
def test_what_is_hidden_stays_as_it_is(text):
    once = redact(text)
    assert redact(once) == once


@given(TEXTS, TEXTS, st.sampled_from([*SECRETS.values()]))
def test_a_value_of_the_environment_is_hidden_wherever_it_stands(before, after, secret):
    assert secret not in redact(before + secret + after)


@given(
    st.from_regex(r"[a-z]{0,5}", fullmatch=True),
    st.from_regex(r"[A-Z/@:'\"?&=#%+-]{1,12}", fullmatch=True),
    st.from_regex(r"[a-z0-9.]{1,8}(:[0-9]{1,4})?(/[a-z0-9]{0,5})?", fullmatch=True),
)
def test_a_password_of_any_characters_is_hidden(user, password, rest):
    assert redact(f"at x+y://{user}:{password}@{rest}, no") == f"at x+y://{user}:***@{rest}, no"


@pytest.mark.parametrize("kind", [InputError, Halted])
def test_errors_hide(kind):
    assert str(kind("no a://u:p@h with 0123456789")) == "no a://u:***@h with ***"
