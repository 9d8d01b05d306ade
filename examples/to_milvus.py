"""Writes a store of embeddings into a collection of Milvus by Beam's own sink, and searches it.

python examples/to_milvus.py STORE ADDRESS

ADDRESS is that of a server, such as http://localhost:19530. For a small one on this machine:
pip install '.[examples]', then milvus-lite server --data-dir vectors --port 19530.
"""

import sys
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.ml.rag.ingestion.base import VectorDatabaseWriteTransform
from apache_beam.ml.rag.ingestion.milvus_search import MilvusVectorWriterConfig, MilvusWriteConfig
from apache_beam.ml.rag.ingestion.postgres_common import ColumnSpecsBuilder
from apache_beam.ml.rag.types import Content, EmbeddableItem, Embedding
from apache_beam.ml.rag.utils import MilvusConnectionParameters
from pymilvus import DataType, MilvusClient

from featurestore import FeatureStore, open_store

COLLECTION = "images"


class ReadRows(beam.DoFn):
    """Reads the unaugmented images of a commit, with their labels as they are now."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def process(self, chunk_id: str) -> Iterator[EmbeddableItem]:
        columns = ["key", "uri", "labels", "split", "features"]
        commit = self.store.markers()[chunk_id]
        for batch in self.store.scan_markers([commit], columns, views=[0]):
            for key, uri, labels, split, features in zip(*batch.values(), strict=True):
                yield EmbeddableItem(
                    Content(image=uri),
                    id=key,
                    metadata={"labels": list(labels), "split": split or ""},
                    embedding=Embedding(features.tolist()),
                )


def make_collection(client: MilvusClient, dimension: int) -> None:
    """Makes the collection that the sink writes to; rows of the same key are replaced."""
    schema = client.create_schema()
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=1024)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("metadata", DataType.JSON)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="FLAT", metric_type="COSINE")
    client.create_collection(COLLECTION, schema=schema, index_params=index)


def main() -> None:
    """Copies the rows, and prints the images that are nearest to the first one."""
    # One moment for all workers: what is committed meanwhile is for the next copy.
    store, address = open_store(sys.argv[1]).at_this_moment(), sys.argv[2]
    client = MilvusClient(address)
    if not client.has_collection(COLLECTION):
        make_collection(client, store.spec.feature_size)
    columns = ColumnSpecsBuilder().with_id_spec().with_embedding_spec(convert_fn=list)
    sink = MilvusVectorWriterConfig(
        MilvusConnectionParameters(uri=address),
        MilvusWriteConfig(COLLECTION),
        columns.with_metadata_spec(convert_fn=dict).build(),
    )
    with beam.Pipeline(argv=sys.argv[3:]) as pipeline:
        (
            pipeline
            | "name commits" >> beam.Create(list(store.markers()))  # str: chunk ids
            | "read rows" >> beam.ParDo(ReadRows(store))  # EmbeddableItem
            | "write to milvus" >> VectorDatabaseWriteTransform(sink)
        )
    client.flush(COLLECTION)
    client.load_collection(COLLECTION)
    first = next(store.scan(["key", "features"], views=[0]))
    found = client.search(
        COLLECTION, [first["features"][0].tolist()], limit=3, output_fields=["metadata"]
    )
    for row in found[0]:
        print(f"{row['distance']:.4f}", row["id"], *row["entity"]["metadata"]["labels"])


if __name__ == "__main__":
    main()
