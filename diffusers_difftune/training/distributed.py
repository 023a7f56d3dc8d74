# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What trains, on one process or several: copies of it (DDP), shards of it (FSDP2), or copies with shards of the optimiser
(DeepSpeed's ZeRO). The training loop and checkpoints see one interface, [`Replicated`].

Files do not know which it was: every kind of run goes on from every other, on any number of processes.
"""

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, convert_outputs_to_fp32, patch_environment

from ..errors import DiffTuneError
from ..trainables import Trainable
from .launch import sharded_by, zero_settings


# The blocks that UNets, ControlNets and DiT are made of: each is gathered when its turn comes, and let go after it.
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")


def make_accelerator(**settings: Any) -> Accelerator:
    """An accelerator, told of FSDP2 if that is asked for, and not of DeepSpeed, which [`ShardedOptimizer`] calls itself.

    Every process loads the pretrained weights whole. The launcher's default, to load them on the main process alone, is told
    to transformers, too, of which some versions then load no text encoder on the others.
    """
    plugin = None
    if sharded_by() == "FSDP":
        policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
        plugin = FullyShardedDataParallelPlugin(auto_wrap_policy=policy, cpu_ram_efficient_loading=False)
    with patch_environment(ACCELERATE_USE_DEEPSPEED="false"):
        return Accelerator(fsdp_plugin=plugin, **settings)


class Replicated:
    """What trains, whole on every process; with several, DDP sums the gradients. Its `model` is as accelerate prepared it;
    call this one. What it is made of is on the CPU, with the weights to start from."""

    def __init__(self, accelerator: Accelerator, trained: Trainable, optimizer: torch.optim.Optimizer) -> None:
        self.accelerator, self.trained = accelerator, trained
        self.model, self.optimizer = accelerator.prepare(trained.model, optimizer)

    def accumulating(self) -> AbstractContextManager[None]:
        """A context for the micro-steps of a step but its last one: gradients need not be summed over the processes."""
        return self.accelerator.no_sync(self.model)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro-step's gradients, divided by the number of micro-steps of a step."""
        self.accelerator.backward(loss)

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """Clips the gradients and returns the norm that they had."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return whole(self.accelerator.clip_grad_norm_(parameters, max_norm))

    def step(self) -> None:
        """Takes a step of the optimiser."""
        self.optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Lets go of the gradients."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's whole `state_dict()` on the main process; call it on every process."""
        return self.optimizer.state_dict()

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Takes what [`optimizer_state`] gave; call it on every process."""
        self.optimizer.load_state_dict(state)

    def whole_weights(self) -> AbstractContextManager[None]:
        """A context in which what trains has its whole weights on the main process; enter it on every process, and change
        nothing of the model in it."""
        return nullcontext()


class ShardedModel(Replicated):
    """What trains, of whose parameters, gradients, optimiser state and moving average each process holds a shard (FSDP2)."""

    def __init__(self, accelerator: Accelerator, trained: Trainable, optimizer: torch.optim.Optimizer) -> None:
        model = trained.model
        empty: dict[int, Any] = {
            id(p): torch.nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()
        }
        self.without_weights = copy.deepcopy(model, empty)
        plugin = accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = blocks(model, plugin.transformer_cls_names_to_wrap)
        if accelerator.native_amp:  # as accelerate does it without sharding; gradients are summed in float32
            from torch.distributed.fsdp import MixedPrecisionPolicy

            model.forward = convert_outputs_to_fp32(accelerator.autocast()(model.forward))
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        super().__init__(accelerator, trained, optimizer)
        for block in getattr(model, "transformer_blocks", ())[:1]:
            stay_gathered(block)
        if trained.ema is not None:
            pairs = zip(trained.ema.shadow_params, model.parameters(), strict=True)
            trained.ema.shadow_params = [shard_like(tensor, parameter) for tensor, parameter in pairs]

    def accumulating(self) -> AbstractContextManager[None]:
        """Nothing: gradients that are not summed after every micro-step are not sharded either."""
        return nullcontext()

    def optimizer_state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        named = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=whole_on_main())
        if not self.accelerator.is_main_process:
            return {"state": {}, "param_groups": []}
        return renamed(named, {name: place for place, name in enumerate(self.names())})

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        named = renamed(state, dict(enumerate(self.names())))
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, named, options=whole_on_main())

    def names(self) -> list[str]:
        """The names of the optimiser's parameters, in its order."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        trained, sharded, average = self.trained, self.trained.model, self.trained.ema
        weights = get_model_state_dict(sharded, options=whole_on_main())
        shards = [] if average is None else average.shadow_params
        averaged = [self.gather(shard) for shard in shards]
        if not self.accelerator.is_main_process:
            yield
            return
        trained.model = copy.deepcopy(self.without_weights)
        trained.model.load_state_dict(weights, assign=True)
        if average is not None:
            average.shadow_params = averaged
        try:
            yield
        finally:
            trained.model = sharded
            if average is not None:
                average.shadow_params = shards

    def gather(self, shard: torch.Tensor) -> torch.Tensor | None:
        """A whole tensor in the main process' memory; call it on every process."""
        gathered = whole(shard.detach())
        return gathered.to("cpu", copy=True) if self.accelerator.is_main_process else None


class ShardedOptimizer(Replicated):
    """What trains, whole on every process, of whose optimiser state and, with stage 2, gradients each process holds a shard
    (DeepSpeed's ZeRO, stages 1 and 2).

    accelerate sets the processes up as for plain training, and does not call DeepSpeed: it would hold the weights in
    bfloat16 where autocast over float32 is asked for, and wait for the device to read the gradient's norm in every step.
    """

    def __init__(
        self, accelerator: Accelerator, trained: Trainable, optimizer: torch.optim.Optimizer, config: Any
    ) -> None:
        self.accelerator, self.trained, self.optimizer = accelerator, trained, optimizer
        self.parameters = list(optimizer.param_groups[0]["params"])
        os.environ.setdefault("DS_ACCELERATOR", accelerator.device.type)  # it would look for a device of its own
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # On the device and under autocast; DDP is what an evaluated model goes without.
        model = accelerator.prepare_model(trained.model, evaluation_mode=True)
        self.micro_steps = config.gradient_accumulation_steps
        self.model = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": config.train_batch_size,
                "gradient_accumulation_steps": self.micro_steps,
                "gradient_clipping": config.max_grad_norm,
                "zero_optimization": zero_settings(),
                "zero_allow_untested_optimizer": True,
                "steps_per_print": None,
            },
        )[0]

    def accumulating(self) -> AbstractContextManager[None]:
        """Nothing: DeepSpeed sees to it itself."""
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro-step's gradients; the last one of a step also clips them, and takes the step if they are finite."""
        # accelerate may have another number of micro-steps from its own config, by which the loss was multiplied.
        self.model.backward(loss / self.accelerator.gradient_accumulation_steps, scale_wrt_gas=False)
        self.model.step()

    def clip_grad_norm_(self, max_norm: float) -> torch.Tensor:
        """The norm of the gradients that [`backward`] clipped."""
        norm = self.model.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.accelerator.device)

    def step(self) -> None:
        """Nothing: [`backward`] took the step."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: [`backward`] let go of the gradients."""

    @property
    def shard(self) -> dict[str, torch.Tensor]:
        """The state of the numbers that this process updates, which are one parameter to the optimiser."""
        return self.optimizer.state.get(self.optimizer.param_groups[0]["params"][0], {})

    def optimizer_state(self) -> dict[str, Any]:
        from deepspeed.utils import safe_get_full_optimizer_state

        state: dict[int, dict[str, torch.Tensor]] = {}
        for place, parameter in enumerate(self.parameters if self.shard else ()):
            for name, value in self.shard.items():
                if value.ndim:
                    value = safe_get_full_optimizer_state(parameter, name)
                if self.accelerator.is_main_process:
                    state.setdefault(place, {})[name] = value.to("cpu", copy=True)
        group = self.optimizer.param_groups[0] | {"params": list(range(len(self.parameters)))}
        return {"state": state, "param_groups": [group]}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        if state["state"] and not self.shard:
            self.take_empty_step()
        for place, values in state["state"].items():
            for name, value in values.items():
                if value.ndim:
                    value = value.to(self.accelerator.device)
                    safe_set_full_optimizer_state(self.parameters[place], value, name)
                else:
                    self.shard[name].copy_(value)
        self.optimizer.param_groups[0].update(
            state["param_groups"][0] | {"params": self.optimizer.param_groups[0]["params"]}
        )

    def take_empty_step(self) -> None:
        """Takes a step that changes no weight: DeepSpeed knows of no state to be set before the first one."""
        group = self.optimizer.param_groups[0]
        before = {name: group[name] for name in ("lr", "weight_decay")}
        group.update(dict.fromkeys(before, 0.0))
        for _ in range(self.micro_steps):
            self.backward(sum((parameter * 0).sum() for parameter in self.parameters))
        group.update(before)


def distribute(
    accelerator: Accelerator, trained: Trainable, optimizer: torch.optim.Optimizer, config: Any
) -> Replicated:
    """Puts what trains, on the CPU and with the weights to start from, onto the processes' devices, in the way that
    `accelerate launch` asks for."""
    if accelerator.is_fsdp2:
        return ShardedModel(accelerator, trained, optimizer)
    if sharded_by() == "DeepSpeed":
        return ShardedOptimizer(accelerator, trained, optimizer, config)
    return Replicated(accelerator, trained, optimizer)


def whole_on_main() -> Any:
    """What torch's functions for state dicts are told: of whole tensors, which only the main process has."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def renamed(state: dict[str, Any], names: dict[Any, Any]) -> dict[str, Any]:
    """A `state_dict()` of an optimiser that calls the parameters otherwise."""
    return {
        "state": {names[parameter]: values for parameter, values in state["state"].items()},
        "param_groups": [
            group | {"params": [names[parameter] for parameter in group["params"]]} for group in state["param_groups"]
        ],
    }


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


def whole(tensor: Any) -> torch.Tensor:
    """The whole of a tensor, if it is sharded; call it on every process."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: torch.Tensor, parameter: Any) -> torch.Tensor:
    """This process' shard of a whole tensor, cut as a parameter is. Nothing is sent: every process has the whole one."""
    from torch.distributed.tensor import distribute_tensor

    there = tensor.to(parameter.device)
    # The copy lets go of the whole one, of which the shard is a view.
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None).clone()
