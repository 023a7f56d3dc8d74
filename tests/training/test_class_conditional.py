# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Class-conditional training: which row carries which class, what becomes of the class tables, what is saved, and runs that
must be the same run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image
from safetensors.torch import load_file

from diffusers_difftune.backbones.dit import NULL_CLASS, DiTBackbone, class_tables
from diffusers_difftune.bank.bank import KnowledgeBank
from diffusers_difftune.cli import main as difftune
from diffusers_difftune.training.batches import PlannedBatches
from diffusers_difftune.training.class_conditional import ClassConditionalTrainer
from tests.tiny import save_tiny_dit_pipeline

from .runs import CLASS, arguments, load_script, log, losses, run, run_on_processes, transformer


CLASSES = ["ash", "elm", "oak"]
TABLE = "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table.weight"


@pytest.fixture(scope="module")
def whole(tiny_dit: Path, tiny_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the global batch of 8 in one piece, and validation images at its end."""
    flags = "--train_batch_size 8 --validation_classes oak ash"
    return run(CLASS, tiny_dit, tiny_classes, tmp_path_factory.mktemp("whole"), flags)


def planned(dit: Path, classes: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, flags: str) -> PlannedBatches:
    """The batches of a run that stops before its first step."""
    caught = []
    monkeypatch.setattr(ClassConditionalTrainer, "train", lambda self: caught.append(self.batches))
    monkeypatch.setattr(ClassConditionalTrainer, "finish", lambda self: None)
    load_script(CLASS).main(arguments(dit, classes, folder, flags))
    return caught[0]


def tables(folder: Path) -> list[torch.Tensor]:
    weights = transformer(folder)
    return [weights[TABLE.format(block)] for block in range(2)]


def changed_rows(folder: Path, pretrained: Path) -> list[set[int]]:
    """Of each block, the rows of its class table that differ from the pretrained ones."""
    pairs = zip(tables(folder), tables(pretrained), strict=True)
    return [set((after != before).any(1).nonzero().flatten().tolist()) for after, before in pairs]


def assert_same_run(folder: Path, other: Path) -> None:
    torch.testing.assert_close(torch.tensor(losses(folder)), torch.tensor(losses(other)), atol=1e-5, rtol=1e-5)
    found, expected = transformer(folder), transformer(other)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=1e-4)


# Which row carries which class


def test_source_rows_carry_the_null_class_and_target_rows_their_own_or_sometimes_none(
    tiny_dit: Path, tiny_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = planned(tiny_dit, tiny_classes, tmp_path, monkeypatch, "--train_batch_size 20 --bank_samples 4")
    own = {"ash": 0, "elm": 1, "oak": 2}
    class_of = [own[Path(batches.target.images.stored(row)["path"]).parent.name] for row in range(6)]
    dropped = np.zeros((6, 2), dtype=int)
    for step in range(150):
        batch = batches[step]
        labels = batch.condition["class_labels"]
        assert labels.shape == (20,) and labels.dtype == torch.int64
        assert batch.is_source.sum() == 4 and (labels[batch.is_source] == NULL_CLASS).all()
        for position, label in enumerate(labels.tolist()):
            slot = batches.plan.slot(step, position)
            if not slot.is_source:
                assert label in (class_of[slot.row], NULL_CLASS)
                dropped[slot.row, int(label == NULL_CLASS)] += 1
    total, expected = dropped.sum(), 0.1 * dropped.sum()
    assert total == 150 * 16
    assert abs(dropped[:, 1].sum() - expected) < 4 * np.sqrt(0.9 * expected), "p = 0.1"
    assert (dropped > 0).all(), "any row may lose its class, and none always does"


def test_all_blocks_look_up_the_classes_of_the_batch(
    tiny_dit: Path, tiny_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up, given = [], []
    load, predict = DiTBackbone.load_denoiser, DiTBackbone.predict

    def watched(*args, **kwargs):
        model = load(*args, **kwargs)
        for block, table in enumerate(class_tables(model)):

            def note(module, args, block=block):
                assert model.training
                looked_up.append((len(given), block, args[0].tolist()))

            table.embedding_table.register_forward_pre_hook(note)
        return model

    def noted(backbone, model, sample, timesteps, condition):
        given.append(condition["class_labels"].tolist())
        return predict(backbone, model, sample, timesteps, condition)

    monkeypatch.setattr(DiTBackbone, "load_denoiser", watched)
    monkeypatch.setattr(DiTBackbone, "predict", noted)
    flags = "--train_batch_size 40 --class_dropout_prob 0.5 --bank_samples 4"
    run(CLASS, tiny_dit, tiny_classes, tmp_path, flags)
    assert len(given) == 4 and {block for _, block, _ in looked_up} == {0, 1}
    for forward, _, labels in looked_up:
        assert labels == given[forward - 1]
    assert {label for labels in given for label in labels} == {0, 1, 2, NULL_CLASS}


def test_source_rows_may_keep_their_class_if_no_new_class_has_its_row(
    tiny_dit: Path, tiny_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("0\n002\n3\ndog\n207\n")
    flags = f"--train_batch_size 10 --bank_samples 5 --bank_prompts {tmp_path / 'prompts.txt'}"
    batches = planned(tiny_dit, tiny_classes, tmp_path / "run", monkeypatch, f"{flags} --retention_prompts sampled")
    expected = {"0": NULL_CLASS, "2": NULL_CLASS, "3": 3, "7": 7, "207": 207}
    seen = {}
    for step in range(10):
        batch = batches[step]
        for position in batch.is_source.nonzero().flatten().tolist():
            sampled = batches.bank.prompt(batches.plan.slot(step, position).row)
            seen[sampled] = batch.condition["class_labels"][position].item()
    assert seen == expected


def test_without_caches_the_classes_are_the_same(
    whole: Path, tiny_dit: Path, tiny_classes: Path, tmp_path: Path
) -> None:
    assert_same_run(run(CLASS, tiny_dit, tiny_classes, tmp_path, "--train_batch_size 8 --no_cache"), whole)


# The class tables


@pytest.mark.parametrize("embeddings", ["keep", "reset"])
def test_new_classes_begin_with_what_is_asked_for(
    embeddings: str, tiny_dit: Path, tiny_classes: Path, tmp_path: Path
) -> None:
    """The moving average begins with it, too: else it would be part old rows, part new ones."""
    flags = f"--learning_rate 0 --max_train_steps 1 --bank_samples 1 --use_ema --class_embeddings {embeddings}"
    folder = run(CLASS, tiny_dit, tiny_classes, tmp_path, flags)
    assert changed_rows(folder, tiny_dit) == ([{0, 1, 2}] * 2 if embeddings == "reset" else [set()] * 2)
    before, after = transformer(tiny_dit), transformer(folder)
    assert all(torch.equal(before[name], after[name]) for name in before if "embedding_table" not in name)
    if embeddings == "reset":
        assert all(0.01 < table[:3].std() < 0.04 for table in tables(folder))


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        ("--objective standard --class_dropout_prob 0", {0, 1, 2}),
        ("--objective standard --class_dropout_prob 1", {NULL_CLASS}),
        ("--class_dropout_prob 0", {0, 1, 2, NULL_CLASS}),  # of source rows
        ("--class_dropout_prob 0 --retention_prompts sampled", {0, 1, 2, 5, 7, 207}),
    ],
)
def test_rows_that_nothing_maps_to_stay_as_they_are(
    flags: str, rows: set[int], tiny_dit: Path, tiny_classes: Path, tmp_path: Path
) -> None:
    folder = run(CLASS, tiny_dit, tiny_classes, tmp_path, f"{flags} --train_batch_size 10 --bank_samples 3")
    assert changed_rows(folder, tiny_dit) == [rows, rows]
    before, after = transformer(tiny_dit), transformer(folder)
    assert [name for name in before if torch.equal(before[name], after[name])] == []


# What is saved


def test_the_result_samples_its_classes_in_the_stock_pipeline(whole: Path, tiny_dit: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(whole)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline) is DiTPipeline and pipeline.labels == {"ash": 0, "elm": 1, "oak": 2}
    assert pipeline.transformer.config.num_embeds_ada_norm == 1000
    index = json.loads((whole / "model_index.json").read_text())
    assert index["id2label"] == {"0": "ash", "1": "elm", "2": "oak"} and index["_class_name"] == "DiTPipeline"
    for image, name in enumerate(["oak", "ash"]):  # of --validation_classes, from the noise of the seed and the place
        generator = torch.Generator().manual_seed(image)
        made = pipeline(pipeline.get_label_ids([name]), generator=generator, num_inference_steps=20).images[0]
        ours = Image.open(whole / "validation" / "step-4" / f"{image}.png")
        assert made.tobytes() == ours.convert("RGB").tobytes()
    for part in ("vae", "scheduler"):
        for path in (tiny_dit / part).iterdir():
            assert (whole / part / path.name).read_bytes() == path.read_bytes(), path


def test_a_model_saved_by_an_old_diffusers(tiny_classes: Path, tmp_path: Path) -> None:
    """As facebook/DiT-XL-2-256 is: of the class Transformer2DModel, with settings that DiT has none of, with a learned
    variance."""
    folder = save_tiny_dit_pipeline(tmp_path / "dit", learned_variance=True)
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "Transformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    more = {
        "cross_attention_dim": None,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "caption_channels": None,
    }
    more |= {"use_linear_projection": False, "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0"}
    config = json.loads((folder / "transformer/config.json").read_text()) | more
    (folder / "transformer/config.json").write_text(json.dumps(config))
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    old = (
        "_class_name",
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "clip_sample",
    )
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({name: scheduler[name] for name in old}))
    before = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")

    result = run(CLASS, folder, tiny_classes, tmp_path / "run", "--max_train_steps 1 --bank_samples 2")
    after = transformer(result)
    assert [name for name in before if "embedding_table" not in name and torch.equal(before[name], after[name])] == []
    last = after["proj_out_2.bias"] != before["proj_out_2.bias"]
    assert last.view(4, 8)[:, 4:].all(), "of the variance, too"
    pipeline = DiTPipeline.from_pretrained(result)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.transformer, DiTTransformer2DModel) and pipeline.labels["oak"] == 2
    assert pipeline([0, 2], num_inference_steps=2, output_type="np").images.shape == (2, 16, 16, 3)
    assert json.loads((result / "model_index.json").read_text())["transformer"][1] == "DiTTransformer2DModel"


def test_the_result_of_one_run_is_what_another_begins_with(
    whole: Path, tiny_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its classes are the pretrained ones then, and its knowledge bank is sampled from them."""
    batches = planned(whole, tiny_classes, tmp_path, monkeypatch, "--bank_samples 3")
    assert sorted(batches.bank.prompts()) == ["0", "1", "2"]


def test_a_bank_of_the_command_is_trained_with(tiny_dit: Path, tiny_classes: Path, tmp_path: Path) -> None:
    flags = (
        f"--pretrained_model_name_or_path {tiny_dit} --output_dir {tmp_path / 'bank'} --bank_samples 4 --bank_steps 2"
    )
    assert difftune(["bank", "build", *flags.split()]) == 0
    sampled = set(KnowledgeBank.load(tmp_path / "bank").prompts())
    assert sampled == {"5", "7", "207"}
    flags = (
        f"--knowledge_bank {tmp_path / 'bank'} --retention_prompts sampled --max_train_steps 1 --train_batch_size 20"
    )
    folder = run(CLASS, tiny_dit, tiny_classes, tmp_path / "run", f"{flags} --class_dropout_prob 0")
    assert changed_rows(folder, tiny_dit) == [{0, 1, 2, *map(int, sampled)}] * 2
    assert not (folder / "knowledge_bank").exists()


# Runs that must be the same run


def test_the_standard_objective_is_the_plain_loop(
    tiny_dit: Path, tiny_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = "--objective standard --train_batch_size 8"
    folder = run(CLASS, tiny_dit, tiny_classes, tmp_path / "run", flags)
    batches = planned(tiny_dit, tiny_classes, tmp_path / "planned", monkeypatch, flags)
    scheduler = DDIMScheduler.from_pretrained(tiny_dit, subfolder="scheduler")
    model = DiTTransformer2DModel.from_pretrained(tiny_dit, subfolder="transformer")
    for table in class_tables(model):
        table.dropout_prob = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    for step, line in enumerate(log(folder)):
        batch = batches[step]
        t = (batch.draws.uniform * 1000).long()
        x_t = scheduler.add_noise(batch.latents, batch.draws.noise, t)
        loss = F.mse_loss(model(x_t, t, batch.condition["class_labels"]).sample, batch.draws.noise)
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5) and line["loss_retention"] == 0
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in transformer(folder).items():
        torch.testing.assert_close(model.state_dict()[name], weight, atol=1e-4, rtol=1e-4)


def test_accumulation_does_not_change_the_run(whole: Path, tiny_dit: Path, tiny_classes: Path, tmp_path: Path) -> None:
    flags = "--train_batch_size 2 --gradient_accumulation_steps 4"
    assert_same_run(run(CLASS, tiny_dit, tiny_classes, tmp_path, flags), whole)


@pytest.mark.slow
def test_two_processes_are_one_run(whole: Path, tiny_dit: Path, tiny_classes: Path, tmp_path: Path) -> None:
    folder = run_on_processes(2, CLASS, tiny_dit, tiny_classes, tmp_path, "--train_batch_size 4")
    assert json.loads((folder / "run_config.json").read_text())["num_processes"] == 2
    assert_same_run(folder, whole)


def test_resuming_is_bit_identical(tiny_classes: Path, tmp_path: Path) -> None:
    dit = save_tiny_dit_pipeline(tmp_path / "dit", learned_variance=True)
    flags = "--use_ema --random_flip --gradient_accumulation_steps 2 --class_embeddings reset --max_train_steps 5"
    flags += " --checkpointing_steps 2 --lr_scheduler cosine"
    whole = run(CLASS, dit, tiny_classes, tmp_path / "whole", flags)
    DiTTransformer2DModel.from_pretrained(whole / "checkpoint-4" / "transformer")
    assert (whole / "checkpoint-4" / "transformer_ema").is_dir()
    resumed = shutil.copytree(whole, tmp_path / "resumed")
    (resumed / "checkpoint-4" / "training_state.json").unlink()  # as if killed after step 4, before its checkpoint
    run(CLASS, dit, tiny_classes, resumed, f"{flags} --resume_from_checkpoint latest")
    assert losses(resumed) == losses(whole)
    weights = [path.relative_to(whole) for path in whole.rglob("*.safetensors") if "checkpoint-2" not in path.parts]
    assert len(weights) >= 4
    for path in weights:
        tensors, expected = load_file(resumed / path), load_file(whole / path)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected), path
    averaged = load_file(whole / "checkpoint-4" / "transformer_ema" / "diffusion_pytorch_model.safetensors")
    assert not all(torch.equal(weight, averaged[name]) for name, weight in transformer(whole / "checkpoint-4").items())
    assert all((transformer(whole)[name] - averaged[name]).abs().max() < 1e-3 for name in averaged), (
        "it is what is saved"
    )
