# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which of two sets of generated images is nearer to the real ones, when both were made from the same noise."""

import torch

from ..errors import DiffTuneError


def kid_difference(real: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """How much larger the KID of one set of generated images is than that of another, and the standard error of this
    difference.

    Image i of both sets was made of the same noise and prompt, and both are compared with the same real images, so much of
    what chance does to the two KIDs cancels in their difference. The spreads of the two would not tell.

    The KID (Bińkowski et al., ICLR 2018) is the squared maximum mean discrepancy with the kernel k(a, b) = (aᵀb / D + 1)³;
    here its unbiased estimate from all images at once (Gretton et al., JMLR 2012, eq. 3), where torchmetrics averages over
    random halves. The error is that of its linearisation: a mean over pairs of generated images plus a mean over real
    ones (Hájek's projection). Of images that are as near as real ones it is too large rather than too small.

    Args:
        real (`torch.Tensor` of shape `(N, D)`): Features of real images.
        one (`torch.Tensor` of shape `(M, D)`): Features of one set of generated images.
        other (`torch.Tensor` of shape `(M, D)`): Of the other, in the same order.

    Returns:
        `tuple[float, float]`: KID of `one` minus KID of `other`, and the standard error.

    Raises:
        DiffTuneError: The sets do not match, or are of fewer than two images.
    """
    if one.shape != other.shape or one.shape[1] != real.shape[1] or min(len(one), len(real)) < 2:
        raise DiffTuneError(
            f"Images are compared in pairs, and with real ones of as many features, at least two of each; these are"
            f" {tuple(one.shape)}, {tuple(other.shape)} and {tuple(real.shape)} (real)."
        )
    real, one, other = real.double(), one.double(), other.double()
    count = len(one)
    of_generated = torch.zeros(count, dtype=torch.float64)
    of_real = torch.zeros(len(real), dtype=torch.float64)
    value = 0.0
    for sign, images in ((1, one), (-1, other)):
        among = kernel(images, images)
        among.fill_diagonal_(0)
        near, across = among.sum(1) / (count - 1), kernel(images, real)
        value += sign * (near.mean() - 2 * across.mean()).item()
        of_generated += sign * 2 * (near - across.mean(1))
        of_real -= sign * 2 * across.mean(0)
    return value, (of_generated.var() / count + of_real.var() / len(real)).sqrt().item()


def kernel(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The KID's polynomial kernel of every row of one matrix with every row of another."""
    return (one @ other.T / one.shape[1] + 1) ** 3
