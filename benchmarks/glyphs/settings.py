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
"""Where things are, and the sizes that decide the figures of the glyph benchmark."""

from pathlib import Path


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
COUNTS = HERE / "counts.json"
WORK = ROOT / "outputs" / "glyphs"
DATA = WORK / "data"
START, PRETRAINING, SOURCE_MODEL = WORK / "start", WORK / "pretraining", WORK / "source"
CLASSIFIERS = WORK / "classifiers"

SIDE = 24  # pixels
SMALL, LARGE = 100, 1000  # training images of a target in the two regimes
SEEDS = (1, 2, 3)
FIRST_SOURCE_ROW = 100  # rows of the class tables before it are free for the classes of targets, which are at most 78
