"""Puts an export in its place: whole, under its name or, if it failed its check, beside it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from classifier.exporting.about import read_about
from featurestore.errors import UsageError, cannot_write


def require_free(output: Path, overwrite: bool) -> None:
    """Refuses a place where something is that the export must not replace.

    Raises:
      UsageError: naming the fix.
    """
    if not output.exists() and not output.is_symlink():
        # The weights of an .xml file lie beside it.
        beside = output.with_suffix(".bin")
        if output.suffix == ".xml" and beside.exists():
            raise UsageError(
                f"--output: {str(beside)!r}, where the weights go, exists already; choose another "
                "name"
            )
        return
    if not overwrite:
        raise UsageError(
            f"--output: {str(output)!r} exists already; choose another name, or add --overwrite"
        )
    try:
        read_about(output)
    except UsageError as error:
        raise UsageError(
            f"--output: {str(output)!r} is not an export of Hoarfrost, so --overwrite leaves it "
            "alone; choose another name"
        ) from error


@contextmanager
def drafts(output: Path) -> Iterator[Path]:
    """Yields a folder beside the output for unfinished files, and deletes it at the end.

    Raises:
      UsageError: when nothing can be written there.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=output.parent))
    except OSError as error:
        raise cannot_write("--output", str(output), error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle(folder: Path, output: Path) -> int:
    """Moves an export from its drafts to its place; replaces an older one.

    Args:
      folder: holds the file and its companions, such as the weights beside an ``.xml``.
      output: the file's place, whose stem all companions take.

    Returns:
      Bytes of all files.
    """
    size = 0
    # The main file comes last: where it is, its companions are.
    for draft in sorted(folder.iterdir(), key=lambda path: path.suffix == output.suffix):
        size += size_of(draft)
        place = output.with_name(output.stem + draft.suffix) if draft.suffix else output
        if place.is_dir():
            shutil.rmtree(place)
        draft.replace(place)
    return size


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def refused_place(output: Path) -> Path:
    """Returns where an export is kept that failed its check.

    Example:
      >>> refused_place(Path("models/digits.tflite")).name, refused_place(Path("digits")).name
      ('digits.refused.tflite', 'digits.refused')
    """
    return output.with_name(f"{output.stem}.refused{output.suffix}")
