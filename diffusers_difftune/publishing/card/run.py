# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card of a run folder, from its files: `run_config.json`, `training_log.jsonl` and the validation images."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard

from ...errors import DiffTuneError
from ...io.atomic import write_bytes_atomic
from .. import HUB_ERRORS
from .card import model_card, model_of
from .figures import draw_figures, drawn_figures


logger = logging.getLogger(__name__)
CARD_FILE = "README.md"


def write_run_card(
    folder: str | Path,
    repo_id: str | None = None,
    token: str | None = None,
    license: Mapping[str, str] | None = None,
) -> Path:
    """Writes `README.md` and its figures into the folder of a run, from the other files in it.

    Args:
        folder (`str` or `Path`): The run folder.
        repo_id (`str`, *optional*): Where it will be uploaded; the example loads it from there.
        token (`str`, *optional*): To ask the Hub for the license of the base model.
        license (`Mapping[str, str]`, *optional*): What [`inherited_license`] found; asked for if `None`.

    Returns:
        `Path`: The card.

    Raises:
        DiffTuneError: The folder is not that of a run that was trained to its end.
    """
    folder = Path(folder)
    config, log = read_run(folder), read_log(folder)
    try:
        draw_figures(folder, config["flags"], log)
    except Exception as error:  # of matplotlib; a result is worth more than its picture
        logger.warning("The model card has no figures (%s: %s).", type(error).__name__, error)
    path = folder / CARD_FILE
    write_bytes_atomic(path, run_card(folder, repo_id, token, license).encode())
    return path


def run_card(
    folder: Path,
    repo_id: str | None = None,
    token: str | None = None,
    license: Mapping[str, str] | None = None,
) -> str:
    """The text of the card, with the figures that are there; see [`write_run_card`]."""
    config, log = read_run(folder), read_log(folder)
    facts, flags = config["card"], config["flags"]
    if license is None:
        license = facts.get("license") or inherited_license(flags, token)
    last = log[-1] if log else {}
    return model_card(
        folder,
        flags | {"seed": config["seed"]},
        repo_id=repo_id,
        license=license,
        result=facts["result"],
        pipeline_class=facts["pipeline_class"],
        steps=last.get("step"),
        total_steps=config.get("total_steps"),
        num_rows=facts["num_rows"],
        losses={name: value for name, value in last.items() if name.startswith("loss") and isinstance(value, float)},
        measured=measured(log),
        bank=facts["knowledge_bank"],
        images={
            prompt: [folder / path for path in paths if (folder / path).is_file()]
            for prompt, paths in facts["images"].items()
        },
        figures=drawn_figures(folder),
    )


def renew_card(folder: str | Path, repo_id: str, token: str | None = None) -> None:
    """Makes a card's example load the result from where it is uploaded to. A card that someone has edited stays as it is.

    Args:
        folder (`str` or `Path`): The folder that is to be uploaded.
        repo_id (`str`): Where to.
        token (`str`, *optional*): To ask the Hub for the license of the base model.
    """
    folder = Path(folder)
    try:
        written_for = read_run(folder)["card"]["repo_id"]
        ours = run_card(folder, written_for, token)
    except DiffTuneError:
        return  # not of a run
    path = folder / CARD_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") == ours:
        write_bytes_atomic(path, run_card(folder, repo_id, token).encode())


def read_run(folder: Path) -> dict[str, Any]:
    """`run_config.json`, with what the card needs in it."""
    try:
        config = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))
        config["card"]["result"], config["flags"]["objective"]
    except OSError as error:
        raise DiffTuneError(f"{folder} has no run_config.json; give the output_dir of a training script.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DiffTuneError(
            f"{folder / 'run_config.json'} does not say what came out of the run; the run must come to its end once."
        ) from error
    return config


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of the loss log; none without one."""
    path = folder / "training_log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def measured(log: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float | None, float]]:
    """What was measured on held-out data before the first step and the last time, by name."""
    found: dict[str, tuple[float | None, float]] = {}
    for kind in ("quality", "condition_error"):
        lines = [line for line in log if isinstance(line.get(kind), dict)]
        for name, value in lines[-1][kind].items() if lines else ():
            if isinstance(value, (int, float)):
                first = lines[0][kind].get(name) if lines[0]["step"] == 0 and len(lines) > 1 else None
                found[f"{kind.replace('_', ' ')}: {name}"] = (first, value)
    return found


def inherited_license(flags: Mapping[str, Any], token: str | None = None) -> dict[str, str]:
    """The license fields of the base model's card: from the card in its folder, or else from the Hub, or else none.

    Args:
        flags (`Mapping`): The flags of the run by name.
        token (`str`, *optional*): To ask the Hub.
    """
    model, base = Path(flags.get("pretrained_model_name_or_path") or ""), model_of(flags)
    card: Any = None
    try:
        if (model / CARD_FILE).is_file():
            card = ModelCard((model / CARD_FILE).read_text(encoding="utf-8"), True).data
        elif base:
            card = HfApi(token=token).model_info(base, revision=flags.get("revision"), timeout=10).card_data
    except HUB_ERRORS as error:
        logger.warning("The license of %s is not known (%s); the model card names none.", base, type(error).__name__)
    names = ("license", "license_name", "license_link")
    found = card.to_dict() if card is not None else {}
    return {name: found[name] for name in names if isinstance(found.get(name), str)}
