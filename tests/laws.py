# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics that several tests share."""

import numpy as np
import torch
from scipy.stats import chi2


def chi_square_p(drawn: torch.Tensor, law: np.ndarray, least: float = 20.0) -> float:
    """The p-value of Pearson's test that the drawn indices follow `law`.

    Neighbouring outcomes are pooled until each bin is expected at least `least` times.
    """
    expected = np.asarray(law, dtype=np.float64) * len(drawn)
    observed = np.bincount(drawn.numpy(), minlength=len(expected)).astype(np.float64)
    assert len(observed) == len(expected), "an index beyond the law was drawn"
    if observed[expected == 0].any():
        return 0.0
    bins = np.minimum(np.floor(np.cumsum(expected) / least), np.floor(expected.sum() / least) - 1).astype(int)
    pooled_expected, pooled_observed = np.bincount(bins, expected), np.bincount(bins, observed)
    kept = pooled_expected > 0
    statistic = ((pooled_observed - pooled_expected)[kept] ** 2 / pooled_expected[kept]).sum()
    return float(chi2.sf(statistic, kept.sum() - 1))
