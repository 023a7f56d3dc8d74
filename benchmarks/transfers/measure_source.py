# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How good is the source model? Its samples against held-out source drawings, with the floor and a picture beside them.

python benchmarks/transfers/measure_source.py                                                 # when it is trained
python benchmarks/transfers/measure_source.py --weights outputs/transfers/pretraining/checkpoint-9000/transformer_ema
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from benchmarks.transfers.measure import HeldOut, sample  # noqa: E402
from benchmarks.transfers.settings import FULL, SOURCE_MODEL, START, WORK, Places, Size  # noqa: E402
from benchmarks.transfers.splits import SOURCE  # noqa: E402
from diffusers_difftune.backbones import load_backbone  # noqa: E402
from diffusers_difftune.backbones.dit import DiTBackbone  # noqa: E402
from diffusers_difftune.evaluation.contact_sheet import contact_sheet  # noqa: E402
from diffusers_difftune.io.atomic import write_bytes_atomic  # noqa: E402


COLUMNS = 14  # of the picture


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", type=Path, default=SOURCE_MODEL / "transformer", help="The folder of a transformer."
    )
    parser.add_argument("--images", type=int, help="Fewer samples than there are held-out drawings.")
    parser.add_argument("--output", type=Path, default=WORK / "source.png", help="The picture.")
    arguments = parser.parse_args(argv)
    torch.backends.cuda.enable_flash_sdp(False)
    backbone = load_backbone(START)
    denoiser = backbone.denoiser_class.from_pretrained(arguments.weights)
    found, picture = source_figures(backbone, denoiser, replace(FULL, most_samples=arguments.images), Places(WORK))
    write_bytes_atomic(arguments.output, picture)
    print(json.dumps(found, indent=1))


def source_figures(
    backbone: DiTBackbone, denoiser: torch.nn.Module, size: Size, places: Places, seed: int = 0
) -> tuple[dict[str, Any], bytes]:
    """Figures of the source model's samples, one for each held-out source drawing, and a picture of some with those.

    Args:
        backbone ([`DiTBackbone`]): Its family.
        denoiser (`torch.nn.Module`): Its transformer.
        size ([`Size`]): How much to measure.
        places ([`Places`]): Where the drawings are.
        seed (`int`, *optional*, defaults to 0): Seed of the samples.
    """
    held_out = HeldOut(SOURCE, size, places)
    images = sample(backbone, denoiser, held_out.prompts, size, seed)
    real = held_out.drawings()
    shown = torch.linspace(0, len(images) - 1, COLUMNS).long()
    names = [backbone.classes.id2label[int(held_out.prompts[place])] for place in shown]
    picture = contact_sheet({"held-out drawings": real[shown], "samples of their classes": images[shown]}, names)
    return held_out.measure(images), picture


if __name__ == "__main__":
    main()
