# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""`difftune evaluate`"""

import argparse
import json
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..config import ClassConditionalConfig, DataConfig, ModelConfig, RunConfig
from ..errors import DiffTuneError
from .common import machine, new_accelerator, open_pipeline, show_log, show_summary
from .flags import DATA_FLAGS, add_flags, add_sampling_flags
from .results import check_is_free, labelled


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ..backbones import Backbone
    from ..data.dataset import TargetData
    from ..evaluation.clip_score import ClipScore
    from ..evaluation.sample_quality import Measurement

EVALUATE = """\
How near are the samples of pipelines to real images? Samples each PIPELINE for the captions of held-out DATA (a
class-conditional one for their classes), all from the same noise, and compares as many samples as real images by FID,
KID, precision and recall, and samples with captions by the CLIP score. Beside every figure is its floor: what real images
score against other real images. docs/evaluation.md says what the figures mean.
"""
MOST_IMAGES = 1000  # if --num_images is not given
SHOWN = 8  # samples in a row of the picture


def add_parser(rooms: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `evaluate`."""
    parser = rooms.add_parser(
        "evaluate",
        help="how near samples are to real images",
        usage="difftune evaluate PIPELINE [PIPELINE ...] DATA [flags]",
        description=EVALUATE,
        allow_abbrev=False,
    )
    parser.add_argument("pipelines", metavar="PIPELINE", nargs="+", help="A pipeline's folder, or its id on the Hub.")
    parser.add_argument(
        "data", metavar="DATA", help="Held-out images: what --train_data_dir or --dataset_name of training takes."
    )
    parser.add_argument("--pretrained", metavar="PIPELINE", help="Measure this pipeline, too, without an adapter.")
    parser.add_argument("--adapter", metavar="PATH", help="What was trained on PIPELINE (on each): a run's folder.")
    parser.add_argument(
        "--prompts",
        default="captions",
        help="What to sample: captions (of the rows that samples are compared with; for a class-conditional pipeline"
        " their classes), empty, a text file with one prompt a line, or DATASET#COLUMN. Default: captions.",
    )
    parser.add_argument(
        "--num_images",
        type=int,
        help="Images to sample, and real ones to compare them with. Default: as many as DATA has, at most"
        f" {MOST_IMAGES}.",
    )
    parser.add_argument(
        "--clip_model",
        default="openai/clip-vit-large-patch14",
        help="The model of the CLIP score: a folder or an id on the Hub; none leaves the score out. Default:"
        " openai/clip-vit-large-patch14.",
    )
    parser.add_argument(
        "--resolution", type=int, help="Side of the images in pixels. Default: the first pipeline's own."
    )
    add_sampling_flags(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("evaluation.json"),
        help="Where the figures go, and beside them a picture of the first samples. Default: evaluation.json.",
    )
    add_flags(parser, DataConfig, "caption_column", *DATA_FLAGS)
    add_flags(parser, ClassConditionalConfig, "label_column")
    add_flags(parser, ModelConfig, "revision", "variant", "cache_dir")
    add_flags(parser, RunConfig, "mixed_precision", "hub_token")
    parser.set_defaults(run=evaluate)


@dataclass
class Candidate:
    """A pipeline to measure, and what to put on it.

    Attributes:
        name (`str`): What the command line calls it.
        backbone ([`Backbone`]): The pipeline.
        adapter (`str`, *optional*): The adapter.
        adapter_folder (`Path`, *optional*): Where it is; one on the Hub was downloaded to there.
        class_ids (`dict[str, int]`, *optional*): The classes by their names, of a class-conditional pipeline.
        prompts (`list[str]`): What to sample.
        is_baseline (`bool`): Whether it is there for comparison, and may lack the classes of the data.
    """

    name: str
    backbone: "Backbone"
    adapter: str | None = None
    adapter_folder: Path | None = None
    class_ids: dict[str, int] | None = None
    prompts: list[str] = field(default_factory=list)
    is_baseline: bool = False

    @property
    def label(self) -> str:
        return labelled(self.name, self.adapter)


def evaluate(arguments: argparse.Namespace) -> int:
    """`difftune evaluate`"""
    check_arguments(arguments)
    candidates = find_candidates(arguments)

    import torch

    from ..evaluation.contact_sheet import contact_sheet
    from ..evaluation.kid_difference import kid_difference
    from .evaluate_table import table

    accelerator = new_accelerator(arguments.mixed_precision)
    show_log(accelerator)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    measurement, facts, real_images, titles = make_measurement(arguments, candidates, accelerator)
    facts["precision"] = str(dtype).removeprefix("torch.")
    check_is_free("--output", arguments.output, facts, [candidate.label for candidate in candidates])
    found: list[dict[str, Any]] = []
    of_first: torch.Tensor | None = None
    pictures = {"real images": real_images}
    for candidate in candidates:
        pipeline = load_pipeline(candidate, accelerator.device, dtype)
        measured = measurement.measure(pipeline, candidate.prompts, candidate.label)
        del pipeline  # before the next one is loaded
        found.append(of_candidate(candidate) | measured.figures)
        if of_first is None:
            of_first = measured.features
        else:
            difference, error = kid_difference(measurement.real.features, measured.features, of_first)
            found[-1] |= {"kid_difference": difference, "kid_difference_standard_error": error}
        pictures[candidate.label] = measured.images[:SHOWN]
        write_results(arguments, {"settings": facts, "results": found}, contact_sheet(pictures, titles))
    print(table([candidate.label for candidate in candidates], found, facts))
    print(f"The figures are in {arguments.output}, and the first samples in {picture(arguments)}.")
    return 0


def of_candidate(candidate: Candidate) -> dict[str, Any]:
    """What was measured, for the record."""
    from ..backbones.fingerprint import hub_commit

    return {
        "pipeline": candidate.name,
        "commit": hub_commit(candidate.backbone.folder),
        "adapter": candidate.adapter,
        "without_class": not any(candidate.prompts),
    }


def picture(arguments: argparse.Namespace) -> Path:
    """Where the picture of samples goes."""
    return arguments.output.with_suffix(".png")


def write_results(arguments: argparse.Namespace, content: dict[str, Any], sheet: bytes) -> None:
    """Writes the figures, and the picture beside them."""
    from ..io.atomic import write_bytes_atomic

    try:
        write_bytes_atomic(arguments.output, (json.dumps(content, indent=2) + "\n").encode())
        write_bytes_atomic(picture(arguments), sheet)
    except OSError as error:
        raise unwritable(arguments, error) from error


def unwritable(arguments: argparse.Namespace, error: OSError) -> DiffTuneError:
    """What is said of an `--output` that the system does not write."""
    return DiffTuneError(
        f"--output {arguments.output} cannot be written: {error.strerror}; name a file in a folder that you can write to"
        " and that has room."
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Stops on the first flag that cannot work."""
    for name, least in (("num_images", 8), ("steps", 1), ("resolution", 1), ("batch_size", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise DiffTuneError(f"--{name} is {value}; it must be at least {least}.")
    if not 1 <= arguments.guidance_scale < math.inf:
        raise DiffTuneError(f"--guidance_scale is {arguments.guidance_scale}; it must be at least 1.0 and finite.")
    if arguments.output.suffix != ".json":
        raise DiffTuneError(f"--output is {arguments.output}; it must be the name of a .json file.")
    check_output(arguments)


def check_output(arguments: argparse.Namespace) -> None:
    """Stops if what is found after hours of sampling could not be written."""
    folder = arguments.output.absolute().parent
    if not folder.is_dir():
        raise DiffTuneError(f"--output {arguments.output} cannot be written, because its folder does not exist.")
    try:  # to write there: permissions alone do not tell, least of all the administrator
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{arguments.output.name}."):
            pass
        for file in (arguments.output, picture(arguments)):
            if file.is_dir():
                raise DiffTuneError(f"--output {arguments.output} cannot be written, because {file} is a folder.")
    except OSError as error:
        raise unwritable(arguments, error) from error


def find_candidates(arguments: argparse.Namespace) -> list[Candidate]:
    """The pipelines to measure, by their configs, and the adapter, if it fits; loads no weights."""
    from ..evaluation.finetuned import open_finetuned

    named = [(name, "PIPELINE", arguments.adapter) for name in arguments.pipelines]
    if arguments.pretrained is not None:
        named.insert(0, (arguments.pretrained, "--pretrained", None))
    candidates = []
    for name, flag, adapter in named:
        with errors.flag(flag):
            backbone = open_pipeline(name, arguments.revision, arguments, arguments.resolution)
        candidate = Candidate(
            name, backbone, adapter, class_ids=class_ids(backbone), is_baseline=flag == "--pretrained"
        )
        if adapter is not None:
            with errors.flag("--adapter"):
                finetuned = open_finetuned(backbone, adapter, arguments.cache_dir, arguments.hub_token)
            if finetuned.num_trained is None:
                raise DiffTuneError(f"--adapter {adapter} is no adapter; name a whole pipeline as PIPELINE.")
            candidate.adapter_folder = finetuned.folder
            candidate.class_ids = finetuned.class_ids or candidate.class_ids
        candidates.append(candidate)
    if len({candidate.class_ids is None for candidate in candidates}) > 1:
        raise DiffTuneError("Some of the pipelines are class-conditional and some take text; compare them separately.")
    return candidates


def class_ids(backbone: "Backbone") -> dict[str, int] | None:
    """The classes of a pipeline by their names, of which one may have several; `None` if it takes text."""
    return backbone.classes.ids if backbone.classes else None


def find_resolution(arguments: argparse.Namespace, candidates: list[Candidate]) -> int:
    """The size of images that all pipelines are to make."""
    resolution = arguments.resolution or candidates[0].backbone.native_resolution
    for candidate in candidates:
        candidate.backbone.image_side(resolution)
    return resolution


def make_measurement(
    arguments: argparse.Namespace, candidates: list[Candidate], accelerator: "Accelerator"
) -> tuple["Measurement", dict[str, Any], "torch.Tensor", list[str]]:
    """What measures, the facts that go beside the figures, and some real images with their titles, to be shown.

    Gives the pipelines their prompts and loads none of them.
    """
    from ..evaluation.features import make_features
    from ..evaluation.real_images import drawn_rows, read_images
    from ..evaluation.sample_quality import Measurement
    from .data import open_data

    resolution, first, device = find_resolution(arguments, candidates), candidates[0].backbone, accelerator.device
    data = open_data(arguments, "DATA", arguments.data, first)
    count = arguments.num_images or min(len(data), MOST_IMAGES)
    if count > len(data):
        raise DiffTuneError(
            f"--num_images is {count}, and {arguments.data} has {len(data)} rows; give at most as many."
        )
    show_summary(
        accelerator,
        [
            ("pipelines", ", ".join(candidate.label for candidate in candidates)),
            (
                "samples",
                f"{count:,} of each, {resolution} × {resolution} pixels, {arguments.steps} steps, guidance"
                f" {arguments.guidance_scale:g}",
            ),
            ("compared", f"with as many of {len(data):,} images of {arguments.data}, by {arguments.features}"),
            ("computes", machine(accelerator)),
            ("result", str(arguments.output)),
        ],
    )
    rows = drawn_rows(data, len(data))
    for candidate in candidates:
        candidate.prompts = find_prompts(arguments, candidate, data, rows[:count])
    others = None
    if arguments.floor_data is not None:
        more = open_data(arguments, "--floor_data", arguments.floor_data, first)
        others = read_images(more, drawn_rows(more, min(count, len(more))), resolution)
    elif len(rows) >= 2 * count:
        others = read_images(data, rows[count : 2 * count], resolution)
    with errors.flag("--features"):
        extractor = make_features(arguments.features, arguments.cache_dir, arguments.hub_token)
    captions = [data.captions(row)[0] for row in rows[:count]]
    score = find_clip_score(arguments, device) if data.class_names is None else None
    images = read_images(data, rows[:count], resolution)
    measurement = Measurement(
        extractor,
        images,
        others,
        score,
        captions,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        device=device,
    )
    if arguments.prompts != "captions":
        captions = candidates[0].prompts
    elif data.class_names is not None:
        captions = [data.class_names[int(caption)] for caption in captions]
    facts = {
        "data": arguments.data,
        "floor_data": arguments.floor_data,
        "prompts": arguments.prompts,
        "num_images": count,
        "resolution": resolution,
        "features": extractor.name,
        "clip_model": None if score is None else score.name,
        "sampler": "dpm++",
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance_scale,
        "seed": arguments.seed,
    }
    return measurement, facts, images[:SHOWN], captions[:SHOWN]


def find_prompts(
    arguments: argparse.Namespace, candidate: Candidate, data: "TargetData", rows: list[int]
) -> list[str]:
    """A prompt for each row: its caption or class, or what `--prompts` names."""
    from ..bank.prompts import draw_prompts, read_prompts
    from ..evaluation.real_images import row_prompts

    if arguments.prompts == "captions":
        ids = candidate.class_ids or {name: number for number, name in enumerate(data.class_names or ())}
        if candidate.is_baseline and not set(data.class_names or ()) <= set(ids):
            print(f"{candidate.name} does not have the classes of {arguments.data}; it is sampled without a class.")
            return [""] * len(rows)
        with errors.flag("DATA"):
            return row_prompts(data, rows, ids, candidate.name)
    with errors.flag("--prompts"):
        prompts = draw_prompts(read_prompts(arguments.prompts), len(rows), arguments.seed)
        ids, classes = candidate.class_ids, candidate.backbone.classes
        if not ids or classes is None:
            return candidate.backbone.source_prompts(prompts)
        # The classes are the adapter's, where it has its own: by the pretrained model's it would be sampled under another.
        return classes.prompts(prompts, candidate.label, ids)


def find_clip_score(arguments: argparse.Namespace, device: "torch.device") -> "ClipScore | None":
    """What compares samples with captions, unless `--clip_model none` leaves it out."""
    from ..evaluation.clip_score import ClipScore

    if arguments.clip_model == "none":
        return None
    with errors.flag("--clip_model"):
        return ClipScore(arguments.clip_model, device, arguments.cache_dir, arguments.hub_token)


def load_pipeline(candidate: Candidate, device: "torch.device", dtype: "torch.dtype") -> Any:
    """The whole pipeline to sample from."""
    pipeline = candidate.backbone.pipeline(None, device, dtype)
    if candidate.adapter_folder is not None:
        from ..adapters.loading import load_adapter

        load_adapter(pipeline, candidate.adapter_folder)
    return pipeline
