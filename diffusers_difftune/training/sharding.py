# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A model that is spread over the processes: of its parameters, gradients, optimiser state and moving average each process
holds a shard. PyTorch's FSDP2 does it, by way of accelerate.

Files do not know of it: a checkpoint and a result are what a run that is not sharded writes, so that either kind of run goes
on from either, on any number of processes. What the main process does alone with whole weights (writing, sampling,
measuring) it does inside [`Run.whole_weights`].
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    convert_outputs_to_fp32,
    is_torch_version,
    parse_flag_from_env,
)

from ..errors import DiffTuneError
from ..trainables import Trainable
from . import zero


if TYPE_CHECKING:
    from .run import Run

# The blocks that UNets, ControlNets and DiT are made of: each is gathered when its turn comes, and let go after it.
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
# What else `accelerate launch` can be told: by the name in the environment, the flag, and what to do instead.
UNSUITABLE = {
    "FSDP_OFFLOAD_PARAMS": ("--fsdp_offload_params", "leave it out"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "--fsdp_activation_checkpointing",
        "give --gradient_checkpointing to the script",
    ),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("--use_parallelism_config", "leave it out"),
}


def is_asked_for() -> bool:
    """Whether `accelerate launch` says, in the environment, that the model is to be sharded."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def check_sharding(config: Any) -> None:
    """Stops on the first flag, of the script or of `accelerate launch`, that cannot work with what trains being spread over
    processes.

    Args:
        config: The config of a script.

    Raises:
        DiffTuneError: One cannot, or something else than FSDP2 or DeepSpeed is to spread it.
    """
    if parse_flag_from_env("ACCELERATE_USE_MEGATRON_LM"):
        raise DiffTuneError(
            "The accelerate config asks for Megatron-LM, which these scripts do not support; to shard a model use"
            " `accelerate launch --use_fsdp --fsdp_version 2`."
        )
    by = sharded_by()
    if by is None:
        return
    for name, (flag, instead) in UNSUITABLE.items():
        if parse_flag_from_env(name):
            raise DiffTuneError(f"The accelerate config has {flag}, which these scripts do not support; {instead}.")
    part = (
        f"--adapter {config.adapter}" if config.adapter else "--train_parameters" if config.train_parameters else None
    )
    if part is not None:
        raise DiffTuneError(
            f"{by} shards a model of which all weights train, and {part} trains few of them; leave {by} out: plain"
            " multi-GPU training keeps little beside the model itself."
        )
    if config.use_8bit_adam:
        raise DiffTuneError(
            f"--use_8bit_adam does not go with {by}, whose states cannot be sharded; leave one of them out."
        )
    (check_fsdp if by == "FSDP" else zero.check_zero)(config)


def sharded_by() -> str | None:
    """What is to spread the model, or its optimiser, over the processes: `"FSDP"`, `"DeepSpeed"` or nothing."""
    return "FSDP" if is_asked_for() else "DeepSpeed" if zero.is_asked_for() else None


def check_fsdp(config: Any) -> None:
    """Stops on what FSDP cannot do."""
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise DiffTuneError(
            f"The accelerate config asks for FSDP version {version}, and these scripts shard with version 2 only; use"
            " `accelerate launch --use_fsdp --fsdp_version 2`."
        )
    if not is_torch_version(">=", "2.8"):  # of which [`stay_gathered`] needs a method
        raise DiffTuneError(
            f"The accelerate config asks for FSDP, which needs torch 2.8 or newer in these scripts; this is {torch.__version__}."
        )
    if os.environ.get("FSDP_IGNORED_MODULES"):
        raise DiffTuneError(
            "The accelerate config has fsdp_ignored_modules, whose gradients nobody sums over the processes; leave it out."
        )
    if getattr(config, "offload_ema", False):
        raise DiffTuneError(
            "--offload_ema does not go with FSDP, and the moving average is sharded already; leave one of them out."
        )


def sharding_plugin() -> FullyShardedDataParallelPlugin | None:
    """What accelerate is told about sharding; `None` if nobody asks for it.

    Every process loads the pretrained weights whole. The launcher's default, to load them on the main process alone, is told
    to transformers, too, of which some versions then load no text encoder on the others.
    """
    if not is_asked_for():
        return None
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    return FullyShardedDataParallelPlugin(auto_wrap_policy=policy, cpu_ram_efficient_loading=False)


def check_is_sharded(accelerator: Accelerator) -> None:
    """Makes sure that accelerate shards if it was asked to; it goes on without a word where it cannot.

    Args:
        accelerator ([`~accelerate.Accelerator`]): The processes.

    Raises:
        DiffTuneError: It does not, or would in a precision that sharded runs do not have.
    """
    by = sharded_by()
    if by is None:
        return
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise DiffTuneError(
            f"--mixed_precision {accelerator.mixed_precision} does not go with {by}, which has no loss scaler here; use bf16"
            " or no."
        )
    if not (accelerator.is_fsdp2 if by == "FSDP" else accelerator.num_processes > 1):
        raise DiffTuneError(
            f"The accelerate config asks for {by}, and accelerate does not shard here: it found {accelerator.num_processes}"
            f" process(es) on {accelerator.device.type}; start one process per GPU with `accelerate launch`, or leave {by}"
            " out."
        )


class Sharding:
    """What trains, sharded, and its whole weights on the main process where they are needed.

    Args:
        run ([`Run`]): The run.
        trained ([`Trainable`]): What trains, on the CPU, with the weights to start from.
        optimizer: Its optimiser.

    Attributes:
        model (`torch.nn.Module`): The model as accelerate prepared it.
        optimizer: The optimiser as accelerate prepared it.

    Raises:
        DiffTuneError: The accelerate config names a block that the model does not have.
    """

    def __init__(self, run: "Run", trained: Trainable, optimizer: Any) -> None:
        self.accelerator, self.trained = run.accelerator, trained
        model = trained.model
        empty: dict[int, Any] = {
            id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()
        }
        self.without_weights = copy.deepcopy(model, empty)
        plugin = self.accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = blocks(model, plugin.transformer_cls_names_to_wrap)
        if self.accelerator.native_amp:  # as accelerate does it without sharding; gradients are summed in float32
            from torch.distributed.fsdp import MixedPrecisionPolicy

            model.forward = convert_outputs_to_fp32(self.accelerator.autocast()(model.forward))
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=run.weight_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        for block in getattr(trained.model, "transformer_blocks", ())[:1]:
            stay_gathered(block)
        if (average := getattr(trained, "ema", None)) is not None:
            pairs = zip(average.shadow_params, trained.model.parameters(), strict=True)
            average.shadow_params = [shard_like(tensor, parameter) for tensor, parameter in pairs]

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro-step's gradients."""
        self.accelerator.backward(loss)

    def clip_grad_norm_(self, parameters: list[Any], max_norm: float) -> torch.Tensor:
        """Clips the gradients and returns the norm that they had."""
        return whole(self.accelerator.clip_grad_norm_(parameters, max_norm))

    def shard_state(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This process' shards of the optimiser's whole tensors, by `{index of the parameter}.{name}`."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        owners = {key: parameters[int(key.split(".")[0])] for key in tensors}
        return {
            key: shard_like(tensor, owners[key]) if tensor.shape == owners[key].shape else tensor
            for key, tensor in tensors.items()
        }

    def gather_state(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inverse of [`shard_state`], in the main process' memory; call it on every process."""
        return {key: self.gather(tensor) for key, tensor in tensors.items()}

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """A whole tensor in the main process' memory, and an empty one on the others; call it on every process."""
        gathered = whole(tensor.detach())
        return gathered.to("cpu", copy=True) if self.accelerator.is_main_process else torch.empty(0)

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """A context in which what trains has its whole weights on the main process, as a model of its own on the CPU; enter
        it on every process, and change nothing of the model in it."""
        trained, sharded = self.trained, self.trained.model
        average = getattr(trained, "ema", None)
        shards = [] if average is None else average.shadow_params
        weights = [self.gather(parameter) for parameter in sharded.parameters()]
        averaged = [self.gather(shard) for shard in shards]
        if not self.accelerator.is_main_process:
            yield
            return
        memo: dict[int, Any] = {
            id(empty): torch.nn.Parameter(weight, empty.requires_grad)
            for empty, weight in zip(self.without_weights.parameters(), weights, strict=True)
        }
        trained.model = copy.deepcopy(self.without_weights, memo)
        if average is not None:
            average.shadow_params = averaged
        try:
            yield
        finally:
            trained.model = sharded
            if average is not None:
                average.shadow_params = shards


def blocks(model: torch.nn.Module, names: list[str] | None) -> list[str]:
    """The classes of the blocks that are shards of their own: those that the accelerate config names, or [`BLOCKS`]."""
    there = {type(module).__name__ for module in model.modules()}
    if missing := sorted(set(names or ()) - there):
        raise DiffTuneError(
            f"The accelerate config has --fsdp_transformer_layer_cls_to_wrap {missing[0]}, and no module of"
            f" {type(model).__name__} is one; leave it out."
        )
    return names or [name for name in BLOCKS if name in there]


def stay_gathered(block: torch.nn.Module) -> None:
    """Makes a block keep its parameters whole from its forward to its backward: DiT calls a part of its first block, the
    embedding of classes, once more after the last one."""
    from torch.distributed.fsdp import FSDPModule

    for module in block.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(False, recurse=False)


def is_shard(tensor: torch.Tensor) -> bool:
    """Whether a tensor is this process' shard of a whole one, a `DTensor`."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> torch.Tensor:
    """The whole of a tensor, if it is sharded; call it on every process."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def local(tensor: Any) -> torch.Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if is_shard(tensor) else tensor


def shard_like(tensor: torch.Tensor, parameter: Any) -> torch.Tensor:
    """This process' shard of a whole tensor, cut as a parameter is. Nothing is sent: every process has the whole one."""
    from torch.distributed.tensor import distribute_tensor

    there = tensor.to(parameter.device)
    # The copy lets go of the whole one, of which the shard is a view.
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None).clone()
