# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune forgetting`"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ControlNetConfig
from ..config.base import Config, flag
from ..errors import DiffTuneError
from .flags import add_flags, add_sampling_flags


FORGETTING = """\
What did fine-tuning do, and where along the chain of noise levels? Compares FINETUNED (a pipeline, a checkpoint, an adapter
or a ControlNet) with the PRETRAINED pipeline that it began as: the denoising loss of both by noise level, on held-out target
DATA and on source data; the quality of samples when the pretrained model makes the last (or the first) x % of the steps; and
how far the weights went. Writes figures and pictures, and prints a summary in words. A command that was killed goes on when it is
run again. docs/forgetting.md says what each curve means.
"""
PERCENTS = [float(percent) for percent in range(0, 101, 10)]


@dataclass(kw_only=True)
class RowFlags(Config):
    """How much data the losses and the Fisher information are of."""

    rows: int = flag("Rows of target and of source data for the losses, at most.", 128, least=2)
    fisher_rows: int = flag("Source rows for the Fisher information, at most.", 64, least=2)


def add_parser(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `forgetting`."""
    parser = subcommands.add_parser(
        "forgetting",
        help="what was forgotten where, and how far the weights went",
        description=FORGETTING,
        usage="difftune forgetting PRETRAINED FINETUNED DATA [flags]",
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
    add_flags(parser, RowFlags)
    parser.add_argument(
        "--percents",
        type=float,
        nargs="+",
        default=PERCENTS,
        metavar="X",
        help="The parts of the sampling steps to swap, in per cent; 0 and 100 are measured anyway. Default: 0 10 … 100.",
    )
    add_sampling_flags(parser)
    add_flags(parser, ControlNetConfig, "conditioning_image_column")
    parser.set_defaults(run=forgetting)


def forgetting(arguments: argparse.Namespace) -> int:
    """`difftune forgetting`"""
    check_arguments(arguments)

    from ..evaluation.contact_sheet import contact_sheet
    from ..evaluation.forgetting_plot import plot_chain
    from ..evaluation.forgetting_summary import summary
    from ..io.atomic import write_bytes_atomic
    from .common import new_accelerator, show_summary
    from .forgetting_comparison import Comparison
    from .results import check_is_free

    comparison = Comparison(arguments)
    accelerator = new_accelerator(arguments.mixed_precision)
    show_summary(accelerator, comparison.described(), arguments.output_dir)
    output = Path(arguments.output_dir)
    settings = comparison.settings(accelerator)
    check_is_free("--output_dir", output / "forgetting.json", settings)

    comparison.load(accelerator)
    report: dict[str, Any] = {"settings": settings, "losses": comparison.losses()}
    report["swap"], pictures = comparison.swap(settings, accelerator)
    report["distance"] = comparison.distance()
    report["words"] = summary(report)
    write_bytes_atomic(output / "forgetting.json", (json.dumps(report, indent=2) + "\n").encode())
    titles = comparison.target.prompts[: len(pictures["real images"])]
    write_bytes_atomic(output / "samples.png", contact_sheet(pictures, titles))
    plot_chain(report, output / "forgetting.png")
    tell(report, output)
    return 0


def tell(report: dict[str, Any], output: Path) -> None:
    """Prints the summary, and where everything is."""
    from ..console import labelled_block, terminal_width, wrapped

    width = terminal_width()
    print(labelled_block("What fine-tuning did", list(report["words"].items()), width, most_lines=100))
    places = f"The figures are in {output / 'forgetting.json'}, pictures in forgetting.png and samples.png beside it."
    print(wrapped(places, width))
    first = report["swap"]["points"][0]["target"]
    if report["swap"]["target_floor"]["fid"] is None or first["fid"] is None:
        needed = first["num_features"] + 1
        hint = f"FID needs more images than features, {needed} or more, so the curves are of KID, which needs no more."
        print(wrapped(hint, width))


def check_arguments(arguments: argparse.Namespace) -> None:
    """Stops on the first flag that cannot work."""
    from ..config.checks import check_output_dir

    if not all(0 <= percent <= 100 for percent in arguments.percents):
        raise DiffTuneError(
            f"--percents is {' '.join(f'{x:g}' for x in arguments.percents)}; give numbers from 0 to 100."
        )
    check_output_dir(Path(arguments.output_dir))
