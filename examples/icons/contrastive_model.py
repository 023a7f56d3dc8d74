# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The small CLIP model that judges samples: its text tower is the pipeline's text encoder, and is kept there alone.

`contrastive/` has the rest of the weights. To have the whole model in a folder, for `difftune evaluate --clip_model FOLDER`:

    python examples/icons/contrastive_model.py outputs/contrastive
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel


HERE = Path(__file__).resolve().parent
CONTRASTIVE, PIPELINE = HERE / "contrastive", HERE / "pipeline"
IMAGE_TOWER = "image_tower.safetensors"
TEXT = "text_model."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where to write the whole model.")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    save_file(contrastive_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    for file in (*CONTRASTIVE.glob("*.json"), *(PIPELINE / "tokenizer").glob("*.json")):
        shutil.copyfile(file, folder / file.name)


def contrastive_weights() -> dict[str, torch.Tensor]:
    """All weights, float16."""
    text = load_file(PIPELINE / "text_encoder" / "model.safetensors")
    return load_file(CONTRASTIVE / IMAGE_TOWER) | {TEXT + name: tensor for name, tensor in text.items()}


def load_contrastive() -> CLIPModel:
    """The model in float32; its tokenizer is the pipeline's."""
    model = CLIPModel(CLIPConfig.from_pretrained(CONTRASTIVE))
    model.load_state_dict({name: tensor.float() for name, tensor in contrastive_weights().items()})
    return model.eval()


def save_image_tower(model: CLIPModel, folder: Path) -> None:
    """Writes what the pipeline's text encoder does not have, in float16, and the config."""
    rest = {name: tensor.half() for name, tensor in model.state_dict().items() if not name.startswith(TEXT)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(rest, folder / IMAGE_TOWER, metadata={"format": "pt"})
    model.config.save_pretrained(folder)


if __name__ == "__main__":
    main()
