"""The families of `keras.applications`: default sizes, smallest sizes and preprocessing.

The table is static, because importing Keras takes seconds and `--help`, `--plan` and error messages
must not wait for it. A test compares every name with the installed Keras.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from featurestore.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Application:
    """One base of `keras.applications`.

    Attributes:
      name: in `keras.applications`, such as ``VGG16``.
      module: the submodule that holds its `preprocess_input`, such as ``vgg16``.
      preprocess: of pixels before the graph: ``tf``, ``caffe``, ``torch``, or ``none`` when the
        graph contains it.
      image_size: default side in pixels.
      min_size: smallest side in pixels that Keras accepts without the classification top.
    """

    name: str
    module: str
    preprocess: str
    image_size: int
    min_size: int = 32


# Family: (module, preprocess, smallest side, {name: default side}). Sizes, minima and modes are
# those of keras/src/applications/*.py, Keras 3.15; VGG16's 180 is Hoarfrost's own default.
_FAMILIES: tuple[tuple[str, str, int, dict[str, int]], ...] = (
    (
        "convnext",
        "none",
        32,
        {f"ConvNeXt{size}": 224 for size in ("Tiny", "Small", "Base", "Large", "XLarge")},
    ),
    ("densenet", "torch", 32, {"DenseNet121": 224, "DenseNet169": 224, "DenseNet201": 224}),
    (
        "efficientnet",
        "none",
        32,
        {
            f"EfficientNetB{number}": side
            for number, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
        },
    ),
    (
        "efficientnet_v2",
        "none",
        32,
        {f"EfficientNetV2B{number}": side for number, side in enumerate((224, 240, 260, 300))}
        | {"EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480},
    ),
    ("inception_resnet_v2", "tf", 75, {"InceptionResNetV2": 299}),
    ("inception_v3", "tf", 75, {"InceptionV3": 299}),
    ("mobilenet", "tf", 32, {"MobileNet": 224}),
    ("mobilenet_v2", "tf", 32, {"MobileNetV2": 224}),
    ("mobilenet_v3", "none", 32, {"MobileNetV3Large": 224, "MobileNetV3Small": 224}),
    ("nasnet", "tf", 32, {"NASNetLarge": 331, "NASNetMobile": 224}),
    ("resnet", "caffe", 32, {"ResNet50": 224, "ResNet101": 224, "ResNet152": 224}),
    ("resnet_v2", "tf", 32, {"ResNet50V2": 224, "ResNet101V2": 224, "ResNet152V2": 224}),
    ("vgg16", "caffe", 32, {"VGG16": 180}),
    ("vgg19", "caffe", 32, {"VGG19": 224}),
    ("xception", "tf", 71, {"Xception": 299}),
)

APPLICATIONS: dict[str, Application] = {
    name: Application(name, module, preprocess, image_size, min_size)
    for module, preprocess, min_size, sizes in _FAMILIES
    for name, image_size in sizes.items()
}

# Keras's default where Hoarfrost's differs: the ImageNet tops (fc1, ...) fit this size only.
_KERAS_SIZE = {"VGG16": 224}

# Names that identify saved copies of a family: model names that Keras gives (a nested base keeps
# its own), then names of layers that only this family has. The first match decides, so the specific
# comes before the general (ResNetV2 before ResNet, Xception before VGG).
_MODEL_NAMES: tuple[tuple[str, str, str], ...] = (
    (r"efficientnetv2|efficientnet-v2", "EfficientNetV2", "none"),
    (r"efficientnet", "EfficientNet", "none"),
    (r"convnext", "ConvNeXt", "none"),
    (r"mobilenet_?v3", "MobileNetV3", "none"),
    (r"mobilenet_?v2", "MobileNetV2", "tf"),
    (r"mobilenet", "MobileNet", "tf"),
    (r"inception_?resnet_?v2", "InceptionResNetV2", "tf"),
    (r"inception_?v3", "InceptionV3", "tf"),
    (r"nasnet", "NASNet", "tf"),
    (r"xception", "Xception", "tf"),
    (r"resnet(50|101|152)_?v2", "ResNetV2", "tf"),
    (r"resnet(50|101|152)", "ResNet", "caffe"),
    (r"densenet", "DenseNet", "torch"),
    (r"vgg_?(16|19)", "VGG", "caffe"),
)
_LAYER_NAMES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("block1_conv1_bn", "block2_sepconv1"), "Xception", "tf"),
    (("block1_conv1", "block1_conv2", "block2_conv1"), "VGG", "caffe"),
    (("conv1_pad", "conv2_block1_preact_bn"), "ResNetV2", "tf"),
    (("conv1_pad", "conv2_block1_1_conv", "conv1_bn"), "ResNet", "caffe"),
    (("conv2_block1_concat", "pool2_bn"), "DenseNet", "torch"),
    (("bn_Conv1", "expanded_conv_depthwise"), "MobileNetV2", "tf"),
    (("conv_dw_1", "conv_pw_1"), "MobileNet", "tf"),
    (("conv", "conv_bn", "expanded_conv_depthwise"), "MobileNetV3", "none"),
    (("stem_conv1", "reduction_conv_1_stem_1"), "NASNet", "tf"),
    (("stem_conv", "block1a_dwconv"), "EfficientNet", "none"),
    (("stem_conv", "block1a_project_conv"), "EfficientNetV2", "none"),
    (("mixed_5b", "block35_1_mixed"), "InceptionResNetV2", "tf"),
    (("mixed0", "mixed1"), "InceptionV3", "tf"),
)


def resolve_application(name: str) -> Application:
    """Looks up a base by name, in any letter case.

    Args:
      name: such as ``VGG16`` or ``mobilenetv2``.

    Returns:
      The application with its defaults.

    Raises:
      UsageError: for an unknown name, with similar names and paths.

    Example:
      >>> resolve_application("mobilenetv2").image_size
      224
    """
    by_fold = {known.casefold(): known for known in APPLICATIONS}
    try:
        return APPLICATIONS[by_fold[name.casefold()]]
    except KeyError:
        raise UsageError(
            f"--model: there is neither a base of keras.applications nor a file or folder "
            f"{name!r}{did_you_mean(name, [*APPLICATIONS, *beside(name)])}; check the path, or see "
            "python -m classifier.bases for the names"
        ) from None


def beside(path: str) -> list[str]:
    """Lists the entries of the folder that a local path is in, each written like the path."""
    folder, _ = os.path.split(path)
    try:
        return [os.path.join(folder, found) for found in os.listdir(folder or ".")]
    except OSError:
        return []


def keras_image_size(application: Application) -> int:
    """Returns the side in pixels that the application's classification top takes."""
    return _KERAS_SIZE.get(application.name, application.image_size)


def family_of_layer_names(model_name: str, layer_names: Sequence[str]) -> tuple[str, str] | None:
    """Recognises the family of a saved model by the names that Keras gave its parts.

    Args:
      model_name: the model's own name.
      layer_names: of all its layers, those of nested models included.

    Returns:
      (family, preprocessing mode), or None when no family is recognised.

    Example:
      >>> family_of_layer_names("functional", ["input_1", "mobilenetv2_1.00_160", "dense"])
      ('MobileNetV2', 'tf')
      >>> family_of_layer_names("my_net", ["conv2d", "dense"]) is None
      True
    """
    # Layer names come first: the user may have chosen the model's name.
    present = set(layer_names)
    for marks, family, mode in _LAYER_NAMES:
        if present.issuperset(marks):
            return family, mode
    for name in (*layer_names, model_name):
        for pattern, family, mode in _MODEL_NAMES:
            if re.match(pattern, name, re.IGNORECASE):
                return family, mode
    return None
