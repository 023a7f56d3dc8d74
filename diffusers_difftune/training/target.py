# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The target data of a run."""

from ..backbones import Backbone
from ..data.cut import CutCaptions, tell_cut
from ..data.dataset import TargetData, load_target_data
from ..data.stream import StreamedTarget
from .run import Run


def open_target(run: Run) -> TargetData | StreamedTarget:
    """Opens and checks the target data, as a stream with `--streaming`."""
    if run.config.streaming:
        return StreamedTarget(run.config, run.seed, run.config.cache_dir)
    return load_target_data(run.config, run.seed, run.config.cache_dir)


def tell_cut_captions(run: Run, backbone: Backbone, target: TargetData | StreamedTarget) -> CutCaptions | None:
    """Counts the captions that are longer than the model reads, and says so; `None` on other than the main process, and for
    a stream, whose captions are not known."""
    if isinstance(target, StreamedTarget) or not run.accelerator.is_main_process:
        return None
    return tell_cut(target.distinct_captions, backbone, "captions", target)
