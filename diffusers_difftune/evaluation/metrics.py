# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How near generated images are to real ones: FID and KID, always beside what real images score among themselves."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from ..errors import DiffTuneError


try:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance
except ImportError as error:
    raise DiffTuneError("FID and KID need torchmetrics; install it with `pip install torchmetrics`.") from error


KID_SUBSETS = 50
# A metric would wait for the other processes of a run, and these wait for the one that measures.
ALONE = {"sync_on_compute": False}


@dataclass(frozen=True)
class Quality:
    """Two distances between two sets of images.

    Attributes:
        fid (`float`): Fréchet distance of the feature Gaussians (Heusel et al., NeurIPS 2017). It falls with the
            number of images, so only figures at equal numbers can be compared.
        kid (`float`): Kernel distance (Bińkowski et al., ICLR 2018), without such a bias; it can come out below 0.
        kid_std (`float`): Standard deviation of the KID over random halves.
        num_real (`int`): Real images.
        num_generated (`int`): Generated images; for a real-vs-real floor, the other real images.
        feature_dimension (`int`): Numbers per image.
    """

    fid: float
    kid: float
    kid_std: float
    num_real: int
    num_generated: int
    feature_dimension: int

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


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


def fid_kid(real: torch.Tensor, generated: torch.Tensor, seed: int = 0) -> Quality:
    """FID and KID by torchmetrics, in float64.

    Args:
        real (`torch.Tensor` of shape `(N, D)`): Features of real images.
        generated (`torch.Tensor` of shape `(M, D)`): Features of generated images.
        seed (`int`, *optional*, defaults to 0): Seed of the random halves that the KID is averaged over.

    Returns:
        [`Quality`]: The distances; the same arguments give the same numbers.

    Raises:
        DiffTuneError: There are not more images than features (the covariances would be singular and the FID
            arbitrary) or fewer than four, or the features do not match or are not finite.
    """
    check_features(real, generated)
    count, dimension = min(len(real), len(generated)), real.shape[1]
    if count <= dimension:
        raise DiffTuneError(
            f"FID from {count} images and {dimension} features each is arbitrary, because the covariance is singular;"
            f" use more than {dimension} images, or project the features onto fewer than {count} directions."
        )
    kid, kid_std = kernel_distance(real, generated, seed)
    return Quality(frechet_distance(real, generated), kid, kid_std, len(real), len(generated), dimension)


def check_features(real: torch.Tensor, generated: torch.Tensor) -> None:
    """Refuses features that cannot be compared."""
    if real.ndim != 2 or generated.ndim != 2 or generated.shape[1] != real.shape[1]:
        raise DiffTuneError(
            f"Features must be matrices of equal width; these are {tuple(real.shape)} and {tuple(generated.shape)}."
        )
    if not (real.isfinite().all() and generated.isfinite().all()):
        raise DiffTuneError("Some features are not finite; look at the images or the feature extractor.")


def frechet_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """FID; see [`fid_kid`]."""
    fid = FrechetInceptionDistance(feature=given(real), **ALONE)
    return updated(fid, real, generated).compute().item()


def kernel_distance(real: torch.Tensor, generated: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    """KID and its standard deviation; see [`fid_kid`]."""
    count = min(len(real), len(generated))
    if count < 4:
        raise DiffTuneError(
            f"KID is a mean over random halves of the images, for which {count} are too few; use at least 4."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        kid = KernelInceptionDistance(feature=given(real), subsets=KID_SUBSETS, subset_size=count // 2, **ALONE)
    updated(kid, real, generated)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws the halves from torch's global generator
        torch.manual_seed(seed)
        mean, deviation = kid.compute()
    return mean.item(), deviation.item()


def given(features: torch.Tensor) -> torch.nn.Module:
    """The network of a metric whose features are already there: the identity."""
    identity: Any = torch.nn.Identity()
    identity.num_features = features.shape[1]
    return identity


def updated(metric: Any, real: torch.Tensor, generated: torch.Tensor) -> Any:
    """A metric that has seen these features."""
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return metric


def floor_pair(
    real: torch.Tensor, other_real: torch.Tensor | None = None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two equally large sets of real images that [`real_floor`] compares; see there."""
    generator = torch.Generator().manual_seed(seed)
    if other_real is None:
        order = torch.randperm(len(real), generator=generator)
        half = len(real) // 2
        return real[order[:half]], real[order[half : 2 * half]]
    count = min(len(real), len(other_real))
    first, second = (x[torch.randperm(len(x), generator=generator)[:count]] for x in (real, other_real))
    return first, second


def real_floor(real: torch.Tensor, other_real: torch.Tensor | None = None, seed: int = 0) -> Quality:
    """What real images score against other real images: no model of these images should be expected to do better.

    Args:
        real (`torch.Tensor` of shape `(N, D)`): Features of real images.
        other_real (`torch.Tensor` of shape `(M, D)`, *optional*): Features of other images of the same kind; a draw of
            as many as in `real` is used, or, if there are fewer, as many of `real`. `None` cuts `real` into two random
            halves, whose FID is larger than at full size.
        seed (`int`, *optional*, defaults to 0): Seed of the draw.

    Returns:
        [`Quality`]: The distances, with the sizes of the two sets in `num_real` and `num_generated`.
    """
    return fid_kid(*floor_pair(real, other_real, seed), seed)
