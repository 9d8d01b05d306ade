"""Makes the engine of a base that a store or a training run holds."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from classifier.base.pixels import pixel_model
from classifier.base.stored import RESTORE, load_base
from classifier.engines import onnxruntime
from classifier.engines.batching import DeviceQueue, fastest_batch
from classifier.engines.conversion import converted, pack, unpack, with_taps
from classifier.engines.engine import IDENTITY, Engine, EngineChoice
from classifier.engines.hardware import this_machine
from classifier.engines.identity import IdentityEngine
from classifier.engines.openvino import OpenVINOEngine
from classifier.engines.options import for_base, for_stored
from classifier.engines.tensorflow import TensorFlowEngine, limit_threads, out_of_memory
from classifier.graphs.files import GraphFiles, is_graph_file
from classifier.graphs.network import Network
from classifier.graphs.scaling import scaling_of
from classifier.runtime import import_keras
from featurestore import layout
from featurestore.errors import CorruptStore, UsageError
from featurestore.io.cores import cores
from featurestore.io.storage import Storage
from featurestore.spec import StoreSpec
from featurestore.taps import layers_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class StoredBase:
    """A base in a store or in a training run.

    Attributes:
      storage: of the store, or of the run, which has copies of the store's models.
      spec: of the features.
      trust_model: whether the base may contain Python code (Lambda layers).
      model: the base if it is already in memory; it need not be stored yet. Of a graph, its files.
    """

    storage: Storage
    spec: StoreSpec
    trust_model: bool = False
    model: keras.Model | GraphFiles | None = field(default=None, repr=False, compare=False)

    @property
    def is_graph(self) -> bool:
        """Whether the base is an ONNX or OpenVINO file, which only OpenVINO runs."""
        return is_graph_file(self.spec.base.model)

    def load(self) -> keras.Model:
        """Returns the base in Keras.

        Raises:
          CorruptStore: when the file is missing, damaged, or holds other weights.
          UsageError: when the base has Lambda layers and is not trusted, and for a graph.
        """
        if self.is_graph:
            raise UsageError(
                f"the base {self.spec.base.model!r} is an ONNX or OpenVINO graph, and only "
                "networks of Keras are fine-tuned or continued from stored maps; extract, train, "
                "predict, score and verify run it as it is"
            )
        if self.model is not None:
            return self.model
        if self.spec.is_pixels:
            return pixel_model(self.spec)
        name = layout.model_file(self.spec.base.weights_hash)
        with self.storage.local_copy(name) as path:
            return load_base(path, self.spec.base, self.trust_model)

    def files(self) -> GraphFiles:
        """Returns the ONNX or OpenVINO file of the base, with its weights.

        Raises:
          CorruptStore: when the file is missing, damaged, or holds another graph.
        """
        if isinstance(self.model, GraphFiles):
            return self.model
        base = self.spec.base
        name = layout.model_file(base.weights_hash)
        where = f"{self.storage.public_url}/{name}"
        try:
            data = self.storage.read(name)
        except FileNotFoundError as error:
            raise CorruptStore(f"{where} is missing; {RESTORE}") from error
        return GraphFiles.unpacked(data, base.model, base.weights_hash, where)

    def graph(self) -> Any:
        """Returns the base of an ONNX or OpenVINO file, from uint8 pixels to float32 features.

        Raises:
          CorruptStore: when the file is missing, damaged, or holds another graph.
        """
        base = self.spec.base
        network = Network(self.files(), self.spec.pixels.image_size, scaling_of(base.preprocess))
        return network.features(layers_of(base))

    def check(self) -> None:
        """Loads the stored base itself, where an engine would take a converted copy.

        Raises:
          CorruptStore: when the file is missing, damaged, or holds another base.
          UsageError: when the base has Lambda layers and is not trusted.
        """
        if self.is_graph:
            self.graph()
        else:
            self.load()

    def is_whole(self) -> bool:
        """Returns whether the stored file can be read to its end; does not check its weights."""
        name = layout.model_file(self.spec.base.weights_hash)
        try:
            with self.storage.local_copy(name) as path, zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        except (OSError, zipfile.BadZipFile):
            return False

    def packed(self) -> bytes:
        """Returns the float32 base as a packed OpenVINO model."""
        if self.is_graph:
            return pack(self.graph())
        if self.model is None and not self.is_whole():
            # Raises an error that explains the damage.
            self.load()
        return converted(self.spec.base, self.spec.pixels.image_size, self.load)

    def quantised(self, model_hash: str) -> bytes:
        """Returns the store's quantised model.

        Raises:
          CorruptStore: when the file is missing or damaged.
        """
        name = layout.quantised_file(model_hash)
        try:
            data = self.storage.read(name)
        except FileNotFoundError as error:
            raise CorruptStore(f"{self.storage.public_url}/{name} is missing; {RESTORE}") from error
        if layout.quantised_hash(data) != model_hash:
            raise CorruptStore(
                f"{self.storage.public_url}/{name} is damaged: its content does not give its name; "
                f"{RESTORE}"
            )
        return data


def load_engine(
    base: StoredBase, choice: EngineChoice, batch_size: int, lanes: int = 1, threads: int = 0
) -> Engine:
    """Makes an engine.

    Args:
      base: in its store or run.
      choice: engine and precision.
      batch_size: images per call.
      lanes: concurrent calls. Where TensorFlow has a GPU, several lanes share full batches of it,
        whose size is measured; see `batching.DeviceQueue`.
      threads: of all lanes together; 0 gives each lane one. TensorFlow keeps its number of threads
        once it has started.

    Raises:
      CorruptStore: when a stored model is missing, damaged, or holds other weights.
      UsageError: when the engine cannot run here, or cannot run this base.
    """
    if choice == IDENTITY:
        return IdentityEngine(base.spec, batch_size)
    image_size = base.spec.pixels.image_size
    if choice.engine == "openvino":
        if base.is_graph and choice.precision != "int8":
            model = base.graph()
        else:
            data = base.quantised(choice.model) if choice.precision == "int8" else base.packed()
            model = unpack(data, f"the OpenVINO model of {base.storage.public_url}")
            model = with_taps(model, base.spec.base)
        return OpenVINOEngine(model, choice, image_size, batch_size, lanes, threads)
    if choice.engine == "onnxruntime":
        return _in_onnxruntime(base, batch_size, lanes, threads or lanes)
    import_keras()
    limit_threads(threads or lanes, lanes)
    make = partial(
        TensorFlowEngine, base.load(), base.spec.base, image_size, precision=choice.precision
    )
    if lanes == 1 or not this_machine().gpu:
        return make(batch_size)
    engine, trials = fastest_batch(make, image_size, batch_size, out_of_memory())
    return DeviceQueue(engine, batch_size, trials)


def _in_onnxruntime(base: StoredBase, batch_size: int, lanes: int, threads: int) -> Engine:
    machine = this_machine()
    gpu = machine.cuda and not machine.stands_in
    session = onnxruntime.open_session(base.files(), base.spec, max(1, threads // lanes), gpu)
    make = partial(onnxruntime.OnnxRuntimeEngine, session, base.spec)
    if lanes == 1 or not machine.cuda:
        return make(batch_size)
    size, memory = base.spec.pixels.image_size, onnxruntime.out_of_memory()
    engine, trials = fastest_batch(make, size, batch_size, memory)
    return DeviceQueue(engine, batch_size, trials)


def serving_engine(base: StoredBase, batch_size: int, lanes: int = 1) -> Engine:
    """Makes the engine that computed a store's features, or the nearest that this machine has.

    Args:
      base: in its store or run.
      batch_size: images per call.
      lanes: concurrent calls, which share this machine's cores.
    """
    choice, _ = for_stored(base.spec.numerics, this_machine, for_base(None, base.spec.base))
    return load_engine(base, choice, batch_size, lanes, threads=cores())
