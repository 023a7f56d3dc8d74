# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines on pixels: a [`DiTPipeline`] whose autoencoder changes nothing and whose noise levels are those of flow matching.

The training script works on the latents of an [`AutoencoderKL`]. This one has four channels inside, and weights such that
its latent is the mean of the three colours of each pixel, and its image that latent three times over:

- every convolution looks at its own pixel alone, and every residual branch ends in zeros;
- the group norm before the last convolution would take the scale of an image away. Two of the four channels hold ±`LOUD`
  everywhere, so that its deviation is the same for all images to one part in `LOUD`²;
- the SiLU after it is undone by two channels of opposite signs, since silu(z) − silu(−z) = z.
"""

import json
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

from diffusers_difftune.io.atomic import write_bytes_atomic

from .settings import SIDE


PATCH = 6  # 16 tokens of 36 pixels
LOUD = 64.0  # beside pixels in [−1, 1]
LEVELS = 1000
# Of σ in (1 − σ) · image + σ · noise. Were the last levels nearer to 1, each would have twice the ratio of noise to signal of
# the one before, and the solver would take the last one twice.
FIRST_LEVEL, LAST_LEVEL = 0.002, 0.99
NUM_CLASSES = 1000  # rows of the class tables before the null class: DiTPipeline knows no other number
DEVIATION = 0.02  # of embeddings, as in the DiT paper


def save_pipeline(folder: Path, transformer: DiTTransformer2DModel, classes: dict[int, str]) -> None:
    """Writes a pipeline.

    Args:
        folder (`Path`): Where to.
        transformer (`DiTTransformer2DModel`): Its denoiser.
        classes (`dict[int, str]`): The names of its classes by their rows.
    """
    pipeline = DiTPipeline(transformer=transformer, vae=identity_autoencoder(), scheduler=flow_levels())
    pipeline.save_pretrained(folder)
    index = folder / "model_index.json"  # diffusers reads names of classes there, but does not write them
    names = {str(row): name for row, name in classes.items()}
    written = json.dumps(json.loads(index.read_text()) | {"id2label": names}, indent=2, ensure_ascii=False)
    write_bytes_atomic(index, (written + "\n").encode())


@torch.no_grad()
def identity_autoencoder() -> AutoencoderKL:
    """An autoencoder of grey images that are their own latents."""
    vae = AutoencoderKL(
        block_out_channels=(4,),
        latent_channels=1,
        norm_num_groups=1,
        sample_size=SIDE,
        scaling_factor=1.0,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    for parameter in vae.parameters():
        parameter.zero_()
    for part, colours in ((vae.encoder, 3), (vae.decoder, 1)):
        part.conv_in.weight[0, :, 1, 1] = 1 / colours
        part.conv_in.weight[1, :, 1, 1] = -1 / colours
        part.conv_in.bias[2], part.conv_in.bias[3] = LOUD, -LOUD
        part.conv_norm_out.weight.fill_(LOUD / math.sqrt(2))  # the deviation of four channels of which two are silent
        part.conv_out.weight[:, 0, 1, 1], part.conv_out.weight[:, 1, 1, 1] = 1, -1
    # The encoder's second output is the logarithm of the latent's variance.
    vae.encoder.conv_out.weight[1].zero_()
    vae.encoder.conv_out.bias[1] = -30
    return vae.eval()


def flow_levels() -> DDPMScheduler:
    """The noise levels of flow matching, (1 − σ) · image + σ · noise for evenly spaced σ, as DDPM's levels: both divided by
    √((1 − σ)² + σ²), which the velocity prediction of DDPM knows and the signal-to-noise ratio does not."""
    sigmas = torch.linspace(FIRST_LEVEL, LAST_LEVEL, LEVELS, dtype=torch.float64)
    kept = (1 - sigmas) ** 2 / ((1 - sigmas) ** 2 + sigmas**2)
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    return DDPMScheduler(
        num_train_timesteps=LEVELS,
        trained_betas=betas.tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


def new_transformer(width: int, depth: int, heads: int, seed: int) -> DiTTransformer2DModel:
    """A DiT on pixels without a learned variance, drawn as in the paper (Peebles and Xie, ICCV 2023): every block is the
    identity at first (adaLN-Zero), which diffusers' constructor does not see to.

    Args:
        width (`int`): Numbers per token.
        depth (`int`): Blocks.
        heads (`int`): Attention heads.
        seed (`int`): Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=1,
            out_channels=1,
            num_layers=depth,
            patch_size=PATCH,
            sample_size=SIDE,
            num_embeds_ada_norm=NUM_CLASSES,
        )
        for module in transformer.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                torch.nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
        for block in transformer.transformer_blocks:
            embedder = block.norm1.emb
            steps = embedder.timestep_embedder
            for module in (embedder.class_embedder.embedding_table, steps.linear_1, steps.linear_2):
                torch.nn.init.normal_(module.weight, std=DEVIATION)
            torch.nn.init.zeros_(block.norm1.linear.weight)
        for module in (transformer.proj_out_1, transformer.proj_out_2):
            torch.nn.init.zeros_(module.weight)
    return transformer


@torch.no_grad()
def move_classes(transformer: DiTTransformer2DModel, first: int, count: int) -> None:
    """Moves the classes of the first `count` rows of every class table to the rows from `first`, which give way to them.

    The training script gives new classes the rows from 0. With `first` of them free, the classes that the model was
    trained on keep theirs.
    """
    for block in transformer.transformer_blocks:
        table = block.norm1.emb.class_embedder.embedding_table.weight
        order = [*range(count, count + first), *range(count), *range(count + first, len(table))]
        table.copy_(table[order])
