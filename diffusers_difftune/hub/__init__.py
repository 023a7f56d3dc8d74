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
"""The Hub: the repository before training, uploads while it trains and after it, and nothing private in what is uploaded.

The model card is in `model_card/`.
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
