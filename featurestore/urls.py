"""Addresses: opening the file system behind one, and keeping secrets out of what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec

from featurestore.errors import UsageError


def connect(url: str, options: Mapping[str, Any] | None = None, flag: str = "URL"):
    """Opens the file system of `url`.

    Args:
      url: a local path or any fsspec URL.
      options: for the file system, such as ``{"anon": True}``.
      flag: what the user called the URL, for the message.

    Returns:
      (file system, path on it).

    Raises:
      UsageError: for an unknown protocol or one whose package is missing.
    """
    try:
        return fsspec.core.url_to_fs(url, **(options or {}))
    except ImportError as error:
        raise UsageError(
            f"{flag}: {public_url(url)!r} needs a package that is missing: {error}"
        ) from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{flag}: cannot open {public_url(url)!r}: {error}") from error


def public_url(url: str) -> str:
    """Removes user, password and signature from a URL: fit for the store and the logs.

    Only web addresses have a query; elsewhere ``?`` and ``#`` belong to the name.

    Example:
      >>> public_url("https://me:secret@host/a.jpg?token=1")
      'https://host/a.jpg'
      >>> public_url("s3://bucket/cat #1.jpg")
      's3://bucket/cat #1.jpg'
      >>> public_url("zip://a.jpg::https://me:secret@host/x.zip?token=1")
      'zip://a.jpg::https://host/x.zip'
    """
    return "::".join(_public_link(link) for link in url.split("::"))


def _public_link(url: str) -> str:
    protocol, separator, rest = url.partition("://")
    if not separator or protocol in ("file", "local", "memory"):
        return url
    if protocol in ("http", "https"):
        rest = rest.split("?")[0].split("#")[0]
    host, slash, path = rest.partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"


def modified_time(info: Mapping[str, Any]) -> float | None:
    """Returns a listed file's modification time in seconds, by whatever name the protocol has."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp() if value.tzinfo else value.replace(tzinfo=UTC).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
