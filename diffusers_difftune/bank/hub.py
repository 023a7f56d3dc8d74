# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Uploading knowledge banks to the Hub: a bank's folder is a dataset repository as it is."""

import dataclasses
import shlex
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from ..errors import DiffTuneError, clause
from ..publishing import HUB_ERRORS, UploadError, commit, create_repo, public_facts, reason
from ..publishing.card.markdown import escaped, plain
from .bank import KnowledgeBank
from .manifest import MANIFEST_NAME, BankManifest


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

{num_samples} samples drawn from the pretrained pipeline {model}, as latents, for retention in
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
python train_text_to_image_difftune.py --pretrained_model_name_or_path {command_model} --knowledge_bank THIS_REPOSITORY …
```
"""


def bank_card(manifest: BankManifest) -> str:
    """The README of a bank, which is also its dataset card: `datasets.load_dataset` finds the shards by it."""
    facts = {name: escaped(value) if isinstance(value, str) else value for name, value in vars(manifest).items()}
    return CARD.format(**facts, command_model=shlex.quote(plain(manifest.model)))


def push_bank(folder: str | Path, repo_id: str, token: str | None = None, private: bool = False) -> str:
    """Uploads a whole bank to the Hub as a dataset repository, which is made, and may be private, if it is not there; returns the
    address of the commit.

    Raises:
        UploadError: The upload failed; the message has the command that does it later.
        DiffTuneError: The bank is not whole, or the Hub refuses.
    """
    bank = KnowledgeBank.load(folder).check()
    manifest = BankManifest(**public_facts(dataclasses.asdict(bank.manifest)))  # without paths of this machine
    contents: dict[str, str | bytes] = {name: str(bank.folder / name) for name in ("preview.png", *manifest.shards)}
    contents |= {MANIFEST_NAME: manifest.to_bytes(), "README.md": bank_card(manifest).encode()}
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        repo_id = create_repo(repo_id, folder, token, "dataset", private)
    except DiffTuneError as error:
        raise DiffTuneError(f"The knowledge bank was not uploaded: {clause(str(error))}") from error
    try:
        return commit(repo_id, operations, f"Knowledge bank of {plain(manifest.model)}", token, "dataset")
    except DiffTuneError:
        raise
    except HUB_ERRORS as error:
        raise UploadError(reason(error, repo_id), folder, repo_id, "difftune bank push") from error
