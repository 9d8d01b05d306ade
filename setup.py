"""Packaging of Hoarfrost: three packages, each adding one heavy dependency to the one below."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "featurestore/__init__.py").read_text())

EXTRAS = {
    # Plots of training, evaluation and image grids, and the page of a run.
    "report": ["jinja2>=3.1,<4", "matplotlib>=3.8,<4"],
    # The built-in sample of handwritten digits.
    "sample": ["scikit-learn>=1.4,<2"],
    "s3": ["s3fs>=2024.9"],
    "gcp": ["gcsfs>=2024.9", "apache-beam[gcp]>=2.77,<2.78"],
    # The faster engine on a CPU, and what quantises for it.
    "openvino": ["openvino>=2026.4,<2027", "nncf>=3.4,<4"],
    # classifier.audit --map umap.
    "umap": ["umap-learn>=0.5.12,<1"],
    # An index for searches of many millions of images: classifier.search --index.
    "search": ["usearch>=2.26,<3"],
    # A scheduler and workers of your own: --runner=DaskRunner. Both need this extra, too.
    "dask": ["dask[distributed]>=2026.1,<2027"],
    # Exports to ONNX: the converter, and the runtime that an export is checked in. With openvino,
    # which reads a graph: --engine onnxruntime.
    "onnx": ["onnx>=1.23,<2", "onnxruntime>=1.32,<2", "tf2onnx>=1.17,<2"],
    # Backbones of KerasHub as bases. It needs tensorflow-text, whose version is TensorFlow's.
    "kerashub": ["keras-hub>=0.32,<0.33", "tensorflow-text>=2.21,<2.22"],
    # A store as a dataset of Lance; the package is its Python binding.
    "lance": ["pylance>=14,<15"],
    # A store as a dataset of PyTorch.
    "torch": ["torch>=2.4"],
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
}
# What the benchmarks compare with, and what they measure memory by.
EXTRAS["bench"] = [
    *EXTRAS["sample"],
    "jax>=0.6,<1",
    "psutil>=6",
    "py-spy>=0.4",
    "ray[data]>=2.40,<3",
    # Its photographs.
    "scikit-image>=0.25,<1",
]
# What a script of examples/ reads a store into, beside what the tests need.
EXTRAS["milvus"] = ["milvus-lite>=3.2,<4", "pymilvus>=3,<4"]
EXTRAS["examples"] = ["duckdb>=1.1", *EXTRAS["milvus"], *EXTRAS["torch"]]
# The site of docs/.
EXTRAS["docs"] = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=1,<2"]
EXTRAS["test"] = [
    *EXTRAS["report"],
    *EXTRAS["sample"],
    *EXTRAS["s3"],
    *EXTRAS["dask"],
    *EXTRAS["openvino"],
    *EXTRAS["onnx"],
    *EXTRAS["kerashub"],
    *EXTRAS["search"],
    *EXTRAS["lance"],
    *EXTRAS["milvus"],
    *EXTRAS["docs"],
    # What Beam builds a job for Dataflow with; the rest of apache-beam[gcp] only talks to servers.
    "google-apitools>=0.5.31,<0.5.32",
    "google-auth-httplib2>=0.1,<0.3",
    "google-cloud-dataflow-client>=0.13,<0.14",
    "google-cloud-storage>=2.18.2,<4",
    # BuildKit's parser, a linter and Kubernetes's schemas, for the files of deploy/.
    "dockerfile>=3.4,<4",
    "dockerfile-doctor>=0.1.5",
    "kubernetes-validate>=1.37",
    # Other people's writers and readers of the formats.
    "ai-edge-litert>=2.3,<3",
    "datasets>=3",
    "duckdb>=1.1",
    "hypothesis>=6.100,<7",
    "pandas>=2.2",
    "polars>=1.0",
    "tensorflow-datasets>=4.9",
    "webdataset>=1.0,<2",
    "moto[server]>=5.1,<6",
    "mypy>=1.13",
    "pytest>=8.3",
    "pytest-timeout>=2.4,<3",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "types-protobuf",
    "types-setuptools",
]

setup(
    name="hoarfrost",
    version=VERSION.group(1),
    description="Run a frozen conv base over every image once; train many heads on what it stored.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["featurestore*", "classifier*", "pipelines*"]),
    package_data={
        # The annotations are for type checkers of other projects, too.
        "featurestore": ["py.typed"],
        "classifier": ["py.typed"],
        "pipelines": ["py.typed"],
        "classifier.recipes": ["*.yaml"],
        "classifier.reporting": ["templates/*"],
        "classifier.auditing": ["templates/*"],
        "pipelines.finishing.page": ["templates/*"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        # Cutting a layer out of a model uses how Keras 3.15 keeps its graph.
        "keras>=3.15,<3.16",
        "h5py>=3.11",
        # TFRecord's checksums and records, without TensorFlow.
        "google-crc32c>=1.5",
        "protobuf>=5",
        "apache-beam>=2.77,<2.78",
        "pyarrow>=18",
        "numpy>=2.0,<3",
        # L-BFGS of logistic heads.
        "scipy>=1.13,<2",
        "threadpoolctl>=3.5,<4",
        # Grids of hyperparameters.
        "PyYAML>=6,<7",
        "fsspec>=2024.9",
        "packaging>=23",
        # Decoding and resizing: without these no image becomes pixels.
        "opencv-python-headless>=4.10",
        "pillow>=11",
        "simplejpeg>=1.8",
    ],
    extras_require=EXTRAS,
)
