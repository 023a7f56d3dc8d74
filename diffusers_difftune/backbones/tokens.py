# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: what they make of prompts, and how long prompts are in tokens."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import CLIPTokenizer


AT_ONCE = 10_000  # prompts, so that their tokens do not fill the memory


def reading_key(tokenizer: CLIPTokenizer) -> str:
    """What tells one tokenizer from another that reads prompts otherwise."""
    reader = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
    for name in ("truncation", "padding"):  # are those of its last call
        reader.pop(name, None)
    facts = [reader, tokenizer.model_max_length, tokenizer.pad_token_id]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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


def token_ids(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """The tokens of prompts, cut and filled up to the tokenizer's length."""
    length = tokenizer.model_max_length
    return tokenizer(prompts, max_length=length, padding="max_length", truncation=True, return_tensors="pt").input_ids


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
