"""Secrets stay out of what is shown and stored, and nothing else does."""

import html
import json
import os
import urllib.parse
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsas import InputError
from rsas.errors import Halted, StorageError, first_line, reason_of
from rsas.redact import HIDDEN, is_redacted, redact, without_passwords
from tests.leaks import LEAKS, PEM

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
        # Users and passwords of addresses.
        ("https://pat123@host/me.git", "https://***@host/me.git"),
        ("git+https://pat123@host/me.git", "git+https://***@host/me.git"),
        ("https://pat123:x-oauth-basic@host", "https://***:***@host"),
        ("postgresql://me:my pass@host/db", "postgresql://me:***@host/db"),
        ("postgresql://my self:it's my pass@host/db", "postgresql://my self:***@host/db"),
        ("a://u:p w@h to b://v:q r@i", "a://u:***@h to b://v:***@i"),
        # Keywords and parts of connection strings.
        ("host=h password=x user=me", "host=h password=*** user=me"),
        ("host=h password = x, no", "host=h password = ***, no"),
        ("host=h password='a b' user=me", "host=h password=*** user=me"),
        (r"host=h password='a \' b' user=me", "host=h password=*** user=me"),
        (r"'host=h password=\'a b\' user=me'", "'host=h password=*** user=me'"),
        ("host=h password=a&b;c user=me", "host=h password=*** user=me"),
        ("PGPASSWORD=x psql", "PGPASSWORD=*** psql"),
        ("connect(password='x', user='me')", "connect(password=***, user='me')"),
        ("{'password': 'x y', 'user': 'me'}", "{'password': ***, 'user': 'me'}"),
        ('{"api_key": "x", "page": 2}', '{"api_key": ***, "page": 2}'),
        ("connect(token='x')", "connect(token=***)"),
        ("Server=s;Pwd={a;b};Encrypt=yes", "Server=s;Pwd=***;Encrypt=yes"),
        ("AccountName=a;AccountKey=Eb/+==;End=x", "AccountName=a;AccountKey=***;End=x"),
        ("Name=n;SharedAccessKey=k=;Path=p", "Name=n;SharedAccessKey=***;Path=p"),
        ("Blob=b;SharedAccessSignature=sv=1&sig=s", "Blob=b;SharedAccessSignature=***&sig=***"),
        ("sv=1&sig=a%2F&se=2", "sv=1&sig=***&se=2"),
        ("sig=a%2F&se=2", "sig=***"),
        # Headers and keys.
        ("Authorization: Basic abc", "Authorization: Basic ***"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("{'Authorization': 'Bearer a.b-c'}", "{'Authorization': 'Bearer ***'}"),
        ("(b'authorization', b'token abc')", "(b'authorization', b'token ***')"),
        ("Authorization: 0123456-abcdefghij", "Authorization: ***"),
        ("curl -H 'bearer abc'", "curl -H 'bearer ***'"),
        ("Basic bWU6NDcxMQ== is no", "Basic *** is no"),
        (
            "x\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\ny",
            "x\n-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----\ny",
        ),
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
        "http://[::1]:5000, or write to me@host",
        "ssh://git@host/me.git",
        "models:/first@knee",
        "postgresql://host:5432/rsas is away; ask me@host",
        "tracking server 'http://127.0.0.1:5000' does not answer (ConnectionError: refused)",
        "password authentication failed for user 'me'",
        "fe_sendauth: no password supplied",
        "if password == given:",
        "KeyError: 'token'",
        "next(page_token=page.token)",
        "sorted(rows, key=len)",
        "PWD=/home/me OLDPWD=/tmp",
        "http://h/f?design=2&keys=3",
        "WWW-Authenticate: Bearer realm='x'",
        "a bearer token is missing; Basic blocks of ResNet-18",
        "authorization: failed",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "t0007 complete: val_accuracy 0.9530, sparsity 0.9100 (7 of 24 trials done)",
        "dataset='npz:/data/x.npz': expected one of digits, mnist; --set sparsity=0.5",
        "resources: a trial needs 1 CPUs and 0 GPUs on one node",
        "/home/me/runs/first-20261126-153749/trials/t0007/checkpoint-000040.pt",
        "commit 037fe80b1c5a4d2e9f8a7b6c5d4e3f2a1b0c9d8e",
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


def test_the_first_line_is_cut_after_a_key_is_hidden(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "abc\ndef\nghi")  # whose lines alone are too short
    assert first_line(OSError("no abc\ndef\nghi here\nat all")) == "no *** here"


def test_an_error_whose_text_fails_is_named():
    class Odd(Exception):
        def __str__(self):
            raise ValueError("no text")

    assert first_line(Odd()) == reason_of(Odd()) == "Odd"


@pytest.mark.parametrize("kind", [InputError, Halted, StorageError])
def test_errors_hide(kind):
    assert str(kind("no a://u:p@h with 0123456789")) == "no a://u:***@h with ***"


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_no_part_of_a_secret_is_left(leak, monkeypatch):
    for name, value in leak.environment.items():
        monkeypatch.setenv(name, value)
    assert not any(secret in redact(leak.text) for secret in leak.hidden)
    assert is_redacted(redact(leak.text))


@pytest.mark.parametrize(
    "name",
    [
        *("DB_PASS", "PASS", "PGPASSWORD", "db_pwd", "GITHUB_PAT", "PAT", "DEPLOY_KEY", "KEY_2"),
        *("AWS_SECRET_ACCESS_KEY", "GITHUBTOKEN", "HF_TOKEN", "MY_SECRETS", "GOOGLE_CREDENTIALS"),
        *("AZURE_STORAGE_CONNECTION_STRING", "SSH_PASSPHRASE", "APIKEY"),
    ],
)
def test_a_name_tells_a_secret(name, monkeypatch):
    monkeypatch.setenv(name, "/zebra-42")
    assert redact("at /zebra-42, not") == "at ***, not"


@pytest.mark.parametrize(
    "name",
    [
        *("PYTHONPATH", "MY_PATH", "COMPAT_MODE", "PATTERN", "COMPASS", "BYPASS_PROXY", "PASSES"),
        *("KEYBOARD", "MONKEY", "TOKENIZERS_PARALLELISM", "PWD", "OLDPWD", "SSH_KEY_PATH"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "SECRETS_DIR", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_a_name_tells_no_secret(name, monkeypatch):
    monkeypatch.setenv(name, "/zebra-42")
    assert redact("at /zebra-42, not") == "at /zebra-42, not"


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("test1", "the test1", "the test1"),
        ("test12", "the latest12, test123 and test12_x", "the latest12, test123 and test12_x"),
        ("test12", "the 'test12'; 'a\\ntest12'", "the '***'; 'a\\n***'"),
        ("postgres", "postgresql://postgres@host", "postgresql://***@host"),
        ("sunshine", "sunshines", "sunshines"),
        ("sunshine7", "sunshine78", "***8"),
        ("abcdefghijklmnop", "xabcdefghijklmnopx", "x***x"),
    ],
)
def test_a_common_value_hides_no_other_word(value, text, shown, monkeypatch):
    monkeypatch.setenv("API_KEY", value)
    assert redact(text) == shown


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\\n"])
def test_a_key_is_hidden_by_line(newline, monkeypatch):
    monkeypatch.setenv("DEPLOY_KEY", PEM.replace("\n", newline))
    lines = PEM.splitlines()
    assert redact(f"at {lines[1]}: {lines[2]}") == "at ***: ***"
    for text in (PEM, repr(PEM), json.dumps([PEM]), repr(repr(PEM)), urllib.parse.quote(PEM)):
        assert not any(part in redact(text) for part in ("MIIEvQ", "MzEfYy", "4R4", "Evu"))


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8, max_size=30)
SPELLINGS = [
    str,
    repr,
    ascii,
    json.dumps,
    lambda value: json.dumps(value, ensure_ascii=False),
    lambda value: repr(value + "'\"")[1:-4],  # both quotes: repr escapes one of them
    lambda value: repr(value.encode()),
    lambda value: repr(repr(value)),
    lambda value: repr(json.dumps(value)),
    html.escape,
    urllib.parse.quote,
    urllib.parse.quote_plus,
    lambda value: urllib.parse.quote(value, safe=""),
]


@given(VALUES.filter(lambda value: len(value.strip()) >= 8), st.sampled_from(SPELLINGS))
@example("""it's "so" \\ <&>+/%=""", repr)
@example("a\tb\u2028c\x85d\U0001f600", ascii)
@example("\\\\\\n\\\\", json.dumps)
def test_a_secret_is_hidden_however_it_is_spelled(secret, spell):
    spelled = spell(secret.strip())
    with mock.patch.dict(os.environ, {"DB_PASS": secret}):
        shown = redact(f"at: {spelled} ;")
        assert spelled not in shown and secret not in shown
        assert is_redacted(shown)
        assert redact(shown) == shown


@given(TEXTS)
def test_what_has_no_password_any_more_stays_as_it_is(text):
    once = without_passwords(text)
    assert without_passwords(once) == once
