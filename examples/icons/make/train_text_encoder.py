# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Train the text encoder of the icon pipeline: a small CLIP model on drawings and their names.

    python examples/icons/make/train_text_encoder.py --output_dir runs/text
    python examples/icons/make/train_text_encoder.py --output_dir runs/text --bf16

Killed, it goes on from its last checkpoint. First a BPE vocabulary is trained on the captions (names of the target sets
are not read). Two contrastive losses: on the end-of-text state, as CLIP has it, and on the mean of the word states, so
that every word's last hidden state is worth attending to. Captions of one thing are not negatives of each other. Writes
`tokenizer/`, `text_encoder/` (what the pipeline uses), `contrastive/` (both towers, what evaluation uses), `report.json`:
how often the true name is among the 5 best of 100, for drawings that were trained on and for held-out ones.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import core
from common import batch_indices, load_state, ranks_of_100, read_parquet, save_state, thin_skin_tones, to_float
from diffusers.training_utils import EMAModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer


HERE = Path(__file__).resolve().parent
LENGTH = 24


def make_tokenizer(captions: list[str], size: int) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of `size` entries, trained on `captions`."""
    letters = sorted(ByteLevel.alphabet())
    entries = letters + [c + "</w>" for c in letters] + ["<|startoftext|>", "<|endoftext|>"]
    blank = CLIPTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=[], model_max_length=LENGTH)
    return blank.train_new_from_iterator(captions, size)


def make_model(tokenizer: CLIPTokenizer, args: argparse.Namespace) -> CLIPModel:
    tower = {"hidden_size": args.width, "intermediate_size": 4 * args.width, "num_attention_heads": args.width // 64}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"num_hidden_layers": args.text_layers, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    text |= {"pad_token_id": tokenizer.pad_token_id, "attention_dropout": 0.1} | ids
    vision = {"num_hidden_layers": args.vision_layers, "image_size": 32, "patch_size": args.patch}
    return CLIPModel(CLIPConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=args.width))


def augment(x: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """Shift, scale, mirror where allowed, colour, blur and noise, each image its own."""
    n = len(x)
    flip = torch.where(mirror & (torch.rand(n) < 0.5), -1.0, 1.0)
    angle, scale = torch.randn(n) * 0.08, 0.85 + 0.3 * torch.rand(n)
    shift = (torch.rand(n, 2) - 0.5) * 0.25
    cos, sin = angle.cos() * scale, angle.sin() * scale
    affine = torch.stack([cos * flip, -sin, shift[:, 0], sin * flip, cos, shift[:, 1]], 1).view(n, 2, 3)
    x = 1 - F.grid_sample(1 - x, F.affine_grid(affine, x.shape, align_corners=False), align_corners=False)  # on white
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, blurred, (torch.rand(n, 1, 1, 1) * 1.4 - 0.4).clamp(min=0))
    x = x * (0.8 + 0.4 * torch.rand(n, 3, 1, 1)) + 0.15 * torch.randn(n, 3, 1, 1)
    return (x + 0.1 * torch.rand(n, 1, 1, 1) * torch.randn(x.shape)).clamp(-1, 1)


def embed_texts(model: CLIPModel, ids: torch.Tensor, eos: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised features of the end-of-text state and of the mean word state."""
    length = (ids == eos).float().argmax(1)  # the first end-of-text; the rest is padding
    states = model.text_model(input_ids=ids).last_hidden_state
    position = torch.arange(ids.shape[1])[None]
    words = ((position > 0) & (position < length.clamp(min=2)[:, None])).to(states.dtype)[..., None]
    end, mean = states[torch.arange(len(ids)), length], (states * words).sum(1) / words.sum(1)
    return tuple(F.normalize(model.text_projection(s).float(), dim=-1) for s in (end, mean))


def embed_images(model: CLIPModel, images: torch.Tensor) -> torch.Tensor:
    pooled = model.vision_model(pixel_values=images).pooler_output
    return F.normalize(model.visual_projection(pooled).float(), dim=-1)


@torch.no_grad()
def top5_of_100(model: CLIPModel, images: torch.Tensor, texts: list[str], tokenizer: CLIPTokenizer) -> float:
    """Share of drawings whose name scores among the 5 best of itself and 99 names of other things."""
    encode = lambda t: tokenizer(t, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")  # noqa: E731
    names = torch.cat([embed_texts(model, encode(texts[i : i + 200]).input_ids, tokenizer.eos_token_id)[0]
                       for i in range(0, len(texts), 200)])  # fmt: skip
    pictures = torch.cat([embed_images(model, x) for x in to_float(images).split(200)])
    return sum(rank < 5 for rank in ranks_of_100(pictures @ names.T, texts)) / len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=HERE / "raw" / "source_train.parquet")
    parser.add_argument("--held_out", type=Path, default=HERE.parent / "data" / "source_held_out.parquet")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=3000)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--text_layers", type=int, default=4)
    parser.add_argument("--vision_layers", type=int, default=4)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--max_steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=192)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--ema_decay", type=float, default=0.99)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpointing_steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)

    data, held = read_parquet(args.train), read_parquet(args.held_out)
    rows = thin_skin_tones(data["text"], data["set"], args.seed)
    images, texts = data["image"][rows], [data["text"][i] for i in rows]
    if not (args.output_dir / "tokenizer").exists():
        make_tokenizer(texts, args.vocabulary).save_pretrained(args.output_dir / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(args.output_dir / "tokenizer")
    ids = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    numbers = {c: i for i, c in enumerate(dict.fromkeys(core(t) for t in texts))}
    thing = torch.tensor([numbers[core(t)] for t in texts])
    mirror = torch.tensor([not ({"left", "right", "wordmark", "flag"} & set(t.split())) for t in texts])

    torch.manual_seed(args.seed)
    model = make_model(tokenizer, args)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=args.learning_rate, betas=(0.9, 0.98)
    )  # fmt: skip
    ema = EMAModel(model.parameters(), decay=args.ema_decay)
    first, state = 0, load_state(args.output_dir / "state.pt")
    if state is not None:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    started = time.time()
    for step in range(first, args.max_steps):
        torch.manual_seed(args.seed * 1_000_003 + step)
        rate = min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / args.max_steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * rate
        batch = batch_indices(len(rows), step, args.batch_size, args.seed)
        x = augment(to_float(images[batch]), mirror[batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            pictures = embed_images(model, x)
            longest = int((ids[batch] == tokenizer.eos_token_id).float().argmax(1).max()) + 1
            ends, means = embed_texts(model, ids[batch][:, :longest], tokenizer.eos_token_id)
        twins = (thing[batch][:, None] == thing[batch][None]) & ~torch.eye(len(batch), dtype=torch.bool)
        labels, loss = torch.arange(len(batch)), 0.0
        for names in (ends, means):
            logits = (model.logit_scale.exp().clamp(max=50) * pictures @ names.T).masked_fill(twins, -1e4)
            loss = loss + (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 4
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        done = step + 1
        if done % 50 == 0:
            speed = args.batch_size * (done - first) / (time.time() - started)
            print(json.dumps({"step": done, "loss": round(loss.item(), 4), "images_per_second": speed}), flush=True)
        if done % args.checkpointing_steps == 0 or done == args.max_steps:
            save_state(
                args.output_dir / "state.pt", step=done, model=model.state_dict(), ema=ema.state_dict(),
                optimizer=optimizer.state_dict(),
            )  # fmt: skip
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            model.eval()
            some = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:800]
            report = {
                "step": done,
                "images": done * args.batch_size,
                "top5_of_100_train": top5_of_100(model, images[some], [texts[i] for i in some], tokenizer),
                "top5_of_100_held_out": top5_of_100(model, held["image"], held["text"], tokenizer),
            }
            print(json.dumps(report), flush=True)
            (args.output_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n")
            model.save_pretrained(args.output_dir / "contrastive")
            text = CLIPTextModel(model.config.text_config)
            prefix = next(iter(text.state_dict())).startswith("text_model.")
            text.load_state_dict((model if prefix else model.text_model).state_dict(), strict=not prefix)
            text.save_pretrained(args.output_dir / "text_encoder")
            model.train()
            ema.restore(model.parameters())


if __name__ == "__main__":
    main()
