# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune bank build | inspect | push`"""

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..config import DataConfig, DiffTuningConfig, ModelConfig, RunConfig
from ..config.base import Config, flag
from ..errors import DiffTuneError
from .common import fingerprint, new_accelerator, open_pipeline, show_summary
from .flags import Subcommands, add_flags


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
MODEL_FLAGS = (
    "pretrained_model_name_or_path",
    "revision",
    "pretrained_vae_model_name_or_path",
    "variant",
    "cache_dir",
)
BANK_FLAGS = ("bank_steps", "bank_solver", "bank_guidance_scale", "bank_batch_size")
DATA_FLAGS = ("dataset_name", "dataset_config_name", "train_data_dir", "image_column", "caption_column")


@dataclass(kw_only=True)
class BuildFlags(Config):
    """The flags that `bank build` alone has, or with another default than training."""

    output_dir: str = flag("The bank's folder: a new one, or one to go on with.")
    bank_samples: int = flag("Samples to build.", 1000, least=1)
    seed: int = flag("Seed of noise and prompts.", 0, least=0)
    bank_prompts: str | None = flag(PROMPTS)
    resolution: int | None = flag(
        "Side of the images in pixels. Default: that of a model that makes images of one size only, else 512.", least=1
    )
    push_to_hub: bool = flag("Upload the bank to the Hub, as a dataset.", False)


def add_parser(subcommands: Subcommands) -> None:
    """Adds `bank` and its commands."""
    bank = subcommands.add_parser("bank", help="the knowledge bank")
    commands = bank.add_subparsers(metavar="COMMAND", required=True)

    build = commands.add_parser("build", help="sample a bank", description=BUILD)
    add_flags(build, ModelConfig, *MODEL_FLAGS)
    add_flags(build, BuildFlags)
    add_flags(build, DiffTuningConfig, *BANK_FLAGS)
    add_flags(build, DataConfig, *DATA_FLAGS)
    add_flags(build, RunConfig, "mixed_precision", "hub_token", "hub_model_id")
    build.set_defaults(run=bank_build)

    inspect = commands.add_parser("inspect", help="say what a bank holds and whether it is whole")
    inspect.add_argument("path", help="A bank's folder, or the id of a dataset on the Hub.")
    inspect.set_defaults(run=bank_inspect)

    push = commands.add_parser("push", help="upload a bank to the Hub, as a dataset")
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
    from ..publishing import create_repo

    # Whatever can be wrong without the model is said before it is downloaded.
    settings = BankSettings.from_flags(arguments, arguments.bank_samples, 1, arguments.seed)
    if arguments.bank_prompts not in (None, "captions", "classes"):
        with errors.flag("--bank_prompts"):
            read_prompts(arguments.bank_prompts)
    accelerator = new_accelerator(arguments.mixed_precision)
    folder, model = Path(arguments.output_dir), arguments.pretrained_model_name_or_path
    repo_id = None
    if arguments.push_to_hub:  # made before anything is sampled, so that a bad token or name is known at once
        wanted = arguments.hub_model_id, folder, arguments.hub_token, "dataset"
        with errors.flag("--push_to_hub"):
            repo_id = from_main(accelerator, lambda: create_repo(*wanted))
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
    from_main(accelerator, lambda: check_begun_bank(folder, settings, prompts, **sampled_from))
    different = min(settings.num_samples, len(set(prompts)))
    if accelerator.is_main_process:
        tell_cut(prompts, backbone)
    show_summary(
        accelerator,
        [
            ("model", f"{model}, {backbone.pipeline_class.__name__}"),
            (
                "samples",
                f"{settings.num_samples:,} of {settings.resolution} × {settings.resolution} pixels,"
                f" {different:,} different prompt{'s' if different > 1 else ''} ({settings.prompt_source})",
            ),
            ("sampler", f"{settings.solver}, {settings.steps} steps, guidance {settings.guidance_scale:g}"),
        ],
        folder,
    )
    bank = build_bank(
        backbone.pipeline(None, accelerator.device, frozen_dtype(accelerator)),
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
    config = DataConfig(**{name: getattr(arguments, name) for name in DATA_FLAGS}, resolution=backbone.resolution)
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
