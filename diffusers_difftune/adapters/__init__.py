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
"""What trains: every weight of the denoiser, or an adapter on it; [`ControlBranch`] in control.py is the third. Each knows
how to call what it trains, and how to save it, in a checkpoint and as a result."""

from .adapter import Adapter
from .denoiser import AdaptedDenoiser
from .full import FullDenoiser
from .loading import load_adapter, merge_adapter
from .settings import AdapterSettings
from .trained import Trained


__all__ = [
    "AdaptedDenoiser",
    "Adapter",
    "AdapterSettings",
    "FullDenoiser",
    "Trained",
    "load_adapter",
    "merge_adapter",
]
