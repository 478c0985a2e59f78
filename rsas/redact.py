"""Keep passwords, tokens and keys out of whatever is shown, logged or stored."""

from __future__ import annotations

import os
import re

__all__ = ["HIDDEN", "is_redacted", "redact", "without_passwords"]

HIDDEN = "***"
# What an URI carries before its @, up to the last one: a password may hold another, / and quotes.
_USERINFO = re.compile(r"(?<=://)[^/\s:]*:\S*(?=@)")
_QUERY = re.compile(
    r"(?i)([?&;](?:[\w-]*(?:password|passwd|pwd|secret|token|access_key|api_key|signature|sig)[\w-]*)=)"
    r"[^&;\s'\"]+"
)
_NAMES = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|API_KEY)", re.IGNORECASE)
_SHORTEST = 6  # of a value worth hiding by itself; shorter ones would blacken ordinary words


def redact(text: str) -> str:
    """The text without secrets: a user and password in an URI, and values of the environment.

    A user alone (``postgresql://me@host``) stays. Variables whose name speaks of a password,
    a secret, a token or a key are looked for by their values.
    """
    for name, value in sorted(os.environ.items(), key=lambda item: -len(item[1])):
        if len(value) >= _SHORTEST and _NAMES.search(name) and not os.path.isabs(value):
            text = text.replace(value, HIDDEN)
    return without_passwords(text)


def without_passwords(uri: str) -> str:
    """An URI without what it carries as password, token or key, whatever the environment holds."""
    return _USERINFO.sub(_without_password, _QUERY.sub(rf"\g<1>{HIDDEN}", uri))


def is_redacted(text: str) -> bool:
    """Whether something was taken out of it."""
    return HIDDEN in text


def _without_password(found: re.Match[str]) -> str:
    user, colon, _ = found.group().partition(":")
    return f"{user}:{HIDDEN}" if colon else user
