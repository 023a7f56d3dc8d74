# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The summary of a run in words, for a terminal."""

from typing import Any

from ..console import shortened


PRECISIONS = {"no": "float32", "fp16": "float16 (mixed)", "bf16": "bfloat16 (mixed)", "fp8": "float8 (mixed)"}
MOST_FILES = 3  # that are named


def summary_rows(summary: dict[str, Any], width: int) -> list[tuple[str, str]]:
    """The rows of [`labelled_block`].

    Args:
        summary (`dict[str, Any]`): What [`summarize`] found.
        width (`int`): Columns of the terminal; names of folders are shortened for them.

    Returns:
        `list[tuple[str, str]]`: Labels and texts.
    """
    longest = width - 20  # fits on a line beside the labels
    data = summary["data"]
    rows = [
        ("model", model_words(summary["model"], longest)),
        ("trains", trained_words(summary["model"], longest)),
        ("objective", objective_words(summary["objective"])),
        ("data", data_words(data, longest)),
        ("left out", "; ".join(data["left_out"])),
        ("captions" if "distinct_captions" in data else "classes", caption_words(data)),
        ("images", image_words(data)),
        ("steps", step_words(summary["steps"], data)),
        ("learning rate", rate_words(summary["learning_rate"], summary["steps"]["total"])),
        ("bank", bank_words(summary["bank"], longest)),
        ("saves", save_words(summary["events"])),
        (
            "validates",
            validation_words(summary["events"]["validation"], "classes" if "classes" in data else "prompts"),
        ),
        ("measures", evaluation_words(summary["events"]["evaluation"], longest)),
        ("computes", machine_words(summary["machine"])),
        ("results", result_words(summary, longest)),
    ]
    return [(label, text) for label, text in rows if text]


def model_words(model: dict[str, Any], longest: int) -> str:
    name = shortened(model["name"], longest)
    return f"{name}, {model['pipeline']}; {model['denoiser']} of {short(model['parameters'])} parameters"


def trained_words(model: dict[str, Any], longest: int) -> str:
    total, trained = model["trained_of"], model["trainable_parameters"]
    whole = f"the {model['trained']}"
    if "controlnet" in model:
        given = model["controlnet"]
        whole = f"the ControlNet {shortened(given, longest)}" if given else "a ControlNet made from the denoiser"
    if "adapter" not in model:
        average = ", with a moving average" if model["ema"] else ""
        return f"all of {whole}{average}: {counted(trained, 'parameter')}"
    what = model["adapter"]
    if model["modules"]:
        what += f" of rank {model['rank']} on {' '.join(model['modules'])}"
    if model["train_parameters"]:
        what = f"parameters named {' '.join(model['train_parameters'])}"
    part = f"{counted(trained, 'parameter')}, {percent(trained / total)} of {short(total)}"
    return f"{what}{' of ' + whole if 'controlnet' in model else ''}: {part}"


def objective_words(objective: dict[str, Any]) -> str:
    words = f"{'standard fine-tuning' if objective['name'] == 'standard' else 'Diff-Tuning'}, predicts {objective['prediction_type']}"
    if "reconsolidation_power" in objective:
        words += f"; target rows {level_words('high', 't', objective['reconsolidation_power'])}"
    if "retention_power" in objective:
        words += f", source rows {level_words('low', '(1 - t)', objective['retention_power'])}"
        words += f" with weight {objective['retention_weight']:g}"
        if objective["retention_target"] == "pretrained":
            words += ", held to the pretrained model's output"
    if objective.get("coefficients") == "weighted":
        words += "; weighted, not sampled"
    if objective["snr_gamma"] is not None:
        words += f"; min-SNR γ {objective['snr_gamma']:g}"
    return words


def level_words(end: str, base: str, power: float) -> str:
    """At which noise levels rows are trained."""
    return f"mostly at {end} noise ({base}^{power:g})" if power else "at all noise levels alike"


def data_words(data: dict[str, Any], longest: int) -> str:
    name = shortened(data["name"], longest)
    words = f"{name}, read as a stream" if data["rows"] is None else f"{counted(data['rows'], 'row')} of {name}"
    known = [file for file in data["files"] if file["rows"] is not None]
    used = sum(file["rows"] for file in known if file["used"])
    if data["rows"] is not None and data["max_train_samples"] is not None and used > data["rows"]:
        words += f", drawn from {used:,} (--max_train_samples)"
    groups: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for file in data["files"]:
        groups.setdefault((not file["used"], file["split"]), []).append(file)
    if len(data["files"]) > 1:
        parts = [
            files_words(split, files) + (", not used" if unused else "")
            for (unused, split), files in sorted(groups.items())
        ]
        words += f": {'; '.join(parts)}"
    return words


def files_words(split: str, files: list[dict[str, Any]]) -> str:
    """The rows of a split, and where they are."""
    rows = [file["rows"] for file in files]
    count = "in " if None in rows else f"{sum(rows):,} in "
    names = ", ".join(file["file"] for file in files)
    return f"{split} {count}{names if len(files) <= MOST_FILES else f'{len(files):,} files'}"


def caption_words(data: dict[str, Any]) -> str:
    if "classes" in data:
        names = ", ".join(shortened(name, 30) for name in data.get("class_names", []))
        more = " …" if data["classes"] > len(data.get("class_names", [])) else ""
        return f"{data['classes']:,}: {names}{more}" if names else f"{data['classes']:,}"
    if data.get("streamed"):
        return "of a stream, not counted; those longer than the model reads are cut"
    if "distinct_captions" not in data:
        return ""
    words = f"{data['distinct_captions']:,} distinct"
    cut = data.get("captions_cut")
    if cut is not None and cut["count"]:
        words += (
            f"; {counted(cut['count'], 'is', 'are')} cut at {cut['limit']} tokens (the longest has {cut['tokens']:,})"
        )
    elif cut is not None:
        words += f"; none is longer than the {cut['limit']} tokens that are read"
    return words


def image_words(data: dict[str, Any]) -> str:
    trained = f"at {data['resolution']} × {data['resolution']}"
    sides = data.get("image_sides")
    if sides is None:
        return trained
    if sides["smallest"] == sides["largest"]:
        words = f"from shorter sides of {sides['smallest']:,}"
    else:
        words = f"from shorter sides of {sides['smallest']:,} to {sides['largest']:,} (median {sides['median']:,})"
    if sides["enlarged"]:
        words += f"; {counted(sides['enlarged'], 'is', 'are')} smaller and enlarged"
    if sides["read"] < data["rows"]:
        words += f" (of {sides['read']:,} that were looked at)"
    return f"{trained}, {words}"


def step_words(steps: dict[str, Any], data: dict[str, Any]) -> str:
    words = f"{steps['total']:,}"
    if steps["epochs"] is not None:
        words += f" ({plain(steps['epochs'])} epochs of {counted(data['rows'], 'row')})"
    if steps["start"]:
        words += f"; {steps['start']:,} steps are done"
    split = f" ({steps['target_rows']:g} target, {steps['source_rows']:g} source)" if steps["source_rows"] else ""
    factors = [str(steps["train_batch_size"])]
    if steps["processes"] > 1:
        factors.append(f"{steps['processes']} processes")
    if steps["gradient_accumulation_steps"] > 1:
        factors.append(f"{steps['gradient_accumulation_steps']} micro-steps")
    product = f" = {' × '.join(factors)}" if len(factors) > 1 else ""
    return f"{words}; {counted(steps['rows'], 'row')} a step{product}{split}"


def rate_words(rate: dict[str, Any], total: int) -> str:
    if rate["constant"]:
        return f"{rate['first']:.3g} throughout ({rate['schedule']})"
    warmup = f" with {counted(rate['warmup_steps'], 'warm-up step')}" if rate["warmup_steps"] else ""
    return (
        f"{rate['schedule']}{warmup}: first {rate['first']:.3g}, highest {rate['highest']:.3g} (step"
        f" {rate['highest_step']:,}), last {rate['last']:.3g} (step {total:,})"
    )


def bank_words(bank: dict[str, Any] | None, longest: int) -> str:
    if bank is None:
        return "none"
    missing = bank["samples"] - bank["there"]
    how = (
        f"{bank['prompts']}, {counted(bank['steps'], 'step')} of {bank['solver']}, guidance {bank['guidance_scale']:g}"
    )
    if bank.get("distinct_prompts") is not None:
        prompts = counted(bank["distinct_prompts"], "prompt", "different prompts")
        how = f"{prompts} ({bank['prompts']}){how.removeprefix(bank['prompts'])}"
    if not missing:
        there = "that is there" if bank["samples"] == 1 else "that are there"
        return f"{counted(bank['samples'], 'sample')} {there} in {shortened(bank['folder'], longest)}; {how}"
    made = f", {bank['there']:,} of them there," if bank["there"] else ""
    told = f" (the time is told after the first {bank['batch_size']})" if bank["batch_size"] < missing else ""
    return (
        f"{counted(bank['samples'], 'sample')}{made} of {how}; to be sampled before training, about the work of"
        f" {plain(bank['as_training_steps'])} training steps{told}"
    )


def save_words(events: dict[str, Any]) -> str:
    checkpoints, limit = events["checkpoints"], events["checkpoints_total_limit"]
    if not checkpoints["times"]:
        return f"the result after the last step, no checkpoint before (--checkpointing_steps {checkpoints['every']})"
    is_resumed = checkpoints["first"] != checkpoints["every"]  # there are earlier ones
    kept = f", the newest {limit} kept" if limit is not None and (is_resumed or limit < checkpoints["times"]) else ""
    return f"a checkpoint {when(checkpoints)}{kept}; the result after the last step"


def validation_words(validation: dict[str, Any] | None, made_of: str) -> str:
    if validation is None:
        return f"no images (no validation {made_of})"
    if not validation["images"]:
        return "no images (--num_validation_images 0)"
    if not validation["times"]:
        return f"{counted(validation['images'], 'image')} after the last step, none before"
    return f"{counted(validation['images'], 'image')} {when(validation)}, and after the last step"


def evaluation_words(evaluation: dict[str, Any] | None, longest: int) -> str:
    if evaluation is None:
        return ""
    figures = "condition errors" if evaluation["name"] == "control_evaluation" else "FID, KID, precision and recall"
    between = f", {when(evaluation)}" if evaluation["times"] else ""
    return (
        f"{figures} on {counted(evaluation['samples'], 'row')} of {shortened(evaluation['data'], longest)} before the"
        f" first step{between} and after the last"
    )


def when(moments: dict[str, int]) -> str:
    """Steps at equal distances, in words."""
    first, every, times = moments["first"], moments["every"], moments["times"]
    if times == 1:
        return f"after step {first:,}"
    if first == every:
        return f"every {every:,} steps ({times:,} times)"
    return f"after step {first:,} and every {every:,} steps from there ({times:,} times)"


def machine_words(machine: dict[str, Any]) -> str:
    words = f"in {PRECISIONS.get(machine['mixed_precision'], machine['mixed_precision'])} on"
    words += f" {counted(machine['processes'], 'process', 'processes')} ({machine['device']}"
    if machine["threads"] is not None:
        words += f", {counted(machine['threads'], 'thread')}"
    if machine["distribution"] in ("FSDP", "DEEPSPEED"):
        words += f", {machine['distribution']}"
    return words + ")"


def result_words(summary: dict[str, Any], longest: int) -> str:
    words = f"{shortened(summary['output_dir'], longest)} (there, all of this in run_config.json)"
    if summary["report_to"] != "none":
        words += f"; losses also to {summary['report_to']}"
    if summary["push_to_hub"]:
        words += "; uploaded to the Hub"
    return words


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number of things."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def plain(number: float) -> str:
    """A number that is exact enough to be read."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def percent(share: float) -> str:
    """A share in two figures, or more before the point."""
    return f"{100 * share:,.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def short(count: int) -> str:
    """A large number in three figures."""
    value, units = float(count), ["", " thousand", " million", " billion"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g}{units[0]}"
