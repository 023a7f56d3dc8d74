# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The DiT backbone against diffusers' own pipeline and model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline, DiTTransformer2DModel, EulerDiscreteScheduler

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.classes import ids_by_name
from diffusers_difftune.backbones.dit import NULL_CLASS, DiTBackbone, class_tables
from diffusers_difftune.errors import DiffTuneError


CPU = torch.device("cpu")


@pytest.fixture
def backbone(tiny_dit: Path) -> DiTBackbone:
    return load_backbone(tiny_dit)


def edited(tiny_dit: Path, folder: Path, file: str, **values: object) -> Path:
    """A copy of the pipeline with other values in one of its configs; `None` takes one out."""
    copy = shutil.copytree(tiny_dit, folder / "copy")
    config = {
        key: value for key, value in (json.loads((copy / file).read_text()) | values).items() if value is not None
    }
    (copy / file).write_text(json.dumps(config))
    return copy


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(backbone: DiTBackbone, prompt: str | list[str], **given):
    given = {"num_inference_steps": 3, "output_type": "np"} | given
    return backbone.pipeline(None, CPU, torch.float32)(prompt, **given).images


def test_what_is_read_from_the_configs(backbone: DiTBackbone) -> None:
    assert (backbone.conditioned_on, backbone.denoiser_name) == ("classes", "transformer")
    assert (backbone.resolution, backbone.latent_shape(16), backbone.learned_variance) == (16, (4, 8, 8), False)
    assert backbone.classes.id2label == {5: "cat, house cat", 7: "dog", 207: "golden retriever"}
    assert backbone.classes.pretrained_prompts() == ["5", "7", "207"]
    assert all(parameter.is_meta for parameter in backbone.empty_denoiser().parameters())


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_it_samples_what_the_stock_pipeline_samples(backbone: DiTBackbone, tiny_dit: Path, guidance: float) -> None:
    stock = DiTPipeline.from_pretrained(tiny_dit)
    stock.set_progress_bar_config(disable=True)
    given = {"guidance_scale": guidance, "num_inference_steps": 3, "output_type": "np"}
    expected = stock(class_labels=[7, 207], generator=[noise(1), noise(2)], **given).images
    found = samples(
        backbone, ["7", "207"], generator=[noise(1), noise(2)], guidance_scale=guidance, height=16, width=16
    )
    assert (found == expected).all()
    assert (
        abs(found - samples(backbone, ["5", ""], generator=[noise(1), noise(2)], guidance_scale=guidance)).max() > 1e-3
    )


def test_each_sample_is_a_function_of_its_own_noise(backbone: DiTBackbone) -> None:
    """Also with a sampler that draws noise in every step, and whatever torch's own generator draws."""
    pipeline = backbone.pipeline(None, CPU, torch.float32)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    given = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 2.0}
    both = pipeline(["7", "5"], generator=[noise(1), noise(2)], **given).images
    torch.randn(3)
    alone = pipeline("5", generator=[noise(2)], **given).images
    assert both.shape == (2, 4, 8, 8)
    torch.testing.assert_close(both[1:], alone, rtol=1e-5, atol=1e-5)


def test_given_noise_is_scaled_as_the_sampler_wants_it(backbone: DiTBackbone) -> None:
    pipeline = backbone.pipeline(None, CPU, torch.float32)
    start = torch.randn(1, 4, 8, 8, generator=noise(3))
    first = pipeline("7", latents=start, num_inference_steps=2, output_type="latent").images
    again = pipeline("7", generator=noise(3), num_inference_steps=2, output_type="latent").images
    assert torch.equal(first, again)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    seen = []
    pipeline.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0].std().item()))
    pipeline("7", latents=start, num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    assert seen[0] == pytest.approx(start.std().item(), rel=0.01), "the network sees noise of deviation 1"


def test_another_size_than_the_models_is_refused(backbone: DiTBackbone) -> None:
    with pytest.raises(ValueError, match="16 × 16 pixels, not 32 × 32"):
        samples(backbone, "7", height=32, width=32)


@pytest.mark.parametrize(
    ("prompts", "found"),
    [
        (["7", "dog", "golden retriever"], ["7", "7", "207"]),
        (["cat", "house cat", "cat, house cat"], ["5", "5", "5"]),
        (["", "0", "999", "007"], ["", "0", "999", "7"]),
    ],
)
def test_classes_by_number_and_by_name(backbone: DiTBackbone, prompts: list[str], found: list[str]) -> None:
    assert backbone.source_prompts(prompts) == found


@pytest.mark.parametrize("prompt", ["1000", "-1", "7.0", "a dog"])
def test_what_is_no_class_is_refused(backbone: DiTBackbone, prompt: str) -> None:
    with pytest.raises(DiffTuneError, match=f"^'{prompt}' is no class of .*; give ids from 0 to 999, or"):
        backbone.source_prompts(["7", prompt])


def test_prompts_are_class_ids(backbone: DiTBackbone) -> None:
    encoded = backbone.encode_prompts(["3", "", "207"])
    assert encoded.keys() == {"class_labels"} and encoded["class_labels"].tolist() == [3, NULL_CLASS, 207]


def test_a_whole_name_comes_before_a_part_of_another() -> None:
    ids = ids_by_name({0: "big", 1: "red, big", 2: "tench, Tinca tinca"})
    assert ids == {"big": 0, "red": 1, "red, big": 1, "tench": 2, "Tinca tinca": 2, "tench, Tinca tinca": 2}


def test_a_pipeline_without_names_has_all_thousand_classes(tiny_dit: Path, tmp_path: Path) -> None:
    backbone = load_backbone(edited(tiny_dit, tmp_path, "model_index.json", id2label=None))
    assert backbone.classes.pretrained_prompts() == [str(number) for number in range(1000)]
    assert backbone.source_prompts(["7"]) == ["7"]


def test_the_null_class_must_be_where_the_pipeline_looks_for_it(tiny_dit: Path, tmp_path: Path) -> None:
    folder = edited(tiny_dit, tmp_path, "transformer/config.json", num_embeds_ada_norm=10)
    with pytest.raises(
        DiffTuneError,
        match=r"^The transformer of \S+ has num_embeds_ada_norm 10; DiTPipeline works with 1000",
    ):
        load_backbone(folder)


def test_a_transformer_that_leaves_its_channels_open_is_saved_with_their_number(
    tiny_dit: Path, tmp_path: Path
) -> None:
    """`DiTPipeline` cannot sample from one that does not name them."""
    backbone = load_backbone(edited(tiny_dit, tmp_path, "transformer/config.json", out_channels=None))
    assert not backbone.learned_variance
    backbone.load_denoiser().save_pretrained(tmp_path / "saved")
    assert DiTTransformer2DModel.load_config(tmp_path / "saved")["out_channels"] == 4


def test_no_block_drops_labels_on_its_own(backbone: DiTBackbone) -> None:
    transformer = backbone.load_denoiser()
    assert [table.dropout_prob for table in class_tables(transformer)] == [0, 0]
    transformer.train()
    args = torch.zeros(64, 4, 8, 8), torch.full((64,), 500), torch.full((64,), 7)
    with torch.no_grad():
        output = transformer(*args).sample
    assert torch.equal(output, output[:1].expand_as(output)), "diffusers would drop six labels in each of two blocks"


def test_new_rows_are_drawn_in_every_table_and_nowhere_else(backbone: DiTBackbone) -> None:
    before = [table.embedding_table.weight.detach() for table in class_tables(backbone.load_denoiser())]
    backbone = backbone.with_classes(["a", "b", "c"], reset_seed=4)
    assert backbone.renamed_prompts() == {"0", "1", "2"}
    after = [table.embedding_table.weight.detach() for table in class_tables(backbone.load_denoiser())]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[3:], new[3:]) and not (old[:3] == new[:3]).any()
        assert new[:3].std() == pytest.approx(0.02, rel=0.3) and old[:3].std() > 0.5
    assert not torch.equal(after[0][:3], after[1][:3]), "every table has numbers of its own"
    again = [table.embedding_table.weight.detach() for table in class_tables(backbone.load_denoiser())]
    assert all(map(torch.equal, after, again)), "the moving average and the frozen copy begin with the same"
    backbone = backbone.with_classes(["a", "b", "c"])
    kept = [table.embedding_table.weight.detach() for table in class_tables(backbone.load_denoiser())]
    assert all(map(torch.equal, before, kept))
