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
"""What of a data set is trained on, and what is left out."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FileRows:
    """The rows of one file, or of one folder of images.

    Attributes:
        split (`str`): The split it belongs to, `"train"` where the data has none.
        file (`str`): Its path, relative to the data set's folder where it has one.
        rows (`int`, *optional*): How many rows it has; `None` where that is unknown (a stream).
        used (`bool`): Whether its rows are trained on.
    """

    split: str
    file: str
    rows: int | None
    used: bool


@dataclass
class DataReport:
    """What was found where the data is, for the summary of a run.

    Attributes:
        files (`list[FileRows]`): Every file with rows, used or not.
        left_out (`list[str]`): What is not trained on beside files that are not used: a short phrase each, with a
            count, the reason and an example.
    """

    files: list[FileRows] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
