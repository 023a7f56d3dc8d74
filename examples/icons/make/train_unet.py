# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Train the UNet of the icon pipeline with this project's own script and `--objective standard`.

    python examples/icons/make/build_pipeline.py --vae runs/vae --text runs/text --output_dir runs/start
    python examples/icons/make/train_unet.py --start runs/start --output_dir runs/unet
    python examples/icons/make/train_unet.py --start runs/start --output_dir runs/unet --mixed_precision bf16

It is resumable: run it again and it goes on from its last checkpoint. Flags it does not know are handed to the training script,
after its own, so that they win. 10 % of the prompts are emptied, which classifier-free guidance needs; of the skin tones
of one person in one set only one is trained on (they are a quarter of all drawings).
"""

import argparse
import runpy
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from common import thin_skin_tones


HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parents[2] / "training_scripts" / "train_text_to_image_difftune.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="a pipeline of build_pipeline.py")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--train", type=Path, default=HERE / "raw" / "source_train.parquet")
    parser.add_argument("--max_train_steps", type=int, default=9000)
    parser.add_argument("--mixed_precision", default="no")
    parser.add_argument("--seed", type=int, default=0)
    args, more = parser.parse_known_args()

    thinned = args.train.with_name("unet_train.parquet")
    if not thinned.exists():
        table = pq.read_table(args.train)
        rows = thin_skin_tones(table["text"].to_pylist(), table["set"].to_pylist(), args.seed)
        pq.write_table(table.take(rows), thinned)

    # With the few positions of 4x4 latents the fused attention kernel is the slowest part of a step on CPU.
    torch.backends.cuda.enable_flash_sdp(False)
    sys.argv = [
        str(SCRIPT),
        *("--pretrained_model_name_or_path", str(args.start)),
        *("--train_data_dir", str(thinned)),
        *("--output_dir", str(args.output_dir)),
        *("--objective", "standard"),
        *("--resolution", "32"),
        *("--proportion_empty_prompts", "0.1"),
        *("--train_batch_size", "64"),
        *("--max_train_steps", str(args.max_train_steps)),
        *("--learning_rate", "1e-3"),
        *("--lr_scheduler", "cosine"),
        *("--lr_warmup_steps", "200"),
        *("--adam_beta2", "0.99"),
        *("--snr_gamma", "5"),
        "--use_ema",
        "--foreach_ema",
        *("--mixed_precision", args.mixed_precision),
        *("--seed", str(args.seed)),
        *("--checkpointing_steps", "500"),
        *("--checkpoints_total_limit", "2"),
        *("--resume_from_checkpoint", "latest"),
        *more,
    ]
    runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    main()
