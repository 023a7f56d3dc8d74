# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Every scheduler class of diffusers: its noise levels are trained on to the last digit, or it is refused by name."""

import importlib.util
import json
import re
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, LCMScheduler, SchedulerMixin

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.scheduler import DIFFUSION, load_scheduler
from diffusers_difftune.bank.solver import SOLVERS, solver_settings
from diffusers_difftune.errors import DiffTuneError
from tests.tiny import save_tiny_dit_pipeline, save_tiny_pipeline


# What diffusers exports, and the few that it only has in its package of schedulers.
EXPORTED = sorted(
    {name for place in (diffusers, diffusers.schedulers) for name in dir(place) if name.endswith("Scheduler")}
)
TORCHSDE = importlib.util.find_spec("torchsde") is not None
ACCEPTED = [name for name in DIFFUSION if TORCHSDE or name != "DPMSolverSDEScheduler"]
FEW = {"num_train_timesteps": 100}  # some classes take long to set up many
COSINE = {"beta_schedule": "squaredcos_cap_v2", **FEW}
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **FEW}
TRAINED = {"trained_betas": [0.01 + 0.001 * step for step in range(50)], "num_train_timesteps": 50}
REFUSED = "whose noise levels are not those of DDPM"


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("sd"))


def with_scheduler(folder: Path, name: str, config: dict | None) -> Path:
    """Puts another scheduler into a pipeline: the class in its index, and its config."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", name]}))
    if config is not None:
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DiffTuneError) as caught:
        load_backbone(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ACCEPTED)
def test_noise_levels_are_the_classes_own_to_the_last_digit(name: str, sd: Path) -> None:
    """By a whole config, by one without betas, where the class's own defaults count, and by other betas."""
    own_class = getattr(diffusers, name)
    for given in (STABLE, FEW, COSINE, TRAINED):
        config = {"_class_name": name, **given}
        scheduler, sampler = load_scheduler(with_scheduler(sd, name, config))
        assert sampler == name
        expected = own_class.from_pretrained(sd / "scheduler").alphas_cumprod
        assert torch.equal(scheduler.alphas_cumprod, expected)
        assert type(scheduler) is DDPMScheduler
        assert scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_bank_and_validation_sample_from_what_is_trained_on(name: str, sd: Path) -> None:
    """By a class's defaults, which are not always those of the bank's samplers."""
    levels = load_scheduler(with_scheduler(sd, name, {"_class_name": name, **FEW}))[0].alphas_cumprod
    own = getattr(diffusers, name).from_pretrained(sd / "scheduler")  # as pipelines load it
    assert torch.equal(own.alphas_cumprod, levels)
    for solver in SOLVERS:
        solver_class, settings = solver_settings(own, solver, 10)
        assert torch.equal(solver_class.from_config(settings).alphas_cumprod, levels), solver


def test_the_bank_samples_by_betas_that_its_samplers_have_no_name_for() -> None:
    own = DDPMScheduler(beta_schedule="sigmoid")
    for solver in SOLVERS:
        solver_class, settings = solver_settings(own, solver, 10)
        assert torch.equal(solver_class.from_config(settings).alphas_cumprod, own.alphas_cumprod), solver


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_a_sampler_takes_is_what_the_table_says(name: str) -> None:
    """A prediction type that a class refuses while it samples must not be trained with it."""
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        scheduler = getattr(diffusers, name)(prediction_type=prediction_type, **STABLE)
        scheduler.set_timesteps(4)
        sample = torch.ones(1, 1, 2, 2)
        try:
            for t in scheduler.timesteps:
                given = scheduler.scale_model_input(sample, t)
                sample = scheduler.step(0.1 * given, t, sample).prev_sample
            works = bool(sample.isfinite().all())
        except (NotImplementedError, ValueError):
            works = False
        assert works == (prediction_type in DIFFUSION[name]), prediction_type


@pytest.mark.parametrize("name", [n for n in ACCEPTED if "rescale_betas_zero_snr" in getattr(diffusers, n)().config])
def test_a_terminal_level_without_signal_stays_one(name: str, sd: Path) -> None:
    config = {"_class_name": name, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **STABLE}
    scheduler, _ = load_scheduler(with_scheduler(sd, name, config))
    own = getattr(diffusers, name).from_config(config).alphas_cumprod
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.alphas_cumprod[-1] == 0
    assert torch.equal(scheduler.alphas_cumprod[:-1], own[:-1])


@pytest.mark.parametrize("name", sorted(set(EXPORTED) - set(DIFFUSION)))
def test_another_kind_is_refused_by_name(name: str, sd: Path) -> None:
    """Whether the index names it, which is what samples, or the config, which then was written by it."""
    for folder in (
        with_scheduler(sd, name, {"_class_name": name}),
        with_scheduler(sd, "DDIMScheduler", {"_class_name": name}),
    ):
        with pytest.raises(DiffTuneError) as caught:
            load_scheduler(folder)
        message = str(caught.value)
        assert message.startswith(f"The scheduler of {folder}") and f"is '{name}', {REFUSED}" in message


def test_of_the_class_conditional_family_too(tmp_path: Path) -> None:
    folder = save_tiny_dit_pipeline(tmp_path)
    folder = with_scheduler(folder, "EDMEulerScheduler", {"_class_name": "EDMEulerScheduler"})
    assert f"is 'EDMEulerScheduler', {REFUSED}" in refusal(folder)


def test_a_scheduler_that_diffusers_saved_itself(sd: Path) -> None:
    """As it comes about: another scheduler is put into a pipeline, which is saved."""
    pipeline = DiffusionPipeline.from_pretrained(with_scheduler(sd, "DDIMScheduler", STABLE))
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(sd)
    assert f"is 'LCMScheduler', {REFUSED}" in refusal(sd)
    pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, use_karras_sigmas=True
    )
    pipeline.save_pretrained(sd)
    assert torch.equal(load_backbone(sd).noise_scheduler.alphas_cumprod, DDPMScheduler(**STABLE).alphas_cumprod)


CONFIGS = {
    # what is in the config, of which class in the index, what is said
    "a class that nobody knows": (
        {"_class_name": "MyScheduler"},
        "DDIMScheduler",
        f"is 'MyScheduler', {REFUSED}",
    ),
    "a class that is no name": ({"_class_name": 7}, "DDIMScheduler", f"is 7, {REFUSED}"),
    "an unknown class in the index": ({}, "MyScheduler", f"is 'MyScheduler', {REFUSED}"),
    "no class in the index": ({}, None, f"is None, {REFUSED}"),
    "something else in the index": ({}, "UNet2DConditionModel", f"is 'UNet2DConditionModel', {REFUSED}"),
    "flow matching by a solver": ({"use_flow_sigmas": True}, "UniPCMultistepScheduler", "has use_flow_sigmas True"),
    "flow prediction": (
        {"prediction_type": "flow_prediction"},
        "DPMSolverMultistepScheduler",
        "has prediction_type 'flow_prediction', and that scheduler samples from models of epsilon, ",
    ),
    "continuous timesteps": (
        {"timestep_type": "continuous", "prediction_type": "v_prediction"},
        "EulerDiscreteScheduler",
        "has timestep_type 'continuous', which is not of diffusion type",
    ),
    "samples by PNDM": (
        {"prediction_type": "sample"},
        "PNDMScheduler",
        "has prediction_type 'sample', and that scheduler samples from models of epsilon, v_prediction only",
    ),
    "a terminal level that PNDM does not know": (
        {"rescale_betas_zero_snr": True},
        "PNDMScheduler",
        "PNDMScheduler of .* does not know rescale_betas_zero_snr, which its config sets",
    ),
    "betas of one class alone": ({"beta_schedule": "exp"}, "HeunDiscreteScheduler", "has noise levels of its own"),
    "betas of no class": ({"beta_schedule": "cubic"}, "DDIMScheduler", "cannot be made: cubic is not implemented"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_means_something_else_is_refused(case: str, sd: Path) -> None:
    config, name, said = CONFIGS[case]
    message = refusal(with_scheduler(sd, name, config))
    assert message.startswith("The "), message
    assert re.search(said, message), message


def test_settings_of_sampling_alone_change_nothing(sd: Path) -> None:
    plain, _ = load_scheduler(with_scheduler(sd, "DPMSolverMultistepScheduler", STABLE))
    sampling = {"use_karras_sigmas": True, "timestep_spacing": "trailing", "solver_order": 3}
    other, _ = load_scheduler(with_scheduler(sd, "DPMSolverMultistepScheduler", STABLE | sampling))
    assert torch.equal(plain.alphas_cumprod, other.alphas_cumprod)


def test_a_prediction_type_goes_with_the_scheduler_that_is_saved(sd: Path) -> None:
    folder = with_scheduler(sd, "PNDMScheduler", STABLE)
    with pytest.raises(
        DiffTuneError, match="prediction_type is sample, and the pipeline's PNDMScheduler samples from"
    ):
        load_backbone(folder, prediction_type="sample")
    backbone = load_backbone(folder, prediction_type="v_prediction")
    assert isinstance(backbone.pipeline(None, torch.device("cpu"), torch.float32).scheduler, SchedulerMixin)
