# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How near generated images are to real ones: FID and KID by torchmetrics, precision and recall."""

import warnings
from typing import Any

import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from tqdm.auto import tqdm

from ..errors import DiffTuneError
from .precision_recall import precision_recall


KID_SUBSETS = 50


@torch.no_grad()
def extract_features(
    extractor: torch.nn.Module, images: torch.Tensor, batch_size: int = 64, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Features of images, a batch at a time.

    Args:
        extractor (`torch.nn.Module`): Maps images of shape `(B, 3, H, W)` to features of shape `(B, D)`.
        images (`torch.Tensor` of shape `(N, 3, H, W)`): The images, of the type and range that the extractor expects;
            torchmetrics' own networks take uint8.
        batch_size (`int`, *optional*, defaults to 64): Images at once.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where to compute.

    Returns:
        `torch.Tensor` of shape `(N, D)`: The features, float64, on the CPU.
    """
    extractor = extractor.to(device).eval()
    batches = tqdm(images.split(batch_size), "features", leave=False)
    return torch.cat([extractor(batch.to(device)).double().cpu() for batch in batches])


def distances(real: torch.Tensor, generated: torch.Tensor, seed: int = 0) -> dict[str, Any]:
    """How far apart two sets of images are, in float64; the same arguments give the same numbers.

    Args:
        real (`torch.Tensor` of shape `(N, D)`): Features of real images.
        generated (`torch.Tensor` of shape `(M, D)`): Features of generated images.
        seed (`int`, *optional*, defaults to 0): Seed of the random halves that the KID is averaged over.

    Returns:
        `dict`: `fid`, the Fréchet distance of the feature Gaussians (Heusel et al., NeurIPS 2017), `None` if there are not more
        images than features, because the covariance would be singular and the figure arbitrary; it falls with the number
        of images, so only figures at equal numbers can be compared. `kid`, the kernel distance (Bińkowski et al., ICLR 2018),
        without such a bias, which can come out below 0, and its standard deviation over random halves, `kid_std`.
        `precision` and `recall`; see [`precision_recall`]. `num_real`, `num_generated`, `num_features`.

    Raises:
        DiffTuneError: The features do not match or are not finite, or there are fewer than four images.
    """
    if real.ndim != 2 or generated.ndim != 2 or generated.shape[1] != real.shape[1]:
        raise DiffTuneError(
            f"Features must be matrices of equal width; these are {tuple(real.shape)} and {tuple(generated.shape)}."
        )
    if not (real.isfinite().all() and generated.isfinite().all()):
        raise DiffTuneError("Some features are not finite; look at the images or the feature extractor.")
    kid, kid_std = kernel_distance(real, generated, seed)
    precision, recall = precision_recall(real, generated)
    return {
        "fid": frechet_distance(real, generated) if min(len(real), len(generated)) > real.shape[1] else None,
        "kid": kid,
        "kid_std": kid_std,
        "precision": precision,
        "recall": recall,
        "num_real": len(real),
        "num_generated": len(generated),
        "num_features": real.shape[1],
    }


def frechet_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """FID; see [`distances`]."""
    return metric_of(FrechetInceptionDistance, real, generated).compute().item()


def kernel_distance(real: torch.Tensor, generated: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    """KID and its standard deviation; see [`distances`]."""
    count = min(len(real), len(generated))
    if count < 4:
        raise DiffTuneError(
            f"KID is a mean over random halves of the images, for which {count} are too few; use at least 4."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        kid = metric_of(KernelInceptionDistance, real, generated, subsets=KID_SUBSETS, subset_size=count // 2)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws the halves from torch's global generator
        torch.manual_seed(seed)
        mean, deviation = kid.compute()
    return mean.item(), deviation.item()


def metric_of(metric_class: Any, real: torch.Tensor, generated: torch.Tensor, **options: Any) -> Any:
    """A metric of torchmetrics that was given these features in place of images."""
    network: Any = torch.nn.Identity()
    network.num_features = real.shape[1]
    # it would wait for the other processes of a run, and these wait for the one that measures
    metric = metric_class(feature=network, sync_on_compute=False, **options)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return metric
