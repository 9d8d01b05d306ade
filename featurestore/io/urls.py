"""Addresses: opens the file system behind one, and keeps secrets out of messages and stores.

A file has one address, however you write it: ``.`` and ``..`` are resolved, relative paths become
absolute, and `connect` opens what `address_of` returns. In a local path the characters ``::``,
``#``, ``?``, ``%`` and brackets have no special meaning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec

from featurestore.errors import UsageError

# File systems raise these, besides OSError, for a text that is not an address.
ADDRESS_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# File systems inside a file, or in front of another file system.
_WRAPPERS = ("zip", "tar", "libarchive", "simplecache", "filecache", "blockcache", "cached", "dir")
# The extra of ours that installs a protocol's package.
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcp", "gcs": "gcp"}
_LOCAL, _WEB = ("file", "local"), ("http", "https")


def connect(
    url: str, options: Mapping[str, Any] | None = None, flag: str = "URL"
) -> tuple[Any, str]:
    """Opens the file system of `url`.

    Args:
      url: a local path or any fsspec URL.
      options: for the file system, such as ``{"anon": True}``.
      flag: the flag that gave the URL, for the message.

    Returns:
      (file system, path on that file system).

    Raises:
      UsageError: for an unknown protocol, a protocol whose package is missing, and a text that is
        not an address.
    """
    try:
        return _connect(url, options or {})
    except ImportError as error:
        extra = EXTRAS.get(protocol_of(url), "")
        fix = f"; pip install 'hoarfrost[{extra}]'" if extra else ""
        raise UsageError(
            f"{flag}: {public_url(url)!r} needs a package that is missing: {error}{fix}"
        ) from error
    except ADDRESS_ERRORS as error:
        shown = public_url(url) if isinstance(url, str) else url
        raise UsageError(f"{flag}: cannot open {shown!r}: {error}") from error


def _connect(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    if not isinstance(url, str) or "\0" in url:
        raise ValueError("an address is text, without a NUL character")
    if path := path_on_disk(url):
        return fsspec.core.url_to_fs("file:///", **options)[0], path
    if is_chain(url):
        return fsspec.core.url_to_fs(url, **options)
    protocol = protocol_of(url)
    url = f"{protocol}://{_bare(url)}"
    # fsspec would split an object's name at ::, too.
    fs, path = fsspec.core.url_to_fs(url.split("::")[0], **options)
    path = fs._strip_protocol(url) if "::" in url else path
    return fs, path if is_web(url) else without_dots(path)


def protocol_of(url: str) -> str:
    """Returns an address's protocol in lower case; ``file`` for a path.

    Example:
      >>> protocol_of("S3://bucket/a.jpg"), protocol_of("photos/a::b.jpg")
      ('s3', 'file')
    """
    match = _PROTOCOL.match(url)
    return match[1].lower() if match else "file"


def is_address(written: str) -> bool:
    """Whether a text names a protocol; otherwise it is a path."""
    return bool(_PROTOCOL.match(written))


def is_on_disk(url: str) -> bool:
    """Whether an address is a path of this machine.

    Example:
      >>> [is_on_disk(url) for url in ("photos/a.jpg", "file:///photos", "s3://bucket/a.jpg")]
      [True, True, False]
    """
    return protocol_of(url) in _LOCAL


def path_on_disk(url: str) -> str | None:
    """Returns the absolute path of a file of this machine; None for any other address.

    Example:
      >>> path_on_disk("file:///photos/./a.jpg"), path_on_disk("simplecache::s3://b/a.jpg")
      ('/photos/a.jpg', None)
    """
    return _local_path(_bare(url)) if is_on_disk(url) and not is_chain(url) else None


def is_web(url: str) -> bool:
    """Whether an address is of the web, where it may hold a query, a user and a password."""
    return protocol_of(url) in _WEB


def _bare(url: str) -> str:
    match = _PROTOCOL.match(url)
    return url[match.end() :] if match else url


def is_chain(url: str) -> bool:
    """Whether an address is fsspec's ``protocol::URL`` or ``protocol://path::URL``.

    Example:
      >>> [is_chain(url) for url in ("zip://a.jpg::s3://b/x.zip", "simplecache::s3://b/x")]
      [True, True]
      >>> [is_chain(url) for url in ("photos/a::b.jpg", "s3://bucket/a::b.jpg")]
      [False, False]
    """
    first, separator, rest = url.partition("::")
    if not separator:
        return False
    match = _PROTOCOL.match(first)
    return (match[1] if match else first) in _WRAPPERS and bool(match or "://" in rest)


def _local_path(path: str) -> str:
    """Returns the absolute path of the same file without ``.``, ``..`` and empty parts."""
    path = os.path.abspath(os.path.expanduser(path)) if ".." not in path else _without_parents(path)
    return "/" + path.lstrip("/") if os.sep == "/" else path.replace(os.sep, "/")


def _without_parents(path: str) -> str:
    path = os.path.join(os.getcwd(), os.path.expanduser(path))
    plain = os.path.normpath(path)
    if os.path.realpath(plain) == os.path.realpath(path):
        return plain
    # After a link to a folder, .. is the parent of the link's target.
    parts = path.split(os.sep)
    above = len(parts) - parts[::-1].index("..")
    return os.path.normpath(
        os.path.join(os.path.realpath(os.sep.join(parts[:above])), *parts[above:])
    )


def without_dots(path: str) -> str:
    """Resolves ``.`` and ``..`` by RFC 3986, but keeps empty parts, which objects' names may have.

    Example:
      >>> without_dots("bucket/in/../in/./a//b.jpg")
      'bucket/in/a//b.jpg'
    """
    if not any(part in (".", "..") for part in path.split("/")):
        return path
    kept: list[str] = []
    for part in path.split("/"):
        if part == ".." and len(kept) > 1:
            kept.pop()
        elif part not in (".", ".."):
            kept.append(part)
    return "/".join(kept)


def address_of(fs: Any, path: str) -> str:
    """Returns the address with which `connect` opens a file, without credentials.

    Args:
      fs: the file system.
      path: on that file system, from `connect` or a listing.
    """
    uri = fs.unstrip_protocol(path)
    if host := host_of(fs):
        uri = f"{protocol_of(uri)}://{host}/{_bare(uri).lstrip('/')}"
    return public_url(uri)


def host_of(fs: Any) -> str:
    """Returns the host and port of a file system whose paths do not hold them; otherwise ""."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if "host" not in fs._get_kwargs_from_urls(f"{protocol}://host/path"):
        return ""
    host, port = (fs.storage_options.get(name) for name in ("host", "port"))
    return f"{host or ''}{f':{port}' if port else ''}"


def query_of(url: str) -> str:
    """Returns the query of a web address, which is never stored; "" for other addresses.

    Example:
      >>> query_of("https://host/img?id=1#top"), query_of("s3://bucket/what?.jpg")
      ('id=1', '')
    """
    if not is_web(url):
        return ""
    return url.partition("#")[0].partition("?")[2]


def public_url(url: str) -> str:
    """Returns a URL without user, password and signature, fit for stores and logs.

    Only web addresses have a query; elsewhere ``?`` and ``#`` are part of the name.

    Example:
      >>> public_url("https://me:secret@host/a.jpg?token=1")
      'https://host/a.jpg'
      >>> public_url("s3://bucket/cat #1.jpg")
      's3://bucket/cat #1.jpg'
      >>> public_url("zip://a.jpg::https://me:secret@host/x.zip?token=1")
      'zip://a.jpg::https://host/x.zip'
    """
    links = [url] if is_web(url) else url.split("::")
    return "::".join(map(_public_link, links))


def _public_link(url: str) -> str:
    protocol, separator, rest = url.partition("://")
    if not separator or protocol in ("file", "local", "memory") or not _PROTOCOL.match(url):
        return url
    if protocol.lower() in _WEB:
        rest = rest.split("?")[0].split("#")[0]
    host, slash, path = rest.partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"


def modified_time(info: Mapping[str, Any]) -> float | None:
    """Returns a listed file's modification time in seconds, under any protocol's key."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp() if value.tzinfo else value.replace(tzinfo=UTC).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
