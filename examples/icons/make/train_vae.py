# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Train the autoencoder of the icon pipeline: 32x32 pixels to 8x8 latents of 8 channels.

    python examples/icons/make/train_vae.py --output_dir runs/vae
    python examples/icons/make/train_vae.py --output_dir runs/vae --bf16    # where the processor is fast in bfloat16

Killed, it goes on from its last checkpoint. Loss: L1 + MSE + L1 of the image gradients + KL. Half of the time latents and
image are rotated or mirrored together, which keeps the latents close to a picture and hence easy to learn. Writes
`vae/` (averaged weights, scaling_factor = 1/std of the held-out latents), `report.json` and `reconstructions.png`.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from common import batch_indices, grid, load_state, read_parquet, save_state, to_float
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel


HERE = Path(__file__).resolve().parent


def make_vae(channels: list[int]) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=32,
    )


def gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def turn(x: torch.Tensor, quarter_turns: int, mirror: bool) -> torch.Tensor:
    x = torch.rot90(x, quarter_turns, (2, 3))
    return x.flip(3) if mirror else x


@torch.no_grad()
def evaluate(vae: AutoencoderKL, images: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """Held-out reconstruction from the posterior mean, and how the latents are distributed."""
    means, stds, decoded = [], [], []
    for x in to_float(images).split(100):
        posterior = vae.encode(x).latent_dist
        means.append(posterior.mean)
        stds.append(posterior.std)
        decoded.append(vae.decode(posterior.mean).sample.clamp(-1, 1))
    mean, std, decoded = torch.cat(means), torch.cat(stds), torch.cat(decoded)
    mse = ((decoded - to_float(images)) / 2).square().mean(dim=(1, 2, 3))
    latents = mean + std * torch.randn(std.shape, generator=torch.Generator().manual_seed(0))
    centred = (latents - latents.mean()) / latents.std()
    report = {
        "psnr": -10 * mse.clamp(min=1e-8).log10().mean().item(),
        "psnr_of_mean_mse": -10 * mse.mean().log10().item(),
        "l1": ((decoded - to_float(images)) / 2).abs().mean().item(),
        "latent_mean": latents.mean().item(),
        "latent_std": latents.std().item(),
        "channel_means": [round(v, 3) for v in latents.mean(dim=(0, 2, 3)).tolist()],
        "channel_stds": [round(v, 3) for v in latents.std(dim=(0, 2, 3)).tolist()],
        "posterior_std": std.mean().item(),
        "kurtosis": centred.pow(4).mean().item(),
    }
    return report, decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=HERE / "raw" / "source_train.parquet")
    parser.add_argument("--held_out", type=Path, default=HERE.parent / "data" / "source_held_out.parquet")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--max_steps", type=int, default=9000)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--kl_weight", type=float, default=0.004, help="times the KL per latent value, in nats")
    parser.add_argument("--gradient_weight", type=float, default=0.5)
    parser.add_argument("--ema_decay", type=float, default=0.998)
    parser.add_argument(
        "--freeze_encoder", action="store_true", help="train the decoder only: latents keep their meaning"
    )
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpointing_steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    vae = make_vae(args.channels)
    if args.freeze_encoder:
        for module in (vae.encoder, vae.quant_conv):
            module.requires_grad_(False)
    trained = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = EMAModel(vae.parameters(), decay=args.ema_decay)
    first, state = 0, load_state(args.output_dir / "state.pt")
    if state is not None:
        vae.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        if state["frozen"] == args.freeze_encoder:
            optimizer.load_state_dict(state["optimizer"])
            first = state["step"]

    train, held_out = read_parquet(args.train)["image"], read_parquet(args.held_out)["image"]
    log = (args.output_dir / "log.jsonl").open("a")
    started, sums = time.time(), torch.zeros(4)
    for step in range(first, args.max_steps):
        torch.manual_seed(args.seed * 1_000_003 + step)
        warmup = min(1.0, (step + 1) / 200)
        rate = args.learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.max_steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = to_float(train[batch_indices(len(train), step, args.batch_size, args.seed)])
        x = x.flip(3) if torch.rand(()) < 0.5 else x
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            posterior = vae.encode(x).latent_dist
            latents = posterior.sample()
            if not args.freeze_encoder and torch.rand(()) < 0.5:
                how = int(torch.randint(4, ())), bool(torch.rand(()) < 0.5)
                latents, x = turn(latents, *how), turn(x, *how)
            decoded = vae.decode(latents).sample.float()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        l1, mse = (decoded - x).abs().mean(), (decoded - x).square().mean()
        edges = sum((a - b).abs().mean() for a, b in zip(gradients(decoded), gradients(x), strict=True))
        loss = l1 + mse + args.gradient_weight * edges + args.kl_weight * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(vae.parameters())
        sums += torch.stack([l1, mse, edges, kl]).detach()
        done = step + 1
        if done % 100 == 0:
            l1, mse, edges, kl = (sums / 100).tolist()
            rate = args.batch_size * (done - first) / (time.time() - started)
            entry = {"step": done, "l1": l1, "mse": mse, "edges": edges, "kl": kl, "images_per_second": rate}
            log.write(json.dumps(entry) + "\n")
            log.flush()
            sums.zero_()
        if done % args.checkpointing_steps == 0 or done == args.max_steps:
            save_state(
                args.output_dir / "state.pt", step=done, model=vae.state_dict(), ema=ema.state_dict(),
                optimizer=optimizer.state_dict(), frozen=args.freeze_encoder,
            )  # fmt: skip
            ema.store(vae.parameters())
            ema.copy_to(vae.parameters())
            vae.eval()
            report, decoded = evaluate(vae, held_out)
            report = {"step": done, "images": done * args.batch_size} | report
            if not args.freeze_encoder:
                vae.register_to_config(scaling_factor=1 / report["latent_std"])
            vae.save_pretrained(args.output_dir / "vae")
            (args.output_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n")
            pairs = torch.cat([to_float(held_out)[:64].view(4, 16, 3, 32, 32), decoded[:64].view(4, 16, 3, 32, 32)], 1)
            grid(pairs.flatten(0, 1), 16, zoom=3).save(args.output_dir / "reconstructions.png")
            print(json.dumps(report), flush=True)
            vae.train()
            ema.restore(vae.parameters())


if __name__ == "__main__":
    main()
