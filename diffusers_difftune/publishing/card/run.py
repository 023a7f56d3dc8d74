# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The model card of a run folder, from its files: `run_config.json`, `training_log.jsonl` and the validation images."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard

from ...errors import DiffTuneError
from ...io.atomic import write_bytes_atomic
from .. import HUB_ERRORS
from .card import hub_id, model_card
from .figures import draw_figures


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
    flags, log = read_run(folder)["flags"], read_log(folder)
    try:
        draw_figures(folder, flags, log)
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
    run = read_run(folder)
    license = license or run["card"].get("license") or inherited_license(run["flags"], token)
    return model_card(folder, run, read_log(folder), repo_id, license)


def renew_card(folder: str | Path, repo_id: str, token: str | None = None) -> None:
    """Makes a card's example load the result from where it is uploaded to. A card that someone has edited stays as it is."""
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


def inherited_license(flags: Mapping[str, Any], token: str | None = None) -> dict[str, str]:
    """The license fields of the base model's card: from the card in its folder, or else from the Hub, or else none."""
    model = Path(flags.get("pretrained_model_name_or_path") or "")
    base = hub_id(flags.get("pretrained_model_name_or_path"))
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
