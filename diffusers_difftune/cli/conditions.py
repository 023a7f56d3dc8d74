# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune conditions`: control images from images."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import errors
from ..config import DataConfig, ModelConfig, RunConfig
from ..config.base import Config, flag
from ..controls import DRAWING, KINDS, check_kind, check_libraries
from ..errors import DiffTuneError
from .common import fingerprint, new_accelerator, open_pipeline, show_summary
from .flags import Subcommands, add_flags, name_data


if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..controls import Extractor

DATA_FLAGS = ("dataset_config_name", "image_column", "caption_column", "max_train_samples", "skip_bad_images")

BUILD = """\
Extract a control image from each image of a data set, and write both with the captions to OUT, a folder that
--train_data_dir of train_controlnet_difftune.py takes. With a knowledge bank in place of a data set, the control images
of its samples are kept in BANK/conditions, where training looks for them. A killed build goes on when the command is run
again. Under `accelerate launch -m diffusers_difftune conditions build …` several processes share the work.
"""


@dataclass(kw_only=True)
class BuildFlags(Config):
    """The flags that `conditions build` alone has."""

    kind: str = flag(f"What to extract: {', '.join(KINDS)}.")
    model: str | None = flag(
        f"What estimates depth, normal or segmentation: a folder, a model id on the Hub, or {DRAWING} (no model; for"
        " drawings on white). Default: a model of each kind on the Hub."
    )
    revision: str | None = flag(
        "Revision of that model on the Hub. Default: the newest; of a default model, a fixed commit."
    )
    resolution: int | None = flag(
        "Resize and crop images to squares of this size first; give the --resolution you will train at. Default: images"
        " stay as they are.",
        least=1,
    )
    batch_size: int = flag("Images extracted from at once.", 16, least=1)
    seed: int = flag("Draws the rows of --max_train_samples.", 0, least=0)
    pretrained_model_name_or_path: str | None = flag(
        "For a knowledge bank: the pipeline it was sampled from, whose VAE decodes its samples. Default: what the bank"
        " says."
    )


def add_parser(subcommands: Subcommands) -> None:
    """Adds `conditions` and its commands."""
    conditions = subcommands.add_parser("conditions", help="control images from images")
    commands = conditions.add_subparsers(metavar="COMMAND", required=True)

    build = commands.add_parser("build", help="extract control images from a data set or a bank", description=BUILD)
    build.add_argument(
        "dataset",
        metavar="DATASET",
        help="What --train_data_dir or --dataset_name of the training scripts takes, or a knowledge bank's folder.",
    )
    build.add_argument("out", metavar="OUT", nargs="?", help="The folder to build: a new one, or one to go on with.")
    add_flags(build, BuildFlags)
    add_flags(build, DataConfig, *DATA_FLAGS)
    add_flags(build, ModelConfig, "pretrained_vae_model_name_or_path", "variant", "cache_dir")
    add_flags(build, RunConfig, "hub_token")
    build.set_defaults(run=conditions_build)


def conditions_build(arguments: argparse.Namespace) -> int:
    """`difftune conditions build`"""
    check_kind(arguments.kind, arguments.model, arguments.revision)
    is_bank = holds_bank(Path(arguments.dataset))
    if is_bank and arguments.out is not None:
        raise DiffTuneError(
            f"OUT is {arguments.out}, but {arguments.dataset} is a knowledge bank, whose control images are kept beside"
            " it; leave OUT out."
        )
    if not is_bank and arguments.out is None:
        raise DiffTuneError("OUT is missing: name the folder to build.")
    if is_bank and arguments.resolution is not None:
        raise DiffTuneError(
            f"--resolution is {arguments.resolution}, but {arguments.dataset} is a knowledge bank, whose samples have"
            " their size; leave it out."
        )

    check_libraries(arguments.kind, arguments.model)

    from ..controls import make_extractor

    accelerator = new_accelerator()

    def extractor() -> "Extractor":
        with accelerator.main_process_first():
            return make_extractor(
                arguments.kind,
                arguments.model,
                arguments.revision,
                accelerator.device,
                arguments.cache_dir,
                arguments.hub_token,
            )

    built = (build_of_bank if is_bank else build_of_data)(arguments, extractor, accelerator)
    if accelerator.is_main_process:
        print(built)
    accelerator.end_training()
    return 0


def holds_bank(folder: Path) -> bool:
    """Whether there is a knowledge bank in a folder, and not some other data with a manifest."""
    from ..bank.manifest import MANIFEST_NAME

    manifest = folder / MANIFEST_NAME
    return manifest.is_file() and b'"weights_fingerprint"' in manifest.read_bytes()


def build_of_data(
    arguments: argparse.Namespace, extractor: "Callable[[], Extractor]", accelerator: "Accelerator"
) -> str:
    """Builds a data set; returns what to tell the user."""
    from ..controls.build import build_conditions
    from ..data.dataset import load_target_data

    data, out = Path(arguments.dataset), Path(arguments.out)
    if data.exists() and (data.resolve() == out.resolve() or data.resolve() in out.resolve().parents):
        raise DiffTuneError(f"OUT is {out}, inside of {data}, whose data it would become part of; build it elsewhere.")
    config = DataConfig(**{flag: getattr(arguments, flag) for flag in DATA_FLAGS})
    name_data(config, "DATASET", arguments.dataset)
    target = load_target_data(config, arguments.seed, arguments.cache_dir, flag="DATASET")
    target.report.tell(logging.getLogger(__name__))
    size = f", {arguments.resolution} × {arguments.resolution} pixels" if arguments.resolution else ""
    show_summary(
        accelerator,
        [
            ("images", f"{len(target):,} of {arguments.dataset}"),
            ("conditions", f"{condition_words(arguments)}{size}"),
        ],
        out,
    )
    built = build_conditions(
        target,
        out,
        extractor(),
        resolution=arguments.resolution,
        batch_size=arguments.batch_size,
        accelerator=accelerator,
    )
    return f"{out} has {built.counted(len(built))} with their control images (preview.png shows some); train on it with --train_data_dir {out}"


def condition_words(arguments: argparse.Namespace) -> str:
    """What is extracted, and by which model if one was named."""
    return arguments.kind + (f" by {arguments.model}" if arguments.model else "")


def build_of_bank(
    arguments: argparse.Namespace, extractor: "Callable[[], Extractor]", accelerator: "Accelerator"
) -> str:
    """Extracts the control images of a knowledge bank; returns what to tell the user."""
    from ..bank.bank import KnowledgeBank
    from ..controls.bank import bank_conditions
    from ..training.control_images import sample_decoder

    with errors.flag("DATASET"):
        bank = KnowledgeBank.load(arguments.dataset).check()
    model, revision = arguments.pretrained_model_name_or_path, None
    if model is None:
        model, revision = bank.manifest.model, bank.manifest.revision
    with accelerator.main_process_first():
        with errors.flag("--pretrained_model_name_or_path"):
            backbone = open_pipeline(model, revision, arguments)
        weights = fingerprint(backbone, arguments)
    if weights != bank.manifest.weights_fingerprint:
        raise DiffTuneError(
            f"--pretrained_model_name_or_path is {model}, whose weights are not those that the bank in {bank.folder} was"
            f" sampled from ({bank.manifest.model}); name that pipeline."
        )

    show_summary(
        accelerator,
        [
            ("images", f"{len(bank):,} samples of {bank.folder}"),
            ("conditions", condition_words(arguments)),
        ],
    )
    decode = sample_decoder(backbone, accelerator.device)
    built = bank_conditions(bank, extractor(), decode, accelerator=accelerator, cache_dir=arguments.cache_dir)
    return f"{built.folder} has the control images of the bank's {len(built)} samples."
