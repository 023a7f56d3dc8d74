# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The Hub: the repository before training, uploads while it trains and after it, and nothing private in what is uploaded.

The model card is in `card/`.
"""

from .client import HUB_ERRORS, LAST_CHECKPOINT, HubTrouble, UploadError, commit, create_repo, reason, upload
from .public import LEFT_OUT, files_to_upload, public_content, public_facts


__all__ = [
    "HUB_ERRORS",
    "LAST_CHECKPOINT",
    "LEFT_OUT",
    "HubTrouble",
    "UploadError",
    "commit",
    "create_repo",
    "files_to_upload",
    "public_content",
    "public_facts",
    "reason",
    "upload",
]
