# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How good the embedded pipeline is: the numbers and the picture of `examples/icons/README.md`.

    python examples/icons/make/evaluate_pipeline.py --pipeline examples/icons/pipeline --output_dir runs/evaluation

Writes `report.json` and `samples.png`:
- how often the true name is among the 5 best of 100 by the contrastive model, for samples of 200 names of source drawings; beside
  it, for the real drawings of these names, for these blurred to 4x4 pixels (what colours alone are worth) and for others;
- FID and KID (features.py) of samples against held-out source drawings, beside real training drawings against them.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import core
from common import ranks_of_100, read_parquet, to_float
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw
from train_text_encoder import embed_images, embed_texts
from transformers import CLIPModel, CLIPTokenizer


HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from contrastive_model import PIPELINE, load_contrastive  # noqa: E402
from features import NAME, IconFeatures  # noqa: E402

from diffusers_difftune.evaluation.metrics import distances, extract_features  # noqa: E402


def sample(pipeline: StableDiffusionPipeline, prompts: list[str], args: argparse.Namespace) -> torch.Tensor:
    """uint8 images (N, 3, 32, 32); the noise of the i-th is a function of (seed, i)."""
    images = []
    for start in range(0, len(prompts), 50):
        batch = prompts[start : start + 50]
        noise = torch.stack(
            [torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(args.seed * 1_000_003 + start + i))
             for i in range(len(batch))]
        )  # fmt: skip
        made = pipeline(
            batch, height=32, width=32, num_inference_steps=args.steps, guidance_scale=args.guidance_scale,
            latents=noise, output_type="pt",
        ).images  # fmt: skip
        images.append((made.clamp(0, 1) * 255).round().to(torch.uint8))
        print(f"{start + len(batch)}/{len(prompts)} samples", flush=True)
    return torch.cat(images)


@torch.no_grad()
def best_of_100(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: torch.Tensor, names: list[str]
) -> dict[str, float]:
    """Share of the images whose own name is the best, or among the 5 best, of itself and 99 other names, seeded."""
    ids = tokenizer(names, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
    scores = embed_images(model, to_float(images)) @ embed_texts(model, ids, tokenizer.eos_token_id)[0].T
    ranks = ranks_of_100(scores, names)
    return {"top5": sum(r < 5 for r in ranks) / len(names), "top1": sum(r < 1 for r in ranks) / len(names)}


def picture(images: torch.Tensor, prompts: list[str], columns: int, zoom: int = 4) -> Image.Image:
    """Samples with their prompts written under each."""
    cell, foot = 32 * zoom + 24, 30
    sheet = Image.new("RGB", (columns * cell, -(-len(images) // columns) * (cell + foot)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, prompt) in enumerate(zip(images, prompts)):
        x, y = i % columns * cell, i // columns * (cell + foot)
        drawing = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((32 * zoom,) * 2, Image.Resampling.BICUBIC)
        sheet.paste(drawing, (x + 12, y + 12))
        words, lines = prompt.split(), [""]
        for word in words:
            if len(lines[-1]) + len(word) > 22:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".strip()
        draw.multiline_text(
            (x + cell // 2, y + 32 * zoom + 14), "\n".join(lines[:2]), "black", anchor="ma", align="center"
        )
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=HERE.parent / "pipeline")
    parser.add_argument("--train", type=Path, default=HERE / "raw" / "source_train.parquet")
    parser.add_argument("--held_out", type=Path, default=HERE.parent / "data" / "source_held_out.parquet")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--names", type=int, default=200)
    parser.add_argument("--fid_samples", type=int, default=800)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    started = time.time()

    train, held_out = read_parquet(args.train), read_parquet(args.held_out)
    order = torch.randperm(len(train["text"]), generator=torch.Generator().manual_seed(args.seed)).tolist()
    plain = [i for i in order if "skin tone" not in train["text"][i]]
    first_of = {core(train["text"][i]): i for i in reversed(plain)}
    chosen = sorted(first_of.values(), key=plain.index)[: args.names]  # one drawing each of different things
    names = [train["text"][i] for i in chosen]

    pipeline = StableDiffusionPipeline.from_pretrained(args.pipeline, torch_dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    contrastive = load_contrastive()
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE, subfolder="tokenizer")

    prompts = (
        names + [train["text"][i] for i in plain if i not in set(chosen)][: max(0, args.fid_samples - len(names))]
    )
    samples = sample(pipeline, prompts, args)
    picture(samples[:16], prompts[:16], columns=4).save(args.output_dir / "samples.png")
    real_drawings = train["image"][chosen]
    blurred = F.interpolate(F.avg_pool2d(real_drawings.float(), 8), scale_factor=8, mode="bilinear")
    report = {
        "samples": {"steps": args.steps, "guidance_scale": args.guidance_scale, "solver": "dpm++", "seed": args.seed},
        "name_of_100": {
            "samples": best_of_100(contrastive, tokenizer, samples[: len(names)], names),
            "real": best_of_100(contrastive, tokenizer, real_drawings, names),
            "real_blurred": best_of_100(
                contrastive, tokenizer, blurred.byte(), names
            ),  # 4x4 pixels: colours, no shapes
            "real_of_other_names": best_of_100(contrastive, tokenizer, real_drawings.roll(1, 0), names),
        },
        "names": len(names),
    }
    if args.fid_samples > 64:
        extractor = IconFeatures()
        real = extract_features(extractor, held_out["image"])
        generated = distances(real, extract_features(extractor, samples[: args.fid_samples]))
        others = plain[-args.fid_samples :]
        floor = distances(real, extract_features(extractor, train["image"][others]))
        report |= {
            "features": NAME, "num_real": len(real), "num_samples": min(args.fid_samples, len(samples)),
            "fid": generated["fid"], "kid": generated["kid"], "fid_floor": floor["fid"], "kid_floor": floor["kid"],
        }  # fmt: skip
    report["seconds"] = round(time.time() - started)
    (args.output_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
