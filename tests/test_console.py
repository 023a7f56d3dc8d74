# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Progress bars and log lines, and blocks of labelled lines."""

import ast
import io
import logging
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import diffusers_difftune
from diffusers_difftune.console import AboveBars, duration, labelled_block, progress_bar, shortened, terminal_width


PACKAGE = Path(diffusers_difftune.__file__).parent
VERBOSITY = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_VERBOSITY")


def test_log_lines_are_not_glued_to_a_bar():
    screen = io.StringIO()
    handler = AboveBars(screen)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("tests.console")
    logger.addHandler(handler)
    try:
        with progress_bar(total=3, desc="Training", file=screen, mininterval=0) as bar:
            for step in range(3):
                bar.update()
                logger.warning("after step %d", step + 1)
    finally:
        logger.removeHandler(handler)
    written = re.split(r"[\r\n]", screen.getvalue())
    assert [line for line in written if "WARNING" in line] == [f"WARNING after step {step}" for step in (1, 2, 3)]
    assert any(line.startswith("Training: 100%") for line in written)


@pytest.mark.parametrize("ci", ["", "true"])
def test_libraries_are_heard_once_and_not_without_need(ci):
    """Where `CI` is set, transformers writes its records to the terminal and hands them on as well."""
    code = """
        import logging
        import huggingface_hub, transformers
        from diffusers_difftune.console import log_to_terminal
        log_to_terminal("%(message)s")
        import diffusers
        print("shown", diffusers.StableDiffusionPipeline, diffusers.DiTPipeline)
        logging.getLogger("huggingface_hub.utils").warning("retrying")
        logging.getLogger("transformers.utils.import_utils").warning("something else")
        logging.getLogger("diffusers.pipelines.pipeline_utils").warning("Expected types for id2label: none.")
        logging.getLogger("diffusers.pipelines.pipeline_utils").warning("Expected types for vae: none.")
    """
    variables = {"PYTHONPATH": str(PACKAGE.parent)} | dict.fromkeys(VERBOSITY, "warning") | {"CI": ci}
    program = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(program, env=os.environ | variables, capture_output=True, text=True)
    assert ended.stdout.startswith("shown") and ended.returncode == 0
    told = [line for line in ended.stderr.splitlines() if line]
    assert [line.removeprefix("[transformers] ") for line in told] == [
        *("retrying", "something else", "Expected types for vae: none.")
    ]


def test_the_variable_that_turns_tqdm_off_turns_our_bars_off():
    code = "from diffusers_difftune.console import progress_bar\nwith progress_bar(total=1) as bar: bar.update()"
    variables = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    shown, hidden = (
        subprocess.run([sys.executable, "-c", code], env=variables | more, capture_output=True, text=True).stderr
        for more in ({}, {"TQDM_DISABLE": "1"})
    )
    assert "100%" in shown and hidden == ""


def test_no_bar_overrides_that_variable():
    """tqdm takes `disable=False` for a wish that is stronger than `TQDM_DISABLE`."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("tqdm", "trange"):
                assert all(keyword.arg != "disable" for keyword in node.keywords), f"{file}:{node.lineno}"


def test_a_hidden_bar_is_not_shown():
    screen = io.StringIO()
    with progress_bar(hidden=True, total=1, file=screen) as bar:
        bar.update()
    assert screen.getvalue() == ""


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("120", 120), ("300", 120), ("20", 60)])
def test_the_width_of_the_terminal(columns, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == width


def test_without_a_terminal_lines_have_80_columns(monkeypatch, capfd):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width() == 80


def test_a_block_has_its_labels_in_a_column_and_is_cut_where_it_is_too_long():
    lines = labelled_block("Title", [("one", "word " * 40), ("other", "x" * 100)], 60, 8).splitlines()
    assert lines[0] == "Title" and lines[1].startswith("  one    word") and lines[2].startswith("         word")
    assert len(lines) <= 8 and max(map(len, lines)) <= 60
    cut = labelled_block("Title", [("one", "word " * 90), ("other", "short")], 60, 4).splitlines()
    assert len(cut) == 4 and cut[2].endswith(" …") and cut[3] == "  other  short"


def test_long_paths_lose_their_middle():
    assert shortened("/a/short/path", 20) == "/a/short/path"
    long = shortened("/home/somebody/data/sets/many/images/train.parquet", 30)
    assert (
        len(long) == 30 and long.startswith("/home/") and long.endswith("images/train.parquet"[-15:]) and "…" in long
    )


def test_durations():
    assert [duration(seconds) for seconds in (0.42, 12.3, 90, 7500)] == ["0.4 s", "12 s", "2 min", "2 h 5 min"]
