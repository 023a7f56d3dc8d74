# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What real drawings score against real drawings of the same set, at the counts of the benchmark.

python benchmarks/transfers/floors.py
"""

import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.transfers.measure import HeldOut  # noqa: E402
from benchmarks.transfers.settings import FULL, TARGETS, TUNING_TARGET, WORK, Places  # noqa: E402
from benchmarks.transfers.splits import SOURCE  # noqa: E402
from benchmarks.transfers.tables import table  # noqa: E402


def main() -> None:
    rows = []
    for name in (SOURCE, *TARGETS, TUNING_TARGET):
        held_out = HeldOut(name, FULL, Places(WORK))
        floor = held_out.real.floor
        cells = [held_out.num_train, floor["num_real"], floor["num_generated"], floor["num_features"]]
        cells += [f"{floor['fid']:.1f}", f"{floor['kid']:.2f} ± {floor['kid_std']:.2f}"]
        cells += [f"{floor['precision']:.2f}", f"{floor['recall']:.2f}"]
        rows.append([name, *map(str, cells)])
    head = ["set", "trained on", "held out", "other real", "dimensions", "FID", "KID", "precision", "recall"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
