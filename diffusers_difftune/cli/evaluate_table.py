# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What `difftune evaluate` prints."""

from typing import Any


def table(labels: list[str], found: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The figures, a line for each pipeline and one for the floor."""
    first = found[0]
    columns = {"fid": "FID", "kid": "KID", "precision": "precision", "recall": "recall", "clip_score": "CLIP score"}
    columns = {name: title for name, title in columns.items() if name in first}
    rows = [["", *columns.values()]]
    rows += [[label, *(shown(name, figures[name]) for name in columns)] for label, figures in zip(labels, found)]
    floors = {name: first.get(f"{name}_floor", first.get(f"{name}_real")) for name in columns}
    rows.append(["real images (the floor)", *(shown(name, value) for name, value in floors.items())])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines += [
        "",
        f"{first['num_generated']} samples against {first['num_real']} real images, floor of {first['num_floor']} against"
        f" {first['num_floor']}; {facts['features']} ({first['num_features']} features), {facts['steps']} steps, guidance"
        f" {facts['guidance_scale']:g}.",
    ]
    for label, figures in zip(labels[1:], found[1:]):
        difference, error = figures["kid_difference"], figures["kid_difference_standard_error"]
        lines.append(
            f"KID of {label} minus that of {labels[0]}, image by image: {shown('kid', difference)} ± {shown('kid', error)}"
        )
    if first["fid"] is None or first["fid_floor"] is None:
        lines.append(
            f"FID needs more images than features, {first['num_features'] + 1} or more; KID needs no more than these."
        )
    return "\n".join(lines)


def shown(name: str, value: float | None) -> str:
    """A figure as it is printed."""
    digits = {"fid": 2, "kid": 5, "clip_score": 2}.get(name, 3)
    return "-" if value is None else f"{value:.{digits}f}"
