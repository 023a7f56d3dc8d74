# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Few numbers in place of many: principal components of features, fitted once on real images."""

from pathlib import Path

import torch
from safetensors.torch import save

from ..errors import DiffTuneError
from ..io.atomic import write_bytes_atomic
from .features import is_projection


def save_projection(path: str | Path, network: str, features: torch.Tensor, dimensions: int) -> float:
    """Fits a projection and writes it to a file that [`make_features`] takes.

    The directions are the first principal components, not whitened, so that distances among the projected features are
    the part of the distances among the features that lies in these directions. Fit it on real images that are not among
    those compared, and once: figures of different projections cannot be compared.

    Args:
        path (`str` or `Path`): A file named `.safetensors`.
        network (`str`): The name of the features, as [`make_features`] takes it.
        features (`torch.Tensor` of shape `(N, D)`): Features of real images.
        dimensions (`int`): How many directions to keep, at most D and less than N.

    Returns:
        `float`: The fraction of the variance that lies in these directions.

    Raises:
        DiffTuneError: There are too few images or features for as many directions, or they are projected already.
    """
    if is_projection(network):
        raise DiffTuneError(f"{network} is a projection already; fit another one on the features of a network.")
    if not 1 <= dimensions <= min(len(features) - 1, features.shape[1]):
        raise DiffTuneError(
            f"{len(features)} images with {features.shape[1]} features each have no {dimensions} principal components."
        )
    mean = features.mean(0)
    _, scale, components = torch.linalg.svd(features - mean, full_matrices=False)
    explained = (scale[:dimensions].square().sum() / scale.square().sum()).item()
    tensors = {"mean": mean.float(), "components": components[:dimensions].T.contiguous().float()}
    facts = {"network": network, "fitted_on": str(len(features)), "explained_variance": f"{explained:.4f}"}
    write_bytes_atomic(Path(path), save(tensors, facts))
    return explained
