"""Hyperparameters from a YAML file: the same keys as the flags, scalars or lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurestore.errors import UsageError, unknown_choice
from featurestore.io.storage import Storage

# YAML 1.1 reads these words as truth values.
_SWITCHES = {True: "on", False: "off"}


def read_grid(
    url: str, single: Mapping[str, bool], file_system: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Reads a grid file.

    Args:
      url: of the file, local or any fsspec URL.
      single: the keys there may be, and whether each takes one value only.
      file_system: options of it.

    Returns:
      The values of each key as text, as they would be typed on the command line.

    Raises:
      UsageError: for a file that cannot be read or is no mapping, and for what does not belong
        there, with the keys there are.
    """
    import yaml

    folder, _, name = url.rpartition("/")
    try:
        # "/grid.yaml" lies in the root, "grid.yaml" here.
        folder = folder or ("/" if url.startswith("/") else ".")
        record = yaml.safe_load(Storage(folder, dict(file_system)).read(name))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"--grid: cannot read {url!r}: {' '.join(str(error).split()) or type(error).__name__}; "
            "give a YAML file such as 'lr: [1e-3, 1e-4]'"
        ) from error
    if not isinstance(record, dict):
        raise UsageError(
            f"--grid: {url!r} must hold a mapping of flags to values, such as 'lr: [1e-3, 1e-4]', "
            f"got {type(record).__name__}; its keys: {', '.join(sorted(single))}"
        )
    for key in record:
        if key not in single:
            raise unknown_choice(f"--grid: {url!r}: key", str(key), tuple(single))
    return {key: _texts(url, key, value, single) for key, value in record.items()}


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
