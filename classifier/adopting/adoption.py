"""Makes a run of a complete classifier: its base is the whole network, its head changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from classifier.adopting.labels import Classes, LabelFile, classes_of
from classifier.adopting.outputs import ACTIVATIONS, AUTO, head_of, recognise
from classifier.base.build import FrozenBase, build_base
from classifier.base.prepared import keep_base
from classifier.base.request import BaseRequest
from classifier.engines import EngineChoice, StoredBase, limit_threads, load_engine, run_padded
from classifier.engines.hardware import this_machine
from classifier.engines.options import EngineOptions, candidates, for_base
from classifier.engines.probes import PROBES, synthetic_images, write_probes
from classifier.reporting.writing import renew_page
from classifier.runs import output
from classifier.runs import run as run_folder
from classifier.runs.headfile import save_head
from classifier.runs.run import ADOPTED
from classifier.runtime import import_keras
from featurestore import __version__, layout
from featurestore.errors import UsageError, unknown_choice
from featurestore.io.cores import cores
from featurestore.io.storage import Storage
from featurestore.spec import PixelSpec, StoreSpec

HEAD_ID = "adopted"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class AdoptOptions:
    """The user's flags; checked on construction.

    Attributes:
      base: the classifier, cut at its output.
      labels: names of its classes.
      pixels: how images are decoded, besides their size.
      label_offset: see `classifier.adopting.labels.classes_of`.
      activation: that the model ends in, or ``auto``.
      engine: ``auto``, ``tensorflow``, ``openvino`` or ``onnxruntime``.
    """

    base: BaseRequest
    labels: LabelFile
    pixels: Mapping[str, str] = field(default_factory=dict)
    label_offset: int | None = None
    activation: str = AUTO
    engine: str = AUTO

    def __post_init__(self) -> None:
        if self.activation not in (AUTO, *ACTIVATIONS):
            raise unknown_choice("--activation", self.activation, (AUTO, *ACTIVATIONS))
        if self.base.is_preset:
            raise UsageError(
                f"--model {self.base.model}: is a backbone without classes; give a whole "
                "classifier, or extract features with it and train a head"
            )
        # Checked here, before a network is built; the size is known only then.
        PixelSpec((1, 1), **self.pixels)
        for name, value in self.base.pixels.items():
            if self.pixels.get(name, value) != value:
                raise UsageError(
                    f"--{name} {self.pixels[name]}: the file of the preprocessing asks for {value}"
                    f"; give --{name} {value}, or --preprocess by name"
                )


def adopt(options: AdoptOptions, storage: Storage, overwrite: bool, tell: Tell) -> dict[str, Any]:
    """Writes a run around a complete classifier.

    Args:
      options: the user's flags.
      storage: the run's folder.
      overwrite: whether a finished run may be replaced.
      tell: takes lines for the user.

    Returns:
      The summary that is written as ``summary.json``.

    Raises:
      UsageError: for a model that is no classifier, labels that do not fit, or a folder that is
        taken.
    """
    import_keras()
    limit_threads(cores(), cores())
    built = build_base(options.base)
    for note in built.notes:
        tell(note)
    spec = _spec_of(options, built)
    classes = classes_of(options.labels, spec.feature_size, options.label_offset)
    for note in classes.notes:
        tell(f"note: {note}")
    engine = load_engine(
        StoredBase(storage, spec, options.base.trust_model, built.model),
        EngineChoice.of(spec.numerics),
        PROBES,
        threads=cores(),
    )
    probes = synthetic_images(PROBES, spec.pixels.image_size)
    activation = options.activation
    if activation == AUTO:
        activation = recognise(run_padded(engine, probes))
    head = head_of(spec.feature_size, activation)
    output.prepare_output(storage, None, overwrite)
    model = layout.model_file(spec.base.weights_hash)
    storage.write(model, keep_base(built, options.base).data)
    output.clear_output(storage, (model,))
    write_probes(storage, engine, probes)
    save_head(storage, HEAD_ID, head)
    return _finish(options, storage, spec, classes, activation, tell)


def _spec_of(options: AdoptOptions, built: FrozenBase) -> StoreSpec:
    """Returns the spec of the outputs as features: what a store of the same model would have."""
    if len(built.feature_shape) != 1:
        raise UsageError(
            f"--model: {built.spec.model!r} gives {built.feature_shape} per image, and a "
            "classifier gives one number per class; give a model with its classification top"
        )
    asked = for_base(EngineOptions(options.engine, "float32"), built.spec)
    engine = candidates(asked, this_machine()).engine
    return StoreSpec(
        base=dataclasses.replace(built.spec, request=options.base.digest),
        pixels=PixelSpec(built.image_size, **options.pixels),
        feature_shape=built.feature_shape,
        dtype="float32",
        numerics=EngineChoice(engine).numerics,
    )


def _finish(
    options: AdoptOptions,
    storage: Storage,
    spec: StoreSpec,
    classes: Classes,
    activation: str,
    tell: Tell,
) -> dict[str, Any]:
    """Writes the records of a run, the last of which makes it one, and its page."""
    record = {"rank": 1, "head_id": HEAD_ID, "head": ADOPTED, "kept": True}
    run_folder.write_leaderboard(storage, [record])
    summary = {
        "run": storage.public_url,
        "adopted": options.base.model,
        "outputs": "logits" if activation == "none" else activation,
        "preprocess": spec.base.preprocess,
        "classes": list(classes.names),
        "aliases": len(classes.aliases),
        "notes": list(classes.notes),
        "best": HEAD_ID,
        "leaderboard": [record],
    }
    storage.write(run_folder.SUMMARY, run_folder.dump_json(summary))
    # One output per class, each with a probability of its own.
    several = activation == "sigmoid" and spec.feature_size > 1
    config = run_folder.RunConfig(
        spec,
        "",
        classes.names,
        {HEAD_ID: ADOPTED},
        {"multi_label": "on" if several else "off"},
        version=__version__,
        aliases=classes.aliases,
    )
    storage.write(run_folder.RUN, config.to_json())
    output.finish_output(storage)
    renew_page(run_folder.load_run(storage.url, storage.options), tell)
    return summary
