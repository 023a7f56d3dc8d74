# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of `test_flags_effect.py` for flags that only the class-conditional script has, or that mean something of their own
there."""

import json

import datasets
import torch

from tests.flag_lab import CLASS, Lab, images, is_close, row, same
from tests.tiny import save_tiny_dit_pipeline, tiny_image, tiny_label


ONLY = (CLASS,)
TABLE = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"


# The target data


@row("image_column", "label_column", scripts=ONLY)
def other_columns_of_labels(lab: Lab) -> None:
    columns = {
        "image": [tiny_image(index + 9)[0] for index in range(6)],
        "label": [tiny_label(index + 1) for index in range(6)],
        "drawing": [tiny_image(index)[0] for index in range(6)],
        "tree": [tiny_label(index) for index in range(6)],
    }
    (lab.tmp_path / "columns").mkdir()
    datasets.Dataset.from_dict(columns).to_parquet(lab.tmp_path / "columns" / "train.parquet")
    data = {"train_data_dir": lab.tmp_path / "columns"}
    assert same(lab.run(**data, image_column="drawing", label_column="tree"), lab.plain)
    classes = json.loads((lab.plain.folder / "run_config.json").read_text())["id2label"]
    assert sorted(classes) == ["0", "1", "2"] and set(classes.values()) == {tiny_label(index) for index in range(6)}
    for one in ({"image_column": "drawing"}, {"label_column": "tree"}):
        assert not same(lab.run(**data, **one), lab.plain)
    assert "--image_column" in lab.refused(**data, image_column="photo")
    assert "--label_column" in lab.refused(**data, label_column="species")


@row("resolution", scripts=ONLY)
def the_models_own_resolution(lab: Lab) -> None:
    assert same(lab.run(resolution=None), lab.plain)
    assert "--resolution is 8; this model makes images of 16 pixels only" in lab.refused(resolution=8)


@row("class_dropout_prob", scripts=ONLY)
def dropped_labels(lab: Lab) -> None:
    never, always = lab.run(class_dropout_prob=0), lab.run(class_dropout_prob=1)
    assert not same(never, always)
    assert same(lab.run(class_dropout_prob=1e-9), never), "no other draw moves"
    assert "--class_dropout_prob is 1.5" in lab.refused(class_dropout_prob=1.5)


@row("no_cache", scripts=ONLY)
def images_encoded_in_every_step(lab: Lab) -> None:
    cache = lab.tmp_path / "cache"
    assert is_close(lab.run(no_cache=True, cache_dir=cache), lab.plain), "the same batches"
    assert not any(path.parent.parent.name in ("images", "prompts") for path in cache.rglob("*.arrow"))


# The classes, the variance and validation


@row("class_embeddings", scripts=ONLY)
def rows_of_new_classes(lab: Lab) -> None:
    assert same(lab.run(class_embeddings="keep"), lab.plain)
    reset = lab.run(class_embeddings="reset")
    assert not same(reset, lab.plain)
    moved = (reset.weights()[TABLE] - lab.plain.weights()[TABLE]).abs().amax(1) > 0.1
    assert moved.nonzero().flatten().tolist() == [0, 1, 2]
    assert "--class_embeddings" in lab.refused(class_embeddings="new")


@row("variance_loss", scripts=ONLY)
def where_the_variance_is_trained(lab: Lab) -> None:
    dit = save_tiny_dit_pipeline(lab.tmp_path / "dit", learned_variance=True)
    built = lab.run(objective="difftune", pretrained_model_name_or_path=dit, bank_samples=4, bank_steps=2)
    given = {"objective": "difftune", "pretrained_model_name_or_path": dit, "source_share": 0.5}
    given |= {"knowledge_bank": built.folder / "knowledge_bank", "max_train_steps": 1}

    def changed(how: str) -> set[str]:
        first, other = lab.shared(**given).log[0], lab.run(**given, variance_loss=how).log[0]
        return {name for name in ("loss_reconsolidation", "loss_retention") if first[name] != other[name]}

    assert changed("both") == set()
    assert changed("target") == {"loss_retention"}
    assert changed("unskewed") == {"loss_reconsolidation", "loss_retention"}
    assert "--variance_loss" in lab.refused(variance_loss="neither")
    assert "does not learn its variance" in lab.refused(variance_loss="target")


@row("validation_classes", "validation_epochs", "validation_steps", scripts=ONLY)
def validation_of_classes(lab: Lab) -> None:
    assert not images(lab.plain)
    given = {"validation_classes": ["oak", "elm"], "train_batch_size": 6, "max_train_steps": 4}
    two = {"0.png", "1.png"}
    often = lab.run(**given, validation_epochs=2)  # one step an epoch: after epochs 1 and 3, and the end
    assert images(often) == {f"step-{step}/{name}" for step in (1, 3, 4) for name in two}
    assert images(lab.run(**given)) == {f"step-{step}/{name}" for step in (1, 4) for name in two}  # every 5 epochs
    by_steps = lab.run(**given | {"validation_classes": ["ash"]}, validation_steps=3)
    assert images(by_steps) == {"step-3/0.png", "step-4/0.png"}
    assert "--validation_classes: there is no class yew" in lab.refused(validation_classes=["oak", "yew"])


# What trains


@row("adapter", "rank", "lora_alpha", "lora_dropout", "lora_target_modules", scripts=ONLY)
def adapters_of_a_transformer(lab: Lab) -> None:
    """What each kind is, is in tests/adapters. No adapter could learn a new class: their rows train along."""
    lora = lab.shared(adapter="lora")
    first = {name: tensor for name, tensor in lora.weights().items() if "lora_A" in name}
    assert first and all(tensor.shape[0] == 4 and ".ff." not in name for name, tensor in first.items())
    assert any("embedding_table" in name for name in lora.weights())
    given = {"adapter": "lora"}
    narrow = lab.run(**given, rank=2).weights()
    assert {tensor.shape[0] for name, tensor in narrow.items() if "lora_A" in name} == {2}
    assert not same(lab.run(**given, lora_alpha=40.0), lora)
    assert not same(lab.run(**given, lora_dropout=0.5), lora)
    named = lab.run(**given, lora_target_modules=["ff.net.0.proj"]).weights()
    assert all(".ff.net.0.proj" in name for name in named if "lora_A" in name)
    assert any(name.endswith(".bias") for name in lab.run(adapter="bitfit").weights())
    assert "--rank needs --adapter" in lab.refused(rank=2)
    assert "--lora_target_modules nothing" in lab.refused(**given, lora_target_modules=["nothing"])


@row("train_parameters", scripts=ONLY)
def named_parameters_of_a_transformer(lab: Lab) -> None:
    named = lab.run(train_parameters=["*.attn1.to_?.weight"]).weights()
    assert {name.split(".")[-3] for name in named} >= {"attn1"}
    assert not any(".ff." in name for name in named)
    whole = torch.cat([tensor.flatten() for tensor in lab.plain.weights().values()])
    assert sum(tensor.numel() for tensor in named.values()) < len(whole) / 10
    assert "--train_parameters nothing" in lab.refused(train_parameters=["nothing"])
