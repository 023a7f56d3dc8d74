# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from diffusers_difftune.bank.prompts import draw_prompts, read_prompts
from diffusers_difftune.errors import DiffTuneError


@pytest.mark.parametrize("count", [1, 4, 5, 6, 23])
def test_every_prompt_comes_once_before_any_comes_twice(count: int) -> None:
    drawn = draw_prompts(list("abcde"), count, seed=3)
    assert len(drawn) == count
    for end in range(count + 1):
        times = Counter(drawn[:end])
        assert max(times.values(), default=0) - min((times[p] for p in "abcde"), default=0) <= 1


def test_the_order_is_seeded_and_a_longer_bank_begins_alike() -> None:
    prompts = [str(number) for number in range(50)]
    first = draw_prompts(prompts, 80, seed=1)
    assert first == draw_prompts(prompts, 80, seed=1) == draw_prompts(prompts, 200, seed=1)[:80]
    assert first != draw_prompts(prompts, 80, seed=2)
    assert first[:30] != first[50:]  # another order the second time


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa café\n\n  a red square \na red square\n", encoding="utf-8")
    assert read_prompts(str(path)) == ["a café", "a red square", "a red square"]


def test_empty() -> None:
    assert read_prompts("empty") == [""]


def test_a_dataset_column(tmp_path: Path) -> None:
    columns = {"caption": ["one", "two", None], "several": [["a", "b"], ["c"], []], "n": [1, 2, 3]}
    Dataset.from_dict(columns).to_parquet(tmp_path / "data.parquet")
    assert read_prompts(f"{tmp_path}#caption") == ["one", "two"]
    assert read_prompts(f"{tmp_path}#several") == ["a", "b", "c"]
    with pytest.raises(DiffTuneError, match="has no column text; it has caption, several, n"):
        read_prompts(f"{tmp_path}#text")
    with pytest.raises(DiffTuneError, match="does not hold strings"):
        read_prompts(f"{tmp_path}#n")


@pytest.mark.parametrize(
    "content, message", [(b" \n\n", "^There is no prompt in"), (b"\xff\xfe\x00bad", "is not a text file in UTF-8")]
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(DiffTuneError, match=message):
        read_prompts(str(path))


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffTuneError, match="^There is no file 'absent.txt'; give"):
        read_prompts("absent.txt")
    with pytest.raises(DiffTuneError, match="cannot be loaded"):
        read_prompts(f"{tmp_path / 'absent'}#text")
