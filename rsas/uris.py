"""URIs of files, as SQLAlchemy reads them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sqlite_file", "sqlite_uri"]


def sqlite_uri(path: Path) -> str:
    """Return the URI of a SQLite file; its path may have characters such as ``%`` and ``?``."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string()


def sqlite_file(uri: str) -> Path | None:
    """Return the path in the URI of a SQLite file; None for any other URI."""
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "") if uri.startswith("sqlite:///") else None
