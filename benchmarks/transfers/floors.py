# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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
