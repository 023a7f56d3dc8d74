# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What an adapter is made of: its kind and the few numbers that go with it."""

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DiffTuneError, quoted
from ..io.json_values import wrong_value


PEFT_KINDS = ("lora", "dora", "loha", "lokr", "oft", "boft")  # layers of PEFT beside frozen ones
PARAMETER_KINDS = ("difffit", "bitfit")  # some of the model's own parameters train
KINDS = (*PEFT_KINDS, *PARAMETER_KINDS)
NAMED = "parameters"  # the kind without a name of its own: --train_parameters
WITH_ALPHA = ("lora", "dora", "loha", "lokr")
WITH_DROPOUT = ("lora", "dora")
DEFAULT_RANK = 4
SMALL_SCALE = 0.01  # alpha / rank below which an adapter learns so slowly that a run warns


@dataclass(frozen=True)
class AdapterSettings:
    """The kind of an adapter and its settings, complete: nothing is looked up elsewhere when it is loaded.

    Args:
        kind (`str`): `"lora"` (Hu et al., 2021), `"dora"` (Liu et al., 2024), `"loha"` (Hyeon-Woo et al., 2021), `"lokr"`
            (Yeh et al., 2023), `"oft"` (Qiu et al., 2023), `"boft"` (Liu et al., 2023), `"difffit"` (Xie et al., 2023),
            `"bitfit"` (Ben Zaken et al., 2021), or `"parameters"` for those that `train_parameters` names.
        rank (`int`, *optional*, defaults to 4): Rank of the matrices; of OFT and BOFT the side of the rotated blocks.
        alpha (`float`, *optional*): Numerator of the scale alpha / rank; `None` is the rank.
        dropout (`float`, *optional*, defaults to 0.0): Dropout on the input of the layers of LoRA and DoRA, in [0, 1).
        target_modules (`tuple[str, ...]`, *optional*): Ends of the names of the modules that get layers of PEFT.
        train_parameters (`tuple[str, ...]`, *optional*): Patterns, with `*`, `?` and `[…]`, of the names of the
            parameters that train.
        always_trained (`tuple[str, ...]`, *optional*): Patterns of parameters that train along, whatever the kind.
    """

    kind: str
    rank: int = DEFAULT_RANK
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    train_parameters: tuple[str, ...] = ()
    always_trained: tuple[str, ...] = ()

    @property
    def scale_numerator(self) -> float:
        """alpha, which is the rank unless it is given."""
        return self.rank if self.alpha is None else self.alpha

    @property
    def scale(self) -> float:
        """What the output of a kind in `WITH_ALPHA` is multiplied by."""
        return self.scale_numerator / self.rank

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AdapterSettings":
        """The inverse of [`to_dict`].

        Raises:
            DiffTuneError: A value is missing, unknown, of the wrong type, or out of range.
        """
        if problem := wrong_value(cls, values):
            raise DiffTuneError(f"These are not the settings of an adapter: {problem}.")
        given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        made = cls(**given)
        if made.kind not in (*KINDS, NAMED):
            raise DiffTuneError(f"The kind of adapter is {quoted(made.kind)}; known are {', '.join((*KINDS, NAMED))}.")
        for name, value, holds in (
            ("rank", made.rank, 1 <= made.rank < 2**20),
            ("alpha", made.alpha, made.alpha is None or 0 < made.alpha < 2**20),
            ("dropout", made.dropout, 0 <= made.dropout < 1),
        ):
            if not holds:
                raise DiffTuneError(f"These are not the settings of an adapter: {name} is {quoted(value)}.")
        return made
