# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A process of a launch that asks for FSDP or DeepSpeed, on a processor: runs the script that is named first.

accelerate shards on GPUs only. All that keeps it from sharding over gloo is what it calls the processes, which is said
otherwise here; how a model is sharded, gathered and saved is the same. DeepSpeed needs no help, and is kept from compiling what
only inference uses. How much each process holds is written down, and a gradient spoiled, of either.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from diffusers.training_utils import EMAModel
from torch.optim.optimizer import register_optimizer_step_post_hook

from diffusers_difftune.objective import DiffTuningObjective


initialize, average, loss = AcceleratorState.__init__, EMAModel.step, DiffTuningObjective.loss
calls: list[Any] = []


def initialize_sharded(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    initialize(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        if self.mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self.mixed_precision)


def note(what: str, tensors: list[Any]) -> None:
    """Writes down, if a file for it is named, how many numbers this process holds, and of how many."""
    if "NOTED_SHARDS" in os.environ:
        held = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
        line = {"what": what, "rank": PartialState().process_index}
        line |= {"held": sum(t.numel() for t in held), "all": sum(t.numel() for t in tensors)}
        with Path(os.environ["NOTED_SHARDS"]).open("a") as file:
            file.write(json.dumps(line) + "\n")


def note_step(optimizer: Any, *_: Any) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    note("parameters", parameters)
    note("gradients", [parameter.grad for parameter in parameters])
    note("moments", [state["exp_avg_sq"] for state in optimizer.state.values()])


@torch.no_grad()
def note_average(self: Any, parameters: Any) -> None:
    average(self, parameters)
    note("average", self.shadow_params)


def spoiled_loss(self: Any, prediction: torch.Tensor, *arguments: Any) -> Any:
    """The loss, of which the gradient of one micro-step on the last process is not finite, if one is named."""
    calls.append(prediction)
    if os.environ.get("SPOILED") == str(len(calls)) and PartialState().is_last_process:
        prediction.register_hook(lambda gradient: gradient * torch.inf)
    return loss(self, prediction, *arguments)


if __name__ == "__main__":
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        os.environ["DS_ACCELERATOR"] = "cpu"
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    DiffTuningObjective.loss = spoiled_loss  # type: ignore[method-assign]
    AcceleratorState.__init__ = initialize_sharded  # type: ignore[method-assign]
    EMAModel.step = note_average  # type: ignore[method-assign]
    register_optimizer_step_post_hook(note_step)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
