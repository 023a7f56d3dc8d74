# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What can be found wrong with a run before a dataset or a model is touched."""

from .. import errors
from ..bank.prompts import read_prompts
from ..config.checks import check_flags as check_flags_alone
from ..config.checks import check_output_dir
from ..config.shared import TrainingConfig
from .launch import check_launch


__all__ = ["check_flags", "check_output_dir"]


def check_flags(config: TrainingConfig) -> None:
    """Stops on the first flag that cannot work, by itself, beside others, on this launcher or with the file that it names.

    Args:
        config ([`TrainingConfig`]): The config of a task.

    Raises:
        DiffTuneError: A flag is missing, out of range, or conflicts with another one.
    """
    check_flags_alone(config)
    check_launch(config)
    own = "captions" if config.label_column is None else "classes"
    if config.bank_prompts != own:
        with errors.flag("--bank_prompts"):
            read_prompts(config.bank_prompts, own)
