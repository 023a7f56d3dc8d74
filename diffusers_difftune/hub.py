# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The Hub: the repository before training, the upload after it, and nothing private in what is uploaded.

The model card is in `model_card.py`.
"""

import json
import logging
import os
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

from .errors import DiffTuneError, first_sentence


logger = logging.getLogger(__name__)

# What a run folder holds beside its result.
LEFT_OUT = ("checkpoint-*", "knowledge_bank", "logs", "*cache*", "wandb", "runs")

# Connection errors are the HTTP library's own, HF_HUB_OFFLINE is an OSError, a name or a card that will not do is a
# ValueError, and a large file that fails is a RuntimeError around one of the others.
HUB_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)

SECRET = re.compile(r"(^|_)(token|secret|password|api_key)$", re.IGNORECASE)
DOWNLOADED = re.compile(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]")
LOCAL_PATH = re.compile(r"^([/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])")
TEXT_SUFFIXES = (".csv", ".json", ".jsonl", ".md", ".txt", ".yaml", ".yml")


def create_repo(hub_model_id: str | None, output_dir: str | Path, token: str | None = None) -> str:
    """Makes the model repository, or finds it, and checks that the token may write to it. Call it before training.

    Args:
        hub_model_id (`str`, *optional*): `name` or `namespace/name`. Default: the name of `output_dir`.
        output_dir (`str` or `Path`): The run folder.
        token (`str`, *optional*): Default: the one you logged in with.

    Returns:
        `str`: The full id, `namespace/name`.

    Raises:
        DiffTuneError: The name or the token will not do, or the Hub cannot be reached.
    """
    name = hub_model_id or Path(output_dir).resolve().name
    if not (token or get_token()):
        raise DiffTuneError(
            "--push_to_hub: there is no Hub token here; log in with `hf auth login` or give --hub_token."
        )
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(name, exist_ok=True).repo_id
        api.auth_check(repo_id, write=True)  # an existing repository is found with a token that may only read, too
    except HUB_ERRORS as error:
        raise DiffTuneError(f"--push_to_hub: {reason(error, name)}") from error
    logger.info("The result will be uploaded to %s/%s.", api.endpoint, repo_id)
    return repo_id


def upload(
    folder: str | Path,
    repo_id: str,
    token: str | None = None,
    leave_out: tuple[str, ...] = (),
    message: str = "End of training",
) -> str:
    """Uploads the result in a run folder as one commit, without checkpoints, logs, the knowledge bank and caches.

    Tokens and paths of this machine are taken out of `run_config.json` and the components' configs on the way; the
    files in the folder stay as they are.

    Args:
        folder (`str` or `Path`): The run folder.
        repo_id (`str`): What [`create_repo`] returned.
        token (`str`, *optional*): Default: the one you logged in with.
        leave_out (`tuple[str, ...]`, *optional*): More names (or patterns) at the top of the folder to leave out.
        message (`str`, *optional*): The commit message.

    Returns:
        `str`: The address of the commit.

    Raises:
        DiffTuneError: The upload failed; the message has the command that does it later.
    """
    folder = Path(folder)
    operations = [
        CommitOperationAdd(name, public_content(folder / name)) for name in files_to_upload(folder, leave_out)
    ]
    if not operations:
        raise DiffTuneError(f"There is nothing to upload in {folder}.")
    refuse_secrets(operations, token)
    try:
        return HfApi(token=token).create_commit(repo_id, operations, commit_message=message).commit_url
    except HUB_ERRORS as error:
        raise DiffTuneError(
            f"The upload to {repo_id} failed: {reason(error, repo_id)} Everything is in {folder}; upload it later "
            f"with: {shlex.join(['difftune', 'push', str(folder), repo_id])}"
        ) from error


def files_to_upload(folder: Path, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """The names, relative to the run folder, of the files that [`upload`] uploads."""
    leave_out += inputs_inside(folder)
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)  # also what is written aside, .NAME.tmp
        left_out = len(parts) > 1 and any(fnmatch(parts[0], pattern) for pattern in LEFT_OUT)
        if path.is_file() and not hidden and not left_out and not any(fnmatch(parts[0], p) for p in leave_out):
            yield "/".join(parts)


def inputs_inside(folder: Path) -> tuple[str, ...]:
    """The names at the top of a run folder that `run_config.json` knows as logs, caches or data."""
    try:
        flags = json.loads((folder / "run_config.json").read_text(encoding="utf-8"))["flags"]
    except (OSError, ValueError, KeyError):
        return ()
    inputs = ("cache_dir", "knowledge_bank", "train_data_dir", "evaluation_data", "control_evaluation_data")
    paths = [Path(flags[name]) for name in inputs if flags.get(name)]
    paths += [folder / flags["logging_dir"]] if flags.get("logging_dir") else []
    top, inside = folder.resolve(), [path.resolve() for path in paths]
    return tuple(path.relative_to(top).parts[0] for path in inside if top in path.parents)


def public_content(path: Path) -> bytes | str:
    """What is uploaded of a file: its path, or its bytes where something had to be taken out."""
    if not (path.name == "model_index.json" or path.name.endswith("config.json")):
        return str(path)
    found = json.loads(path.read_text(encoding="utf-8"))
    public = public_facts(found)
    if public == found:
        return str(path)
    return (json.dumps(public, indent=2, ensure_ascii=False) + "\n").encode()


def public_facts(value: Any) -> Any:
    """A configuration without tokens, and with the last part only of every path of this machine.

    A path into the cache of downloaded models becomes the model's id.

    Args:
        value: Anything that JSON can hold, such as the content of `run_config.json`.

    Returns:
        The same, cleaned.
    """
    if isinstance(value, dict):
        return {key: public_facts(item) for key, item in value.items() if not SECRET.search(str(key))}
    if isinstance(value, (list, tuple)):
        return [public_facts(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    if downloaded := DOWNLOADED.search(value):
        return "/".join(downloaded.groups())
    if LOCAL_PATH.match(value) or (os.sep in value and os.path.exists(value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value.replace(str(Path.home()), "~")


def refuse_secrets(operations: list[CommitOperationAdd], token: str | None) -> None:
    """A last look: no text that is about to be uploaded may have the token in it, wherever it came from."""
    secret = (token or get_token() or "").encode()
    for operation in operations if secret else ():
        with operation.as_file() as file:
            if operation.path_in_repo.endswith(TEXT_SUFFIXES) and secret in file.read():
                raise DiffTuneError(
                    f"{operation.path_in_repo} has the Hub token in it and will not be uploaded; remove it."
                )


def reason(error: Exception, name: str) -> str:
    """What went wrong at the Hub, and what would help, in one sentence."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, HFValidationError):
        return f"'{name}' is not a name the Hub takes ({first_sentence(error)}); give another one as --hub_model_id."
    if not isinstance(error, HfHubHTTPError):
        return f"{HfApi().endpoint} did not take it ({type(error).__name__}: {first_sentence(error)})."
    status, answer = error.response.status_code, (error.server_message or "").strip().rstrip(".")
    if status == 401:
        return "the Hub does not accept the token; log in again with `hf auth login` or give another --hub_token."
    if status == 403:
        return f"the token may not write to '{name}'; give one that may as --hub_token, or another --hub_model_id."
    if status == 400:
        return f"the Hub refused '{name}' ({answer or 'bad request'})."
    return f"the Hub answered {status}{f' ({answer})' if answer else ''}."
