# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Building a knowledge bank: sampling the untouched pipeline, once."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from accelerate import Accelerator
from diffusers import DiffusionPipeline

from ..console import duration, progress_bar
from ..errors import DiffTuneError
from ..io.atomic import write_bytes_atomic
from ..io.hashing import file_sha256
from ..io.locks import remove_lock, turn_to_build
from ..io.processes import from_main
from ..version import __version__
from .bank import KnowledgeBank
from .hub import bank_card
from .manifest import MANIFEST_NAME, NAMES_ONLY, BankManifest, shorten
from .preview import preview_png
from .prompts import draw_prompts
from .sampler import Sampler
from .settings import BankSettings
from .shard import Shard


logger = logging.getLogger(__name__)


def build_bank(
    pipeline: DiffusionPipeline,
    folder: str | Path,
    prompts: list[str],
    settings: BankSettings,
    *,
    latent_shape: tuple[int, int, int],
    model: str,
    weights_fingerprint: str,
    revision: str | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> KnowledgeBank:
    """Samples a pipeline into a knowledge bank, or goes on with one that was begun with the same settings.

    Shard k is samples k · batch_size … of the bank, made in one batch from noise that is a function of the seed and
    the sample's index, and put into place whole. So the bytes of a bank do not depend on how often its building was
    killed, nor on the number of processes that share it (they must see the same folder, and use as many threads each).
    Of two runs that build in the same folder one waits for the other.

    Args:
        pipeline ([`DiffusionPipeline`]):
            The pretrained pipeline, with its weights as they are. It is sampled with another scheduler; its own is
            back in place afterwards, and its progress bar is off.
        folder (`str` or `Path`): Where the bank goes: a new or empty folder, or a bank that was begun.
        prompts (`list[str]`): What to draw prompts from; see [`draw_prompts`].
        settings ([`BankSettings`]): How to sample: how many, at which size, and with which sampler.
        latent_shape (`tuple[int, int, int]`): (C, h, w) of a sample at that resolution.
        model (`str`): The name of the model, for the manifest.
        weights_fingerprint (`str`): See [`weights_fingerprint`].
        revision (`str`, *optional*): The model's commit on the Hub, for the manifest.
        accelerator ([`Accelerator`], *optional*): The processes that share the work. `None` is this one alone.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar with the time left, on the main process.

    Returns:
        [`KnowledgeBank`]: The bank, whole.

    Raises:
        DiffTuneError: The folder holds something else, such as a bank with other settings, or cannot be written to.
    """
    folder = Path(folder)
    sampler = Sampler(pipeline, settings, latent_shape)
    prompts = draw_prompts(prompts, settings.num_samples, settings.seed)
    manifest = BankManifest(
        model=str(model),
        revision=revision,
        weights_fingerprint=weights_fingerprint,
        pipeline_class=diffusers_class(pipeline).__name__,
        solver=settings.solver,
        scheduler={"class": type(sampler.scheduler).__name__, **sampler.scheduler_settings},
        steps=settings.steps,
        guidance_scale=float(settings.guidance_scale),
        seed=settings.seed,
        prompt_source=settings.prompt_source,
        prompts_sha256=prompts_sha256(prompts),
        num_samples=settings.num_samples,
        shard_size=settings.batch_size,
        resolution=settings.resolution,
        latent_shape=list(latent_shape),
        dtype=str(pipeline.dtype).removeprefix("torch."),
        libraries={
            "diffusers-difftune": __version__,
            **{name: version(name) for name in ("diffusers", "torch", "transformers")},
        },
    )
    begun = from_main(accelerator, lambda: begun_manifest(folder, manifest, prompts))
    if not begun.is_complete:
        with turn_to_build(folder, accelerator):
            # another run may have built it meanwhile
            begun = from_main(accelerator, lambda: begun_manifest(folder, manifest, prompts))
            if not begun.is_complete:
                return fill_bank(folder, begun, prompts, sampler, accelerator, progress)
    remove_lock(folder)
    return KnowledgeBank(folder, begun).check()


def prompts_sha256(prompts: list[str]) -> str:
    """The hash of the prompts of all samples, in order."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def diffusers_class(pipeline: DiffusionPipeline) -> type:
    """The pipeline's class as diffusers has it, where it is a class of ours that derives from that."""
    return next(each for each in type(pipeline).__mro__ if each.__module__.split(".")[0] == "diffusers")


def fill_bank(
    folder: Path,
    manifest: BankManifest,
    prompts: list[str],
    sampler: Sampler,
    accelerator: Accelerator | None,
    progress: bool,
) -> KnowledgeBank:
    """Samples the shards that are not there yet, and then says that the bank is whole."""
    is_main = accelerator is None or accelerator.is_main_process
    rank, world = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    if is_main:
        prepare_folder(folder, manifest)
    if accelerator is not None:
        accelerator.wait_for_everyone()

    bank = KnowledgeBank(folder, manifest)
    if is_main:
        there = bank.num_built()
        already = f"; {there} are there already" if there else ""
        logger.info(f"Sampling a knowledge bank of {manifest.num_samples} in {folder}{already}.")
    started, made = time.perf_counter(), 0
    with progress_bar(
        hidden=not (progress and is_main),
        desc="Knowledge bank",
        unit=" samples",
        total=manifest.num_samples,
        initial=bank.num_built(),
    ) as bar:
        for k, name in list(enumerate(manifest.shard_names))[rank::world]:
            indices = manifest.shard_range(k)
            if Shard.is_whole(folder / name, len(indices)):
                continue
            shard = sampler.sample(indices, [prompts[index] for index in indices])
            write_bytes_atomic(folder / name, shard.to_bytes())
            bar.update(len(indices) if world == 1 else bank.num_built() - bar.n)
            made += 1
            missing = manifest.num_samples - bank.num_built()
            if is_main and made == 1 and missing:
                took = time.perf_counter() - started
                rest = took * missing / len(indices) / world
                logger.info(f"The first {len(indices)} took {duration(took)}; the rest takes about {duration(rest)}.")
        if accelerator is not None:
            accelerator.wait_for_everyone()
        bar.update(manifest.num_samples - bar.n)

    manifest.shards = {name: file_sha256(folder / name) for name in manifest.shard_names}
    if is_main:
        first = [bank.latents(index) for index in range(min(16, manifest.num_samples))]
        write_bytes_atomic(folder / "preview.png", preview_png(sampler.pipeline, first))
        write_bytes_atomic(folder / "README.md", bank_card(manifest).encode())
        write_bytes_atomic(folder / MANIFEST_NAME, manifest.to_bytes())  # last: only now does the bank count as whole
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return bank


def begun_manifest(
    folder: Path,
    manifest: BankManifest,
    prompts: list[str] | None = None,
    remarks: Mapping[str, str] | None = None,
) -> BankManifest:
    """The manifest of the bank that was begun in `folder` with these settings, or else the one given.

    Args:
        folder (`Path`): Where the bank is, or is to be.
        manifest ([`BankManifest`]): The settings.
        prompts (`list[str]`, *optional*): The prompt of each sample, so that a difference can be shown.
        remarks (`Mapping[str, str]`, *optional*): What to say after the value of a field that differs.

    Raises:
        DiffTuneError: The folder holds something else, or a bank of other settings.
    """
    occupied = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if not (folder / MANIFEST_NAME).is_file():  # asked after the listing: another process may just be writing it
        if occupied:
            raise DiffTuneError(f"{folder} is neither empty nor a knowledge bank; build the bank in another folder.")
        return manifest
    begun = BankManifest.read(folder)
    # A whole bank stays good when a library is updated; a half-built one must not mix the samples of two versions.
    differences = begun.differences(manifest, NAMES_ONLY + (("libraries",) if begun.is_complete else ()), remarks)
    if differences:
        raise DiffTuneError(
            f"{folder} holds a knowledge bank of other settings: {'; '.join(differences)}"
            f"{other_prompt(folder, begun, manifest, prompts)}; delete that folder, use another one, or go back to the old"
            " settings."
        )
    return begun


def other_prompt(folder: Path, begun: BankManifest, manifest: BankManifest, prompts: list[str] | None) -> str:
    """An example of the prompts that differ, where the number of samples and their seed do not, and some are built."""
    if prompts is None or (begun.num_samples, begun.seed) != (manifest.num_samples, manifest.seed):
        return ""
    for shard, name in enumerate(begun.shard_names):
        rows = begun.shard_range(shard)
        if not Shard.is_whole(folder / name, len(rows)):
            continue
        for index, found in zip(rows, Shard.read_prompts(folder / name), strict=True):
            if found != prompts[index]:
                return (
                    f" (sample {index} was made for {shorten(found)!r} and would be for {shorten(prompts[index])!r})"
                )
    return ""


def prepare_folder(folder: Path, manifest: BankManifest) -> None:
    """Makes the folder with its manifest, without what a killed process may have left."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.rglob(".*.tmp"):
        leftover.unlink()
    if not (folder / MANIFEST_NAME).is_file():
        write_bytes_atomic(folder / MANIFEST_NAME, manifest.to_bytes())
    (folder / "data").mkdir(exist_ok=True)
