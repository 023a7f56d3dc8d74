# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: the precision that they have in common, and work that the main one does for all."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..errors import DiffTuneError, StopNow


Found = TypeVar("Found")


def from_main(accelerator: Accelerator | None, find: Callable[[], Found]) -> Found:
    """What `find` returns on the main process (it can be pickled), on every process of a run; call it on all of them.

    So that all do the same, even if what they would find changes meanwhile. Without an accelerator there is this process alone.

    Raises:
        DiffTuneError, StopNow: `find` raised it; every process does.
        RuntimeError: `find` raised something else, which the main process does; the others say what it was.
    """
    if accelerator is None:
        return find()
    answer: list[Any] = [None, None]
    failure: BaseException | None = None
    if accelerator.is_main_process:
        try:
            answer[0] = find()
        except BaseException as error:  # an interrupt, too: the others are waiting, whatever happens here
            failure = error
            told = f"The main process stopped: {type(error).__name__}: {error}"
            answer[1] = error if isinstance(error, (DiffTuneError, StopNow)) else RuntimeError(told)
    found, refusal = broadcast_object_list(answer)
    if failure is not None or refusal is not None:
        raise failure or refusal
    return found


def frozen_dtype(accelerator: Accelerator) -> torch.dtype:
    """The precision of what does not train, by that of the run."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
