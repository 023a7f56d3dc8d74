# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of the Hub: the repository before training, and uploads, with patience where the client has none.

The client repeats the requests of large files itself, five times, after 1, 2, 4, 8 and 8 seconds or as long as a
`Retry-After` says. It asks once only for a new repository, for the right to write to it, whether a card's metadata will do,
and for the commit; and it waits for an answer for ever. This module adds what is missing, and repeats nothing twice.
"""

import json
import logging
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

from ..errors import DiffTuneError, first_sentence
from .public import checkpoint_contents, files_to_upload, public_content, refuse_secrets


logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

# Connection errors are the HTTP library's own, HF_HUB_OFFLINE is an OSError, a name or a card that will not do is a
# ValueError, and a large file that fails is a RuntimeError around one of the others.
HUB_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)

LAST_CHECKPOINT = "last-checkpoint"
WEIGHTS = (".safetensors", ".bin")
ANSWER_WITHIN = 120.0  # seconds without a byte, after which a request has failed
WAITS = (1.0, 2.0, 4.0, 8.0, 8.0)  # seconds before a request is repeated, as the client has them
ASKED_ONCE = re.compile(r"/api/(validate-yaml|repos/create|.+/auth-check/write|.+/commit/[^/]+)$")
PASSING = (408, 429, 500, 502, 503, 504)
CONFLICTS = (409, 412)  # someone else's commit came first


class HubTrouble(DiffTuneError):
    """The Hub could not be reached or had trouble of its own, which may pass; nothing is wrong with what was asked."""


class UploadError(DiffTuneError):
    """An upload failed. Everything is still in the folder, and the message has the command that uploads it later."""

    exit_code = 3

    def __init__(self, why: str, folder: str | Path, repo_id: str, command: str = "difftune push") -> None:
        self.why = why
        super().__init__(
            f"The upload to {repo_id} failed: {why} Everything is in {folder}; upload it later with:"
            f" {command} {shlex.join([str(folder), repo_id])}"
        )


def create_repo(
    repo_id: str | None,
    output_dir: str | Path,
    token: str | None = None,
    repo_type: str = "model",
    private: bool | None = None,
) -> str:
    """Makes a repository for what `output_dir` will hold, or finds it, and checks that the token may write to it.

    Args:
        repo_id (`str`, *optional*): `name` or `namespace/name`. Default: the name of `output_dir`.
        private (`bool`, *optional*): Whether a new repository is private. Default: as the namespace has it.

    Returns:
        `str`: The full id, `namespace/name`.

    Raises:
        HubTrouble: The Hub cannot be reached, or has trouble that did not pass in half a minute.
        DiffTuneError: The name or the token will not do.
    """
    name = repo_id or Path(output_dir).resolve().name
    if not (token or get_token()):
        raise DiffTuneError("There is no Hub token here; log in with `hf auth login` or give --hub_token.")
    api = HfApi(token=token)
    try:
        found = repeated(lambda: api.create_repo(name, repo_type=repo_type, private=private, exist_ok=True)).repo_id
        # an existing repository is found with a token that may only read, too
        repeated(lambda: api.auth_check(found, repo_type=repo_type, write=True))
    except HUB_ERRORS as error:
        kind = HubTrouble if may_pass(error) else DiffTuneError
        raise kind(reason(error, name)) from error
    logger.info(
        "The result will be uploaded to %s/%s%s.", api.endpoint, {"dataset": "datasets/"}.get(repo_type, ""), found
    )
    return found


def upload(
    folder: str | Path,
    repo_id: str,
    token: str | None = None,
    *,
    message: str = "End of training",
    checkpoint: Path | None = None,
) -> str:
    """Uploads the result in a run folder as one commit, without checkpoints, logs, the knowledge bank and caches.

    Tokens and paths of this machine are taken out of `run_config.json` and the components' configs on the way; the
    files in the folder stay as they are. A `checkpoint` is uploaded as `last-checkpoint/` in the same commit, whose address
    is returned.

    Raises:
        UploadError: The upload failed; the message has the command that does it later.
        DiffTuneError: There is nothing to upload, or something that must not be.
    """
    folder = Path(folder)
    contents = {name: public_content(folder / name) for name in files_to_upload(folder)}
    if not contents:
        raise DiffTuneError(f"There is nothing to upload in {folder}.")
    if checkpoint is not None:
        contents |= {f"{LAST_CHECKPOINT}/{name}": data for name, data in checkpoint_contents(checkpoint).items()}
    operations = [CommitOperationAdd(name, data) for name, data in contents.items()]
    try:
        return commit(repo_id, operations, message, token)
    except DiffTuneError:
        raise
    except HUB_ERRORS as error:
        raise UploadError(reason(error, repo_id), folder, repo_id) from error


def commit(
    repo_id: str,
    operations: Sequence[CommitOperationAdd],
    message: str,
    token: str | None = None,
    repo_type: str = "model",
) -> str:
    """Uploads files as one commit, after a last look for the token in them; returns the address of the commit."""
    refuse_secrets(operations, token)
    api = HfApi(token=token)
    # One after the other, on this thread: the client's own threads would keep the process from ending before they are done.
    for operation in operations:
        if operation.path_in_repo.endswith(WEIGHTS):
            patiently()
            api.preupload_lfs_files(repo_id, [operation], repo_type=repo_type, free_memory=False)
    return repeated(
        lambda: api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type)
    ).commit_url


def repeated(request: Callable[[], Answer]) -> Answer:
    """Asks, and asks again while the answer is trouble that may pass and that the client does not wait out itself."""
    for wait in WAITS:
        patiently()
        try:
            return request()
        except HUB_ERRORS as error:
            if not (may_pass(error) and asked_once(error)):
                raise
            wait = max(wait, retry_after(error))
            logger.warning("%s Asking again in %g s.", reason(error, "it"), wait)
            time.sleep(wait)
    return request()


def patiently() -> None:
    """Gives the client's requests a time in which they have failed, unless someone else has."""
    session = get_session()
    if session.timeout.read is None:
        session.timeout = ANSWER_WITHIN


def cause(error: BaseException) -> BaseException:
    """The error of the request, where a large file's upload has wrapped it."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error


def may_pass(error: BaseException) -> bool:
    """Whether it is trouble of the network or the Hub, and not with what was asked."""
    error = cause(error)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING + CONFLICTS
    return isinstance(error, (HTTPError, json.JSONDecodeError))  # a page of a gateway, where JSON should be


def asked_once(error: BaseException) -> bool:
    """Whether the client does not repeat the request that went wrong."""
    error = cause(error)
    if isinstance(error, HfHubHTTPError) and error.response.status_code in CONFLICTS:
        return True
    if not isinstance(error, HTTPError):
        return True  # what is not JSON was the answer to such a request
    request = error.response.request if isinstance(error, HfHubHTTPError) else getattr(error, "_request", None)
    return request is None or ASKED_ONCE.search(request.url.path) is not None


def retry_after(error: BaseException) -> float:
    """The seconds the Hub asks to wait, or 0."""
    error = cause(error)
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return float(asked) if asked.strip().isdigit() else 0.0


def reason(error: BaseException, name: str) -> str:
    """What went wrong at the Hub, and what would help, in one sentence."""
    error = cause(error)
    if isinstance(error, HFValidationError):
        return f"'{name}' is not a name the Hub takes ({first_sentence(error)}); give another one as --hub_model_id."
    if "/xet-" in str(error):  # what is asked of Xet has a client of its own
        return f"Xet did not take it ({first_sentence(error)}); with HF_HUB_DISABLE_XET=1 it goes another way."
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
