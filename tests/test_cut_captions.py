# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Captions that are longer than the model reads: counted, told once, and not told by libraries in words of their own."""

from collections.abc import Iterator
from pathlib import Path

import diffusers
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from diffusers_difftune.backbones import load_backbone
from diffusers_difftune.backbones.tokens import token_counts
from diffusers_difftune.cli import main as difftune
from diffusers_difftune.data.cut import CutCaptions, tell_cut
from diffusers_difftune.data.dataset import TargetData
from tests.tiny import byte_tokenizer, save_tiny_images
from tests.training.runs import FULL, LORA, run


ICONS = Path(__file__).parents[1] / "examples/icons/pipeline/tokenizer"
# To the tiny tokenizer every letter is a token, and it reads 32 with those of the beginning and the end.
CAPTIONS: list[str | list[str] | None] = ["a" * 30, "b" * 31, ["short", "c " * 20 + "c" * 20], "b" * 31, "d", "é" * 15]
TOLD = "2 of 6 captions are cut at 32 tokens, the longest (row 2 02.png: 42 tokens)."
FALSE_ALARMS = ("Token indices sequence length", "part of your input was truncated", "indexing errors")


@pytest.fixture(scope="module")
def long_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_images(tmp_path_factory.mktemp("long"), 6, captions=CAPTIONS)


def data(captions: list[list[str]]) -> TargetData:
    class Named:
        def name(self, row: int) -> str:
            return f"row {row}"

    return TargetData(Named(), captions, Path())  # type: ignore[arg-type]


def exact(tokenizer: CLIPTokenizer, texts: list[str]) -> list[int]:
    return [len(tokenizer(text, verbose=False).input_ids) for text in texts]


def test_counted_by_tokens_with_the_first_row_of_the_longest(tiny_pipeline: Path, caplog) -> None:
    backbone = load_backbone(tiny_pipeline)
    target = data([["a" * 30], ["b" * 31], ["short", "c" * 40], ["b" * 31], ["c" * 40]])
    assert tell_cut(target.distinct_captions, backbone, "captions", target) == CutCaptions(4, 2, 32, 42)
    assert tell_cut(["a" * 30, "b"], backbone) == CutCaptions(2, 0, 32)
    assert tell_cut(["x" * 31, "", "x" * 31], backbone) == CutCaptions(2, 1, 32, 33)
    assert caplog.messages == [
        "2 of 4 captions are cut at 32 tokens, the longest (row 2: 42 tokens).",
        "1 of 2 prompts is cut at 32 tokens, the longest (33 tokens).",
    ]


def test_classes_have_no_tokens(tiny_dit: Path) -> None:
    assert tell_cut(["1" * 99], load_backbone(tiny_dit)) is None


def added(*tokens: str) -> CLIPTokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(tokens))
    return tokenizer


TOKENIZERS = {
    "icons": lambda: CLIPTokenizer.from_pretrained(ICONS),
    "bytes": byte_tokenizer,
    "a word that was added": lambda: added("<cat>"),
    "words that were added": lambda: added("old cat"),
}
WORDS = st.sampled_from(
    ["cat", "Old", "old", "cats", "<cat>", "it's", "<|endoftext|>", "a<cat>b", "1984", "naïve", "猫", "İ"]
)
TEXTS = st.one_of(st.text(), st.lists(WORDS).map(" ".join), st.lists(WORDS).map("\n".join))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_word_by_word_gives_the_tokens_of_the_whole(name: str) -> None:
    tokenizer = TOKENIZERS[name]()

    @given(st.lists(TEXTS, max_size=4))
    def agree(texts: list[str]) -> None:
        assert token_counts(texts, tokenizer) == exact(tokenizer, texts)

    agree()


@pytest.fixture
def talking() -> Iterator[None]:
    """Libraries that warn, as they do outside of tests."""
    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_warning()
    yield
    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_error()


@pytest.mark.parametrize("script", [FULL, LORA])
def test_a_run_says_it_once_and_libraries_do_not(
    script: str,
    talking: None,
    tiny_pipeline: Path,
    long_images: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    caplog,
) -> None:
    run(script, tiny_pipeline, long_images, tmp_path, "--max_train_steps 1 --bank_samples 8")
    captured = capfd.readouterr()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("diffusers_difftune")]
    assert told.count(TOLD) == 1
    assert sum("cut at" in line for line in told) == 2, "in the warning, and in the summary"
    for alarm in FALSE_ALARMS:
        assert alarm not in captured.err + captured.out + caplog.text


def test_prompts_of_the_bank_are_counted_where_they_are_not_the_captions(
    talking: None, tiny_pipeline: Path, tiny_images: Path, tmp_path: Path, capfd: pytest.CaptureFixture, caplog
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("x" * 50 + "\nshort\n")
    flags = f"--max_train_steps 1 --bank_samples 4 --bank_prompts {prompts}"
    run(FULL, tiny_pipeline, tiny_images, tmp_path / "run", flags)
    told = "1 of 2 prompts of the knowledge bank is cut at 32 tokens, the longest (52 tokens)."
    assert caplog.text.count(told) == 1
    words = (
        f"bank build --pretrained_model_name_or_path {tiny_pipeline} --output_dir {tmp_path / 'bank'} --resolution 16"
    )
    assert difftune([*words.split(), *f"--bank_samples 4 --bank_steps 2 --bank_prompts {prompts}".split()]) == 0
    assert caplog.text.count("1 of 2 prompts is cut at 32 tokens, the longest (52 tokens).") == 1
    captured = capfd.readouterr()
    for alarm in FALSE_ALARMS:
        assert alarm not in captured.err + captured.out + caplog.text
