# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Make the source model of the glyph benchmark: a DiT on the pixels of Latin, Greek and Cyrillic letters.

    python benchmarks/glyphs/source.py --estimate
    python benchmarks/glyphs/source.py                          # about 1.7 core-hours; goes on where it was stopped
    python benchmarks/glyphs/source.py --collect_checkpoint     # a pipeline of the newest checkpoint, without training

It is trained by `training_scripts/train_class_conditional_difftune.py` with `--objective standard` in bfloat16 on one
thread, from random weights, on `source_train.parquet` (render.py). The learning rate is constant and the moving average of
the weights is the model, so that every checkpoint is one, and a larger `--max_train_steps` trains further. Flags that this
program does not know are handed to the training script, after its own, so that they win.

The training script gives classes the rows of the class tables from 0; the pipeline that comes out has them from row 100,
so that the classes of a target have rows of their own.
"""

import argparse
import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.glyphs.pipeline import move_classes, new_transformer, save_pipeline  # noqa: E402
from benchmarks.glyphs.read import class_names  # noqa: E402
from benchmarks.glyphs.settings import (  # noqa: E402
    DATA,
    FIRST_SOURCE_ROW,
    MADE_OF,
    PRETRAINING,
    SIDE,
    SOURCE_MODEL,
    START,
    WORK,
)
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402
from diffusers_difftune.io.hashing import file_sha256  # noqa: E402


SCRIPT = ROOT / "training_scripts" / "train_class_conditional_difftune.py"
WIDTH, DEPTH, HEADS = 240, 5, 4  # 7.1 million parameters, of which 1.2 million are class tables
STEPS, BATCH = 14_000, 128
AVERAGE = "transformer_ema"
IMAGES_PER_SECOND = 290  # and CPU second, on one thread of an Intel Xeon core with AMX, beside other work


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=PRETRAINING, help="Where the training goes.")
    parser.add_argument("--start", type=Path, default=START, help="Where the random pipeline goes.")
    parser.add_argument("--result", type=Path, default=SOURCE_MODEL, help="Where the source model goes.")
    parser.add_argument("--data", type=Path, default=DATA / "source_train.parquet")
    parser.add_argument("--max_train_steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimate", action="store_true", help="Say how long training takes.")
    parser.add_argument(
        "--collect_checkpoint", action="store_true", help="Make the pipeline of the newest checkpoint."
    )
    arguments, more = parser.parse_known_args(argv)
    images = arguments.max_train_steps * BATCH
    if arguments.estimate:
        print(f"{images:,} images, about {images / IMAGES_PER_SECOND / 3600:.1f} hours on one core of an Intel Xeon")
        return
    names = class_names(arguments.data)
    if arguments.collect_checkpoint:
        collect(*newest_average(arguments.output_dir), names, arguments.result)
        return
    if not (arguments.start / "model_index.json").is_file():
        save_pipeline(arguments.start, new_transformer(WIDTH, DEPTH, HEADS, arguments.seed), dict(enumerate(names)))
    torch.set_num_threads(1)
    torch.backends.cuda.enable_flash_sdp(False)  # on processors its kernel is the slower one at 16 tokens
    sys.argv = [str(SCRIPT), *training_flags(arguments), *more]
    runpy.run_path(str(SCRIPT), run_name="__main__")
    collect(arguments.output_dir / "transformer", arguments.max_train_steps, names, arguments.result)


def training_flags(arguments: argparse.Namespace) -> list[str]:
    """The recipe of the source model."""
    return [
        *("--pretrained_model_name_or_path", str(arguments.start)),
        *("--train_data_dir", str(arguments.data)),
        *("--output_dir", str(arguments.output_dir)),
        *("--cache_dir", str(WORK / "cache")),
        *("--objective", "standard"),
        *("--resolution", str(SIDE)),
        *("--class_dropout_prob", "0.1"),
        *("--train_batch_size", str(BATCH)),
        *("--max_train_steps", str(arguments.max_train_steps)),
        *("--learning_rate", "1e-3"),
        *("--lr_scheduler", "constant_with_warmup"),
        *("--lr_warmup_steps", "200"),
        *("--adam_beta2", "0.99"),
        "--use_ema",
        "--foreach_ema",
        *("--ema_decay", "0.999"),
        *("--mixed_precision", "bf16"),
        *("--seed", str(arguments.seed)),
        *("--checkpointing_steps", "500"),
        *("--checkpoints_total_limit", "2"),
        *("--resume_from_checkpoint", "latest"),
        *("--report_to", "none"),
    ]


def newest_average(folder: Path) -> tuple[Path, int]:
    """The moving average of the weights in the newest checkpoint of a training, and the steps it was trained for."""
    checkpoints = {
        int(path.parent.name.removeprefix("checkpoint-")): path for path in folder.glob(f"checkpoint-*/{AVERAGE}")
    }
    if not checkpoints:
        sys.exit(f"{folder} has no checkpoint yet.")
    steps = max(checkpoints)
    return checkpoints[steps], steps


def collect(trained: Path, steps: int, names: Sequence[str], result: Path) -> None:
    """Makes the source model of weights that were trained for so many steps."""
    transformer = DiTTransformer2DModel.from_pretrained(trained)
    move_classes(transformer, FIRST_SOURCE_ROW, len(names))
    shutil.rmtree(result, ignore_errors=True)
    save_pipeline(result, transformer, {FIRST_SOURCE_ROW + number: name for number, name in enumerate(names)})
    weights = file_sha256(result / "transformer" / "diffusion_pytorch_model.safetensors")[:16]
    made_of = {"steps": steps, "images": steps * BATCH, "weights": weights}
    write_bytes_atomic(result / MADE_OF, (json.dumps(made_of) + "\n").encode())
    print(f"{result}: {json.dumps(made_of)}")


if __name__ == "__main__":
    main()
