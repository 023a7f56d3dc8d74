# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What stops a run before anything expensive happens, beside `tests/test_bad_input.py`."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.stable_diffusion import StableDiffusionBackbone
from diffusers_difftune.config import DataConfig, TextToImageConfig
from diffusers_difftune.data.cache.encodings import build_image_cache
from diffusers_difftune.data.dataset import load_target_data
from diffusers_difftune.errors import DiffTuneError
from diffusers_difftune.training.folder import take_output_dir
from diffusers_difftune.training.launch import check_processes
from tests.tiny import save_tiny_images
from tests.training.runs import FULL, LORA, arguments, load_script, log, run


def test_distillation_needs_the_prediction_type_of_the_pretrained_model(tiny_pipeline, tiny_images, tmp_path, capsys):
    flags = "--retention_target pretrained --prediction_type"
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} v_prediction")
    assert "predicts, epsilon, and --prediction_type is v_prediction" in capsys.readouterr().err
    run(FULL, tiny_pipeline, tiny_images, tmp_path, f"{flags} epsilon --max_train_steps 1")


@pytest.mark.parametrize("script", [FULL, LORA])
def test_float16_is_refused_on_a_processor(script, tiny_pipeline, tiny_images, tmp_path, capsys):
    """accelerate would train a whole model in float32 there, and an adapter on float16 not at all."""
    with pytest.raises(SystemExit):
        run(script, tiny_pipeline, tiny_images, tmp_path, "--objective standard --mixed_precision fp16")
    assert "--mixed_precision is fp16" in capsys.readouterr().err


def test_a_mistake_that_a_worker_finds_is_told_in_one_line(tiny_pipeline, tmp_path, capsys):
    images = save_tiny_images(tmp_path / "images")
    (images / "05.png").write_text("not an image")
    with pytest.raises(SystemExit):
        run(
            FULL,
            tiny_pipeline,
            images,
            tmp_path / "run",
            "--objective standard --streaming --dataloader_num_workers 1",
        )
    told = capsys.readouterr().err.split("error: ")[1].strip()
    assert told.startswith("The image of row ") and told.endswith("--skip_bad_images leaves such rows out.")
    assert "\n" not in told


def test_a_stream_says_once_that_it_leaves_rows_out(tiny_pipeline, tmp_path, caplog):
    images = save_tiny_images(tmp_path / "images")
    for name in ("01.png", "04.png"):
        (images / name).write_text("not an image")
    flags = "--objective standard --streaming --skip_bad_images --max_train_steps 6"
    run(FULL, tiny_pipeline, images, tmp_path / "run", flags)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("An image of the stream cannot be used and is left out, ")
    assert said[0].endswith(
        ".png (not an image); others like it are left out without another word (--skip_bad_images)."
    )


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    """What accelerate makes of `torchrun --nproc_per_node 2` on a machine without a GPU: two runs of one process each."""
    plain = {"mixed_precision": "no", "device": torch.device("cpu")}
    accelerator = SimpleNamespace(num_processes=1, **plain)
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    check_processes(accelerator)
    monkeypatch.setenv("WORLD_SIZE", "2")  # of a cluster, in whose pods one process was started by hand
    check_processes(accelerator)
    monkeypatch.setenv("LOCAL_RANK", "0")
    check_processes(SimpleNamespace(num_processes=2, **plain))
    with pytest.raises(
        DiffTuneError, match=r"^WORLD_SIZE is 2, and each .*; set ACCELERATE_USE_CPU=true to train on processors\.$"
    ):
        check_processes(accelerator)


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".checkpoint-2.tmp").mkdir()
    (tmp_path / "validation" / ".step-2.tmp").mkdir(parents=True)
    (tmp_path / ".training_log.jsonl.123.tmp").touch()
    (tmp_path / "mine.tmp").touch()
    assert take_output_dir(TextToImageConfig(output_dir=str(tmp_path))) is None
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"mine.tmp", "validation", ".run.lock"}


@pytest.mark.parametrize("tracker", ["all", "comet_ml"])
def test_no_tracker_gets_the_token(tracker, tiny_pipeline, tiny_images, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(FULL, tiny_pipeline, tiny_images, tmp_path, f"--report_to {tracker} --hub_token hf_secret")
    assert f"--report_to {tracker} would upload --hub_token" in capsys.readouterr().err


def test_images_are_encoded_in_batches_of_so_many_pixels(tiny_pipeline, tiny_images, tmp_path, monkeypatch):
    """A GPU on which upstream's command line runs must not run out of memory while the cache is made; and how an image is
    encoded must not depend on the training batch, or it could not be found again to the last bit."""
    sizes = []

    def counted(backbone, pixel_values):  # and nothing else: attention over 512 × 512 pixels takes minutes here
        sizes.append(len(pixel_values))
        height, width = pixel_values.shape[2:]
        shape = (len(pixel_values), 4, height // 2, width // 2)
        return torch.zeros(shape), torch.ones(shape)

    monkeypatch.setattr(StableDiffusionBackbone, "encode_images", counted)
    for batch_size in (1, 4):
        flags = f"--objective standard --train_batch_size {batch_size} --max_train_steps 1"
        cache = f"--cache_dir {tmp_path / f'cache-{batch_size}'}"
        run(FULL, tiny_pipeline, tiny_images, tmp_path / f"run-{batch_size}", f"{flags} {cache}")
    assert sizes == [16, 16]
    sizes.clear()
    config = DataConfig(train_data_dir=str(tiny_images), resolution=512)
    target = load_target_data(config, 0, tmp_path)
    build_image_cache(target, load_backbone(tiny_pipeline), config, tmp_path)
    assert sizes == [4, 4]


def test_the_default_tracker_is_used_where_it_is_installed(
    tiny_pipeline, tiny_images, tmp_path, monkeypatch, caplog, capsys
):
    flags = "--objective standard --max_train_steps 1"
    words = (
        " ".join(arguments(tiny_pipeline, tiny_images, tmp_path / "run", flags))
        .replace("--report_to none", "")
        .split()
    )
    script = load_script(FULL)
    script.main(words)
    assert any((tmp_path / "run" / "logs").rglob("events*")) and "is not installed" not in caplog.text
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *_: None if name == "tensorboard" else find_spec(name)
    )
    words[words.index(str(tmp_path / "run"))] = str(tmp_path / "without")
    script.main(words)
    assert not (tmp_path / "without" / "logs").exists() and len(log(tmp_path / "without")) == 1
    assert "tensorboard, the default of --report_to, is not installed" in caplog.text
    with pytest.raises(SystemExit):
        script.main([*words, "--report_to", "tensorboard", "--overwrite_output_dir"])
    assert (
        "--report_to tensorboard needs the package tensorboard; install it with `pip install 'diffusers-difftune[tensorboard]'`"
        in (capsys.readouterr().err)
    )
