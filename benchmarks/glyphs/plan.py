# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which runs the plan asks for, one stage after the other: a later one needs the figures of those before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .frontier import best_setting, best_standard_rate, compared, winner
from .methods import FACTORIAL, L2SP, METHODS, PRIOR_PRESERVATION, PUBLISHED, STANDARD, STRENGTHS
from .scripts import TARGETS, TUNING_TARGETS
from .settings import EACH, EACH_IN_TUNING, LARGE, OTHER_RATES, RATE, SEEDS, SMALL, TUNING_SEED


FIRST = TUNING_TARGETS[0]  # on which rates and strengths are chosen
Runs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """A run of the benchmark.

    Attributes:
        method (`str`): A name of [`METHODS`].
        target (`str`): The target.
        images (`int`): Training images.
        seed (`int`): Of the images, the batches and the noise.
        rate (`float`): The highest learning rate.
        strength (`float`, *optional*): Of L2-SP.
        each (`int`): Samples of every source class that are measured.
    """

    method: str
    target: str
    images: int
    seed: int
    rate: float
    strength: float | None
    each: int

    @property
    def name(self) -> str:
        """What its files are called."""
        strength = "" if self.strength is None else f"-pull{self.strength:g}"
        return f"{self.method}-{self.target}-{self.images}-seed{self.seed}-lr{self.rate:g}{strength}"


@dataclass(frozen=True)
class Setting:
    """What is chosen for a method.

    Attributes:
        rate (`float`): Its highest learning rate.
        strength (`float`, *optional*): Of L2-SP.
    """

    rate: float
    strength: float | None = None


def tuning_run(method: str, target: str, images: int, setting: Setting) -> Run:
    """A trial."""
    return Run(method, target, images, TUNING_SEED, setting.rate, setting.strength, EACH_IN_TUNING)


def candidates(method: str, standard_rate: float) -> list[Setting]:
    """What is tried on the first tuning target: three rates, or three strengths at the rate of standard fine-tuning."""
    if METHODS[method].pulls:
        return [Setting(standard_rate, strength) for strength in STRENGTHS]
    return [Setting(rate) for rate in sorted({RATE, *OTHER_RATES})]


def standard_trials() -> list[Run]:
    """The runs that decide the rate of standard fine-tuning."""
    return [tuning_run(STANDARD, FIRST, LARGE, setting) for setting in candidates(STANDARD, RATE)]


def standard_setting(found: Runs) -> Setting:
    """The rate of standard fine-tuning."""
    return Setting(best_standard_rate({run.rate: found[run.name] for run in standard_trials()}))


def trials(found: Runs) -> list[Run]:
    """The runs that decide the rates of the other methods; all on the first tuning target, and the first rate on every one."""
    rate = standard_setting(found).rate
    on_first = [
        tuning_run(method, FIRST, LARGE, setting)
        for method in METHODS
        if method != STANDARD
        for setting in candidates(method, rate)
    ]
    others = [
        tuning_run(method, target, LARGE, Setting(RATE))
        for method in METHODS
        if not METHODS[method].pulls
        for target in TUNING_TARGETS[1:]
    ]
    return on_first + others


def settings(found: Runs) -> dict[str, Setting]:
    """The rate, or strength, of every method."""
    standard = standard_setting(found)
    reference = found[tuning_run(STANDARD, FIRST, LARGE, standard).name]
    chosen = {STANDARD: standard}
    for method in METHODS:
        if method != STANDARD:
            runs = {
                setting: found[tuning_run(method, FIRST, LARGE, setting).name]
                for setting in candidates(method, standard.rate)
            }
            chosen[method] = best_setting(runs, reference)
    return chosen


def tuning_runs(found: Runs) -> list[Run]:
    """Every method with its own rate on the three tuning targets, in both regimes."""
    return [
        tuning_run(method, target, images, setting)
        for method, setting in settings(found).items()
        for images in (LARGE, SMALL)
        for target in TUNING_TARGETS
    ]


def scores(found: Runs) -> dict[str, float]:
    """Of each of the factorial, the share of source samples recognised at equal accuracy, over targets and regimes."""
    chosen = settings(found)
    total = {}
    for method in FACTORIAL:
        shares = []
        for images in (LARGE, SMALL):
            for target in TUNING_TARGETS:
                run, standard = (
                    found[tuning_run(name, target, images, chosen[name]).name] for name in (method, STANDARD)
                )
                shares.append(compared(run, standard).figures["source recognised"])
        total[method] = sum(shares) / len(shares)
    return total


def methods_of_the_result(found: Runs) -> list[str]:
    """Standard fine-tuning, and what is compared with it: the winner first. Where the winner is one of the others, the
    second best takes its place beside it."""
    points = scores(found)
    first = winner(points)
    fixed = [PUBLISHED, PRIOR_PRESERVATION, L2SP]
    others = {name: score for name, score in points.items() if name not in (first, *fixed)}
    beside = [winner(others)] if first in fixed else []
    return [STANDARD, first, *beside, *(name for name in fixed if name != first)]


def result_runs(found: Runs, targets: Sequence[str] = TARGETS) -> list[Run]:
    """The runs of the eight targets."""
    chosen = settings(found)
    return [
        Run(method, target, images, seed, chosen[method].rate, chosen[method].strength, EACH)
        for seed in SEEDS
        for target in targets
        for images in (LARGE, SMALL)
        for method in methods_of_the_result(found)
    ]
