# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_difftune.bank import build as build_module
from diffusers_difftune.bank import sampler
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.bank.manifest import MANIFEST_NAME
from diffusers_difftune.bank.prompts import draw_prompts
from diffusers_difftune.bank.sampler import noise_seed
from diffusers_difftune.bank.shard import Shard
from diffusers_difftune.bank.solver import solver_settings
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.io import shards
from tests.bank.building import PROMPTS, RESOLUTION, contents
from tests.killing import Stop, stop_after


Build = Callable[..., KnowledgeBank]


def sampled_by_hand(pipeline: DiffusionPipeline, indices: range, output_type: str) -> torch.Tensor:
    """What the pipeline itself gives for these samples of the small bank."""
    own = pipeline.scheduler
    scheduler_class, settings = solver_settings(own, "dpm++", 3)
    pipeline.scheduler = scheduler_class.from_config(settings)
    prompts = draw_prompts(PROMPTS, 10, seed=0)
    try:
        return pipeline(
            prompt=[prompts[index] for index in indices],
            height=RESOLUTION,
            width=RESOLUTION,
            num_inference_steps=3,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(noise_seed(0, index)) for index in indices],
            output_type=output_type,
        ).images
    finally:
        pipeline.scheduler = own


def test_the_latents_are_the_pipelines_own(bank: KnowledgeBank, pipeline: DiffusionPipeline) -> None:
    for shard in range(3):
        indices = bank.manifest.shard_range(shard)
        expected = sampled_by_hand(pipeline, indices, "latent")
        assert torch.equal(torch.stack([bank.latents(index) for index in indices]), expected)


def test_the_latents_are_scaled_as_the_denoiser_expects_them(bank: KnowledgeBank, pipeline: DiffusionPipeline) -> None:
    """Decoding them by the scaling factor gives the images that the pipeline gives."""
    latents = torch.stack([bank.latents(index) for index in range(4)])
    with torch.no_grad():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    expected = sampled_by_hand(pipeline, range(4), "pt")
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), expected)


def test_every_sample_has_its_prompt(bank: KnowledgeBank) -> None:
    expected = draw_prompts(PROMPTS, 10, seed=0)
    assert bank.prompts() == expected
    assert [bank.prompt(index) for index in range(10)] == expected


def test_a_sample_does_not_depend_on_its_batch(bank: KnowledgeBank, build: Build, tmp_path: Path) -> None:
    other = build(tmp_path / "bank", batch_size=3, num_samples=7)
    for index in range(7):
        torch.testing.assert_close(other.latents(index), bank.latents(index), atol=1e-4, rtol=1e-4)
    assert not torch.equal(bank.latents(0), bank.latents(1))


def test_equal_banks_have_equal_bytes(bank: KnowledgeBank, build: Build, tmp_path: Path) -> None:
    assert contents(build(tmp_path / "bank").folder) == contents(bank.folder)
    assert contents(build(tmp_path / "other", seed=1).folder) != contents(bank.folder)


def test_the_pipeline_is_untouched(pipeline: DiffusionPipeline, build: Build, tmp_path: Path) -> None:
    scheduler, config = pipeline.scheduler, dict(pipeline.scheduler.config)
    weights = copy.deepcopy(pipeline.unet.state_dict())
    build(tmp_path / "bank", solver="dpm++")
    assert pipeline.scheduler is scheduler and dict(scheduler.config) == config
    assert all(torch.equal(value, weights[name]) for name, value in pipeline.unet.state_dict().items())


@pytest.mark.parametrize("guidance_scale, rows", [(1.0, 4), (7.5, 8)])
def test_guidance_1_computes_no_empty_branch(
    pipeline: DiffusionPipeline, build: Build, tmp_path: Path, guidance_scale: float, rows: int
) -> None:
    seen = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        bank = build(tmp_path / "bank", num_samples=4, guidance_scale=guidance_scale)
    finally:
        hook.remove()
    assert seen == [rows] * 3
    assert bank.manifest.guidance_scale == guidance_scale


def test_resolution_reaches_the_pipeline(build: Build, tmp_path: Path) -> None:
    bank = build(tmp_path / "bank", num_samples=2, resolution=32, latent_shape=(4, 16, 16))
    assert bank.latents(0).shape == (4, 16, 16)
    with pytest.raises(DiffTuneError, match=r"gives latents of \[4, 16, 16\] at a resolution of 32"):
        build(tmp_path / "other", num_samples=2, resolution=32)
    with pytest.raises(DiffTuneError, match="does not sample at a resolution of 18: .* divisible by 8"):
        build(tmp_path / "third", num_samples=2, resolution=18, latent_shape=(4, 9, 9))


def test_a_whole_bank_is_not_sampled_again(
    bank: KnowledgeBank, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler.Sampler, "sample", lambda *_: pytest.fail("it was sampled again"))
    before = contents(bank.folder)
    assert build(bank.folder, model="the same by another name").manifest == bank.manifest
    assert contents(bank.folder) == before


@pytest.mark.parametrize("count", range(7))
def test_a_stopped_build_goes_on_where_it_was(
    bank: KnowledgeBank, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Stopped before each of the seven files: the manifest, three shards, preview, card and the whole manifest."""
    folder = tmp_path / "bank"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(count, patch, shards)
        build(folder)
    if count > 0:
        half = KnowledgeBank.load(folder)
        assert not half.manifest.is_complete
        assert half.manifest.num_built(folder) == (0, 4, 8, 10, 10, 10)[count - 1]
        with pytest.raises(DiffTuneError, match=rf"is half built \({half.manifest.num_built(folder)} of 10 samples\)"):
            half.check()
    sampled, sample = [], sampler.Sampler.sample

    def counted(self: sampler.Sampler, indices: range, prompts: list[str]) -> Shard:
        sampled.append(indices)
        return sample(self, indices, prompts)

    monkeypatch.setattr(sampler.Sampler, "sample", counted)
    build(folder)
    assert len(sampled) == (3, 3, 2, 1, 0, 0, 0)[count]
    assert contents(folder) == contents(bank.folder)


def test_a_shard_that_cannot_be_read_is_made_again(
    bank: KnowledgeBank, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bank"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(3, patch, shards)
        build(folder)
    shard = folder / bank.manifest.shard_names[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    build(folder)
    assert contents(folder) == contents(bank.folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 4}, "--bank_steps is 4, not 3"),
        ({"seed": 1}, "--seed is 1, not 0"),
        ({"num_samples": 11}, "--bank_samples is 11, not 10"),
        ({"batch_size": 5}, "--bank_batch_size is 5, not 4"),
        ({"solver": "euler"}, "--bank_solver is euler, not dpm\\+\\+"),
        ({"guidance_scale": 2.0}, "--bank_guidance_scale is 2.0, not 1.0"),
        ({"prompts": ["other"]}, "the prompts of --bank_prompts captions are others than they were"),
        ({"weights_fingerprint": "f" * 64}, "the weights or the tokenizer of tiny are others than they were"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_bank_of_other_settings_is_refused(
    bank: KnowledgeBank,
    build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
    message: str,
    whole: bool,
) -> None:
    folder = bank.folder
    if not whole:
        folder = tmp_path / "bank"
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_after(2, patch, shards)
            build(folder)
    before = contents(folder)
    with pytest.raises(DiffTuneError, match=message):
        build(folder, **changes)
    assert contents(folder) == before


def test_only_a_whole_bank_outlives_an_update_of_a_library(
    bank: KnowledgeBank, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(2, patch, shards)
        build(tmp_path / "half")
    monkeypatch.setattr(build_module, "__version__", "9.9")
    build(bank.folder)
    with pytest.raises(DiffTuneError, match="the version of diffusers-difftune is 9.9, not"):
        build(tmp_path / "half")


def test_a_folder_with_something_else_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(DiffTuneError, match="is neither empty nor a knowledge bank"):
        build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_samples": 0}, "num_samples is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5; it must be at least 1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"solver": "heun"}, "solver is 'heun'"),
        ({"prompts": []}, "There are no prompts"),
    ],
)
def test_settings_out_of_range_are_refused(build: Build, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DiffTuneError, match=message):
        build(tmp_path / "bank", **changes)
    assert not (tmp_path / "bank").exists()


def test_samples_that_are_not_finite_are_refused(pipeline: DiffusionPipeline, build: Build, tmp_path: Path) -> None:
    hook = pipeline.unet.register_forward_hook(lambda *arguments: (arguments[-1][0] * float("nan"),))
    try:
        with pytest.raises(DiffTuneError, match="not finite in torch.float32"):
            build(tmp_path / "bank")
    finally:
        hook.remove()


def test_the_preview_shows_the_samples(bank: KnowledgeBank, pipeline: DiffusionPipeline) -> None:
    preview = Image.open(io.BytesIO((bank.folder / "preview.png").read_bytes()))
    assert preview.size == (4 * 128, 3 * 128)  # ten images and two white places
    first = pipeline.image_processor.postprocess(sampled_by_hand(pipeline, range(1), "pt") * 2 - 1)[0]
    shown = preview.crop((0, 0, 128, 128))
    difference = torch.tensor(list(shown.tobytes())).float() - torch.tensor(
        list(first.resize((128, 128), Image.Resampling.BICUBIC).tobytes())
    )
    assert difference.abs().max() <= 2
    assert preview.getpixel((4 * 128 - 1, 3 * 128 - 1)) == (255, 255, 255)
    assert preview.info == {}  # no time, no software


def test_the_progress_bar_has_the_time_left(build: Build, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    build(tmp_path / "bank", progress=True)
    last = capfd.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert "Knowledge bank: 100%" in last and "10/10" in last and "<00:00" in last


def test_nothing_in_it_is_a_time_stamp(bank: KnowledgeBank) -> None:
    assert set(contents(bank.folder)) == {MANIFEST_NAME, "README.md", "preview.png", *bank.manifest.shard_names}
