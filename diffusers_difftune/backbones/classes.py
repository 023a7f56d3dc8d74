# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The classes of a class-conditional model. A class travels through the library as a prompt: its id in decimal, and the empty
prompt for the null class, which is what classifier-free guidance drops a label to."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import DiffTuneError, quoted


@dataclass(frozen=True)
class ClassLabels:
    """The classes of a pretrained model, and those it is to be trained for, which take its rows from 0.

    Args:
        id2label (`dict[int, str]`): The names of the pretrained model's classes, as far as it names them.
        null (`int`): The id of the null class, above all others.
        new (`tuple[str, ...]`, *optional*): The names of the classes to train.
        reset_seed (`int`, *optional*): Draw their rows anew with this seed; `None` keeps what the rows held.
    """

    id2label: dict[int, str]
    null: int
    new: tuple[str, ...] | None = None
    reset_seed: int | None = None

    @property
    def ids(self) -> dict[str, int]:
        """The id of each class of the pretrained model by its names."""
        return ids_by_name(self.id2label)

    def pretrained_prompts(self) -> list[str]:
        """Every class of the pretrained model, as prompts."""
        return [str(key) for key in sorted(self.id2label)] or [str(key) for key in range(self.null)]

    def prompts(self, prompts: list[str], model: str, ids: Mapping[str, int] | None = None) -> list[str]:
        """The ids, in decimal, of classes by their ids or names, or empty ones for the null class.

        Args:
            prompts (`list[str]`): Ids or names.
            model (`str`): What messages call the model.
            ids (`Mapping[str, int]`, *optional*): The id of each class by its names, of a model with other classes than the
                pretrained one.
        """
        names = "its id2label"
        if ids is not None:
            names = f"its {len(set(ids.values()))} classes, such as {next(iter(ids))}"
        known, found = self.ids if ids is None else ids, []
        for prompt in prompts:
            digits = prompt.lstrip("0") or "0"  # of which Python reads no thousands
            if prompt.isdecimal() and len(digits) <= len(str(self.null)) and int(digits) < self.null:
                found.append(str(int(digits)))
            elif not prompt or prompt in known:
                found.append(str(known[prompt]) if prompt else "")
            else:
                raise DiffTuneError(
                    f"{quoted(prompt)} is no class of {model}; give ids from 0 to {self.null - 1}, or names of {names}."
                )
        return found


def ids_by_name(id2label: dict[int, str]) -> dict[str, int]:
    """The id of each class by its names, of which one may have several, with commas between; a whole name comes before
    one that is a part of another class's."""
    parts = {name.strip(): key for key, names in id2label.items() for name in names.split(",")}
    return parts | {names.strip(): key for key, names in id2label.items()}
