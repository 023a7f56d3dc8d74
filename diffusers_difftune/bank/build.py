# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Building a knowledge bank: sampling the untouched pipeline, once."""

from importlib.metadata import version
from pathlib import Path

from accelerate import Accelerator
from diffusers import DiffusionPipeline

from ..backbones.parts import library_class
from ..errors import DiffTuneError
from ..io.shards import begun_manifest, build_shards
from ..version import __version__
from .bank import KnowledgeBank
from .hub import bank_card
from .manifest import BankManifest
from .preview import preview_png
from .prompts import draw_prompts
from .sampler import Sampler
from .settings import BankSettings


def build_bank(
    pipeline: DiffusionPipeline,
    folder: str | Path,
    prompts: list[str],
    settings: BankSettings,
    *,
    latent_shape: tuple[int, ...],
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
        latent_shape (`tuple[int, ...]`): Shape of a sample at that resolution, such as (C, h, w).
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
    drawn = draw_prompts(prompts, settings.num_samples, settings.seed)
    manifest = BankManifest(
        **settings.facts(drawn, latent_shape),
        model=str(model),
        revision=revision,
        weights_fingerprint=weights_fingerprint,
        pipeline_class=library_class(type(pipeline)).__name__,
        scheduler={"class": type(sampler.scheduler).__name__, **sampler.scheduler_settings},
        dtype=str(pipeline.dtype).removeprefix("torch."),
        libraries={
            "diffusers-difftune": __version__,
            **{name: version(name) for name in ("diffusers", "torch", "transformers")},
        },
    )

    def make_shard(indices: range) -> bytes:
        return sampler.sample(indices, [drawn[index] for index in indices]).to_bytes()

    def finish(begun: BankManifest) -> dict[str, bytes]:
        sampled = KnowledgeBank(folder, begun)
        first = [sampled.latents(index) for index in range(min(16, len(sampled)))]
        return {"preview.png": preview_png(pipeline, first), "README.md": bank_card(begun).encode()}

    built = build_shards(folder, manifest, make_shard, accelerator=accelerator, progress=progress, finish=finish)
    bank = KnowledgeBank(folder, built)
    if wrong := bank.invalid_shard():
        raise DiffTuneError(f"The bank in {folder} {wrong}.")
    return bank


def check_begun_bank(
    folder: Path,
    settings: BankSettings,
    prompts: list[str] | None,
    *,
    latent_shape: tuple[int, ...],
    model: str,
    weights_fingerprint: str,
) -> None:
    """Refuses, as far as that can be known before weights are loaded, what [`build_bank`] would refuse in a folder: a bank of other
    settings. Arguments are as there; prompts may not be known yet."""
    if not (folder / BankManifest.file_name).is_file():
        return
    begun = BankManifest.read(folder)
    drawn = None if prompts is None else draw_prompts(prompts, settings.num_samples, settings.seed)
    facts = settings.facts(drawn, latent_shape)
    known = {"model": model, "weights_fingerprint": weights_fingerprint}
    begun_manifest(folder, BankManifest(**vars(begun) | facts | known))
