# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong in diffusers' text-to-image scripts, and must not be in ours: a test for each defect.

Tested elsewhere: gradient clipping that clips nothing with LoRA (`test_all_trainable_weights_get_gradients_and_clipping_
clips` in `tests/training`); a push without validation prompts that fails at the very end (`tests/test_push.py`); that
several processes train as one does (`tests/training/test_equivalence.py`); time ids that disagree with cached crops
(`tests/backbones/test_stable_diffusion_xl.py`).

Not tested here because other families have them: a condition image that is not normalised (SD3's ControlNet), a final
validation that asks for a variant that was never saved (FLUX).
"""

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_difftune.training import checkpoint
from diffusers_difftune.training.batches import PlannedBatches
from diffusers_difftune.training.trainer import Trainer
from tests.tiny import save_tiny_conditions
from tests.training.runs import FULL, LORA, ROOT, arguments, load_script, log, losses, run


CONTROL = "train_controlnet_difftune"
PACKAGE = ROOT / "diffusers_difftune"


@pytest.mark.parametrize("script", [FULL, CONTROL])
@pytest.mark.parametrize("how", ["", "--no_cache", "--streaming"])
def test_columns_may_have_any_name(script: str, how: str, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Upstream writes "image" and "text" into its code after it has made flags of them."""
    images = save_tiny_conditions(tmp_path / "images")
    metadata = images / "metadata.jsonl"
    text = metadata.read_text().replace('"conditioning_image"', '"lines"')
    metadata.write_text(text.replace('"file_name"', '"drawing_file_name"').replace('"text"', '"name"'))
    flags = f"--image_column drawing --caption_column name --max_train_steps 1 {how}"
    flags += " --conditioning_image_column lines" if script == CONTROL else ""
    assert len(log(run(script, tiny_pipeline, images, tmp_path / "run", flags))) == 1


@pytest.mark.slow
def test_on_several_processes_the_schedule_ends_with_the_run_and_all_of_them_save(
    tiny_pipeline: Path, tiny_conditions: Path, tmp_path: Path
) -> None:
    """Upstream steps the schedule once per process, and saves on the main one only, where FSDP needs every process."""
    program = f"""
        import os, runpy, sys
        from pathlib import Path
        from diffusers_difftune.training.checkpoint import TrainingState
        save = TrainingState.save
        def recorded(self, step, log):
            Path(r"{tmp_path}", f"saved-{{step}}-by-{{os.environ['RANK']}}").touch()
            save(self, step, log)
        TrainingState.save = recorded
        sys.argv[0] = r"{ROOT / "training_scripts" / FULL}.py"
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    (tmp_path / "program.py").write_text("\n".join(line[8:] for line in program.splitlines()))
    flags = "--train_batch_size 3 --max_train_steps 4 --checkpointing_steps 2 --lr_scheduler linear"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [
        *launch,
        str(tmp_path / "program.py"),
        *arguments(tiny_pipeline, tiny_conditions, tmp_path / "run", flags),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "run_config.json").read_text())["num_processes"] == 2
    assert [line["lr"] for line in log(tmp_path / "run")] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert {path.name for path in tmp_path.glob("saved-*")} == {f"saved-{s}-by-{r}" for s in (2, 4) for r in (0, 1)}


def test_no_device_is_written_into_the_code() -> None:
    """Upstream validates under `torch.autocast("cuda")`, wherever it runs."""
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "training_scripts").glob("*.py")]:
        code = path.read_text()
        assert not re.search(r"autocast\(\s*(device_type=)?['\"]", code), path
        assert ".cuda(" not in code and 'to("cuda' not in code and 'device="cuda' not in code, path


@pytest.mark.parametrize("script", [FULL, LORA, CONTROL])
def test_in_half_precision_what_trains_is_float32_and_nothing_asks_for_a_gpu(
    script: str, tiny_pipeline: Path, tiny_conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream casts LoRA weights up from fp16 but not from bf16, whose steps are too coarse for small updates."""
    trained, contexts = set(), set()

    class Autocast(torch.autocast):
        def __init__(self, device_type: str, *args, **kwargs) -> None:
            contexts.add(device_type)
            super().__init__(device_type, *args, **kwargs)

    def watch(optimizer: torch.optim.Optimizer, closure: None = None) -> None:
        trained.update((p.dtype, p.grad.dtype) for group in optimizer.param_groups for p in group["params"])

    monkeypatch.setattr(torch, "autocast", Autocast)
    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    prompt = "--validation_prompts x" if script == FULL else "--validation_prompt x --num_validation_images 1"
    prompt += f" --validation_image {tiny_conditions / 'condition-00.png'}" if script == CONTROL else ""
    flags = f"--mixed_precision bf16 --max_train_steps 1 --objective standard --validation_steps 1 {prompt}"
    folder = run(script, tiny_pipeline, tiny_conditions, tmp_path, flags)
    assert trained == {(torch.float32, torch.float32)}
    assert contexts == {"cpu"}
    assert (folder / "validation" / "step-1" / "0.png").is_file()


@pytest.mark.parametrize("script", [FULL, LORA, CONTROL])
def test_the_old_checkpoint_is_there_until_the_new_one_is_written(
    script: str, tiny_pipeline: Path, tiny_conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream deletes first; a full disk then leaves nothing to resume from."""
    flags = "--checkpointing_steps 1 --checkpoints_total_limit 1 --max_train_steps 3"
    whole = run(script, tiny_pipeline, tiny_conditions, tmp_path / "whole", flags)
    assert [path.name for path in whole.glob("checkpoint-*")] == ["checkpoint-3"]

    saved = []

    def disk_is_full(*_) -> None:
        saved.append(1)
        if len(saved) == 2:
            raise OSError("No space left on device")
        save_file(*_)

    save_file = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        run(script, tiny_pipeline, tiny_conditions, tmp_path / "run", flags)
    monkeypatch.undo()
    names = [path.name for path in (tmp_path / "run").iterdir() if "checkpoint" in path.name]
    assert names == ["checkpoint-1"], "the first is still there, of the second nothing is"
    run(script, tiny_pipeline, tiny_conditions, tmp_path / "run", f"{flags} --resume_from_checkpoint latest")
    assert losses(tmp_path / "run") == losses(whole)


@pytest.mark.parametrize("script", [FULL, CONTROL])
def test_resuming_goes_on_with_the_next_batch(
    script: str, tiny_pipeline: Path, tiny_conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream begins the epoch again; its rows are then seen twice, and others never."""
    served, getitem = [], PlannedBatches.__getitem__

    def recorded(batches: PlannedBatches, index: int):
        batch = getitem(batches, index)
        served.append((index, batch.prompts))
        return batch

    monkeypatch.setattr(PlannedBatches, "__getitem__", recorded)
    # an epoch is 4 steps of 2 micro-steps; the run stops in the middle of the second
    flags = "--train_batch_size 1 --gradient_accumulation_steps 2 --checkpointing_steps 3 --max_train_steps 8"
    run(script, tiny_pipeline, tiny_conditions, tmp_path, flags)
    whole, served[:] = list(served), []
    (tmp_path / "checkpoint-6" / "training_state.json").unlink()
    run(script, tiny_pipeline, tiny_conditions, tmp_path, f"{flags} --resume_from_checkpoint latest")
    assert [index for index, _ in whole] == list(range(16))
    assert served == whole[3 * 2 :]


class Fetches(TorchDispatchMode):
    """Notes who in this package asks for the value of a tensor, which on a GPU waits for all work before it."""

    OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")
    METHODS = ("tolist", "cpu", "numpy")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.by: list[str] = []
        self.watching = False
        for name in self.METHODS:
            monkeypatch.setattr(torch.Tensor, name, self.noting(getattr(torch.Tensor, name)))

    def noting(self, method: Callable) -> Callable:
        def noted(tensor: torch.Tensor, *args, **kwargs):
            self.note()
            return method(tensor, *args, **kwargs)

        return noted

    def note(self) -> None:
        if self.watching:
            frames = [
                f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT / "diffusers_difftune")
            ]
            self.by.append(f"{Path(frames[-1].filename).stem}.{frames[-1].name}, line {frames[-1].lineno}")

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.OPERATORS or any(index is not None and index.dtype == torch.bool for index in indices):
            self.note()
        return operator(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (FULL, "--use_ema --snr_gamma 5 --noise_offset 0.1"),
        (LORA, "--retention_target pretrained --lora_dropout 0.1"),
        (CONTROL, "--retention_target pretrained --condition_kind sketch"),
    ],
)
def test_no_step_waits_for_the_device(
    script: str,
    flags: str,
    tiny_pipeline: Path,
    tiny_conditions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upstream gathers the loss and calls `.item()` on it in every step."""
    fetches = Fetches(monkeypatch)
    train, getitem = Trainer.train, PlannedBatches.__getitem__

    def watched_train(trainer: Trainer) -> None:
        with fetches:
            train(trainer)
        fetches.watching = False

    def made_on_the_cpu(batches: PlannedBatches, index: int):
        fetches.watching = False
        batch = getitem(batches, index)
        fetches.watching = True  # from the first batch on
        return batch

    monkeypatch.setattr(Trainer, "train", watched_train)
    monkeypatch.setattr(PlannedBatches, "__getitem__", made_on_the_cpu)
    # AdamW counts its steps in tensors that stay on the CPU whatever the parameters do.
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer, closure=None: None)
    load_script(script).main(arguments(tiny_pipeline, tiny_conditions, tmp_path, f"--max_train_steps 20 {flags}"))
    assert [where.split(",")[0] for where in fetches.by] == ["log.flush", "log.by_level"] * 2, fetches.by
