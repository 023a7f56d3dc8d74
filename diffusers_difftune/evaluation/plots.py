# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How methods look in every picture."""

# Okabe and Ito's colours, which the colour-blind can tell apart, and a grey; told apart by dashes and markers as well.
STYLES = {
    "pretrained": {"color": "#595959", "linestyle": "--", "linewidth": 1.5},
    "standard": {"color": "#D55E00", "linewidth": 2, "marker": "o", "markersize": 4},
    "difftune": {"color": "#0072B2", "linewidth": 2, "marker": "s", "markersize": 4},
}
NAMES = {"pretrained": "pretrained", "standard": "standard", "difftune": "Diff-Tuning"}
