# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""One picture of samples: a row per model, a column per prompt."""

import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont


ZOOM = 5  # nearest neighbour, so that the pixels stay what they are
CELL, GAP, MARGIN = 32 * ZOOM, 14, 28
LABEL_WIDTH = 190
INK, FAINT = "#1f2328", "#59636e"


def samples_picture(blocks: list[tuple[str, list[str], dict[str, torch.Tensor]]], path: Path) -> None:
    """Draws blocks of samples under one another, at twice the width of a README, so that it is sharp there.

    Args:
        blocks (`list`): Of each block the title, the prompts of its columns, and by row label the images, uint8 of
            shape `(columns, 3, 32, 32)`.
        path (`Path`): The PNG to write.
    """
    title_font, label_font, prompt_font = (ImageFont.load_default(size) for size in (30, 28, 24))
    columns = max(len(prompts) for _, prompts, _ in blocks)
    width = 2 * MARGIN + LABEL_WIDTH + columns * (CELL + GAP) - GAP
    prompt_height = 3 * 30 + 10
    heights = [60 + len(rows) * (CELL + GAP) + prompt_height for _, _, rows in blocks]
    picture = Image.new("RGB", (width, 2 * MARGIN + sum(heights) + 30 * (len(blocks) - 1)), "white")
    draw = ImageDraw.Draw(picture)
    y = MARGIN
    for (title, prompts, rows), height in zip(blocks, heights):
        draw.text((MARGIN, y), title, INK, title_font)
        top = y + 60
        for label, images in rows.items():
            draw.multiline_text((MARGIN, top + CELL // 2), label, INK, label_font, anchor="lm", spacing=6)
            for column, image in enumerate(images):
                drawing = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
                    (CELL, CELL), Image.Resampling.NEAREST
                )
                picture.paste(drawing, (MARGIN + LABEL_WIDTH + column * (CELL + GAP), top))
            top += CELL + GAP
        for column, prompt in enumerate(prompts):
            lines = textwrap.wrap(prompt, 13)
            text = "\n".join(lines[:3]) + (" …" if len(lines) > 3 else "")
            left = MARGIN + LABEL_WIDTH + column * (CELL + GAP) + CELL // 2
            draw.multiline_text((left, top), text, FAINT, prompt_font, anchor="ma", align="center", spacing=6)
        y += height + 30
    picture.save(path)
