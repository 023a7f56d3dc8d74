# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""An optimiser that is spread over the processes: each holds a part of its state and, with stage 2, of the gradients.
DeepSpeed's ZeRO does it.

accelerate is not told: it sets the processes up as for plain training, and DeepSpeed joins them. So mixed precision is what it
is without DeepSpeed, autocast over float32 weights, where accelerate's way of calling it holds weights in bfloat16.

The model stays whole on every process, and files do not know of it: a checkpoint and a result are what any other run writes.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DeepSpeedPlugin, compare_versions, parse_flag_from_env

from ..errors import DiffTuneError, first_sentence
from ..trainables import Trainable


if TYPE_CHECKING:
    from .run import Run

ASKS = "ACCELERATE_USE_DEEPSPEED"
TRIED = "0.19.8"  # it leaves steps out whose gradient is not finite, also in float32
# What a DeepSpeed config may say, and which flag of the scripts has the same to say.
SAID_BY_FLAGS = {
    "gradient_clipping": "max_grad_norm",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "train_batch_size",
}
# How ZeRO goes about it; no figure depends on these.
ZERO_SETTINGS = (
    "allgather_partitions",
    "allgather_bucket_size",
    "contiguous_gradients",
    "overlap_comm",
    "reduce_bucket_size",
    "reduce_scatter",
)
WITHOUT_EFFECT = ("steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer")


def is_asked_for() -> bool:
    """Whether `accelerate launch` says, in the environment, that DeepSpeed is to be used."""
    return bool(parse_flag_from_env(ASKS))


@contextmanager
def untold() -> Iterator[None]:
    """A context in which accelerate does not see that DeepSpeed is asked for."""
    asked = os.environ.pop(ASKS, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[ASKS] = asked


def check_zero(config: Any) -> None:
    """Stops on the first thing in a DeepSpeed config, or among the flags of `accelerate launch`, that cannot be had.

    Args:
        config: The config of a script.

    Raises:
        DiffTuneError: There is such a thing, or no DeepSpeed.
    """
    given = launched_with()
    for name, value in given.items():
        is_off = isinstance(value, dict) and value.get("enabled") in (False, "auto")  # as in "bf16", "fp16" and others
        if name == "zero_optimization" or name in WITHOUT_EFFECT or value == "auto" or is_off:
            continue
        flag = SAID_BY_FLAGS.get(name)
        if flag is None:
            raise DiffTuneError(
                f"The DeepSpeed config has {name}, which these scripts do not take from it; leave it out, their flags say"
                " what there is to be said."
            )
        # 1 is what accelerate fills in where nobody says anything.
        if value != getattr(config, flag) and not (name == "gradient_accumulation_steps" and value == 1):
            raise DiffTuneError(
                f"The DeepSpeed config has {name} {value}, and --{flag} is {getattr(config, flag)}; leave the former out."
            )
    zero = given["zero_optimization"]
    stage = zero.get("stage", 0)
    if stage not in (1, 2):
        raise DiffTuneError(
            f"The accelerate config asks for ZeRO stage {stage}; these scripts take 1 and 2, and spread the parameters, too,"
            " with FSDP2: `accelerate launch --use_fsdp --fsdp_version 2`."
        )
    for name, value in zero.items():
        is_off = (
            value.get("device", "none") == "none" if isinstance(value, dict) else not value
        )  # as in "offload_param"
        if name not in ("stage", *ZERO_SETTINGS) and not name.startswith("stage3_") and not is_off:
            raise DiffTuneError(
                f"The DeepSpeed config has {name} in zero_optimization, which these scripts do not support; leave it out."
            )
    if importlib.util.find_spec("deepspeed") is None or compare_versions("deepspeed", "<", TRIED):
        raise DiffTuneError(
            f"The accelerate config asks for DeepSpeed, which needs the package deepspeed, {TRIED} or newer; install it with"
            f" `pip install 'deepspeed>={TRIED}'`."
        )


def launched_with() -> dict[str, Any]:
    """What `accelerate launch` was told about DeepSpeed, by flags or in a file, as a DeepSpeed config.

    Raises:
        DiffTuneError: There is no such file, or it holds no such config.
    """
    try:
        given = DeepSpeedPlugin().deepspeed_config
        if not isinstance(given["zero_optimization"], dict):
            raise ValueError("zero_optimization is not an object")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise DiffTuneError(f"The DeepSpeed config cannot be read: {first_sentence(error)}.") from error
    return given


class ZeRO:
    """What trains, its optimiser being spread over the processes.

    Args:
        run ([`Run`]): The run.
        trained ([`Trainable`]): What trains, with the weights to start from.
        optimizer (`torch.optim.AdamW`): Its optimiser, with one group of parameters.

    Attributes:
        model (`deepspeed.DeepSpeedEngine`): The model as DeepSpeed prepared it.
        optimizer ([`PartOfAdamW`]): This process' part of the optimiser.
    """

    def __init__(self, run: "Run", trained: Trainable, optimizer: torch.optim.AdamW) -> None:
        self.accelerator = run.accelerator
        self.parameters = list(optimizer.param_groups[0]["params"])
        os.environ.setdefault("DS_ACCELERATOR", self.accelerator.device.type)  # it would look for a device of its own
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # On the device and under autocast; DDP is what an evaluated model goes without.
        model = self.accelerator.prepare_model(trained.model, evaluation_mode=True)
        zero = launched_with()["zero_optimization"]
        settings = {name: zero[name] for name in ("stage", *ZERO_SETTINGS) if zero.get(name, "auto") != "auto"}
        self.model = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": run.config.train_batch_size,
                "gradient_accumulation_steps": run.config.gradient_accumulation_steps,
                "gradient_clipping": run.config.max_grad_norm,
                "zero_optimization": settings,
                "zero_allow_untested_optimizer": True,
                "steps_per_print": None,
            },
        )[0]
        self.optimizer = PartOfAdamW(optimizer, [self.place(parameter)[1] for parameter in self.parameters])

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro-step's gradients, as [`~accelerate.Accelerator.backward`] does; the last one of a step also clips
        them, and takes the step if they are finite."""
        self.model.backward(loss / self.accelerator.gradient_accumulation_steps, scale_wrt_gas=False)
        self.model.step()

    def clip_grad_norm_(self, *_: Any) -> torch.Tensor:
        """The norm of the gradients that [`backward`] clipped."""
        norm = self.model.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.accelerator.device)

    def place(self, parameter: Any) -> tuple[slice, slice]:
        """Which numbers of a parameter this process updates, and where they are in the row of all that it updates."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return slice(0), slice(0)
        places = (mapping.lp_fragment_address, mapping.hp_fragment_address)
        return tuple(slice(place.start, place.start + place.numel) for place in places)  # type: ignore[return-value]

    def shard_state(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This process' parts of the optimiser's whole tensors, by `{index of the parameter}.{name}`."""
        parts = {}
        for key, tensor in tensors.items():
            parameter = self.parameters[int(key.split(".")[0])]
            is_moment = tensor.shape == parameter.shape
            parts[key] = tensor.flatten()[self.place(parameter)[0]].clone() if is_moment else tensor
        return parts

    def gather_state(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inverse of [`shard_state`], in the main process' memory, and nothing much on the others; call it on every
        process."""
        gathered = {}
        for key, tensor in tensors.items():
            if tensor.ndim:
                parameter = self.parameters[int(key.split(".")[0])]
                whole = torch.zeros(parameter.numel(), dtype=tensor.dtype, device=tensor.device)
                whole[self.place(parameter)[0]] = tensor
                torch.distributed.all_reduce(whole)
                tensor = whole.view(parameter.shape)
            gathered[key] = tensor.cpu() if self.accelerator.is_main_process else torch.empty(0)
        return gathered

    def whole_weights(self) -> AbstractContextManager[None]:
        """A context in which what trains has its whole weights on the main process: it always has."""
        return nullcontext()


class PartOfAdamW:
    """AdamW over the row of numbers that this process updates, seen as the AdamW of the whole model, of which it has parts.

    Args:
        adamw (`torch.optim.AdamW`): The optimiser, as DeepSpeed left it: of one parameter, the row.
        places (`list[slice]`): Where in the row the numbers of each of the model's parameters are.
    """

    def __init__(self, adamw: torch.optim.AdamW, places: list[slice]) -> None:
        self.adamw, self.places = adamw, places

    @property
    def row(self) -> torch.Tensor:
        """The numbers that this process updates, in float32."""
        return self.adamw.param_groups[0]["params"][0]

    def step(self) -> None:
        """Nothing: [`ZeRO.backward`] took the step."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: so it let go of the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the model's parameters by their index, moments being this process' parts."""
        values = self.adamw.state.get(self.row, {})
        state = {
            index: {name: value[place] if value.ndim else value.clone() for name, value in values.items()}
            for index, place in enumerate(self.places)
        }
        group = self.adamw.state_dict()["param_groups"][0] | {"params": list(state)}
        return {"state": state, "param_groups": [group]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what [`state_dict`] gives."""
        values: dict[str, torch.Tensor] = {}
        for index, parts in state["state"].items():
            for name, part in parts.items():
                if part.ndim:
                    values.setdefault(name, torch.zeros_like(self.row))[self.places[index]] = part.to(self.row.device)
                else:
                    values[name] = part
        group = state["param_groups"][0] | {"params": [0]}
        self.adamw.load_state_dict({"state": {0: values}, "param_groups": [group]})
