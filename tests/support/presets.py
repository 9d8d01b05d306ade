"""Small backbones of KerasHub with random weights, as `save_to_preset` writes them."""

from __future__ import annotations

from pathlib import Path

from classifier.runtime import import_keras
from support.optional import optional

SIDE, WIDTH = 32, 16
# Of the same numbers as --preprocess torch.
SCALE = [1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225)]
OFFSET = [-m / d for m, d in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]


def keras_hub():
    """Imports KerasHub on TensorFlow."""
    import_keras()
    return optional("keras_hub")


def save(folder: Path, backbone, **converter) -> Path:
    """Writes a preset; without settings of an image converter, one that has none."""
    backbone.save_to_preset(str(folder))
    if converter:
        hub = keras_hub()
        kinds = (hub.layers.ViTImageConverter, hub.layers.DINOV2ImageConverter)
        (kind,) = (k for k in kinds if k.backbone_cls is type(backbone))
        kind(**converter).save_to_preset(str(folder))
    return folder


def vit(seed: int = 0):
    """A vision transformer of 17 tokens: a class token and 16 patches."""
    import_keras().utils.set_random_seed(seed)
    return keras_hub().models.ViTBackbone(
        image_shape=(SIDE, SIDE, 3),
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=WIDTH,
        mlp_dim=32,
    )


def dinov2(side: int = SIDE):
    """DINOv2 of two blocks, whose position embeddings are interpolated from those of 48 pixels."""
    return keras_hub().models.DINOV2Backbone(
        patch_size=8,
        num_layers=2,
        hidden_dim=WIDTH,
        num_heads=2,
        intermediate_dim=32,
        image_shape=(side, side, 3),
        position_embedding_shape=(48, 48),
    )


def clip():
    """CLIP, with an image and a text side."""
    models = keras_hub().models
    sides = {"hidden_dim": WIDTH, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    vision = models.CLIPVisionEncoder(patch_size=8, image_shape=(SIDE, SIDE, 3), **sides)
    text = models.CLIPTextEncoder(vocabulary_size=9, embedding_dim=WIDTH, **sides)
    return models.CLIPBackbone(vision, text, projection_dim=8)
