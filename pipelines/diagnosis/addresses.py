"""Whether inputs and outputs can be opened, here and by the workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec

from classifier.inputs.formats.tfds import named_split
from featurestore.errors import cause
from featurestore.io.urls import ADDRESS_ERRORS, connect, is_chain, protocol_of, public_url
from pipelines.diagnosis.finding import ERROR, OK, WARNING, Case, Finding
from pipelines.diagnosis.packages import extra, has_module

# Protocol -> the extra of Hoarfrost with its package.
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcp", "gcs": "gcp"}
_GIVEN = ("key", "secret", "token", "anon", "profile", "username")
_HERE = ("localhost", "127.0.0.1", "[::1]")
_S3_SOURCES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile of `aws configure`"


def addresses(case: Case) -> dict[str, list[str]]:
    """Returns the addresses that a command names, by flag."""
    inputs = [named_split(uri)[1] for uri in case.options.inputs]
    return {"--input": inputs, "--output": [case.options.output]}


def address_findings(case: Case) -> Iterator[Finding]:
    """Looks at every address of the command."""
    options = case.options.storage_options
    for flag, urls in addresses(case).items():
        for url in urls:
            protocol = protocol_of(url)
            if protocol in ("file", "local") and not is_chain(url):
                yield from (
                    _local_findings(flag, url) if case.runs_here else _unshared(case, flag, url)
                )
            else:
                yield from _remote_findings(flag, url, protocol, options)
    if not case.runs_here:
        yield from endpoint_findings(options, os.environ)


def _local_findings(flag: str, url: str) -> Iterator[Finding]:
    """Checks a path of this machine, which the workers share."""
    try:
        path = Path(connect(url, flag=flag)[1])
    except OSError as error:
        yield Finding(ERROR, "paths", f"{flag} {url}: {cause(error)}")
        return
    if flag == "--input":
        if not any(character in url for character in "*?[#") and not path.exists():
            yield Finding(ERROR, "paths", f"{flag} {url} does not exist", "correct the path")
            return
    else:
        folder = next(parent for parent in (path, *path.parents) if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            fix = "choose a folder that you may write to"
            yield Finding(ERROR, "paths", f"{flag} {url}: {folder} is not writable", fix)
            return
    yield Finding(OK, "paths", f"{flag} {url}")


def _unshared(case: Case, flag: str, url: str) -> Iterator[Finding]:
    """Says that workers on other machines do not see a path of this one."""
    if case.runner == "dataflow":
        message = f"{flag} {url} is a path of this machine, which Dataflow's workers do not see"
        yield Finding(ERROR, "shared paths", message, "give an address such as gs://bucket/folder")
        return
    message = f"{flag} {url} is a path: every worker must see the same folder there"
    fix = "mount it at this path on every worker, or give an address such as s3://bucket/folder"
    yield Finding(WARNING, "shared paths", message, fix)


def _remote_findings(
    flag: str, url: str, protocol: str, options: Mapping[str, Any]
) -> Iterator[Finding]:
    """Checks the package and the credentials of a protocol, without asking its server."""
    shown = public_url(url)
    try:
        fsspec.get_filesystem_class("file" if is_chain(url) else protocol)
    except ImportError as error:
        name = EXTRAS.get(protocol)
        fix = extra(name) if name else f"install what {protocol}:// needs: {cause(error)}"
        yield Finding(ERROR, "packages", f"{flag} {shown} needs a package that is missing", fix)
        return
    except ADDRESS_ERRORS as error:
        fix = "correct the address; the protocols are those of fsspec"
        yield Finding(ERROR, "paths", f"{flag} {shown}: {cause(error)}", fix)
        return
    missing = "" if set(_GIVEN) & set(options) else _missing_credentials(protocol)
    if missing:
        message = f"{flag} {shown}: no credentials were found"
        yield Finding(WARNING, "credentials", message, missing)
    else:
        yield Finding(OK, "paths", f"{flag} {shown}")


def _missing_credentials(protocol: str) -> str:
    """Returns what to do about credentials of this machine; "" if there are some."""
    if protocol in ("s3", "s3a") and not has_s3_credentials():
        return f"set {_S3_SOURCES}, or --storage_options anon=true; a role of the machine works too"
    if protocol in ("gs", "gcs") and not has_google_credentials():
        return (
            "gcloud auth application-default login, or --storage_options token=anon; the service "
            "account of a machine of Google Cloud works too"
        )
    return ""


def has_s3_credentials() -> bool:
    """Whether the AWS libraries would find credentials without asking the machine's metadata."""
    if not has_module("botocore.session"):
        return True
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    session = Session()
    try:
        resolver = session.get_component("credential_provider")
        # It asks a server of the machine, which takes seconds where there is none.
        resolver.remove("iam-role")
        return resolver.load_credentials() is not None
    except BotoCoreError:
        return False


def has_google_credentials() -> bool:
    """Whether Google's libraries would find credentials without asking the machine's metadata."""
    if given := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return Path(given).is_file()
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    return (Path(folder) / "application_default_credentials.json").is_file()


def endpoint_findings(
    options: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Looks for servers that only this machine knows or reaches.

    Args:
      options: of ``--storage_options``, which travel with the job.
      environment: variables of this process, which do not.
    """
    name = next((name for name in environment if name.startswith("AWS_ENDPOINT_URL")), "")
    if name and "endpoint_url" not in options:
        message = f"{name} is set here, and workers do not get this machine's environment"
        fix = f"--storage_options endpoint_url={environment[name]}"
        yield Finding(ERROR, "shared paths", message, fix)
    for key, value in options.items():
        if any(host in str(value) for host in _HERE):
            message = f"--storage_options {key}={value} is this machine for its own processes only"
            yield Finding(WARNING, "shared paths", message, "name the host as workers reach it")
