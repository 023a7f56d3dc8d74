# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Mistakes of a user, one a row: what a script says, and that it says so before any weights are loaded.

What can be wrong with target data, knowledge banks and YAML files is tested in depth in `tests/data`, `tests/bank` and
`tests/config/test_flags.py`; here each kind comes once, through a script. That `--skip_bad_images` goes on is in
`tests/test_flags_effect.py`, what is said of `--push_to_hub` in `tests/test_push.py`. The rows of the ControlNet script
are in `tests/control_mistakes.py`, those of the class-conditional one in `tests/class_mistakes.py`, those about measuring
in `tests/evaluation_mistakes.py`, and those about models that are damaged or hostile in `tests/hostile_models.py`.
"""

import importlib.util
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pytest
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from tests import class_mistakes, control_mistakes, evaluation_mistakes, hostile_models
from tests.tiny import (
    save_tiny_classes,
    save_tiny_conditions,
    save_tiny_dit_pipeline,
    save_tiny_images,
    save_tiny_pipeline,
)
from tests.training.runs import CLASS, FULL, LORA, load_script, run


CONTROL = "train_controlnet_difftune"
LOAD_WEIGHTS = (
    *(AutoencoderKL, CLIPTextModel, ControlNetModel, UNet2DConditionModel, StableDiffusionPipeline),
    *(DiTTransformer2DModel, DiTPipeline),
)
ABSENT = ("bitsandbytes", "xformers", "wandb", "mlflow")  # packages, wherever these tests run


class Place:
    """What rows are made of; `folder` is a new one for each row."""

    def __init__(self, folder: Path, shared: Path, pipeline: Path, images: Path) -> None:
        self.folder, self.shared, self.pipeline, self.images = folder, shared, pipeline, images

    def copy(self, source: Path, name: str = "copy") -> Path:
        return shutil.copytree(source, self.folder / name)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder that all rows may read."""
        if not (self.shared / name).exists():
            make(self.shared / name)
        return self.shared / name

    @cached_property
    def finished(self) -> Path:
        """The folder of a run of two steps, with a checkpoint and a bank of eight samples in two shards."""
        flags = "--max_train_steps 2 --checkpointing_steps 2 --bank_samples 8"
        return self.once("finished", lambda folder: run(FULL, self.pipeline, self.images, folder, flags))

    @property
    def conditions(self) -> Path:
        return self.once("conditions", save_tiny_conditions)

    @property
    def many(self) -> Path:
        """Enough images to measure by."""
        return self.once("many", lambda folder: save_tiny_images(folder, 9))

    @property
    def dit(self) -> Path:
        return self.once("dit", save_tiny_dit_pipeline)

    @property
    def classes(self) -> Path:
        return self.once("classes", save_tiny_classes)

    @property
    def bank(self) -> Path:
        return self.finished / "knowledge_bank"

    @property
    def other_pipeline(self) -> Path:
        return self.once("other-pipeline", lambda folder: save_tiny_pipeline(folder, seed=1))

    def edited(self, file: str, **values: object) -> Path:
        """A copy of the pipeline with other values in one of its configs."""
        copy = self.copy(self.pipeline)
        config = json.loads((copy / file).read_text())
        (copy / file).write_text(json.dumps(config | values))
        return copy


def without(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def written(path: Path, content: str | bytes = "") -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def damaged_images(place: Place) -> Path:
    folder = save_tiny_images(place.folder / "images", 5)
    content = (folder / "01.png").read_bytes()
    written(folder / "01.png", content[: len(content) // 2])
    written(folder / "03.png", "not an image")
    return without(folder, "04.png")


def half_built(place: Place) -> Path:
    folder = without(place.copy(place.bank), "data/shard-00001.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    written(folder / "manifest.json", json.dumps(manifest | {"shards": {}}))
    return folder


def damaged_bank(place: Place) -> Path:
    folder = place.copy(place.bank)
    shard = folder / "data/shard-00001.parquet"
    written(shard, shard.read_bytes()[:-1] + b"?")
    return folder


def damaged_checkpoint(place: Place) -> Path:
    folder = place.copy(place.finished / "checkpoint-2")
    written(folder / "training_state.json", '{"step": 2, "sett')
    return folder


MODEL, DATA, OUT, BANK, RESUME = (
    *("pretrained_model_name_or_path", "train_data_dir", "output_dir", "knowledge_bank", "resume_from_checkpoint"),
)

# What is wrong: the flags that make it so (a dictionary, or a function of the place that returns one; None leaves a
# flag out), what the script says, and the script if it is not the one of full fine-tuning.
ROWS: dict[str, tuple] = {
    # flags
    "no model": ({MODEL: None}, "--pretrained_model_name_or_path is missing; give a .*"),
    "no data": ({DATA: None}, "There is no data to train on; give --dataset_name or --train_data_dir"),
    "unknown flag": ({"learning_rte": 1}, "Unrecognized arguments: --learning_rte 1"),
    "another script's flag": ({"control_evaluation_steps": 4}, "Unrecognized arguments: --control_evaluation_steps 4"),
    "not a number": ({"seed": "many"}, "Argument --seed: invalid int value: 'many'"),
    "unknown choice": ({"objective": "tuned"}, "Argument --objective: invalid choice: 'tuned' .*"),
    "unknown key in YAML": (
        lambda place: {"config": written(place.folder / "run.yaml", "learning_rte: 1\n")},
        "--config .*/run.yaml sets learning_rte, which this script has no flag for",
    ),
    "share of 1": ({"source_share": 1.0}, "--source_share is 1.0; it must be at least 0 and below 1"),
    "negative share": ({"source_share": -0.2}, "--source_share is -0.2; it must be at least 0 and below 1"),
    "negative weight": ({"retention_weight": -1.0}, "--retention_weight is -1.0; it must be at least 0"),
    "weight that is no number": (
        {"retention_weight": "nan"},
        "--retention_weight is nan; it must be a finite number",
    ),
    "infinite learning rate": ({"learning_rate": "inf"}, "--learning_rate is inf; it must be a finite number"),
    "negative power": (
        {"reconsolidation_power": -1.0},
        "--reconsolidation_power is -1.0; it must be at least 0",
    ),
    "negative power of retention": (
        {"retention_power": -0.5},
        "--retention_power is -0.5; it must be at least 0",
    ),
    "no rows in a batch": ({"train_batch_size": 0}, "--train_batch_size is 0; it must be at least 1"),
    "negative epsilon": ({"adam_epsilon": -1.0}, "--adam_epsilon is -1.0; it must be at least 0"),
    "negative seed": ({"seed": -1}, "--seed is -1; it must be at least 0 and below 2\\*\\*32"),
    "guidance below 1": ({"bank_guidance_scale": 0.5}, "--bank_guidance_scale is 0.5; it must be at least 1.0"),
    "unknown schedule": ({"lr_scheduler": "cubic"}, "--lr_scheduler is 'cubic'; it must be one of linear, .*"),
    "unknown prediction type": ({"prediction_type": "x"}, "--prediction_type is 'x'; it must be one of epsilon, .*"),
    "no scale of LoRA": ({"lora_alpha": 0.0}, "--lora_alpha is 0.0; it must be above 0", LORA),
    # conflicts
    "bank for standard fine-tuning": (
        lambda place: {BANK: place.bank, "objective": "standard"},
        "--knowledge_bank has no use with --objective standard; leave one of them out",
    ),
    "bank without source rows": (
        lambda place: {BANK: place.bank, "source_share": 0},
        "--knowledge_bank has no use with --source_share 0; leave one of them out",
    ),
    "distillation without source rows": (
        {"retention_target": "pretrained", "source_share": 0},
        "--retention_target pretrained needs source rows; .*",
    ),
    "stream without an end": (
        {"streaming": True, "max_train_steps": None},
        "--streaming does not know how long an epoch is; give --max_train_steps",
    ),
    "token into wandb": (
        {"report_to": "wandb", "hub_token": "hf_secret"},
        "--report_to wandb would upload --hub_token with the settings; .*",
    ),
    "dream with velocity": (
        {"dream_training": True, "prediction_type": "v_prediction"},
        "--dream_training works for models that predict epsilon; this one predicts v_prediction",
    ),
    "dream with a velocity model": (
        lambda place: {"dream_training": True, MODEL: place.edited(SCHEDULER, prediction_type="v_prediction")},
        "--dream_training works for models that predict epsilon; this one predicts v_prediction",
    ),
    # the Hub
    "push without a token": (
        {"push_to_hub": True},
        "--push_to_hub: there is no Hub token here; log in with `hf auth login` or give --hub_token",
    ),
    "name the Hub does not take": (
        {"push_to_hub": True, "hub_token": "hf_x", "hub_model_id": "a name!"},
        "--push_to_hub: 'a name!' is not a name the Hub takes .*; give another one as --hub_model_id",
    ),
    "strategy without a push": (
        {"hub_strategy": "every_save"},
        "--hub_strategy needs --push_to_hub, because it says when to upload",
    ),
    # packages and the machine
    "no 8-bit Adam": ({"use_8bit_adam": True}, "--use_8bit_adam needs the package bitsandbytes; install it with .*"),
    "no xformers": (
        {"enable_xformers_memory_efficient_attention": True},
        "--enable_xformers_memory_efficient_attention needs the package xformers; install it with .*",
    ),
    "no wandb": ({"report_to": "wandb"}, "--report_to wandb needs the package wandb; install it with .*"),
    "no mlflow": ({"report_to": "mlflow"}, "--report_to mlflow needs the package mlflow; install it with .*"),
    "unknown tracker": ({"report_to": "paper"}, "--report_to is 'paper'; it must be one of all, none, .*"),
    "result where a file is": (
        lambda place: {OUT: written(place.folder / "file")},
        "--output_dir [^ ]*/file is a file; choose a folder you can write to",
    ),
    "result below a file": (
        lambda place: {OUT: written(place.folder / "file") / "run"},
        "--output_dir .*/file/run: .*/file is a file; choose a folder you can write to",
    ),
    "result where nothing can be written": (
        lambda place: {OUT: unwritable(place.folder)},
        "--output_dir .*/run: .* cannot be written to.*; choose a folder you can write to",
    ),
    # the model
    "folder without a pipeline": (
        lambda place: {MODEL: place.images},
        f"--{MODEL}: there is no model_index.json in .*",
    ),
    "damaged index": (
        lambda place: {MODEL: written(place.copy(place.pipeline) / "model_index.json", "{").parent},
        f"--{MODEL}: .*/model_index.json .*",
    ),
    "a scheduler of another kind": (
        lambda place: {
            MODEL: place.edited("model_index.json", scheduler=["diffusers", "EDMDPMSolverMultistepScheduler"])
        },
        f"--{MODEL}: the scheduler of .* is .EDMDPMSolverMultistepScheduler., whose noise levels are not those of DDPM .*; give .*",
    ),
    "a model for inpainting": (
        lambda place: {MODEL: place.edited("unet/config.json", in_channels=9)},
        f"--{MODEL}: the unet of .* has in_channels 9 and needs 4, as many as the latents of its vae .*",
    ),
    "unsupported pipeline": (
        lambda place: {MODEL: place.edited("model_index.json", _class_name="UnCLIPPipeline")},
        f"--{MODEL}: the pipeline is a UnCLIPPipeline; supported pipelines are StableDiffusionPipeline, .*DiTPipeline",
    ),
    "model that is nowhere": (
        {MODEL: "user/nowhere"},
        f"--{MODEL}: user/nowhere is neither a folder with a pipeline nor a model that can be had from the Hub: .*",
    ),
    "model without a part": (
        lambda place: {MODEL: without(place.copy(place.pipeline), "vae")},
        f"--{MODEL}: .*vae.*",
    ),
    "model without its scheduler": (
        lambda place: {MODEL: without(place.copy(place.pipeline), "scheduler")},
        f"--{MODEL}: .*scheduler.*",
    ),
    "model without weights": (
        lambda place: {MODEL: without(place.copy(place.pipeline), "unet/diffusion_pytorch_model.safetensors")},
        f"--{MODEL}: .*/unet has no weights.*",
    ),
    "variant that is not there": ({"variant": "fp16"}, f"--{MODEL}: .* has no weights of the variant fp16"),
    "unknown prediction type of the scheduler": (
        lambda place: {MODEL: place.edited(SCHEDULER, prediction_type="noise")},
        f"--{MODEL}: the DDPMScheduler of .* has prediction_type 'noise', and that scheduler samples from models of .*",
    ),
    "resolution not divisible": ({"resolution": 17}, "--resolution is 17; .* needs a multiple of 2, such as 16 or 18"),
    # target data
    "missing folder": (
        lambda place: {DATA: place.folder / "nowhere"},
        "--train_data_dir: there is no folder .*/nowhere",
    ),
    "empty folder": (
        lambda place: {DATA: place.folder},
        "--train_data_dir: .* has no metadata.jsonl, .* nothing at all; .*",
    ),
    "missing dataset": (
        {DATA: None, "dataset_name": "user/nowhere"},
        "--dataset_name: user/nowhere cannot be loaded: .*",
    ),
    "missing column": (
        {"caption_column": "title"},
        "--caption_column: .*/metadata.jsonl has no column title; the columns are file_name, text",
    ),
    "damaged images": (
        lambda place: {DATA: damaged_images(place)},
        "--train_data_dir: 3 of 5 images cannot be read: row 1 01.png .*, row 3 03.png .*, row 4 04.png "
        r"\(no such file .*/04.png\); repair or remove them, or leave them out with --skip_bad_images",
    ),
    "captions missing": (
        lambda place: {DATA: save_tiny_images(place.folder / "images", 4, captions=["a", "", None, [" "]])},
        "--caption_column: 3 of 4 rows have an empty caption or none in the column text: row 1 .*, row 2 .*, row 3 .*",
    ),
    "damaged images in a stream": (
        lambda place: {DATA: without(save_tiny_images(place.folder / "images", 2), "00.png"), "streaming": True},
        "The image of row 0 of the stream cannot be read .no such file .*/00.png.; --skip_bad_images leaves such rows out",
    ),
    # the knowledge bank
    "bank that is nowhere": (
        {BANK: "user/nowhere"},
        "--knowledge_bank: user/nowhere is neither a folder nor a knowledge bank that can be had from the Hub: .*",
    ),
    "no bank": (
        lambda place: {BANK: place.images},
        ".* is not a knowledge bank: it has no manifest.json",
    ),
    "bank of other weights": (
        lambda place: {BANK: place.bank, MODEL: place.other_pipeline},
        "--knowledge_bank: the bank in .* was sampled from other weights than the model's .*; build one from this model",
    ),
    "bank of another resolution": (
        lambda place: {BANK: place.bank, "resolution": 8},
        r"--knowledge_bank: .* has latents of \[4, 8, 8\] \(images of 16 pixels\), and training needs \[4, 4, 4\]; .*",
    ),
    "half-built bank": (
        lambda place: {BANK: half_built(place)},
        r"--knowledge_bank: the bank in .* is half built \(4 of 8 samples\); run the command that began it once more",
    ),
    "damaged bank": (
        lambda place: {BANK: damaged_bank(place)},
        "--knowledge_bank: the bank in .* is damaged: data/shard-00001.parquet is missing or is not what was written; .*",
    ),
    "no file of prompts": (
        {"bank_prompts": "nowhere.txt"},
        "--bank_prompts: there is no file 'nowhere.txt'; .*",
    ),
    # checkpoints
    "missing checkpoint": (
        lambda place: {OUT: place.finished, RESUME: "checkpoint-9"},
        "--resume_from_checkpoint checkpoint-9 is not a complete checkpoint; those in .*: checkpoint-2",
    ),
    "damaged checkpoint": (
        lambda place: {RESUME: damaged_checkpoint(place)},
        "--resume_from_checkpoint: .* is damaged: training_state.json is missing or damaged; resume from another one",
    ),
    "checkpoint of another run": (
        lambda place: {RESUME: place.finished / "checkpoint-2", "snr_gamma": 5.0, "seed": 1},
        "--resume_from_checkpoint .* belongs to another run: .*seed was 0 and is 1.*; use the same settings or .*",
    ),
    "checkpoint of the other script": (
        lambda place: {RESUME: place.finished / "checkpoint-2"},
        "--resume_from_checkpoint .* belongs to another run: .*; use the same settings or .*",
        LORA,
    ),
    # adapters
    "unknown LoRA modules": (
        {"lora_target_modules": ["to_q", "to_nowhere"]},
        "--lora_target_modules to_q to_nowhere: there is no module to_nowhere in the unet",
        LORA,
    ),
    "modules that LoRA cannot adapt": (
        {"lora_target_modules": ["conv_act"]},
        "--lora_target_modules conv_act: the unet's conv_act is of the class SiLU, and lora is for Linear and Conv2d; name"
        " such layers in place of conv_act",
        LORA,
    ),
    "modules in place of the layers in them": (
        {"adapter": "loha", "lora_target_modules": ["to_q", "to_out"]},
        "--lora_target_modules to_q to_out: the unet's .*to_out is of the class ModuleList, and loha is for Linear and"
        " Conv2d; name to_out.0 in place of to_out",
    ),
    "unknown kind of adapter": ({"adapter": "prefix"}, "Argument --adapter: invalid choice: 'prefix' .*"),
    "rank without an adapter": (
        {"rank": 4},
        "--rank needs --adapter; it is a setting of lora, dora, loha, lokr, oft, boft",
    ),
    "rank of BitFit": (
        {"adapter": "bitfit", "rank": 8},
        "--rank has no use with --adapter bitfit; it is a setting of lora, .*",
        LORA,
    ),
    "alpha of OFT": (
        {"adapter": "oft", "lora_alpha": 8.0},
        "--lora_alpha has no use with --adapter oft; it is a setting of lora, dora, loha, lokr",
    ),
    "dropout of OFT": (
        {"adapter": "oft", "lora_dropout": 0.1},
        "--lora_dropout has no use with --adapter oft; it is a setting of lora, dora",
    ),
    "modules of DiffFit": (
        {"adapter": "difffit", "lora_target_modules": ["to_q"]},
        "--lora_target_modules has no use with --adapter difffit; it is a setting of lora, .*",
    ),
    "blocks that OFT cannot make": (
        {"adapter": "oft", "rank": 3},
        "--adapter oft: blocks of 3 do not divide the 8 inputs of .*to_q; give a --rank that does",
    ),
    "blocks that BOFT cannot make": (
        {"adapter": "boft", "rank": 3},
        "--adapter boft: a boft of rank 3 cannot be had there: .*divisible.*",
    ),
    "parameters that are not there": (
        {"train_parameters": ["*.attn1.*", "attn9"]},
        "--train_parameters .*: none of the [0-9]+ parameters of the unet has a name like attn9; the first is conv_in.weight",
    ),
    "parameters and an adapter": (
        {"train_parameters": ["*.bias"], "adapter": "lora"},
        "--train_parameters says what trains, and so does --adapter lora; leave one of them out",
    ),
    "parameters and the adapter of the LoRA script": (
        {"train_parameters": ["*.bias"]},
        "--train_parameters says what trains, and so does --adapter lora, which .* not have by default; leave one of .*",
        LORA,
    ),
    "moving average of an adapter": (
        {"adapter": "difffit", "use_ema": True},
        "--use_ema averages a model of which all weights train; leave it out with --adapter difffit",
    ),
    "moving average of some parameters": (
        {"train_parameters": ["*.bias"], "use_ema": True},
        "--use_ema averages a model of which all weights train; leave it out with --train_parameters",
    ),
    "adapter on weights that are not the pipeline's": (
        {MODEL: "user/nowhere", "adapter": "lora", "non_ema_revision": "v2"},
        "--non_ema_revision trains from other weights than the pipeline's own, on which what --adapter lora trains .*",
    ),
    "checkpoint of another adapter": (
        lambda place: {RESUME: place.finished / "checkpoint-2", "adapter": "lora"},
        "--resume_from_checkpoint .* belongs to another run: .*--adapter was not given and is lora; use the same settings or .*",
    ),
}
ROWS |= {f"hostile model, {name}": row for name, row in hostile_models.ROWS.items()}
ROWS |= {f"measuring, {name}": row for name, row in evaluation_mistakes.ROWS.items()}
ROWS |= {
    f"class-conditional model in {script}": (
        lambda place: {MODEL: place.dit},
        f"--{MODEL} is a DiTPipeline, which is conditioned on classes; this script trains models that are conditioned on"
        " prompts",
        script,
    )
    for script in (FULL, LORA, CONTROL)
}
ROWS |= {f"classes, {name}": (*row, CLASS) for name, row in class_mistakes.ROWS.items()}
ROWS |= {f"ControlNet, {name}": (*row, CONTROL) for name, row in control_mistakes.ROWS.items()}
SCHEDULER = "scheduler/scheduler_config.json"


def unwritable(folder: Path) -> Path:
    """A place in a folder that nobody may write to; for root, who may write anywhere, in one of the kernel's."""
    if os.geteuid() == 0:
        return Path("/proc/self/run")
    (folder / "locked").mkdir(mode=0o500)
    return folder / "locked" / "run"


def arguments(given: dict) -> list[str]:
    """A command line; `None` leaves a flag out."""
    argv = []
    for flag, value in given.items():
        values = value if isinstance(value, list) else [value]
        argv += [] if value is None else [f"--{flag}"] if value is True else [f"--{flag}", *map(str, values)]
    return argv


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad-input")


@pytest.fixture
def place(tmp_path: Path, shared: Path, tiny_pipeline: Path, tiny_images: Path) -> Place:
    return Place(tmp_path, shared, tiny_pipeline, tiny_images)


def flags(place: Place, given: dict) -> dict:
    """Those of a short run, and what is given in their place."""
    defaults = {
        MODEL: place.pipeline,
        DATA: place.images,
        OUT: place.folder / "run",
        "resolution": 16,
        "max_train_steps": 4,
        "train_batch_size": 4,
        "bank_steps": 2,
        "seed": 0,
        "report_to": "none",
    }
    return defaults | given


def the_sentence(stderr: str) -> str:
    """The one line of a mistake, without what marks it as one."""
    told = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, stderr[-3000:]
    sentence = told[0].removeprefix("error: ")
    assert sentence.endswith(".") and not re.search(r"[.!?] [A-Z]", sentence.removesuffix(".")), sentence
    return sentence.removesuffix(".")


@pytest.mark.parametrize("case", ROWS)
def test_a_mistake_is_told_in_one_sentence_before_weights_are_loaded(
    case: str, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given, said, script = (*ROWS[case], FULL)[:3]
    given = given(place) if callable(given) else given
    if script == CONTROL:
        given = {DATA: place.conditions} | given
    if script == CLASS:
        given = {MODEL: place.dit, DATA: place.classes} | given

    def load(cls: type, *_, **__) -> None:
        raise AssertionError(f"the weights of {cls.__name__} were loaded")

    for model in LOAD_WEIGHTS:
        monkeypatch.setattr(model, "from_pretrained", classmethod(load))
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in ABSENT else there(name, *rest)
    )
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        load_script(script).main(arguments(flags(place, given)))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    assert re.fullmatch(said, the_sentence(captured.err)), captured.err
    assert not list(place.folder.glob("run/[!.]*")), "nothing was begun"  # but for the lock of a run
    assert not (place.folder / "ran").exists(), "code of the model ran"


def test_what_must_not_be_unpickled_would_have_been_noticed(place: Place) -> None:
    pickle.loads(hostile_models.evil(place))
    assert (place.folder / "ran").exists()
