# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Make the benchmark's source model: a small DiT on the latents of the embedded autoencoder.

    pip install -e ".[icons]"
    python benchmarks/transfers/source.py                                       # of the weights that were trained once
    python benchmarks/transfers/data.py
    python benchmarks/transfers/source.py --retrain --estimate
    python benchmarks/transfers/source.py --retrain --mixed_precision bf16      # without --mixed_precision: fp32

It is trained by `training_scripts/train_class_conditional_difftune.py` with `--objective standard`, from random weights, on
`source_train.parquet` (data.py). It can be stopped at any moment and goes on from its last checkpoint; a larger
`--max_train_steps` trains further. Flags that this program does not know are handed to the training script, after its
own, so that they win. measure_source.py says how good a checkpoint is. At the end the transformer goes to `source/` in half
precision, and the pipeline that every transfer starts from is made of that, so that it is the same wherever it is made.

The weights that the results began with are in this repository's history, not among its files, of which they would be a fifth;
they are taken from there, and are the same to the last bit.
"""

import argparse
import json
import math
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.transfers.settings import DATA, EMBEDDED, PRETRAINING, SOURCE_MODEL, SOURCE_WEIGHTS, START  # noqa: E402
from benchmarks.transfers.splits import SOURCE, class_names, read_split  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


SCRIPT = ROOT / "training_scripts" / "train_class_conditional_difftune.py"
WIDTH, DEPTH, HEADS = 192, 6, 6  # 5.8 million parameters
NUM_CLASSES = 1000  # rows of the class tables before the null class: DiTPipeline knows no other number
DEVIATION = 0.02  # of embeddings, as in the DiT paper
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CLASS_TABLE, ROWS = "embedding_table.weight", ".rows"
IN_HISTORY = "a6c140e0cd0852322f0b5a7db381c481077e368e"  # what git calls the file of weights, by its content
STEPS, BATCH = 32_000, 128  # the loss of held-out drawings falls until 25,000 steps, the FID hardly after that
IMAGES_PER_SECOND = {"no": 250, "bf16": 380}  # on one thread of an Intel Xeon core with AMX


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retrain", action="store_true", help="Train other weights than those of the results.")
    parser.add_argument("--output_dir", type=Path, default=PRETRAINING, help="Where the training goes.")
    parser.add_argument("--start", type=Path, default=START, help="Where the random pipeline goes.")
    parser.add_argument("--data", type=Path, default=DATA / f"{SOURCE}_train.parquet")
    parser.add_argument("--max_train_steps", type=int, default=STEPS)
    parser.add_argument("--mixed_precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimate", action="store_true", help="Say how long training takes.")
    arguments, more = parser.parse_known_args(argv)
    if arguments.estimate:
        hours = arguments.max_train_steps * BATCH / IMAGES_PER_SECOND[arguments.mixed_precision] / 3600
        print(f"{arguments.max_train_steps * BATCH:,} images, about {hours:.1f} hours on one core of an Intel Xeon")
        return
    classes = class_names(read_split(SOURCE))
    if not (arguments.start / "model_index.json").is_file():
        save_pipeline(arguments.start, classes, new_transformer(seed=arguments.seed))
    if arguments.retrain:
        # With 16 tokens the fused attention kernel is the slowest part of a step on processors.
        torch.backends.cuda.enable_flash_sdp(False)
        sys.argv = [str(SCRIPT), *training_flags(arguments), *more]
        runpy.run_path(str(SCRIPT), run_name="__main__")
        save_weights(arguments.output_dir / "transformer", arguments.seed)
    save_pipeline(SOURCE_MODEL, classes, load_weights())


def save_weights(trained: Path, seed: int) -> None:
    """Keeps trained weights in half precision, with a config that says nothing of where they were trained. Of the class
    tables only the rows that were trained are kept: the others still are what the seed drew.

    Args:
        trained (`Path`): The folder of the trained transformer.
        seed (`int`): What its weights were drawn with before training.
    """
    weights = load_file(trained / "diffusion_pytorch_model.safetensors")
    drawn = new_transformer(seed=seed).state_dict()
    for name in [name for name in weights if name.endswith(CLASS_TABLE)]:
        changed = (weights[name] != drawn[name]).any(1)
        changed[-1] = True  # the null class
        weights[name], weights[name + ROWS] = weights[name][changed], changed.nonzero().squeeze(1)
    SOURCE_WEIGHTS.mkdir(parents=True, exist_ok=True)
    half = {name: tensor if name.endswith(ROWS) else tensor.half() for name, tensor in weights.items()}
    save_file(half, SOURCE_WEIGHTS / WEIGHTS_FILE, metadata={"format": "pt", "seed": str(seed)})


def load_weights() -> DiTTransformer2DModel:
    """The source model, float32 from half precision; the rows of class tables that are not kept are drawn again."""
    file = SOURCE_WEIGHTS / WEIGHTS_FILE
    if not file.is_file():
        restore_weights(file)
    with safe_open(file, "pt") as opened:
        seed = int(opened.metadata()["seed"])
    weights = load_file(file)
    transformer = new_transformer(seed=seed).half()
    tables = transformer.state_dict()
    for name in [name for name in weights if name.endswith(CLASS_TABLE)]:
        tables[name][weights.pop(name + ROWS)] = weights[name]
        weights[name] = tables[name]
    transformer.load_state_dict(weights)
    return transformer.float()


def restore_weights(file: Path) -> None:
    """Takes the weights of the results out of this repository's history."""
    try:
        found = subprocess.run(["git", "cat-file", "blob", IN_HISTORY], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(
            "The source model's weights are in the history of the repository, which is not here. In a shallow clone"
            " `git fetch --unshallow` gets it; `python benchmarks/transfers/source.py --retrain` trains others."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(file, found.stdout)


def training_flags(arguments: argparse.Namespace) -> list[str]:
    """The recipe of the source model."""
    return [
        *("--pretrained_model_name_or_path", str(arguments.start)),
        *("--train_data_dir", str(arguments.data)),
        *("--output_dir", str(arguments.output_dir)),
        *("--objective", "standard"),
        *("--resolution", "32"),
        *("--class_dropout_prob", "0.1"),
        *("--train_batch_size", str(BATCH)),
        *("--max_train_steps", str(arguments.max_train_steps)),
        *("--learning_rate", "5e-4"),
        *("--lr_scheduler", "constant_with_warmup"),
        *("--lr_warmup_steps", "500"),
        *("--adam_beta2", "0.99"),
        *("--snr_gamma", "5"),
        "--use_ema",
        "--foreach_ema",
        *("--mixed_precision", arguments.mixed_precision),
        *("--seed", str(arguments.seed)),
        *("--checkpointing_steps", "1000"),
        *("--checkpoints_total_limit", "2"),
        *("--resume_from_checkpoint", "latest"),
        *("--report_to", "none"),
    ]


def save_pipeline(folder: Path, classes: list[str], transformer: DiTTransformer2DModel) -> None:
    """Writes a pipeline on the embedded autoencoder.

    Args:
        folder (`Path`): Where to.
        classes (`list[str]`): The names of its classes, which have the first rows of the class tables.
        transformer (`DiTTransformer2DModel`): Its denoiser.
    """
    DiTPipeline(
        transformer=transformer,
        vae=AutoencoderKL.from_pretrained(EMBEDDED, subfolder="vae"),
        scheduler=DDPMScheduler.from_pretrained(EMBEDDED, subfolder="scheduler"),
    ).save_pretrained(folder)
    index = folder / "model_index.json"  # diffusers reads names of classes there, but does not write them
    names = {str(number): name for number, name in enumerate(classes)}
    write_bytes_atomic(index, json.dumps(json.loads(index.read_text()) | {"id2label": names}, indent=2).encode())


def new_transformer(
    width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS, seed: int = 0
) -> DiTTransformer2DModel:
    """A DiT of 16 tokens without a learned variance, drawn as in the paper (Peebles and Xie, ICCV 2023): every block is the
    identity at first (adaLN-Zero), which diffusers' constructor does not see to.

    Args:
        width (`int`, *optional*, defaults to 192): Numbers per token.
        depth (`int`, *optional*, defaults to 6): Blocks.
        heads (`int`, *optional*, defaults to 6): Attention heads.
        seed (`int`, *optional*, defaults to 0): Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return draw_weights(empty_transformer(width, depth, heads))


def empty_transformer(width: int, depth: int, heads: int) -> DiTTransformer2DModel:
    """The model as diffusers makes it."""
    return DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=8,
        out_channels=8,
        num_layers=depth,
        patch_size=2,
        sample_size=8,
        num_embeds_ada_norm=NUM_CLASSES,
    )


def draw_weights(transformer: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """Draws every weight."""
    for module in transformer.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            rows, columns = module.weight.shape[0], math.prod(module.weight.shape[1:])
            bound = math.sqrt(6 / (rows + columns))  # Xavier, patches taken as flat
            torch.nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for block in transformer.transformer_blocks:
        embedder = block.norm1.emb
        tables = (embedder.class_embedder.embedding_table, embedder.timestep_embedder.linear_1)
        for module in (*tables, embedder.timestep_embedder.linear_2):
            torch.nn.init.normal_(module.weight, std=DEVIATION)
        torch.nn.init.zeros_(block.norm1.linear.weight)
    for module in (transformer.proj_out_1, transformer.proj_out_2):
        torch.nn.init.zeros_(module.weight)
    return transformer


if __name__ == "__main__":
    main()
