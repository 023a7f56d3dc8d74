# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Extracts the flags of diffusers' training scripts from their source, without running them.

Not run in CI: the JSON files beside this one are its output. To make them again, or to move to another commit, change
`COMMIT`, then fetch the scripts of that commit and name the folder they are in:

    COMMIT=58eb52c0803ea9af3abec60841c2a093bdf1f951
    BASE=https://raw.githubusercontent.com/huggingface/diffusers/$COMMIT/examples
    curl -O $BASE/text_to_image/train_text_to_image.py
    curl -O $BASE/text_to_image/train_text_to_image_lora.py
    curl -O $BASE/controlnet/train_controlnet.py
    python tests/config/upstream_flags/extract.py .
"""

import ast
import json
import sys
from pathlib import Path


COMMIT = "58eb52c0803ea9af3abec60841c2a093bdf1f951"
SCRIPTS = {
    "train_text_to_image": "examples/text_to_image/train_text_to_image.py",
    "train_text_to_image_lora": "examples/text_to_image/train_text_to_image_lora.py",
    "train_controlnet": "examples/controlnet/train_controlnet.py",
}
# The scripts compute these choices from torchvision.transforms.InterpolationMode; its members, lower case, are:
INTERPOLATION_MODES = ["bicubic", "bilinear", "box", "hamming", "lanczos", "nearest", "nearest_exact"]


def literal(node: ast.expr, flag: str):
    """The value of an argument of `add_argument`."""
    if isinstance(node, ast.ListComp) and flag == "image_interpolation_mode":
        return INTERPOLATION_MODES
    return ast.literal_eval(node)


def flags(source: str) -> dict[str, dict]:
    """Every `add_argument` call of a script, by the flag's name."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        ):
            continue
        (name,) = (ast.literal_eval(argument) for argument in node.args)
        name = name.removeprefix("--")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        kind = given.pop("type", None)
        given.pop("help", None)
        values = {key: literal(value, name) for key, value in given.items()}
        store_true = values.pop("action", None) == "store_true"
        found[name] = {
            "type": "bool" if store_true else kind.id if kind is not None else "str",
            "default": values.pop("default", False if store_true else None),
            "choices": values.pop("choices", None),
            "nargs": values.pop("nargs", None),
            "required": values.pop("required", False),
            "store_true": store_true,
        }
        if values:
            raise SystemExit(f"--{name} has arguments this program does not know: {values}")
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for script, path in SCRIPTS.items():
        table = {
            "source": f"https://github.com/huggingface/diffusers/blob/{COMMIT}/{path}",
            "commit": COMMIT,
            "flags": flags((folder / f"{script}.py").read_text(encoding="utf-8")),
        }
        target = Path(__file__).parent / f"{script}.json"
        target.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
