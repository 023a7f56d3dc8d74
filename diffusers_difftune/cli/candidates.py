# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The pipelines that `difftune evaluate` compares."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..errors import DiffTuneError
from .common import open_pipeline
from .results import labelled


if TYPE_CHECKING:
    import torch

    from ..backbones import Backbone
    from ..data.dataset import TargetData


@dataclass
class Candidate:
    """A pipeline to measure, and what to put on it."""

    name: str  # and adapter: what the command line calls them
    backbone: "Backbone"
    adapter: str | None = None
    adapter_folder: Path | None = None  # one on the Hub was downloaded to there
    class_ids: dict[str, int] | None = None  # by their names, of a class-conditional pipeline
    prompts: list[str] = field(default_factory=list)
    is_baseline: bool = False  # which may lack the classes of the data

    @property
    def label(self) -> str:
        return labelled(self.name, self.adapter)

    def load(self, device: "torch.device", dtype: "torch.dtype") -> Any:
        """The whole pipeline to sample from."""
        from ..adapters.loading import load_adapter

        pipeline = self.backbone.pipeline(None, device, dtype)
        if self.adapter_folder is not None:
            load_adapter(pipeline, self.adapter_folder)
        return pipeline

    def record(self) -> dict[str, Any]:
        """What was measured, for the file of figures."""
        from ..backbones.fingerprint import hub_commit

        return {
            "pipeline": self.name,
            "commit": hub_commit(self.backbone.folder),
            "adapter": self.adapter,
            "without_class": not any(self.prompts),
        }


def find_candidates(arguments: argparse.Namespace) -> list[Candidate]:
    """The pipelines to measure, by their configs, and the adapter, if it fits; loads no weights."""
    from ..evaluation.finetuned import open_finetuned

    named = [(name, "PIPELINE", arguments.adapter) for name in arguments.pipelines]
    if arguments.pretrained is not None:
        named.insert(0, (arguments.pretrained, "--pretrained", None))
    candidates = []
    for name, flag, adapter in named:
        with errors.flag(flag):
            backbone = open_pipeline(name, arguments.revision, arguments, arguments.resolution)
        ids = backbone.classes.ids if backbone.classes else None
        candidate = Candidate(name, backbone, adapter, class_ids=ids, is_baseline=flag == "--pretrained")
        if adapter is not None:
            with errors.flag("--adapter"):
                finetuned = open_finetuned(backbone, adapter, arguments.cache_dir, arguments.hub_token)
            if finetuned.num_trained is None:
                raise DiffTuneError(f"--adapter {adapter} is no adapter; name a whole pipeline as PIPELINE.")
            candidate.adapter_folder = finetuned.folder
            candidate.class_ids = finetuned.class_ids or candidate.class_ids
        candidates.append(candidate)
    if len({candidate.class_ids is None for candidate in candidates}) > 1:
        raise DiffTuneError("Some of the pipelines are class-conditional and some take text; compare them separately.")
    return candidates


def find_prompts(
    arguments: argparse.Namespace, candidate: Candidate, data: "TargetData", rows: list[int]
) -> list[str]:
    """A prompt for each row: its caption or class, or what `--prompts` names."""
    from ..bank.prompts import draw_prompts, read_prompts
    from ..evaluation.real_images import row_prompts

    if arguments.prompts == "captions":
        ids = candidate.class_ids or {name: number for number, name in enumerate(data.class_names or ())}
        if candidate.is_baseline and not set(data.class_names or ()) <= set(ids):
            print(f"{candidate.name} does not have the classes of {arguments.data}; it is sampled without a class.")
            return [""] * len(rows)
        with errors.flag("DATA"):
            return row_prompts(data, rows, ids, candidate.name)
    with errors.flag("--prompts"):
        prompts = draw_prompts(read_prompts(arguments.prompts), len(rows), arguments.seed)
        ids, classes = candidate.class_ids, candidate.backbone.classes
        if not ids or classes is None:
            return candidate.backbone.source_prompts(prompts)
        # The classes are the adapter's, where it has its own: by the pretrained model's it would be sampled under another.
        return classes.prompts(prompts, candidate.label, ids)
