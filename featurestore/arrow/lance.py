"""A store as a dataset of Lance, which finds nearest rows by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.arrow.stream import arrow_reader
from featurestore.errors import UsageError, cannot_write

if TYPE_CHECKING:
    import lance

    from featurestore.store import FeatureStore


def to_lance(store: FeatureStore, output: str) -> lance.LanceDataset:
    """Writes the rows that count now into a new Lance dataset, in bounded memory.

    Embeddings become vectors that Lance can search. Maps stay bytes, as in the store.

    Args:
      store: an open store.
      output: folder or address of the new dataset.

    Returns:
      The dataset, open.

    Raises:
      UsageError: when Lance is missing, or `output` cannot be written or is there already.
    """
    try:
        import lance
    except ModuleNotFoundError as error:
        if error.name != "lance":
            raise
        raise UsageError(
            "to_lance needs the package pylance, which is not installed; pip install "
            "'hoarfrost[lance]'"
        ) from error
    try:
        return lance.write_dataset(arrow_reader(store), output, mode="create")
    except OSError as error:
        raise cannot_write("output", output, error, "choose a new folder") from error
