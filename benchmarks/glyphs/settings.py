# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Where things are, and the sizes that decide the figures of the glyph benchmark."""

from pathlib import Path


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
COUNTS = HERE / "counts.json"
WORK = ROOT / "outputs" / "glyphs"
DATA = WORK / "data"
START, PRETRAINING, SOURCE_MODEL = WORK / "start", WORK / "pretraining", WORK / "source"
BANK, BANK_SAMPLES, BANK_STEPS = WORK / "bank", 2000, 25
CLASSIFIERS = WORK / "classifiers"
MADE_OF = "made_of.json"  # beside a source model: the steps it was trained for, and its weights' hash

SIDE = 24  # pixels
SMALL, LARGE = 100, 1000  # training images of a target in the two regimes
SEEDS = (1, 2, 3)
GATES_SEED, TUNING_SEED = 1, 11  # on tuning targets
FIRST_SOURCE_ROW = 100  # rows of the class tables before it are free for the classes of targets, which are at most 78
SAMPLING_STEPS = 20  # of DPM-Solver++, without guidance
BLENDS = (1.0, 0.85, 0.7, 0.5, 0.3)
EACH, EACH_IN_TUNING = 4, 2  # samples of every source class that forgetting is measured with
NEAR = 0.2  # noise levels up to it are near the data
LOSS_ROWS, LOSS_LEVELS = 128, 20

# The same for every run of a target; with the rate and the flags of a method it decides what is trained.
RECIPE = {
    "resolution": SIDE,
    "class_embeddings": "keep",  # rows that the source never trained
    "class_dropout_prob": 0.1,
    "train_batch_size": 40,
    "max_train_steps": 500,
    "lr_scheduler": "linear",
    "lr_warmup_steps": 50,
    "adam_weight_decay": 0.0,
    "use_ema": True,
    "foreach_ema": True,
    "ema_decay": 0.99,
    "mixed_precision": "bf16",
    "report_to": "none",
}
RATE, OTHER_RATES = 5e-4, (2.5e-4, 1e-3)
