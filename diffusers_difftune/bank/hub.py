# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Knowledge banks on the Hub: a bank's folder is a dataset repository as it is."""

import dataclasses
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download

from ..errors import DiffTuneError, first_sentence
from ..hub import HUB_ERRORS, public_facts, reason
from .manifest import MANIFEST_NAME, BankManifest


BANK_FILES = [MANIFEST_NAME, "README.md", "preview.png", "data/shard-*.parquet"]

CARD = """\
---
tags:
- diffusers
- diffusers-difftune
- knowledge-bank
configs:
- config_name: default
  data_files: data/*.parquet
---

# Knowledge bank of {model}

{num_samples} samples drawn from the pretrained pipeline `{model}`, as latents, for retention in
[Diff-Tuning](https://arxiv.org/abs/2406.00773): trained on beside new data, they keep a fine-tuned model from
forgetting.

![Some of the samples](preview.png)

| | |
|---|---|
| pipeline | {pipeline_class} |
| sampler | {solver}, {steps} steps, guidance {guidance_scale} |
| seed | {seed} |
| prompts | {prompt_source} |
| resolution | {resolution} × {resolution}, latents {latent_shape} |

Each row has `index`, `prompt` and `latents`: float32, flattened from {latent_shape}, scaled as the denoiser expects
them. `manifest.json` has every setting, the fingerprint of the weights and the SHA-256 of each shard. What may be done
with the samples is decided by the licence of the model they were drawn from.

```bash
python train_text_to_image_difftune.py --pretrained_model_name_or_path {model} --knowledge_bank THIS_REPOSITORY …
```
"""


def bank_card(manifest: BankManifest) -> str:
    """The README of a bank, which is also its dataset card: `datasets.load_dataset` finds the shards by it."""
    return CARD.format(**vars(manifest))


def download_bank(
    repo_id: str, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The local folder of a bank on the Hub, downloaded if it is not there yet.

    Args:
        repo_id (`str`): Id of the dataset repository.
        revision (`str`, *optional*): Its revision.
        token (`str`, *optional*): Token for the Hub. `None` is the one you logged in with.
        cache_dir (`str` or `Path`, *optional*): Where repositories are kept. `None` is the Hub's own cache.

    Returns:
        `Path`: The folder.

    Raises:
        DiffTuneError: There is no such repository, or it cannot be reached.
    """
    try:
        folder = snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=BANK_FILES,
        )
    except HUB_ERRORS as error:
        raise DiffTuneError(
            f"--knowledge_bank: {repo_id} is neither a folder nor a dataset on the Hub that can be read:"
            f" {first_sentence(error)}."
        ) from error
    return Path(folder)


def push_bank(folder: str | Path, repo_id: str, token: str | None = None, private: bool = False) -> str:
    """Uploads a bank to the Hub as a dataset repository, which is made if it is not there.

    Args:
        folder (`str` or `Path`): The bank, whole.
        repo_id (`str`): Id of the dataset repository.
        token (`str`, *optional*): Token for the Hub. `None` is the one you logged in with.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.

    Returns:
        `str`: The address of the commit.

    Raises:
        DiffTuneError: The bank is not whole, or the Hub refuses.
    """
    from .bank import KnowledgeBank

    bank = KnowledgeBank.load(folder).check()
    manifest = BankManifest(**public_facts(dataclasses.asdict(bank.manifest)))  # without paths of this machine
    contents: dict[str, str | bytes] = {name: str(bank.folder / name) for name in ("preview.png", *manifest.shards)}
    contents |= {MANIFEST_NAME: manifest.to_bytes(), "README.md": bank_card(manifest).encode()}
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, repo_type="dataset", exist_ok=True).repo_id
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            repo_type="dataset",
            commit_message=f"Knowledge bank of {manifest.model}",
        ).commit_url
    except HUB_ERRORS as error:
        raise DiffTuneError(f"The knowledge bank was not uploaded: {reason(error, repo_id)}") from error
