# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The knowledge bank: samples of the untouched pretrained model, read back."""

from pathlib import Path

import torch

from ..errors import DiffTuneError
from ..io.hub import folder_of
from ..io.shards import StoredRows
from .manifest import MANIFEST_NAME, BankManifest
from .shard import Shard


BANK_FILES = [MANIFEST_NAME, "README.md", "preview.png", "data/shard-*.parquet"]


class KnowledgeBank(StoredRows[BankManifest, Shard]):
    """Latents and prompts of a bank on the disk. Shards are read when they are first asked for.

    Args:
        folder (`Path`): The bank's folder.
        manifest ([`BankManifest`]): Its manifest.

    Attributes:
        folder (`Path`): The bank's folder.
        manifest ([`BankManifest`]): What was sampled, from which model, and how.
    """

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
        where = {"repo_type": "dataset", "revision": revision, "token": token, "cache_dir": cache_dir}
        folder = folder_of(path_or_id, "a knowledge bank", BANK_FILES, **where)
        return cls(folder, BankManifest.read(folder))

    def latents(self, index: int) -> torch.Tensor:
        """A sample of the manifest's `latent_shape`, such as (C, h, w), float32, scaled as the denoiser expects it."""
        shard, row = self.find(index)
        return torch.from_numpy(shard.latents[row].copy())

    def prompt(self, index: int) -> str:
        """The prompt a sample was made with."""
        shard, row = self.find(index)
        return shard.prompts[row]

    def prompts(self) -> list[str]:
        """The prompts of all samples, in order."""
        paths = [self.shard_path(number) for number in range(self.manifest.num_shards)]
        return [prompt for path in paths for prompt in Shard.read_prompts(path)]

    def read_shard(self, path: Path) -> Shard:
        return Shard.read(path, tuple(self.manifest.latent_shape))

    def check(self, fingerprint: str | None = None, latent_shape: tuple[int, ...] | None = None) -> "KnowledgeBank":
        """Refuses a bank that is not whole or does not belong to the model.

        Args:
            fingerprint (`str`, *optional*): [`weights_fingerprint`] of the model that is to be trained.
            latent_shape (`tuple[int, ...]`, *optional*): Shape of the latents it is trained on.

        Returns:
            [`KnowledgeBank`]: Itself.

        Raises:
            DiffTuneError: The reason.
        """
        problem = self.problem(fingerprint, latent_shape)
        if problem is not None:
            raise DiffTuneError(f"The bank in {self.folder} {problem}.")
        return self

    def problem(self, fingerprint: str | None = None, latent_shape: tuple[int, ...] | None = None) -> str | None:
        """What [`check`] refuses the bank for, or `None`."""
        manifest = self.manifest
        if not manifest.is_complete:
            built = manifest.num_built(self.folder)
            return f"is half built ({built} of {len(self)} samples); run the command that began it once more"
        if fingerprint is not None and fingerprint != manifest.weights_fingerprint:
            commit = f" at commit {manifest.revision[:12]}" if manifest.revision else ""
            return (
                "was sampled from other weights than the model's or with another tokenizer, namely from"
                f" {manifest.model}{commit}; build one from this model"
            )
        if latent_shape is not None and tuple(latent_shape) != tuple(manifest.latent_shape):
            return (
                f"has latents of {manifest.latent_shape} (images of {manifest.resolution} pixels), and training needs"
                f" {list(latent_shape)}; build one at the same resolution"
            )
        return manifest.damage(self.folder) or self.invalid_shard()

    def invalid_shard(self) -> str | None:
        """What is wrong with a shard that has the bytes its manifest says, or `None`: a bank may be somebody else's."""
        for number, name in enumerate(self.manifest.shards):
            rows, shape = self.manifest.shard_range(number), tuple(self.manifest.latent_shape)
            if (wrong := Shard.problem(self.shard_path(number), rows, shape)) is not None:
                return f"has a shard that is none, {name}, which {wrong}; delete the folder and build it again"
        return None
