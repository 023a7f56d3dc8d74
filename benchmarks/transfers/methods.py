# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared, as flags of the training script."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """What a method is to the training script.

    Attributes:
        title (`str`): What tables call it.
        flags (`dict`): Its flags.
        bank_samples (`int`, *optional*): Samples of its knowledge bank, if not as many as others have.
        bank_steps (`int`, *optional*): Sampling steps of these, likewise.
        from_scratch (`bool`): Whether it starts from random weights.
        pull (`float`): λ of L2-SP.
    """

    title: str
    flags: dict[str, Any]
    bank_samples: int | None = None
    bank_steps: int | None = None
    from_scratch: bool = False
    pull: float = 0.0

    @property
    def has_bank(self) -> bool:
        """Whether it trains on source rows."""
        return self.flags["objective"] != "standard" and self.flags.get("source_share") != 0

    @property
    def adapter(self) -> str | None:
        """The adapter that trains, if not all weights do."""
        return self.flags.get("adapter")


STANDARD, DIFFTUNE = {"objective": "standard"}, {"objective": "difftune"}
MAIN = {
    "standard": Method("standard", STANDARD),
    "retention": Method("retention only", DIFFTUNE | {"reconsolidation_power": 0.0}),
    "reconsolidation": Method("reconsolidation only", DIFFTUNE | {"source_share": 0.0}),
    "difftune": Method("Diff-Tuning", DIFFTUNE),
}
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoRA", {"adapter": "lora", "rank": 8}),
    "difffit": ("DiffFit", {"adapter": "difffit"}),
    "bitfit": ("BitFit", {"adapter": "bitfit"}),
}
# The same with ψ and ξ as weights of the loss, as the paper writes it, where the reference implementation draws by them.
WEIGHTED = {
    f"{name}-weighted".removeprefix("difftune-"): Method(
        f"{method.title}, weighted", method.flags | {"coefficients": "weighted"}
    )
    for name, method in MAIN.items()
    if name != "standard"
}
# What the tuning set finds best of the weighted form: less of ψ.
WEIGHTED["weighted-p0.5"] = Method(
    "Diff-Tuning, weighted, p = 0.5", WEIGHTED["weighted"].flags | {"reconsolidation_power": 0.5}
)
VARIANTS = {
    "weighted": WEIGHTED["weighted"],
    "distillation": Method("Diff-Tuning, distillation", DIFFTUNE | {"retention_target": "pretrained"}),
    "l2sp0.3": Method("L2-SP, λ = 0.3", STANDARD, pull=0.3),
    "l2sp3": Method("L2-SP, λ = 3", STANDARD, pull=3.0),
    "scratch": Method("from scratch", STANDARD, from_scratch=True),
}
for _kind, (_title, _flags) in ADAPTERS.items():
    VARIANTS[_kind] = Method(_title, STANDARD | _flags)
    VARIANTS[f"{_kind}-difftune"] = Method(f"{_title} + Diff-Tuning", DIFFTUNE | _flags)
# What is varied in stage 3: the flag and its values, the default left out.
SENSITIVITY: dict[str, tuple[str, tuple[float, ...]]] = {
    "p": ("reconsolidation_power", (0.5, 2.0, 4.0)),
    "q": ("retention_power", (0.5, 2.0, 4.0)),
    "share": ("source_share", (0.1, 0.4)),
    "weight": ("retention_weight", (0.03, 0.3, 1.0)),
}
VARIED = {
    f"{letter}{value:g}": Method(f"{letter} = {value:g}", DIFFTUNE | {flag: value})
    for letter, (flag, values) in SENSITIVITY.items()
    for value in values
}
VARIED |= {f"bank{n}": Method(f"{n} bank samples", DIFFTUNE, bank_samples=n) for n in (100, 400)}
VARIED |= {f"banksteps{n}": Method(f"{n} bank sampling steps", DIFFTUNE, bank_steps=n) for n in (5, 10, 50)}
METHODS = MAIN | WEIGHTED | VARIANTS | VARIED
