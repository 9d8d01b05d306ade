"""Reads hyperparameters from a YAML file, with the flags as keys and scalars or lists as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurestore.errors import UsageError, one_line, unknown_choice
from featurestore.io.storage import Storage

# YAML 1.1 reads these words as booleans.
_SWITCHES = {True: "on", False: "off"}


def read_grid(
    url: str, single: Mapping[str, bool], file_system: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Reads a grid file.

    Args:
      url: of the file, local or any fsspec URL.
      single: the known keys, and whether each takes one value only.
      file_system: options of the file system.

    Returns:
      The values of each key as text, as you would type them on the command line.

    Raises:
      UsageError: if the file cannot be read or is not a mapping, and for a wrong key or value.
    """
    import yaml

    example = "lr: [1e-3, 1e-4]"
    try:
        record = yaml.safe_load(read_text(url, "--grid", example, file_system))
    except yaml.YAMLError as error:
        raise _unreadable(url, "--grid", example, error) from error
    if not isinstance(record, dict):
        raise UsageError(
            f"--grid: {url!r} must hold a mapping of flags to values, such as 'lr: [1e-3, 1e-4]', "
            f"got {type(record).__name__}; its keys: {', '.join(sorted(single))}"
        )
    for key in record:
        if key not in single:
            raise unknown_choice(f"--grid: {url!r}: key", str(key), tuple(single))
    return {key: _texts(url, key, value, single) for key, value in record.items()}


def read_text(
    url: str, flag: str, example: str, file_system: Mapping[str, Any] | None = None
) -> str:
    """Reads a YAML file of the user, without parsing it.

    Args:
      url: of the file, local or any fsspec URL.
      flag: that names it.
      example: of what such a file holds, for the message.
      file_system: options of the file system.

    Raises:
      UsageError: if the file cannot be read.
    """
    folder, _, name = url.rpartition("/")
    try:
        # "/grid.yaml" lies in the root, "grid.yaml" here.
        folder = folder or ("/" if url.startswith("/") else ".")
        return Storage(folder, dict(file_system or {})).read(name).decode()
    except (OSError, ValueError) as error:
        raise _unreadable(url, flag, example, error) from error


def _unreadable(url: str, flag: str, example: str, error: Exception) -> UsageError:
    return UsageError(
        f"{flag}: cannot read {url!r}: {one_line(error)}; give a YAML file such as {example!r}"
    )


def _texts(url: str, key: str, value: Any, single: Mapping[str, bool]) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if key == "multi_label":
        values = [_SWITCHES.get(item, item) if isinstance(item, bool) else item for item in values]
    if single[key] and len(values) != 1:
        raise UsageError(f"--grid: {url!r}: {key} takes one value, got {value!r}")
    for item in values:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise UsageError(
                f"--grid: {url!r}: {key} takes a number or text, or a list of them, got {item!r}; "
                f"keys: {', '.join(sorted(single))}"
            )
    if not values:
        raise UsageError(f"--grid: {url!r}: {key} needs at least one value")
    return [str(item) for item in values]
