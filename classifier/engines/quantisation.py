"""Quantises a base to int8 with NNCF, calibrated on images of the input."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from classifier.engines.conversion import pack, unpack
from classifier.engines.precision import Closeness, closeness, worst
from classifier.runtime import import_openvino
from featurestore.errors import UsageError, one_line
from featurestore.fields import Tap
from featurestore.taps import divided

CALIBRATION_IMAGES, HELD_OUT_IMAGES, FEWEST_IMAGES = 300, 64, 10
# The largest median error of pooled features. VGG16 has 1%, MobileNetV2 15 to 80% with any preset,
# bias correction, smoothing or range estimator, and with any layers left in float32.
LARGEST_ERROR = 0.05


def divide(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divides a sample into images for calibration and held-out images.

    Args:
      images: uint8 (n, H, W, 3), in any order.

    Returns:
      (calibration, held out); both are spread over the input.

    Raises:
      UsageError: for too few images.
    """
    if len(images) < FEWEST_IMAGES:
        raise UsageError(
            f"--precision int8 is calibrated on the input, which needs at least {FEWEST_IMAGES} "
            f"good images, got {len(images)}; give more, or use --precision float32"
        )
    every = max(5, -(-len(images) // HELD_OUT_IMAGES))
    held_out = np.arange(len(images)) % every == every - 1
    return images[~held_out][:CALIBRATION_IMAGES], images[held_out]


def quantise(packed: bytes, images: np.ndarray) -> bytes:
    """Quantises a base to int8.

    Args:
      packed: the float32 model, from uint8 (n, H, W, 3).
      images: uint8 (n, H, W, 3) to calibrate on.

    Returns:
      The packed int8 model.

    Raises:
      UsageError: for a base that NNCF cannot quantise.
    """
    import_openvino()
    model: Any = unpack(packed, "the converted base")
    # NNCF draws progress bars and logs lines that do not concern users.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        nncf.set_log_level(logging.ERROR)
        try:
            model = nncf.quantize(
                model,
                nncf.Dataset([image[None] for image in images]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
                # Without the fix a processor without VNNI overflows where others do not, and one
                # model would give different features on different machines.
                # NNCF's default, the mean of each image's extremes, clips: on VGG16 the error is
                # 2.2% instead of 1.0%.
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE,
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                ),
            )
        except (RuntimeError, ValueError, nncf.InternalError, nncf.ValidationError) as error:
            raise UsageError(
                f"--precision int8: NNCF cannot quantise this base ({one_line(error, 200)}); use "
                "--precision float32 or auto"
            ) from error
    return pack(model)


def pooled(rows: np.ndarray) -> np.ndarray:
    """Averages maps over space: float32 (n, h, w, c) -> (n, c); embeddings are unchanged."""
    return rows.mean(axis=tuple(range(1, rows.ndim - 1))) if rows.ndim > 2 else rows


def require_close(
    rows: np.ndarray, truth: np.ndarray, allow_inexact: bool, taps: Sequence[Tap] = ()
) -> Closeness:
    """Refuses int8 features that differ too much from float32's.

    Args:
      rows: float32 (n, *feature_shape) of held-out images.
      truth: the same in float32 precision.
      allow_inexact: whether to accept them anyway.
      taps: of the base; the worst of them counts.

    Returns:
      The closeness of pooled features.

    Raises:
      UsageError: with the measured error.
    """
    pairs = zip(divided(taps, rows), divided(taps, truth), strict=True)
    found = worst([closeness(pooled(ours), pooled(theirs)) for ours, theirs in pairs])
    if not found.error_median <= LARGEST_ERROR and not allow_inexact:
        raise UsageError(
            f"--precision int8: pooled features of {found.images} held-out images are "
            f"{found.error_median:.1%} away from float32's (median; at most {LARGEST_ERROR:.0%} is "
            "allowed): this base loses too much in 8 bits, as small ones with depthwise "
            "convolutions do; use --precision auto, or --allow_inexact to accept the error"
        )
    return found
