"""Keep passwords, tokens and keys out of everything that is shown, logged or stored."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable
from functools import lru_cache

__all__ = ["HIDDEN", "is_redacted", "redact", "without_passwords"]

HIDDEN = "***"

# Words in the name of a variable with a secret. Short words must stand between "_" or at an end,
# because PATH, COMPASS and KEYBOARD have no secret. PWD alone is the current folder.
_SECRET = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|CONNECTION_?STRING|APIKEY|TOKEN(?![A-Z])"
    r"|(?<![A-Z])(?:PASS|PAT|KEYS?)(?![A-Z])|(?<=_)PWD(?![A-Z])",
    re.IGNORECASE,
)
_FILE = re.compile(
    r"(?:FILE|PATH|DIR|APPLICATION_CREDENTIALS)$", re.IGNORECASE
)  # the path of a file
_SHORTEST = 6  # shorter values would hide parts of ordinary text
_ORDINARY = re.compile(r".{,7}|(?:[A-Z]?[a-z]+|[A-Z]+)(?<!.{16})", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9]+")  # every text format spells these characters alike
_NEWLINE = re.compile(r"\r?\n|\\n")  # one variable may have the lines of a key with \n between them

# Shapes of secrets in any text: the first group stays, the second is hidden.
_QUOTED = (
    r"""'(?:[^'\\\n]|\\.)*(?:'|$)|"(?:[^"\\\n]|\\.)*(?:"|$)|(?P<q>\\+['"]).*?(?P=q)|\{[^}\n]*\}"""
)
_CLOSING = r"""['")\],.:\\}]*"""  # characters of the text around a value
_NEW = rf"(?!{re.escape(HIDDEN)}{_CLOSING}(?:[\s&;]|$))"
_KEYWORD = (
    r"password|passwd|passphrase|secret(?:[_-]\w+)?|(?:access|account|api|auth)[_-]?key"
    r"|shared_?access_?(?:key|signature)|(?:access|auth|refresh|session|security)[_-]?token"
)
_EQUALS = r"""(?:\s*=(?!=)\s*|\\*['"]\s*:\s*)"""  # after keywords, or in the repr of a dictionary
_AUTHORIZATION = r"""(?i)(authorization\\*['"]?\s*[:=,]\s*b?\\*['"]?"""
_WORDS = "pass secret key token pwd sig"
# Each shape has words, and a text must have one of them. Searching for words is faster than
# matching a pattern.
_SHAPES = [
    (words.split(), re.compile(shape))
    for words, shape in (
        ("-----begin", r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----)(.+?)(?=-----END|\Z)"),
        (  # a part of a query, or of a connection string
            _WORDS,
            rf"(?im)([?&;](?:[\w.-]*(?:{_KEYWORD}|token|pwd|signature|(?<![a-z])sig(?![a-z]))"
            rf"[\w-]*|key)=){_NEW}({_QUOTED}|[^&;\s]+?(?={_CLOSING}(?:[&;\s]|$)))",
        ),
        (  # a keyword of libpq or Python
            _WORDS,
            rf"(?im)((?:(?:{_KEYWORD}|(?<![a-z])pwd(?!=/)){_EQUALS}|(?<!\w)sig=))"
            rf"{_NEW}({_QUOTED}|\S+?(?={_CLOSING}(?:\s|$)))",
        ),
        ("token", rf"(?im)((?<![a-z])token{_EQUALS})(?=\\*['\"]){_NEW}({_QUOTED})"),
        (
            "bearer",
            r"(?i)(\bbearer\s+)(?!(?:tokens?|auth\w*|realm|error|scheme)\b)([\w.~+/=-]+)",
        ),
        ("basic", r"(\bBasic\s+)(?=[A-Za-z+/]*[0-9=])([A-Za-z0-9+/]{8,}=*)"),
        (
            "authorization",
            _AUTHORIZATION + r"""(?:basic|token|digest|negotiate|apikey)\s+)([^\s'"\\,]+)""",
        ),
        ("authorization", _AUTHORIZATION + r""")([^\s'"\\,]{16,})"""),
        (  # a user of the web without a password is a token
            "@",
            r"""((?:\bhttps?|\bgit)://)([^/\s:@?#'"]+)(?=(?::(?:x-oauth-basic)?)?@)""",
        ),
        # A password ends at the last @ of a URI, since passwords may contain @, / and quotes.
        ("@", r"(://(?!\[)[^/\s:]*:)(\S*)(?=@)"),
        (  # a password with spaces ends at the first @; digits alone are a port
            "@",
            r"""(://(?!\[)[^/:@\n'"]*:)(?=\S)(?!\d+(?:\W|$))((?:(?!://)[^@\n])*)(?=@)""",
        ),
    )
]


def redact(text: str) -> str:
    """Return the text without secrets of the environment and those of ``without_passwords``.

    A variable has a secret if its name has a word such as ``PASSWORD``, ``TOKEN``, ``KEY``,
    ``PAT`` or ``CONNECTION_STRING``. The value is hidden as it is, as ``repr``, JSON, HTML and
    URLs spell the value, and line by line. Values of fewer than 6 characters are not hidden.
    Values of fewer than 8, and plain words of fewer than 16, are not hidden inside other words.
    """
    names = [name for name in os.environ if _has_secret(name)]
    patterns = _patterns(tuple(os.environ.get(name, "") for name in names))

    def once(text: str) -> str:
        for word, pattern in patterns:
            if word in text:
                text = pattern.sub(HIDDEN, text)
        return _without_shapes(text)

    return _settled(once, text)


def without_passwords(uri: str) -> str:
    """Return a URI or text without the parts that have the shape of a secret.

    The environment does not matter. The shapes are passwords in URIs, queries, connection strings
    (``AccountKey=``), keywords (``password=``) and dictionaries, ``Authorization`` headers, a
    token as user of a web address, and PEM private keys. The user of another URI
    (``postgresql://me@host``) stays.
    """
    return _settled(_without_shapes, uri)


def is_redacted(text: str) -> bool:
    """Return whether a secret was hidden in the text."""
    return HIDDEN in text


def _settled(hide: Callable[[str], str], text: str) -> str:
    """Hide until nothing changes: hiding one part may give the rest another meaning."""
    while (hidden := hide(text)) != text:
        text = hidden
    return text


def _without_shapes(text: str) -> str:
    lower = text.lower()
    for words, shape in _SHAPES:
        if any(word in lower for word in words):
            text = shape.sub(rf"\g<1>{HIDDEN}", text)
    return text


@lru_cache(maxsize=4096)
def _has_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _FILE.search(name)


@lru_cache(maxsize=8)
def _patterns(values: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """Return a pattern of each value and of its secret parts, the longest first.

    With each pattern comes a word that all spellings of its value have.
    """
    secrets = set()
    for value in values:
        secrets.add(value.strip())
        lines = [line.strip() for line in _NEWLINE.split(value)]
        keys = [match[2] for _, shape in _SHAPES for match in shape.finditer(value)]
        secrets |= {part for part in (*lines, *keys) if not _ORDINARY.fullmatch(part)}
    longest_first = sorted((s for s in secrets if len(s) >= _SHORTEST), key=len, reverse=True)
    return [(max(_PLAIN.findall(s), key=len, default=""), _pattern(s)) for s in longest_first]


def _pattern(value: str) -> re.Pattern[str]:
    spelled = "".join(map(_spelled, re.findall(r"\\+|[^\\]", value)))
    if _ORDINARY.fullmatch(value):
        spelled = rf"(?:(?<!\w)|(?<=\\[nrt])){spelled}(?!\w)"
    return re.compile(spelled)


def _spelled(char: str) -> str:
    """Return a pattern of all spellings of a character; backslashes come in any number."""
    if _PLAIN.fullmatch(char):
        return char
    if char[0] == "\\":
        return r"(?:\\|%5[Cc]|\\*(?:\\u005c|&#x5c;))+"
    encoded = char.encode("utf-8", "surrogateescape")
    units = char.encode("utf-16-be", "surrogatepass")
    escaped = (
        {
            ascii(char)[1:-1],  # \n, \xe9, \U0001f600
            json.dumps(char)[1:-1],  # \n, \u00e9, \ud83d\ude00
            repr(encoded)[2:-1],  # \n, \xc3\xa9
            "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)),
        }
        - {char}
    )
    spellings = [
        rf"\\*{re.escape(char)}",
        *("(?i:" + spelling.replace("\\", r"\\+") + ")" for spelling in sorted(escaped)),
        "(?i:" + "".join(f"%{byte:02x}" for byte in encoded) + ")",
        *({re.escape(html.escape(char))} - {re.escape(char)}),
        *([r"\+"] if char == " " else []),
    ]
    return f"(?:{'|'.join(spellings)})"
