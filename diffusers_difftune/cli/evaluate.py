# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune evaluate`"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from .candidates import Candidate, find_candidates, find_prompts
from .common import find_resolution, new_accelerator, show_summary
from .flags import add_sampling_flags
from .results import check_is_free, check_output, picture_beside, write_results


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ..evaluation.sample_quality import Measurement

EVALUATE = """\
How near are the samples of pipelines to real images? Samples each PIPELINE for the captions of held-out DATA (a
class-conditional one for their classes), all from the same noise, and compares as many samples as real images by FID,
KID, precision and recall, and samples with captions by the CLIP score. Beside every figure is its floor: what real images
score against other real images. docs/evaluation.md says what the figures mean.
"""
SHOWN = 8  # samples in a row of the picture


def add_parser(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `evaluate`."""
    parser = subcommands.add_parser(
        "evaluate",
        help="how near samples are to real images",
        usage="difftune evaluate PIPELINE [PIPELINE ...] DATA [flags]",
        description=EVALUATE,
    )
    parser.add_argument("pipelines", metavar="PIPELINE", nargs="+", help="A pipeline's folder, or its id on the Hub.")
    parser.add_argument(
        "data", metavar="DATA", help="Held-out images: what --train_data_dir or --dataset_name of training takes."
    )
    parser.add_argument("--pretrained", metavar="PIPELINE", help="Measure this pipeline, too, without an adapter.")
    parser.add_argument("--adapter", metavar="PATH", help="What was trained on PIPELINE (on each): a run's folder.")
    parser.add_argument(
        "--prompts",
        default="captions",
        help="What to sample: captions (of the rows that samples are compared with; for a class-conditional pipeline"
        " their classes), empty, a text file with one prompt a line, or DATASET#COLUMN. Default: captions.",
    )
    parser.add_argument(
        "--clip_model",
        default="openai/clip-vit-large-patch14",
        help="The model of the CLIP score: a folder or an id on the Hub; none leaves the score out. Default:"
        " openai/clip-vit-large-patch14.",
    )
    add_sampling_flags(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("evaluation.json"),
        help="Where the figures go, and beside them a picture of the first samples. Default: evaluation.json.",
    )
    parser.set_defaults(run=evaluate)


def evaluate(arguments: argparse.Namespace) -> int:
    """`difftune evaluate`"""
    check_output(arguments.output)
    candidates = find_candidates(arguments)

    from ..evaluation.contact_sheet import contact_sheet
    from ..evaluation.kid_difference import kid_difference
    from ..io.processes import frozen_dtype
    from .evaluate_table import table

    accelerator = new_accelerator(arguments.mixed_precision)
    dtype = frozen_dtype(accelerator)
    measurement, facts, real_images, titles = make_measurement(arguments, candidates, accelerator)
    facts["precision"] = str(dtype).removeprefix("torch.")
    check_is_free("--output", arguments.output, facts, [candidate.label for candidate in candidates])
    found: list[dict[str, Any]] = []
    of_first: torch.Tensor | None = None
    pictures = {"real images": real_images}
    for candidate in candidates:
        pipeline = candidate.load(accelerator.device, dtype)
        measured = measurement.measure(pipeline, candidate.prompts, candidate.label)
        del pipeline  # before the next one is loaded
        found.append(candidate.record() | measured.figures)
        if of_first is None:
            of_first = measured.features
        else:
            difference, error = kid_difference(measurement.real.features, measured.features, of_first)
            found[-1] |= {"kid_difference": difference, "kid_difference_standard_error": error}
        pictures[candidate.label] = measured.images[:SHOWN]
        write_results(arguments.output, {"settings": facts, "results": found}, contact_sheet(pictures, titles))
    print(table([candidate.label for candidate in candidates], found, facts))
    print(f"The figures are in {arguments.output}, and the first samples in {picture_beside(arguments.output)}.")
    return 0


def make_measurement(
    arguments: argparse.Namespace, candidates: list[Candidate], accelerator: "Accelerator"
) -> tuple["Measurement", dict[str, Any], "torch.Tensor", list[str]]:
    """What measures, the facts that go beside the figures, and some real images with their titles, to be shown.

    Gives the pipelines their prompts and loads none of them.
    """
    from ..evaluation.clip_score import ClipScore
    from ..evaluation.features import make_features
    from ..evaluation.real_images import drawn_rows, read_images
    from ..evaluation.sample_quality import Measurement
    from .data import floor_images, num_compared, open_data

    first, device = candidates[0].backbone, accelerator.device
    resolution = find_resolution(arguments.resolution, *(candidate.backbone for candidate in candidates))
    data = open_data(arguments, "DATA", arguments.data, first)
    count = num_compared(arguments, data)
    show_summary(
        accelerator,
        [
            ("pipelines", ", ".join(candidate.label for candidate in candidates)),
            (
                "samples",
                f"{count:,} of each, {resolution} × {resolution} pixels, {arguments.steps} steps, guidance"
                f" {arguments.guidance_scale:g}",
            ),
            ("compared", f"with as many of {len(data):,} images of {arguments.data}, by {arguments.features}"),
        ],
        arguments.output,
    )
    rows = drawn_rows(data, len(data))
    for candidate in candidates:
        candidate.prompts = find_prompts(arguments, candidate, data, rows[:count])
    others = floor_images(arguments, first, data, rows, count, resolution)
    with errors.flag("--features"):
        extractor = make_features(arguments.features, arguments.cache_dir, arguments.hub_token)
    captions = [data.captions(row)[0] for row in rows[:count]]
    score = None
    if data.class_names is None and arguments.clip_model != "none":
        with errors.flag("--clip_model"):
            score = ClipScore(arguments.clip_model, device, arguments.cache_dir, arguments.hub_token)
    images = read_images(data, rows[:count], resolution)
    measurement = Measurement(
        extractor,
        images,
        others,
        score,
        captions,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        device=device,
    )
    if arguments.prompts != "captions":
        captions = candidates[0].prompts
    elif data.class_names is not None:
        captions = [data.class_names[int(caption)] for caption in captions]
    facts = {
        "data": arguments.data,
        "floor_data": arguments.floor_data,
        "prompts": arguments.prompts,
        "num_images": count,
        "resolution": resolution,
        "features": extractor.name,
        "clip_model": None if score is None else score.name,
        "sampler": "dpm++",
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance_scale,
        "seed": arguments.seed,
    }
    return measurement, facts, images[:SHOWN], captions[:SHOWN]
