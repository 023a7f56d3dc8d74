# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune bank build | inspect | push`"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..config import DataConfig, DiffTuningConfig, ModelConfig, RunConfig
from ..errors import DiffTuneError
from .common import fingerprint, machine, new_accelerator, open_pipeline, show_log, show_summary
from .flags import add_flags


if TYPE_CHECKING:
    from ..backbones import Backbone

BUILD = """\
Sample the untouched pretrained pipeline into a knowledge bank. A killed build goes on when the command is run again.
Under `accelerate launch -m diffusers_difftune bank build …` several processes share the work.
"""
PROMPTS = """\
Of a text-to-image model captions (of the target data; the default), empty, a text file with one prompt a line, or
DATASET#COLUMN. Of a class-conditional model classes (all that it has; the default), empty (the null class), or a text file
with an id or a name a line.
"""
RESOLUTION = "Side of the images in pixels. Default: that of a model that makes images of one size only, else 512."


def add_parser(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `bank` and its commands."""
    bank = subcommands.add_parser("bank", help="the knowledge bank", allow_abbrev=False)
    commands = bank.add_subparsers(metavar="COMMAND", required=True)

    build = commands.add_parser("build", help="sample a bank", description=BUILD, allow_abbrev=False)
    add_flags(build, ModelConfig, "pretrained_model_name_or_path", "revision", "variant", "cache_dir")
    build.add_argument("--output_dir", required=True, help="The bank's folder: a new one, or one to go on with.")
    build.add_argument("--bank_samples", type=int, default=1000, help="Samples to build. Default: 1000.")
    build.add_argument("--seed", type=int, default=0, help="Seed of noise and prompts. Default: 0.")
    build.add_argument("--bank_prompts", help=PROMPTS)
    add_flags(
        build,
        DiffTuningConfig,
        "bank_steps",
        "bank_solver",
        "bank_guidance_scale",
        "bank_batch_size",
    )
    add_flags(
        build,
        DataConfig,
        "dataset_name",
        "dataset_config_name",
        "train_data_dir",
        "image_column",
        "caption_column",
    )
    build.add_argument("--resolution", type=int, help=RESOLUTION)
    add_flags(build, RunConfig, "mixed_precision")
    build.add_argument("--push_to_hub", action="store_true", help="Upload the bank to the Hub, as a dataset.")
    add_flags(build, RunConfig, "hub_token", "hub_model_id")
    build.set_defaults(run=bank_build)

    inspect = commands.add_parser("inspect", help="say what a bank holds and whether it is whole", allow_abbrev=False)
    inspect.add_argument("path", help="A bank's folder, or the id of a dataset on the Hub.")
    inspect.set_defaults(run=bank_inspect)

    push = commands.add_parser("push", help="upload a bank to the Hub, as a dataset", allow_abbrev=False)
    push.add_argument("path", help="A bank's folder.")
    push.add_argument("repo_id", help="Id of the dataset repository, made if it is not there.")
    push.add_argument("--private", action="store_true", help="Make a new repository private.")
    add_flags(push, RunConfig, "hub_token")
    push.set_defaults(run=bank_push)


def bank_build(arguments: argparse.Namespace) -> int:
    """`difftune bank build`"""

    from ..backbones.fingerprint import hub_commit
    from ..bank.build import build_bank, check_begun_bank
    from ..bank.hub import push_bank
    from ..bank.prompts import read_prompts
    from ..bank.settings import BankSettings
    from ..data.cut import tell_cut
    from ..io.processes import from_main, frozen_dtype

    # Whatever can be wrong without the model is said before it is downloaded.
    settings = BankSettings.from_flags(arguments, arguments.bank_samples, 1, arguments.seed)
    if arguments.bank_prompts not in (None, "captions", "classes"):
        with errors.flag("--bank_prompts"):
            read_prompts(arguments.bank_prompts)
    accelerator = new_accelerator(arguments.mixed_precision)
    show_log(accelerator)
    repo_id = from_main(accelerator, lambda: bank_repository(arguments)) if arguments.push_to_hub else None
    model = arguments.pretrained_model_name_or_path
    with accelerator.main_process_first():
        with errors.flag("--pretrained_model_name_or_path"):
            backbone = open_pipeline(model, arguments.revision, arguments, arguments.resolution)
        source = arguments.bank_prompts or own_prompts(backbone)
        prompts = bank_prompts(arguments, source, backbone)
        weights = fingerprint(backbone, arguments)
    settings = replace(settings, resolution=backbone.resolution, prompt_source=source)
    sampled_from: dict[str, Any] = {
        "latent_shape": backbone.latent_shape(),
        "model": model,
        "weights_fingerprint": weights,
    }
    folder = Path(arguments.output_dir)
    from_main(accelerator, lambda: check_begun_bank(folder, settings, prompts, **sampled_from))
    different = min(settings.num_samples, len(set(prompts)))
    if accelerator.is_main_process:
        tell_cut(prompts, backbone)
    precision = frozen_dtype(accelerator)
    show_summary(
        accelerator,
        [
            ("model", f"{model}, {backbone.pipeline_class.__name__}"),
            (
                "samples",
                f"{settings.num_samples:,} of {settings.resolution} × {settings.resolution} pixels,"
                f" {different:,} different prompt{'s' if different > 1 else ''} ({settings.prompt_source})",
            ),
            (
                "sampler",
                f"{settings.solver}, {settings.steps} steps, guidance {settings.guidance_scale:g}",
            ),
            ("computes", machine(accelerator)),
            ("result", str(arguments.output_dir)),
        ],
    )
    bank = build_bank(
        backbone.pipeline(None, accelerator.device, precision),
        folder,
        prompts,
        settings,
        **sampled_from,
        revision=hub_commit(backbone.folder),
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        print(
            f"The knowledge bank in {bank.folder} has {bank.manifest.counted(len(bank))}; preview.png shows some of them."
        )
    accelerator.end_training()
    if accelerator.is_main_process and repo_id is not None:
        print(push_bank(bank.folder, repo_id, arguments.hub_token))
    return 0


def bank_repository(arguments: argparse.Namespace) -> str:
    """Makes the repository before anything is sampled, so that a bad token or name is known at once."""
    from ..publishing import create_repo

    with errors.flag("--push_to_hub"):
        return create_repo(arguments.hub_model_id, arguments.output_dir, arguments.hub_token, "dataset")


def own_prompts(backbone: "Backbone") -> str:
    """What `--bank_prompts` is by default."""
    return "classes" if backbone.conditioned_on == "classes" else "captions"


def bank_prompts(arguments: argparse.Namespace, source: str, backbone: "Backbone") -> list[str]:
    """The prompts to draw from, as `--bank_prompts` says or, where it is not given, the model's own."""
    from ..bank.prompts import read_prompts
    from ..data.dataset import load_target_data

    own = own_prompts(backbone)
    if own == "classes" and source == "captions":
        raise DiffTuneError(
            f"--bank_prompts is captions, and a {backbone.pipeline_class.__name__} is conditioned on classes; give classes,"
            " empty, or a text file with an id or a name a line."
        )
    if own == source == "classes":
        return backbone.classes.pretrained_prompts() if backbone.classes else []
    if source != "captions":
        with errors.flag("--bank_prompts"):
            return backbone.source_prompts(read_prompts(source, own))
    if arguments.dataset_name is None and arguments.train_data_dir is None:
        raise DiffTuneError(
            "--bank_prompts captions needs the target data; give --dataset_name or --train_data_dir, or other prompts."
        )
    names = ("dataset_name", "dataset_config_name", "train_data_dir", "image_column", "caption_column")
    config = DataConfig(**{name: getattr(arguments, name) for name in names}, resolution=backbone.resolution)
    target = load_target_data(config, arguments.seed, arguments.cache_dir)
    target.report.tell(logging.getLogger(__name__))
    return target.distinct_captions


def bank_inspect(arguments: argparse.Namespace) -> int:
    """`difftune bank inspect`"""
    from ..bank.bank import KnowledgeBank

    bank = KnowledgeBank.load(arguments.path)
    manifest = bank.manifest
    problem = bank.problem()
    facts = {
        "model": manifest.model + (f", commit {manifest.revision}" if manifest.revision else ""),
        "weights": f"fingerprint {manifest.weights_fingerprint[:12]}",
        "pipeline": f"{manifest.pipeline_class} in {manifest.dtype}",
        "sampler": f"{manifest.solver} ({manifest.scheduler['class']}), {manifest.steps} steps",
        "guidance": manifest.guidance_scale,
        "prompts": manifest.prompt_source,
        "seed": manifest.seed,
        "images": f"{manifest.resolution} × {manifest.resolution}, latents {manifest.latent_shape}",
        "samples": f"{len(bank)} in {len(manifest.shard_names)} shards of {manifest.shard_size}",
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest.libraries.items()),
        "state": problem or "complete, and every shard is as it was written",
    }
    print(f"Knowledge bank in {bank.folder}")
    for name, fact in facts.items():
        print(f"  {name:<10} {fact}")
    return 0 if problem is None else 1


def bank_push(arguments: argparse.Namespace) -> int:
    """`difftune bank push`"""
    from ..bank.hub import push_bank

    print(push_bank(arguments.path, arguments.repo_id, arguments.hub_token, arguments.private))
    return 0
