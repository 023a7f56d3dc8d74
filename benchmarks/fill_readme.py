# Copyright 2026 The diffusers-difftune authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Put the demo's pictures and figures into the README.

    make demo
    python benchmarks/fill_readme.py outputs/demo

Copies the two pictures and the summary to docs/images/, and writes the table between the README's markers from the
summary. Without an argument, the table is written again from the summary that is there.
"""

import argparse
import json
import shutil
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
BEGIN = "<!-- demo figures: begin (written by benchmarks/fill_readme.py) -->"
END = "<!-- demo figures: end -->"
MODELS = {"pretrained": "pretrained", "standard": "standard fine-tuning", "difftune": "Diff-Tuning"}


def table(summary: dict) -> str:
    """The figures of a demo's `summary.json` as Markdown."""
    settings, pretrained = summary["settings"], summary["pretrained"]
    lines = [
        f"| {settings['target']}, {settings['steps']} steps of {settings['batch']} rows | FID to the target | KID | loss on"
        " source drawings | images/s |",
        "|---|---|---|---|---|",
    ]
    for name, title in MODELS.items():
        figures = summary[name]
        change = figures.get("forgetting_source")
        error = figures.get("forgetting_source_standard_error")
        forgotten = "–" if name == "pretrained" else f"{100 * change:+.1f} ± {100 * error:.1f} %"
        rate = f"{figures['images_per_second']:.0f}" if "images_per_second" in figures else "–"
        lines.append(f"| {title} | {figures['fid_target']:.4g} | {figures['kid_target']:.4g} | {forgotten} | {rate} |")
    lines.append(f"| real drawings (the floor) | {pretrained['fid_floor']:.4g} | {pretrained['kid_floor']:.4g} | | |")
    seconds = summary["seconds"]
    note = (
        f"\nLower is better everywhere but in the last column. {pretrained['num_generated']} samples of each model against"
        f" {pretrained['num_real']} held-out target drawings; {pretrained['num_source']} held-out source drawings. The bank"
        f" took {seconds['knowledge_bank']:.0f} s, the whole demo {seconds['total'] / 60:.1f} minutes."
    )
    return "\n".join(lines) + "\n" + note


def fill(readme: str, summary: dict) -> str:
    """The README with the table of this summary between its markers."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(summary)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?", help="The demo's output folder.")
    arguments = parser.parse_args()
    if arguments.demo:
        IMAGES.mkdir(parents=True, exist_ok=True)
        for name in ("samples.png", "forgetting.png", "summary.json"):
            shutil.copy(arguments.demo / name, IMAGES / f"demo_{name}")
    summary = json.loads((IMAGES / "demo_summary.json").read_text())
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(), summary))


if __name__ == "__main__":
    main()
