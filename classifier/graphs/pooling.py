"""Pooling of feature maps and of token sequences: what each kind of output can be pooled by.

Generalised mean (``gem``) is that of Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval
with no human annotation" (2018), with its usual exponent of 3: the cube root of the mean of cubes,
of values that are at least 1e-6.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featurestore.errors import UsageError, unknown_choice
from featurestore.spec import POOLINGS

GEM_POWER, GEM_LEAST = 3.0, 1e-6
# Tokens are poolings of (n, tokens, values), whose first token is the class token.
TOKEN_POOLINGS = ("cls", "mean", "mean-patch")


def require_pooling(pooling: str, rank: int) -> None:
    """Refuses a pooling that an output cannot have.

    Args:
      pooling: the name.
      rank: number of axes of the output, including the batch.

    Raises:
      UsageError: for an unknown pooling, when there is nothing to pool, and for tokens where there
        are none.
    """
    if pooling not in POOLINGS:
        raise unknown_choice("--pooling", pooling, POOLINGS)
    if pooling == "none":
        return
    if rank < 3:
        raise UsageError(
            f"--pooling {pooling} needs a feature map, but the chosen layer's output is already "
            "flat (one vector per image); use --pooling none, or cut at an earlier --layer"
        )
    if pooling in TOKEN_POOLINGS and rank != 3:
        raise UsageError(
            f"--pooling {pooling} is for token sequences, (tokens, values) per image, and the "
            f"chosen layer gives a map of {rank - 1} axes; use --pooling avg, max or gem"
        )


def pool(ops: Any, x: Any, pooling: str, axes: list[int]) -> Any:
    """Adds a pooling to an OpenVINO graph.

    Args:
      ops: OpenVINO's operations.
      x: a float32 node of maps, channels last, or of tokens.
      pooling: one that `require_pooling` took.
      axes: all axes but the first and the last.

    Returns:
      The node of float32 (n, values); `x` itself for ``none``.
    """
    over = np.array(axes)
    if pooling == "none":
        return x
    if pooling == "max":
        return ops.reduce_max(x, over)
    if pooling == "cls":
        return ops.gather(x, np.array(0), np.array(1))
    if pooling == "mean-patch":
        ends = (np.array([1]), np.array([np.iinfo(np.int64).max]), np.array([1]), np.array([1]))
        x = ops.slice(x, *ends)
    if pooling != "gem":
        return ops.reduce_mean(x, over)
    x = ops.maximum(x, np.float32(GEM_LEAST))
    # Divided by the largest, so that cubes do not overflow in float16.
    most = ops.reduce_max(x, over, keep_dims=True)
    power = ops.power(ops.divide(x, most), np.float32(GEM_POWER))
    mean = ops.power(ops.reduce_mean(power, over), np.float32(1 / GEM_POWER))
    return ops.multiply(mean, ops.squeeze(most, over))
