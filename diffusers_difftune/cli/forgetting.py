# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune forgetting`"""

import argparse
import hashlib
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..config import ClassConditionalConfig, ControlNetConfig, DataConfig, ModelConfig, RunConfig
from ..errors import DiffTuneError
from .flags import DATA_FLAGS, add_flags, add_sampling_flags


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ..backbones import Backbone
    from ..bank.bank import KnowledgeBank
    from ..evaluation.finetuned import Finetuned
    from ..evaluation.forgetting_report import Rows
    from .forgetting_data import Images

FORGETTING = """\
What did fine-tuning do, and where along the chain of noise levels? Compares FINETUNED (a pipeline, a checkpoint, an adapter
or a ControlNet) with the PRETRAINED pipeline that it began as: the denoising loss of both by noise level, on held-out target
DATA and on source data; the quality of samples when the pretrained model makes the last (or the first) x % of the steps; and
how far the weights went. Writes figures and pictures, and prints a summary in words. A command that was killed goes on when it is
run again. docs/forgetting.md says what each curve means.
"""
logger = logging.getLogger(__name__)
PERCENTS = [float(percent) for percent in range(0, 101, 10)]


def add_parser(rooms: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `forgetting`."""
    parser = rooms.add_parser(
        "forgetting",
        help="what was forgotten where, and how far the weights went",
        description=FORGETTING,
        usage="difftune forgetting PRETRAINED FINETUNED DATA [flags]",
        allow_abbrev=False,
    )
    parser.add_argument("pretrained", metavar="PRETRAINED", help="A pipeline's folder, or its id on the Hub.")
    parser.add_argument(
        "finetuned", metavar="FINETUNED", help="A run's folder, a checkpoint in it, or an id on the Hub."
    )
    parser.add_argument(
        "data", metavar="DATA", help="Held-out target data: what --train_data_dir or --dataset_name of training takes."
    )
    parser.add_argument(
        "--source",
        metavar="PATH",
        help="Source data: the folder of a knowledge bank of PRETRAINED, or images as DATA has them that no training saw."
        " Default: new samples of PRETRAINED.",
    )
    parser.add_argument(
        "--output_dir", default="forgetting", help="Where figures and pictures go. Default: forgetting."
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=128,
        help="Rows of target and of source data for the losses, at most. Default: 128.",
    )
    parser.add_argument(
        "--fisher_rows", type=int, default=64, help="Source rows for the Fisher information, at most. Default: 64."
    )
    parser.add_argument(
        "--percents",
        type=float,
        nargs="+",
        default=PERCENTS,
        metavar="X",
        help="The parts of the sampling steps to swap, in per cent; 0 and 100 are measured anyway. Default: 0 10 … 100.",
    )
    parser.add_argument(
        "--num_images",
        type=int,
        help="Samples at each x, and target images to compare them with. Default: as many as DATA has, at most 1000.",
    )
    parser.add_argument("--resolution", type=int, help="Side of the images in pixels. Default: the model's own.")
    add_sampling_flags(parser)
    add_flags(parser, DataConfig, "caption_column", *DATA_FLAGS)
    add_flags(parser, ClassConditionalConfig, "label_column")
    add_flags(parser, ControlNetConfig, "conditioning_image_column")
    add_flags(parser, ModelConfig, "revision", "variant", "cache_dir")
    add_flags(parser, RunConfig, "mixed_precision", "hub_token")
    parser.set_defaults(run=forgetting)


def forgetting(arguments: argparse.Namespace) -> int:
    """`difftune forgetting`"""
    check_arguments(arguments)

    import torch

    from ..console import labelled_block, terminal_width, wrapped
    from ..evaluation.compatibility import check_run
    from ..evaluation.contact_sheet import contact_sheet
    from ..evaluation.features import make_features
    from ..evaluation.finetuned import open_finetuned
    from ..evaluation.forgetting_plot import plot_chain
    from ..evaluation.forgetting_report import distance_report, measure_losses
    from ..evaluation.forgetting_summary import summary, words
    from ..io.atomic import write_bytes_atomic
    from ..objective import DiffTuningObjective
    from .common import fingerprint, machine, new_accelerator, open_pipeline, show_log, show_summary
    from .evaluate import Candidate, find_resolution
    from .forgetting_data import open_source, open_target
    from .results import check_is_free

    with errors.flag("PRETRAINED"):
        backbone = open_pipeline(arguments.pretrained, arguments.revision, arguments, arguments.resolution)
    with errors.flag("FINETUNED"):
        finetuned = open_finetuned(backbone, arguments.finetuned, arguments.cache_dir, arguments.hub_token)
        check_run(finetuned.folder, fingerprint(backbone, arguments))
    resolution = find_resolution(arguments, [Candidate(arguments.pretrained, backbone)])
    target = open_target(arguments, backbone, finetuned, resolution)
    source = open_source(arguments, backbone, finetuned, resolution)
    with errors.flag("--features"):
        extractor = make_features(arguments.features, arguments.cache_dir, arguments.hub_token)

    accelerator = new_accelerator(arguments.mixed_precision)
    show_log(accelerator)
    output, device = Path(arguments.output_dir), accelerator.device
    points = len({0.0, 100.0, *arguments.percents})
    show_summary(
        accelerator,
        [
            ("models", f"{arguments.pretrained} and {arguments.finetuned} ({finetuned.kind})"),
            ("losses", f"{arguments.rows:,} rows of source and of target data at most"),
            (
                "samples",
                f"{len(target.prompts):,} at each of {points} points, {arguments.steps} steps, guidance"
                f" {arguments.guidance_scale:g}; compared by {arguments.features}",
            ),
            ("computes", machine(accelerator)),
            ("result", str(output)),
        ],
    )
    precision = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    settings = facts(arguments, finetuned, resolution, target, source, str(extractor.name), str(precision))
    check_is_free("--output_dir", output / "forgetting.json", settings)
    backbone.load_encoders(device, torch.float32)
    with errors.flag("FINETUNED"):
        finetuned.load(device)
    source_rows, source_images = prepare_source(arguments, backbone, finetuned, source, target, accelerator)
    target_rows = target.rows(backbone, arguments.rows, arguments.batch_size)
    objective = DiffTuningObjective(backbone.noise_scheduler)

    logger.info("Denoising losses by noise level.")
    options = {"batch_size": arguments.batch_size, "seed": arguments.seed}
    losses = {
        "source": measure_losses(backbone, finetuned, objective, source_rows, True, **options),
        "target": measure_losses(backbone, finetuned, objective, target_rows, False, **options),
    }
    logger.info(f"Samples with steps swapped: {len(target.prompts)} at each x.")
    swap, pictures = swapping(
        arguments, settings, backbone, finetuned, target, source_images, extractor, device, precision
    )
    logger.info("Distance of the weights.")
    fisher_rows = first_rows(source_rows, arguments.fisher_rows)
    distance = distance_report(backbone, finetuned, objective, fisher_rows, arguments.seed)

    report: dict[str, Any] = {"settings": settings, "losses": losses, "swap": swap, "distance": distance}
    report["words"] = words(report)
    write_bytes_atomic(output / "forgetting.json", (json.dumps(report, indent=2) + "\n").encode())
    write_bytes_atomic(output / "samples.png", contact_sheet(pictures, target.prompts[: len(pictures["real images"])]))
    plot_chain(report, output / "forgetting.png")
    width = terminal_width()
    print(labelled_block("What fine-tuning did", list(summary(report).items()), width, most_lines=100))
    print(
        wrapped(
            f"The figures are in {output / 'forgetting.json'}, pictures in forgetting.png and samples.png beside it.",
            width,
        )
    )
    if swap["target_floor"]["fid"] is None or swap["points"][0]["target"]["fid"] is None:
        features = swap["points"][0]["target"]["num_features"]
        print(
            wrapped(
                f"FID needs more images than features, {features + 1} or more, so the curves are of KID, which needs no more.",
                width,
            )
        )
    return 0


def check_arguments(arguments: argparse.Namespace) -> None:
    """Stops on the first flag that cannot work."""
    from ..training.checks import check_output_dir  # is slow to import

    least = {"rows": 2, "fisher_rows": 2, "num_images": 8, "steps": 1, "resolution": 1, "batch_size": 1, "seed": 0}
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value is not None and value < smallest:
            raise DiffTuneError(f"--{name} is {value}; it must be at least {smallest}.")
    if not 1 <= arguments.guidance_scale < math.inf:
        raise DiffTuneError(f"--guidance_scale is {arguments.guidance_scale}; it must be at least 1.0 and finite.")
    if not all(0 <= percent <= 100 for percent in arguments.percents):
        raise DiffTuneError(
            f"--percents is {' '.join(f'{x:g}' for x in arguments.percents)}; give numbers from 0 to 100."
        )
    check_output_dir(Path(arguments.output_dir))
    try:
        import matplotlib  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise DiffTuneError(
            "difftune forgetting needs matplotlib and torchmetrics; install them with `pip install matplotlib torchmetrics`."
        ) from error


def prepare_source(
    arguments: argparse.Namespace,
    backbone: "Backbone",
    finetuned: "Finetuned",
    source: "KnowledgeBank | Images | None",
    target: "Images",
    accelerator: "Accelerator",
) -> "tuple[Rows, Images]":
    """Source rows for the losses, and source images; sampled now if nothing else was named."""
    from .forgetting_data import MOST_IMAGES, Images, of_bank, sample_source

    if isinstance(source, Images):
        return source.rows(backbone, arguments.rows, arguments.batch_size), source
    if source is None:
        prompts = target.prompts if finetuned.knows_classes else [""]
        logger.info(f"Source data: {arguments.rows} samples of the pretrained model.")
        source = sample_source(
            arguments, backbone, finetuned.pretrained, prompts, target.images.shape[-1], accelerator
        )
    most = arguments.num_images or MOST_IMAGES
    return of_bank(source, backbone, arguments.rows, most, arguments.batch_size)


def first_rows(rows: "Rows", count: int) -> "Rows":
    """The first of some rows."""
    from ..evaluation.forgetting_report import Rows

    return Rows(rows.latents[:count], rows.prompts[:count])


def facts(
    arguments: argparse.Namespace,
    finetuned: "Finetuned",
    resolution: int,
    target: "Images",
    source: "KnowledgeBank | Images | None",
    features: str,
    precision: str,
) -> dict[str, Any]:
    """What was compared, and how."""
    from ..version import __version__
    from .forgetting_data import Images

    return {
        "pretrained": arguments.pretrained,
        "finetuned": arguments.finetuned,
        "kind": finetuned.kind,
        "same_classes": finetuned.knows_classes,
        "data": arguments.data,
        "floor_data": arguments.floor_data,
        "source": arguments.source or "new samples of the pretrained model",
        "source_kind": "images" if isinstance(source, Images) else "bank",
        "num_images": len(target.images),
        "resolution": resolution,
        "features": features,
        "sampler": "dpm++",
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance_scale,
        "percents": sorted({0.0, 100.0, *arguments.percents}),
        "precision": precision.removeprefix("torch."),
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "difftune": __version__,
    }


def swapping(
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    backbone: "Backbone",
    finetuned: "Finetuned",
    target: "Images",
    source: "Images",
    extractor: Any,
    device: "torch.device",
    precision: "torch.dtype",
) -> "tuple[dict[str, Any], dict[str, torch.Tensor]]":
    """The swap curves, and the first samples of each point beside real images."""
    from ..evaluation import FEWEST_IMAGES
    from ..evaluation.metrics import extract_features
    from ..evaluation.real_images import RealImages
    from ..evaluation.swap_curve import SHOWN, SwapSampler, swap_curve

    def features(images: "torch.Tensor") -> "torch.Tensor":
        return extract_features(extractor, images, arguments.batch_size, device)

    others = None if target.others is None else features(target.others)
    real = RealImages(features(target.images), others, arguments.seed)
    known = RealImages(features(source.images), seed=arguments.seed) if len(source.images) >= FEWEST_IMAGES else None
    sampler = SwapSampler(
        finetuned,
        target.prompts,
        extractor,
        Path(arguments.output_dir, "features", features_key(arguments, settings, backbone, finetuned, target)),
        target.controls,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        device=device,
        precision=precision,
        guidance_scale=arguments.guidance_scale,
        seed=arguments.seed,
        height=settings["resolution"],
        width=settings["resolution"],
    )
    curve, pictures = swap_curve(sampler, arguments.percents, real, known)
    return curve, {"real images": target.images[:SHOWN]} | pictures


def features_key(
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    backbone: "Backbone",
    finetuned: "Finetuned",
    target: "Images",
) -> str:
    """The name under which the features of samples are kept: a hash of whatever decides them."""
    from ..io.hashing import file_sha256
    from .common import fingerprint

    names = ("resolution", "features", "steps", "guidance_scale", "precision", "batch_size", "seed", "difftune")
    network = Path(arguments.features)
    parts = [
        {name: settings[name] for name in names},
        fingerprint(backbone, arguments),
        [file_sha256(file) for file in finetuned.files()],
        target.key,
        target.prompts,
        file_sha256(network) if network.is_file() else None,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
