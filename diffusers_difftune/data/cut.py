# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Captions that are longer than the model reads."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .dataset import TargetData


if TYPE_CHECKING:
    from ..backbones import Backbone


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CutCaptions:
    """How many of different captions are cut."""

    total: int
    count: int
    limit: int  # the tokens that the model reads, those of the beginning and the end among them
    tokens: int = 0  # of the longest one that is cut


def tell_cut(
    prompts: Sequence[str], backbone: "Backbone", what: str = "prompts", target: TargetData | None = None
) -> CutCaptions | None:
    """Counts the different prompts that are longer than the model reads, and warns of them; needs the tokenizer and no weights.
    `target` is the data that they are the captions of. `None` for a model that reads no text."""
    if backbone.token_limit is None:
        return None
    distinct = list(dict.fromkeys(prompts))
    cut = backbone.cut_prompts(distinct)
    if not cut:
        return CutCaptions(len(distinct), 0, backbone.token_limit)
    longest = max(cut, key=lambda prompt: cut[prompt])
    found = CutCaptions(len(distinct), len(cut), backbone.token_limit, cut[longest])
    row = ""
    if target is not None:
        row = next(f"{target.name(row)}: " for row in range(len(target)) if longest in target.captions(row))
    logger.warning(
        f"{found.count} of {found.total} {what} {'is' if found.count == 1 else 'are'} cut at {found.limit} tokens, the"
        f" longest ({row}{found.tokens} tokens)."
    )
    return found
