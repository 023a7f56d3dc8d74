# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Captions that are longer than the model reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .dataset import TargetData


if TYPE_CHECKING:
    from ..backbones import Backbone
    from .stream import StreamedTarget


@dataclass(frozen=True)
class CutCaptions:
    """How many captions, or other prompts, lose their ends.

    Attributes:
        total (`int`): How many different ones there are.
        count (`int`): How many of these are cut.
        limit (`int`): The tokens that the model reads, those of the beginning and the end among them.
        tokens (`int`): The tokens of the longest one; 0 if none is cut.
        longest (`str`, *optional*): That one.
        row (`str`, *optional*): What messages call the first row with the longest one.
        what (`str`, *optional*, defaults to `"captions"`): What they are.
    """

    total: int
    count: int
    limit: int
    tokens: int = 0
    longest: str | None = None
    row: str | None = None
    what: str = "captions"

    def sentence(self) -> str:
        """Such as "3 of 16 captions are cut at 77 tokens, the longest (row 3: 112 tokens)"; empty if none is cut."""
        if not self.count:
            return ""
        longest = f"{self.tokens} tokens" if self.row is None else f"{self.row}: {self.tokens} tokens"
        return (
            f"{self.count} of {self.total} {self.what} {'is' if self.count == 1 else 'are'} cut at {self.limit} tokens, the"
            f" longest ({longest})"
        )


def cut_captions(target: "TargetData | StreamedTarget", backbone: "Backbone") -> CutCaptions | None:
    """Counts the captions that are cut; needs the tokenizer and no weights.

    Args:
        target ([`TargetData`] or [`StreamedTarget`]): The target data.
        backbone ([`Backbone`]): The pretrained pipeline.

    Returns:
        [`CutCaptions`] or `None`: The count; `None` for a stream, whose captions are not known, and for a model that is
        conditioned on something else than text.
    """
    if not isinstance(target, TargetData):
        return None
    captions = target.distinct_captions
    found = cut_prompts(captions, backbone, "captions")
    if found is None or found.longest is None:
        return found
    row = next(row for row in range(len(target)) if found.longest in target.captions(row))
    return replace(found, row=target.name(row))


def cut_prompts(prompts: Sequence[str], backbone: "Backbone", what: str = "prompts") -> CutCaptions | None:
    """[`cut_captions`] of prompts that belong to no row.

    Args:
        prompts (`Sequence[str]`): The prompts; repeated ones count once.
        backbone ([`Backbone`]): The pretrained pipeline.
        what (`str`, *optional*, defaults to `"prompts"`): What to call them.
    """
    if backbone.token_limit is None:
        return None
    distinct = list(dict.fromkeys(prompts))
    cut = backbone.cut_prompts(distinct)
    longest = max(cut, key=lambda prompt: cut[prompt], default=None)
    tokens = 0 if longest is None else cut[longest]
    return CutCaptions(len(distinct), len(cut), backbone.token_limit, tokens, longest, what=what)
