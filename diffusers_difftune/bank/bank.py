# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The knowledge bank: samples of the untouched pretrained model, read back."""

import re
from collections import OrderedDict
from pathlib import Path

import torch

from ..errors import DiffTuneError
from ..io.hashing import file_sha256
from .hub import download_bank
from .manifest import BankManifest
from .shard import Shard


MEMORY_LIMIT = 512 * 2**20  # bytes of latents that stay in memory; a thousand samples of 4 × 64 × 64 take an eighth

SHARD = re.compile(r"shard-\d{5,10}\.parquet")


class KnowledgeBank:
    """Latents and prompts of a bank on the disk. Shards are read when they are first asked for.

    Args:
        folder (`Path`): The bank's folder.
        manifest ([`BankManifest`]): Its manifest.

    Attributes:
        folder (`Path`): The bank's folder.
        manifest ([`BankManifest`]): What was sampled, from which model, and how.
    """

    def __init__(self, folder: Path, manifest: BankManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._limit = max(1, MEMORY_LIMIT // (4 * manifest.shard_size * torch.Size(manifest.latent_shape).numel()))

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> "KnowledgeBank":
        """Opens a bank. A half-built one opens too; [`check`] refuses it.

        Args:
            path_or_id (`str` or `Path`): A folder, or the id of a dataset repository on the Hub.
            revision (`str`, *optional*): Revision of the repository.
            token (`str`, *optional*): Token for the Hub. `None` is the one you logged in with.
            cache_dir (`str` or `Path`, *optional*): Where repositories are kept. `None` is the Hub's own cache.

        Returns:
            [`KnowledgeBank`]: The bank.

        Raises:
            DiffTuneError: There is no bank there.
        """
        folder = Path(path_or_id)
        if not folder.exists():
            folder = download_bank(str(path_or_id), revision, token, cache_dir)
        return cls(folder, BankManifest.read(folder))

    def __len__(self) -> int:
        return self.manifest.num_samples

    def latents(self, index: int) -> torch.Tensor:
        """A sample of shape (C, h, w), float32, scaled as the denoiser expects it."""
        shard, row = divmod(index, self.manifest.shard_size)
        return torch.from_numpy(self._shard(shard).latents[row].copy())

    def prompt(self, index: int) -> str:
        """The prompt a sample was made with."""
        shard, row = divmod(index, self.manifest.shard_size)
        return self._shard(shard).prompts[row]

    def prompts(self) -> list[str]:
        """The prompts of all samples, in order."""
        return [prompt for name in self.manifest.shard_names for prompt in Shard.read_prompts(self.folder / name)]

    def check(
        self, fingerprint: str | None = None, latent_shape: tuple[int, int, int] | None = None
    ) -> "KnowledgeBank":
        """Refuses a bank that is not whole or does not belong to the model.

        Args:
            fingerprint (`str`, *optional*): [`weights_fingerprint`] of the model that is to be trained.
            latent_shape (`tuple[int, int, int]`, *optional*): (C, h, w) of the latents it is trained on.

        Returns:
            [`KnowledgeBank`]: Itself.

        Raises:
            DiffTuneError: The reason.
        """
        problem = self.problem(fingerprint, latent_shape)
        if problem is not None:
            raise DiffTuneError(f"The bank in {self.folder} {problem}.")
        return self

    def problem(self, fingerprint: str | None = None, latent_shape: tuple[int, int, int] | None = None) -> str | None:
        """What [`check`] refuses the bank for, or `None`."""
        manifest = self.manifest
        if not manifest.is_complete:
            return (
                f"is half built ({self.num_built()} of {len(self)} samples); run the command that began it once more"
            )
        if fingerprint is not None and fingerprint != manifest.weights_fingerprint:
            return (
                f"was sampled from other weights than the model's or with another tokenizer, namely from {origin(manifest)};"
                " build one from this model"
            )
        if latent_shape is not None and tuple(latent_shape) != tuple(manifest.latent_shape):
            return (
                f"has latents of {manifest.latent_shape} (--resolution {manifest.resolution}), and training needs"
                f" {list(latent_shape)}; build one at the same --resolution"
            )
        damaged = self.damaged_shards()
        if damaged:
            return (
                f"is damaged: {', '.join(damaged)} is missing or is not what was written; delete the folder and build"
                " or download it again"
            )
        for number, name in enumerate(manifest.shards):
            wrong = Shard.problem(self.folder / name, manifest.shard_range(number), tuple(manifest.latent_shape))
            if wrong is not None:
                return f"has a shard that is none, {name}, which {wrong}; delete the folder and build it again"
        return None

    def damaged_shards(self) -> list[str]:
        """The shards of a whole bank that are missing or have other bytes than the manifest says."""
        return [
            name
            for name, sha256 in self.manifest.shards.items()
            if not (self.folder / name).is_file() or file_sha256(self.folder / name) != sha256
        ]

    def num_built(self) -> int:
        """How many samples are there."""
        files = (self.folder / "data").glob("shard-*.parquet")
        numbers = [int(file.stem.removeprefix("shard-")) for file in files if SHARD.fullmatch(file.name)]
        return sum(len(self.manifest.shard_range(k)) for k in numbers if k < self.manifest.num_shards)

    def _shard(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            path = self.folder / self.manifest.shard_names[number]
            shard = self._shards[number] = Shard.read(path, tuple(self.manifest.latent_shape))
            if len(self._shards) > self._limit:
                self._shards.popitem(last=False)
        return shard

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_shards": OrderedDict()}  # workers of a data loader read for themselves


def origin(manifest: BankManifest) -> str:
    """The model that a bank was sampled from, by name."""
    return manifest.model + (f" at commit {manifest.revision[:12]}" if manifest.revision else "")
