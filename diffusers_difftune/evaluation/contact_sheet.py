# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of samples: a row for each pipeline, a column for each prompt, all from the same noise."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont


CELL, GAP, MARGIN = 192, 12, 24
LABEL, LINE = 220, 22  # width of the labels, height of a line of text
LETTERS = 16  # of a prompt's line
INK = "#1f2328"


def contact_sheet(rows: Mapping[str, torch.Tensor], prompts: Sequence[str]) -> bytes:
    """Draws rows of images, uint8 of shape `(N, 3, H, W)`, under one another, with their labels and under the columns their
    prompts, into a PNG file."""
    font = ImageFont.load_default(18)
    texts = [textwrap.wrap(prompt, LETTERS, max_lines=3, placeholder=" …") for prompt in prompts]
    width = 2 * MARGIN + LABEL + len(prompts) * (CELL + GAP) - GAP
    height = 2 * MARGIN + len(rows) * (CELL + GAP) + LINE * max(map(len, texts))
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for label, images in rows.items():
        lines = textwrap.wrap(label.replace("/", "/ "), 22, max_lines=6)  # a path is broken at its folders
        wrapped = "\n".join(lines).replace("/ ", "/")
        draw.multiline_text((MARGIN, top + CELL // 2), wrapped, INK, font, anchor="lm")
        for column, image in enumerate(images):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            enlarged = max(picture.size) <= CELL // 2  # the pixels of small images stay what they are
            picture = picture.resize((CELL, CELL), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
            sheet.paste(picture, (MARGIN + LABEL + column * (CELL + GAP), top))
        top += CELL + GAP
    for column, lines in enumerate(texts):
        centre = MARGIN + LABEL + column * (CELL + GAP) + CELL // 2
        draw.multiline_text((centre, top), "\n".join(lines), INK, font, anchor="ma", align="center")
    file = io.BytesIO()
    sheet.save(file, format="PNG")
    return file.getvalue()
