# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion XL: two text encoders, pooled embeddings, and sizes that match the crop that is trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.stable_diffusion_xl import PreciseVAE, StableDiffusionXLBackbone
from diffusers_difftune.cli import main as difftune
from diffusers_difftune.data.images.decode import ImageTransform, load_rgb
from diffusers_difftune.data.plan import BatchPlan, RowRandom
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.training.batches import Batch, PlannedBatches
from tests.evaluation.models import save_adapter, save_full
from tests.tiny import save_tiny_conditions, save_tiny_images, save_tiny_xl_pipeline, tiny_image, tiny_vae
from tests.tiny_features import save_projection_of_efficientnet
from tests.training.runs import FULL, LORA, log, run


PROMPTS = ["a red bar", "", "a blue cross, number 11"]
CPU = torch.device("cpu")
WIDE = (24, 16)


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_xl_pipeline(tmp_path_factory.mktemp("tiny-xl"))


@pytest.fixture(scope="module")
def wide_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_images(tmp_path_factory.mktemp("wide-images"), size=WIDE)


@pytest.fixture
def backbone(tiny_xl: Path) -> StableDiffusionXLBackbone:
    backbone = load_backbone(tiny_xl, resolution=16)
    assert isinstance(backbone, StableDiffusionXLBackbone)
    backbone.load_encoders(CPU, torch.float32)
    return backbone


def stock(folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_sizes(tiny_xl: Path) -> None:
    backbone = load_backbone(tiny_xl)
    assert (backbone.resolution, backbone.native_resolution, backbone.latent_shape(16, 32)) == (1024, 16, (4, 8, 16))
    assert backbone.scaling_factor == 0.13025


@pytest.mark.parametrize("zeros", [True, False])
def test_prompts_are_encoded_as_by_the_pipeline(zeros: bool, tmp_path: Path) -> None:
    """An empty one as in its unconditional branch."""
    folder = save_tiny_xl_pipeline(tmp_path, zeros_for_empty=zeros)
    backbone = load_backbone(folder)
    backbone.load_encoders(CPU, torch.float32)
    found = backbone.encode_prompts(PROMPTS)
    states, none, pooled, pooled_none = stock(folder).encode_prompt(PROMPTS, device=CPU)
    for row, prompt in enumerate(PROMPTS):
        expected = (states[row], pooled[row]) if prompt else (none[row], pooled_none[row])
        torch.testing.assert_close(found["encoder_hidden_states"][row], expected[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(found["text_embeds"][row], expected[1], rtol=0, atol=1e-6)
    assert (found["text_embeds"][1] == 0).all() == zeros


def first_call(pipeline: Any, **arguments: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """What a pipeline's UNet is given first, and what it answers."""
    calls: list[tuple[dict[str, Any], torch.Tensor]] = []

    def note(module, args, kwargs, output) -> None:
        calls.append((kwargs | {"sample": args[0], "timestep": args[1]}, output[0]))

    handle = pipeline.unet.register_forward_hook(note, with_kwargs=True)
    pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="latent", **arguments)
    handle.remove()
    return calls[0]


@torch.no_grad()
def test_the_denoiser_is_called_as_by_the_pipeline(backbone: StableDiffusionXLBackbone, tiny_xl: Path) -> None:
    pipeline = stock(tiny_xl)
    given, answer = first_call(pipeline, prompt=[PROMPTS[0], PROMPTS[2]], height=16, width=32, guidance_scale=1.0)
    condition = backbone.encode_prompts([PROMPTS[0], PROMPTS[2]])
    sizes = backbone.row_condition((16, 32), (0, 0), (16, 32))["time_ids"]
    assert torch.equal(given["added_cond_kwargs"]["time_ids"], sizes.expand(2, -1))
    timesteps = given["timestep"].expand(2)
    condition["time_ids"] = sizes.expand(2, -1)
    found = backbone.predict(pipeline.unet, given["sample"], timesteps, condition)
    torch.testing.assert_close(found, answer, rtol=0, atol=1e-6)
    condition["time_ids"] = 2 * condition["time_ids"]
    other = backbone.predict(pipeline.unet, given["sample"], timesteps, condition)
    assert (other - answer).abs().max() > 1e-4, "the sizes are listened to"


@torch.no_grad()
def test_an_empty_prompt_samples_the_unconditional_branch(backbone: StableDiffusionXLBackbone, tiny_xl: Path) -> None:
    pipeline = backbone.pipeline(None, CPU, torch.float32)
    given, _ = first_call(pipeline, **backbone.sample_arguments(pipeline, PROMPTS, 16, 16, 1.0))
    expected = backbone.sample_condition(PROMPTS, 16)
    torch.testing.assert_close(given["encoder_hidden_states"], expected["encoder_hidden_states"], rtol=0, atol=1e-6)
    for name in ("text_embeds", "time_ids"):
        torch.testing.assert_close(given["added_cond_kwargs"][name], expected[name], rtol=0, atol=1e-6)


def test_the_vae_computes_in_its_own_precision(backbone: StableDiffusionXLBackbone, tiny_xl: Path) -> None:
    half = load_backbone(tiny_xl)
    half.load_encoders(CPU, torch.bfloat16)
    assert {name: module.dtype for name, module in half.encoders.items()} == {
        "vae": torch.float32,
        "text_encoder": torch.bfloat16,
        "text_encoder_2": torch.bfloat16,
    }
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = backbone.vae.decode(latents).sample
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half.vae.decode(latents).sample, expected)
        assert not torch.equal(AutoencoderKL.decode(half.vae, latents).sample, expected)
    assert isinstance(half.pipeline(None, CPU, torch.bfloat16).vae, PreciseVAE)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PlannedBatches, int, Batch]]:
    """The batches that a script trains on, as they are made."""
    seen, get = [], PlannedBatches.__getitem__

    def noted(self, index):
        batch = get(self, index)
        seen.append((self, index, batch))
        return batch

    monkeypatch.setattr(PlannedBatches, "__getitem__", noted)
    return seen


PLAIN = "--objective standard --max_train_steps 2 --random_flip"


def test_sizes_match_the_crop_that_is_trained_on(
    tiny_xl: Path, wide_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's: flip the resized image, crop it, and say where it was cropped and how large it was found."""
    seen = spied(monkeypatch)
    run(LORA, tiny_xl, wide_images, tmp_path, f"{PLAIN} --no_cache --source_share 0 --resolution 8")
    tops_lefts, flips = set(), set()
    for batches, index, batch in seen:
        for position, ids in enumerate(batch.row_condition["time_ids"].tolist()):
            random = RowRandom(batches.plan.seed, index, position)
            row = batches.plan.slot(index, position).row
            resized = ImageTransform(8).resize(load_rgb(tiny_image(row, WIDE)[0]))
            flip = random.uniform("flip") < 0.5
            assert resized.size == (12, 8)
            pixels = torch.tensor(list(resized.getdata())).view(8, 12, 3).permute(2, 0, 1) / 127.5 - 1
            pixels = pixels.flip(-1) if flip else pixels
            height, width, top, left, *target = map(int, ids)
            assert (height, width, target) == (16, 24, [8, 8])
            crop = pixels[:, top : top + 8, left : left + 8]
            torch.testing.assert_close(batch.pixel_values[position], crop, rtol=0, atol=1e-6)
            tops_lefts.add((top, left))
            flips.add(flip)
    assert len(tops_lefts) > 2 and len(flips) == 2


def test_cached_crops_have_the_sizes_of_their_own(
    tiny_xl: Path, wide_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the knowledge bank have those that the pipeline samples with."""
    seen = spied(monkeypatch)
    flags = "--max_train_steps 3 --random_flip --source_share 0.5 --bank_samples 4 --resolution 8 --retention_power 0"
    run(LORA, tiny_xl, wide_images, tmp_path, flags)
    backbone = load_backbone(tiny_xl, resolution=8)
    backbone.load_encoders(CPU, torch.float32)
    checked = 0
    for batches, index, batch in seen:
        for position, ids in enumerate(batch.row_condition["time_ids"].tolist()):
            if batch.is_source[position]:
                assert ids == [8, 8, 0, 0, 8, 8]
                continue
            random = RowRandom(batches.plan.seed, index, position)
            row = batches.plan.slot(index, position).row
            resized = ImageTransform(8).resize(load_rgb(tiny_image(row, WIDE)[0]))
            pixels = torch.tensor(list(resized.getdata())).view(8, 12, 3).permute(2, 0, 1) / 127.5 - 1
            pixels = pixels.flip(-1) if random.uniform("flip") < 0.5 else pixels
            top, left = map(int, ids[2:4])
            assert ids == [16, 24, top, left, 8, 8]
            mean, std = backbone.encode_images(pixels[None, :, top : top + 8, left : left + 8])
            expected = backbone.to_denoiser(mean + std * random.normal("posterior", (4, 4, 4)))
            torch.testing.assert_close(batch.latents[position], expected[0], rtol=0, atol=1e-5)
            checked += 1
    assert checked > 3 and any(batch.is_source.any() for _, _, batch in seen)


def test_a_step_of_lora_is_upstreams(
    tiny_xl: Path, wide_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of diffusers' train_text_to_image_lora_sdxl.py, written out for the same draws."""
    timesteps: list[torch.Tensor] = []
    predict = StableDiffusionXLBackbone.predict

    def noted(self, denoiser, sample, t, condition, controlnet=None):
        timesteps.append(t)
        return predict(self, denoiser, sample, t, condition, controlnet)

    monkeypatch.setattr(StableDiffusionXLBackbone, "predict", noted)
    seen = spied(monkeypatch)
    folder = run(LORA, tiny_xl, wide_images, tmp_path, f"{PLAIN} --max_train_steps 1 --resolution 8 --no_cache")
    (batches, _, batch), pipeline = seen[0], stock(tiny_xl)
    assert isinstance(batches, PlannedBatches) and isinstance(batches.plan, BatchPlan)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        draws = [RowRandom(batches.plan.seed, 0, position) for position in range(4)]
        posterior = torch.stack([random.normal("posterior", (4, 4, 4)) for random in draws])
        noise = torch.stack([random.normal("noise", (4, 4, 4)) for random in draws])
        encoded = pipeline.vae.encode(batch.pixel_values).latent_dist
        latents = (encoded.mean + encoded.std * posterior) * pipeline.vae.config.scaling_factor
        noisy = scheduler.add_noise(latents, noise, timesteps[0].long())
        states, _, pooled, _ = pipeline.encode_prompt(batch.prompts, device=CPU, do_classifier_free_guidance=False)
        added = {"text_embeds": pooled, "time_ids": batch.row_condition["time_ids"]}
        answer = pipeline.unet(noisy, timesteps[0], states, added_cond_kwargs=added).sample  # LoRA starts at zero
        loss = torch.nn.functional.mse_loss(answer, noise)
    assert log(folder)[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


WHOLE = "--source_share 0.25 --bank_samples 4 --validation_prompt{} x --checkpointing_steps 2 --resolution 16"


@pytest.mark.parametrize("script", [FULL, LORA])
def test_a_run_trains_what_it_should_and_resumes(
    script: str, tiny_xl: Path, wide_images: Path, tmp_path: Path
) -> None:
    flags = WHOLE.format("s" if script == FULL else "") + (" --use_ema" if script == FULL else "")
    flags += " --validation_steps 4" + (" --num_validation_images 1" if script == LORA else "")
    whole = run(script, tiny_xl, wide_images, tmp_path / "whole", flags)
    assert (whole / "validation" / "step-4" / "0.png").is_file() and (whole / "README.md").is_file()
    before, card = stock(tiny_xl), (whole / "README.md").read_text()
    if script == FULL:
        result = stock(whole)
        for name, parameter in result.unet.named_parameters():
            assert not torch.equal(parameter, before.unet.get_parameter(name)), name
        for name in ("vae", "text_encoder", "text_encoder_2"):
            own = getattr(before, name).state_dict()
            assert all(torch.equal(value, own[key]) for key, value in getattr(result, name).state_dict().items())
    else:
        result = stock(tiny_xl)
        result.load_lora_weights(whole)
        adapted = {
            name for name, _ in before.unet.named_modules() if name.endswith(load_backbone(tiny_xl).adapted_modules)
        }
        layers = {
            name.split(".lora_")[0].removeprefix("base_model.model.").removeprefix("unet.")
            for name in load_file(whole / "pytorch_lora_weights.safetensors")
        }
        assert len(adapted) == len(layers) == len([n for n, _ in result.unet.named_modules() if n.endswith("lora_A")])
        assert "load_lora_weights" in card
    arguments = {"prompt": "a red bar", "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"}
    images = [p(**arguments, generator=torch.Generator().manual_seed(0)).images for p in (before, result)]
    assert abs(images[0] - images[1]).max() > 1e-6

    shutil.copytree(whole, tmp_path / "resumed", ignore=shutil.ignore_patterns("checkpoint-4"))
    resumed = run(script, tiny_xl, wide_images, tmp_path / "resumed", f"{flags} --resume_from_checkpoint latest")
    for file in ("unet/diffusion_pytorch_model.safetensors", "pytorch_lora_weights.safetensors"):
        if (whole / file).is_file():
            first, second = load_file(whole / file), load_file(resumed / file)
            assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_without_caches_the_same_run(tiny_xl: Path, tiny_images: Path, tmp_path: Path) -> None:
    losses = [
        [line["loss"] for line in log(run(LORA, tiny_xl, tiny_images, tmp_path / name, f"{PLAIN} {flag}"))]
        for name, flag in (("cached", ""), ("uncached", "--no_cache"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_another_vae(tiny_xl: Path, tiny_images: Path, tmp_path: Path) -> None:
    """It encodes, it is what the bank and the cache go by, and it is in the result."""
    torch.manual_seed(7)
    vae = tiny_vae()
    vae.register_to_config(scaling_factor=0.5, force_upcast=False)
    vae.save_pretrained(tmp_path / "vae")
    own, other = load_backbone(tiny_xl), load_backbone(tiny_xl, vae=tmp_path / "vae")
    assert other.scaling_factor == 0.5 and other.encoder_dtype("vae", torch.bfloat16) == torch.bfloat16
    assert own.fingerprint() != other.fingerprint()
    flags = f"{PLAIN} --pretrained_vae_model_name_or_path {tmp_path / 'vae'}"
    whole = run(FULL, tiny_xl, tiny_images, tmp_path / "whole", flags)
    result = stock(whole)
    assert result.vae.config.scaling_factor == 0.5
    assert torch.equal(result.vae.encoder.conv_in.weight, vae.encoder.conv_in.weight)
    plain = run(FULL, tiny_xl, tiny_images, tmp_path / "plain", PLAIN)
    assert log(whole)[0]["loss"] != log(plain)[0]["loss"]

    config = json.loads((tmp_path / "vae/config.json").read_text())
    (tmp_path / "vae/config.json").write_text(json.dumps(config | {"latent_channels": 16}))
    with pytest.raises(DiffTuneError, match=r"^vae: .* does not fit the pipeline: its"):
        load_backbone(tiny_xl, vae=tmp_path / "vae")


def test_there_is_no_controlnet_training_yet(tiny_xl: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = save_tiny_conditions(tmp_path / "images")
    with pytest.raises(SystemExit) as stopped:
        run("train_controlnet_difftune", tiny_xl, images, tmp_path / "run")
    assert stopped.value.code == 2
    assert "is a StableDiffusionXLPipeline, for which there is no ControlNet training." in capsys.readouterr().err


FITS = {
    "a refiner": ({"addition_embed_type": "text"}, "addition_embed_type 'text' and needs text_time"),
    "another text": ({"cross_attention_dim": 32}, "cross_attention_dim 32 and needs 48, the width of its two text"),
    "other sizes": (
        {"addition_time_embed_dim": 4},
        "projection_class_embeddings_input_dim 72 and needs 48, 6 sizes of",
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_what_does_not_fit_is_told(case: str, tiny_xl: Path, tmp_path: Path) -> None:
    values, said = FITS[case]
    folder = shutil.copytree(tiny_xl, tmp_path / "copy")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | values))
    with pytest.raises(DiffTuneError, match=said):
        load_backbone(folder)


def test_it_is_evaluated_and_its_forgetting_measured(tiny_xl: Path, tmp_path: Path) -> None:
    """An adapter and a whole pipeline, by the commands."""
    data = save_tiny_images(tmp_path / "data", 12)
    features = ["--features", str(save_projection_of_efficientnet(tmp_path / "three.safetensors")), "--steps", "2"]
    lora = save_adapter(tmp_path / "lora", tiny_xl)
    output = tmp_path / "evaluation.json"
    words = [tiny_xl, data, "--adapter", lora, "--pretrained", tiny_xl, "--clip_model", "none", "--output", output]
    assert difftune(["evaluate", *map(str, words), *features]) == 0
    before, after = json.loads(output.read_text())["results"]
    assert before["fid"] != after["fid"]
    words = [tiny_xl, save_full(tmp_path / "full", tiny_xl), data, "--rows", 3, "--fisher_rows", 2, "--percents", 50]
    assert difftune(["forgetting", *map(str, words), *features, "--output_dir", str(tmp_path / "forgetting")]) == 0
    report = json.loads((tmp_path / "forgetting/forgetting.json").read_text())
    assert report["losses"]["source"]["num_rows"] == 3 and report["distance"]["total"]["num_changed"] > 0
