# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""How long prompts are in tokens, and who says so when one is cut."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import CLIPTokenizer


AT_ONCE = 10_000  # prompts, so that their tokens do not fill the memory


def longer_than(limit: int, prompts: list[str], tokenizer: Any) -> dict[str, int]:
    """The prompts of more than `limit` tokens, each with its number of tokens.

    Args:
        limit (`int`): The most tokens, those of the beginning and the end among them.
        prompts (`list[str]`): The prompts.
        tokenizer: A tokenizer of transformers.
    """
    counts = zip(prompts, token_counts(prompts, tokenizer), strict=True)
    return {prompt: count for prompt, count in counts if count > limit}


def token_counts(prompts: list[str], tokenizer: Any) -> list[int]:
    """The number of tokens of each prompt, uncut, those of the beginning and the end among them.

    CLIP's tokens do not cross a space, so each word is read once, however many prompts have it: of 100,000 captions that
    takes seconds.
    """
    if not isinstance(tokenizer, CLIPTokenizer) or any(" " in token for token in tokenizer.get_added_vocab()):
        return whole_counts(prompts, tokenizer)
    (around,) = whole_counts([""], tokenizer)
    words = list({word for prompt in prompts for word in prompt.split(" ")})
    length = {word: count - around for word, count in zip(words, whole_counts(words, tokenizer), strict=True)}
    return [around + sum(map(length.__getitem__, prompt.split(" "))) for prompt in prompts]


def whole_counts(texts: list[str], tokenizer: Any) -> list[int]:
    """[`token_counts`] by reading each text as a whole."""
    counts: list[int] = []
    for start in range(0, len(texts), AT_ONCE):
        ids = tokenizer(texts[start : start + AT_ONCE], verbose=False, return_attention_mask=False).input_ids
        counts += map(len, ids)
    return counts


def told_by_us(tokenizer: Any) -> Any:
    """Keeps a tokenizer from saying that a long prompt will end in indexing errors: pipelines look how long it is and then
    cut it, and how many are cut is said once."""
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


@contextmanager
def without_cut_warnings(pipeline: Any) -> Iterator[None]:
    """A context in which a pipeline does not write out what it cuts off each prompt, batch by batch."""

    def is_other(record: logging.LogRecord) -> bool:
        return "input was truncated" not in record.getMessage()

    logger = logging.getLogger(type(pipeline).__module__)
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
