# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Put the parts of the icon pipeline together.

    python examples/icons/make/build_pipeline.py --vae runs/vae --text runs/text --output_dir runs/start   # random UNet
    python examples/icons/make/build_pipeline.py --vae runs/vae --text runs/text --unet runs/unet/unet \
        --output_dir examples/icons/pipeline                                                               # fp16, final

Without `--unet` the UNet of `UNET` below is initialised from the seed, in float32: what `train_unet.py` starts from. With
it, all weights are written in fp16. `runs/unet/unet` is the averaged UNet that the training script saves.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from contrastive_model import save_image_tower  # noqa: E402


# Attention, to itself and to the words, at 4x4 positions only: at 8x8 it cost more time than it was worth.
UNET = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (96, 192),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 3),  # in diffusers: the number of heads
    "cross_attention_dim": 192,
    "norm_num_groups": 32,
}
# Stable Diffusion's noise levels; v-prediction learnt the coarse shapes sooner than noise prediction.
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True, help="output_dir of train_vae.py")
    parser.add_argument("--text", type=Path, required=True, help="output_dir of train_text_encoder.py")
    parser.add_argument("--unet", type=Path, help="a trained UNet's folder")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--contrastive_dir",
        type=Path,
        help="where to put what the contrastive model has beside the text encoder, in fp16",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    dtype = torch.float16 if args.unet else torch.float32
    unet = UNet2DConditionModel.from_pretrained(args.unet) if args.unet else UNet2DConditionModel(**UNET)
    tokenizer = CLIPTokenizer.from_pretrained(args.text / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(args.vae / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(args.text / "text_encoder"),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDPMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype)
    pipeline.save_pretrained(args.output_dir)
    for config in args.output_dir.glob("*/config.json"):  # where the parts came from is nobody's business
        kept = {name: value for name, value in json.loads(config.read_text()).items() if name != "_name_or_path"}
        config.write_text(json.dumps(kept, indent=2) + "\n")
    if args.contrastive_dir:
        from transformers import CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        save_image_tower(CLIPModel.from_pretrained(args.text / "contrastive"), args.contrastive_dir)
        half = [0.5] * 3  # images in [-1, 1], as it saw them
        processor = CLIPImageProcessorPil(
            size={"height": 32, "width": 32}, do_center_crop=False, image_mean=half, image_std=half
        )
        processor.save_pretrained(args.contrastive_dir)
        shutil.copy(args.text / "report.json", args.contrastive_dir / "report.json")
    parameters = {
        n: sum(p.numel() for p in getattr(pipeline, n).parameters()) for n in ("vae", "text_encoder", "unet")
    }
    size = sum(file.stat().st_size for file in args.output_dir.rglob("*") if file.is_file())
    print(json.dumps({"parameters": parameters, "megabytes": round(size / 1e6, 2)}))


if __name__ == "__main__":
    main()
