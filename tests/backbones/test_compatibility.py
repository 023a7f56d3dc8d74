# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of a pipeline that do not fit each other are told by their configs, in one sentence."""

import json
import re
import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.errors import DiffTuneError
from tests.tiny import save_tiny_dit_pipeline, save_tiny_pipeline, tiny_pipeline


UNET, VAE, TEXT, TOKENIZER, INDEX, DIT = (
    *("unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"),
    *("model_index.json", "transformer/config.json"),
)
INPUTS = "and needs None, because it is given a text and nothing else"
# What is changed in a pipeline of Stable Diffusion, and what is said; "the unet of FOLDER has " goes before.
ROWS: dict[str, tuple[str, dict, str]] = {
    "inpainting": (
        UNET,
        {"in_channels": 9},
        r"unet .* in_channels 9 and needs 4, as many as the latents of its vae \(9 .*",
    ),
    "editing": (UNET, {"in_channels": 8}, "unet .* in_channels 8 and needs 4, as many as the latents of its vae .*"),
    "a mask alone": (UNET, {"in_channels": 5}, "unet .* in_channels 5 and needs 4, .*"),
    "fewer channels": (UNET, {"in_channels": 3}, "unet .* in_channels 3 and needs 4, .*"),
    "a learned variance": (
        UNET,
        {"out_channels": 8},
        "unet .* out_channels 8 and needs 4, as many as the latents of .*",
    ),
    "another VAE": (
        VAE,
        {"latent_channels": 16},
        "unet .* in_channels 4 and needs 16, as many as the latents of its .*",
    ),
    "a VAE of grey images": (VAE, {"in_channels": 1}, "vae .* in_channels 1 and needs 3, the colours of an image"),
    "a VAE with alpha": (VAE, {"out_channels": 4}, "vae .* out_channels 4 and needs 3, the colours of an image"),
    "another text width": (
        UNET,
        {"cross_attention_dim": 48},
        "unet .* cross_attention_dim 48 and needs 32, the width of its text_encoder",
    ),
    "another text width in one block": (
        UNET,
        {"cross_attention_dim": [32, 48]},
        r"unet .* cross_attention_dim \[32, 48\] and needs 32, the width of its text_encoder",
    ),
    "another text encoder": (
        TEXT,
        {"hidden_size": 64},
        "unet .* cross_attention_dim 32 and needs 64, the width of its text_encoder",
    ),
    "a projection of another text": (
        UNET,
        {"encoder_hid_dim": 48},
        "unet .* encoder_hid_dim 48 and needs 32, the width of its text_encoder",
    ),
    "a projection of images": (
        UNET,
        {"encoder_hid_dim": 32, "encoder_hid_dim_type": "image_proj"},
        f"unet .* encoder_hid_dim_type 'image_proj' {INPUTS}",
    ),
    "classes": (UNET, {"num_class_embeds": 10}, f"unet .* num_class_embeds 10 {INPUTS}"),
    "a noise level as a class": (
        UNET,
        {"class_embed_type": "timestep"},
        f"unet .* class_embed_type 'timestep' {INPUTS}",
    ),
    "SDXL's conditions": (
        UNET,
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 80,
        },
        f"unet .* addition_embed_type 'text_time' {INPUTS}",
    ),
    "a distilled model": (UNET, {"time_cond_proj_dim": 16}, f"unet .* time_cond_proj_dim 16 {INPUTS}"),
    "a tokenizer that reads on": (
        TOKENIZER,
        {"model_max_length": 77},
        "tokenizer .* model_max_length 77 and needs at most 32, the text_encoder's max_position_embeddings",
    ),
    "a tokenizer without an end": (
        TOKENIZER,
        {"model_max_length": None},
        "tokenizer .* model_max_length 1[0-9]{30} and needs at most 32, the text_encoder's .*",
    ),
    "a text encoder of fewer words": (
        TEXT,
        {"vocab_size": 500},
        "tokenizer .* a vocabulary of 514 and needs at most 500, the text_encoder's vocab_size",
    ),
    "a text encoder with a mask": (
        TEXT,
        {"use_attention_mask": True},
        "text_encoder .* use_attention_mask True and needs none, because captions are read without a mask",
    ),
    "a VAE of another class": (
        INDEX,
        {"vae": ["diffusers", "AutoencoderTiny"]},
        "vae of .* is 'AutoencoderTiny'; training supports AutoencoderKL",
    ),
    "a text encoder of another class": (
        INDEX,
        {"text_encoder": ["transformers", "CLIPTextModelWithProjection"]},
        "text_encoder of .* is 'CLIPTextModelWithProjection'; training supports CLIPTextModel",
    ),
    "a tokenizer of another class": (
        INDEX,
        {"tokenizer": ["transformers", "BertTokenizer"]},
        "tokenizer of .* is 'BertTokenizer'; training supports CLIPTokenizer or CLIPTokenizerFast",
    ),
    "no text encoder": (
        INDEX,
        {"text_encoder": [None, None]},
        "text_encoder of .* is None; training supports CLIPTextModel",
    ),
}
CLASS_ROWS: dict[str, tuple[str, dict, str]] = {
    "another VAE": (VAE, {"latent_channels": 8}, "transformer .* in_channels 4 and needs 8, as many as .*"),
    "other channels": (
        DIT,
        {"in_channels": 16},
        "transformer .* in_channels 16 and needs 4, as many as the latents .*",
    ),
    "other answers": (
        DIT,
        {"out_channels": 6},
        "transformer .* out_channels 6 and needs 4, as many as the latents of its vae, or 8 with a learned variance",
    ),
    "a class too many": (
        INDEX,
        {"id2label": {"0": "oak", "1000": "null"}},
        r"model_index.json of .* id2label of class \[1000\] and needs ids from 0 to 999",
    ),
    "a transformer of another class": (
        INDEX,
        {"transformer": ["diffusers", "PixArtTransformer2DModel"]},
        "transformer of .* is 'PixArtTransformer2DModel'; training supports DiTTransformer2DModel or Transformer2DModel",
    ),
}


def changed(folder: Path, file: str, values: dict) -> Path:
    config = json.loads((folder / file).read_text())
    if None in values.values():
        config = {key: value for key, value in config.items() if values.get(key, "") is not None}
        values = {key: value for key, value in values.items() if value is not None}
    (folder / file).write_text(json.dumps(config | values))
    return folder


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    save_tiny_pipeline(folder / "sd")
    save_tiny_dit_pipeline(folder / "dit")
    return folder


@pytest.mark.parametrize(
    ("family", "row"),
    [pytest.param("sd", row, id=name) for name, row in ROWS.items()]
    + [pytest.param("dit", row, id=f"classes, {name}") for name, row in CLASS_ROWS.items()],
)
def test_what_does_not_fit_is_told(family: str, row: tuple[str, dict, str], pipelines: Path, tmp_path: Path) -> None:
    file, values, said = row
    folder = changed(shutil.copytree(pipelines / family, tmp_path / "copy"), file, values)
    with pytest.raises(DiffTuneError) as caught:
        load_backbone(folder)
    message = str(caught.value)
    whole = rf"The {said}(; give a pipeline whose parts were made for each other)?\."
    assert re.fullmatch(whole, message), message


FITTING: dict[str, dict] = {
    "a projection of the text": {"encoder_hid_dim": 32},
    "a width for each block": {"cross_attention_dim": [32, 32]},
    "the text as an addition": {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
}


@pytest.mark.parametrize("case", FITTING)
def test_what_fits_is_left_alone(case: str, tmp_path: Path) -> None:
    """UNets that differ from Stable Diffusion's and take the same inputs."""
    pipeline = tiny_pipeline()
    pipeline.register_modules(unet=UNet2DConditionModel.from_config(dict(pipeline.unet.config) | FITTING[case]))
    pipeline.save_pretrained(tmp_path / "pipeline")
    backbone = load_backbone(tmp_path / "pipeline")
    assert backbone.latent_shape(16) == (4, 8, 8)
