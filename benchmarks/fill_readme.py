# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Put the demo's pictures and figures into the README.

    make demo
    python benchmarks/fill_readme.py outputs/demo
    make demo-controlnet
    python benchmarks/fill_readme.py --controlnet outputs/demo-controlnet

Copies the pictures and the summary to docs/images/, and writes what is between the README's markers from the summary: the
table, and what can be read off it. Without an argument, both are written again from the summaries that are there.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.jobs import fill  # noqa: E402


EVIDENCE = ROOT / "benchmarks" / "controlnet" / "results" / "summary.json"
IMAGES = ROOT / "docs" / "images"
BEGIN = "<!-- demo figures: begin (written by benchmarks/fill_readme.py) -->"
END = "<!-- demo figures: end -->"
CONTROLNET_BEGIN = "<!-- controlnet demo: begin (written by benchmarks/fill_readme.py) -->"
CONTROLNET_END = "<!-- controlnet demo: end -->"
MODELS = {"pretrained": "pretrained", "standard": "standard fine-tuning", "difftune": "Diff-Tuning"}


def table(summary: dict) -> str:
    """The figures of a demo's `summary.json` as Markdown, and what can be read off them."""
    settings, pretrained = summary["settings"], summary["pretrained"]
    lines = [
        f"| {settings['target']}, {settings['steps']} steps of {settings['batch']} rows | loss on target drawings | FID to"
        " the target | KID | loss on source drawings | images/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in MODELS.items():
        figures = summary[name]
        learned = "–" if name == "pretrained" else percent(figures, "loss_change_target")
        forgotten = "–" if name == "pretrained" else percent(figures, "forgetting_source")
        rate = f"{figures['images_per_second']:.0f}" if "images_per_second" in figures else "–"
        kid = f"{figures['kid_target']:.1f} ± {figures['kid_target_std']:.1f}"
        lines.append(f"| {title} | {learned} | {figures['fid_target']:.4g} | {kid} | {forgotten} | {rate} |")
    floor = f"{pretrained['fid_floor']:.4g} | {pretrained['kid_floor']:.1f}"
    lines.append(f"| real drawings (the floor) | | {floor} | | |")
    seconds, recipe = summary["seconds"], settings["recipe"]
    note = (
        "\nLower is better everywhere but in the last column. Losses are denoising losses on held-out drawings"
        f" ({pretrained['num_target']} of the target, {pretrained['num_source']} of the source sets), as changes from the"
        f" pretrained model. FID and KID: {pretrained['num_generated']} samples of each model against"
        f" {pretrained['num_real']} held-out target drawings. Learning rate {recipe['learning_rate']:g}"
        f" ({recipe['lr_scheduler']}) for both. The bank took {seconds['knowledge_bank']:.0f} s, the whole demo"
        f" {seconds['total'] / 60:.1f} minutes.\n\n{reading(summary)}"
    )
    return "\n".join(lines) + "\n" + note


def reading(summary: dict) -> str:
    """What the figures say, by the rule that a difference of less than two standard errors says nothing. Both models are
    measured on the same drawings, so the error is that of the paired difference, which `summary["difference"]` has."""
    pretrained = summary["pretrained"]

    def beside(name: str, less: str, more: str, equal: str) -> str:
        difference, error = (summary["difference"][key] for key in (name, f"{name}_standard_error"))
        return equal if abs(difference) < 2 * error else less if difference < 0 else more

    def nearer(figures: dict) -> bool:
        spread = math.hypot(pretrained["kid_target_std"], figures["kid_target_std"])
        return figures["kid_target"] < pretrained["kid_target"] - spread

    forgot = beside("forgetting_source", "less than", "more than", "neither clearly less nor clearly more than")
    learned = beside("loss_change_target", "better", "less well", "as well")
    by = percent(summary["difference"], "forgetting_source")
    moved = [MODELS[name] for name in ("standard", "difftune") if nearer(summary[name])]
    kid = {0: "neither method comes", 1: f"only {''.join(moved[:1])} comes", 2: "both methods come"}[len(moved)]
    return (
        f"Diff-Tuning forgot {forgot} standard fine-tuning ({by} on the same drawings), and by its loss learned the target {learned}. By KID, {kid}"
        " nearer to the target's drawings than the pretrained model by more than the spread."
    )


def percent(figures: dict, name: str) -> str:
    """A relative change with its standard error."""
    return f"{100 * figures[name]:+.1f} ± {100 * figures[f'{name}_standard_error']:.1f} %"


def evidence_text(summary: dict) -> str:
    """What the ControlNet benchmark's `summary.json` says, in two sentences."""
    low, high = (100 * end for end in summary["ci95"])
    unsure = "" if low > 0 else ", so that it is not certain that there is a saving"
    adherence = {name: 100 * found["top5_of_100"]["mean"] for name, found in summary["forgetting"]["methods"].items()}
    before = 100 * summary["forgetting"]["pretrained"]["top5_of_100"]
    return (
        f"Over five conditions and three seeds ([benchmarks/evidence.md](benchmarks/evidence.md)): {100 * summary['mean_step_reduction']:.0f} %"
        f" fewer steps (95 %: {low:.0f} to {high:.0f}; the paper has 24 %){unsure}. Where there is no condition to follow, {before:.0f} % of the bare"
        f" model's samples are recognised as what was asked for; with the ControlNet beside it {adherence['standard']:.0f} % after standard training,"
        f" {adherence['blank']:.0f} % after Diff-Tuning."
    )


def controlnet_text(summary: dict, evidence: dict) -> str:
    """The pictures and figures of a ControlNet demo's `summary.json` as Markdown, and those of the benchmark's."""
    settings, found = summary["settings"], summary["convergence"]
    kind, metric = settings["condition"]["kind"], next(iter(found["conditions"].values()))["metric"]
    early, last = str(settings["early"]), str(settings["steps"])
    name = {"ssim": "1 − SSIM", "mse": "MSE"}[metric]
    lines = [
        f"![Control images, and what both ControlNets draw after {early} and {last} steps]"
        "(docs/images/controlnet_samples.png)\n",
        f"| {kind}, {last} steps of {settings['batch']} rows | obeys after step | {name} after {early} steps |"
        f" after {last} | images/s |",
        "|---|---|---|---|---|",
    ]
    for run in found["runs"]:
        method, errors = run["objective"], summary[run["objective"]]["condition_error"]
        step = f"{run['step']:.0f}" if run["crossed"] else "never"
        lines.append(
            f"| {MODELS[method]} | {step} | {errors[early][metric]:.3f} | {errors[last][metric]:.3f} |"
            f" {summary[method]['images_per_second']:.0f} |"
        )
    lines.append(
        f"\nThe error is between the control image and the one found in the image that was made, over {settings['rows']}"
        f" held-out ones; a ControlNet obeys once its error is halfway down, on a log scale, from what it was before training"
        f" to what standard training ends with. One seed, the whole demo in {summary['seconds']['total'] / 60:.1f} minutes.\n\n"
        f"{evidence_text(evidence)}\n\n"
        "![The error by training step](docs/images/controlnet_convergence.png)"
    )
    return "\n".join(lines)


def copied(folder: Path | None, prefix: str, names: tuple[str, ...]) -> dict | None:
    """Copies pictures and summary of a demo's output folder, if one is given; the summary that is then there."""
    if folder is not None:
        IMAGES.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(folder / name, IMAGES / f"{prefix}_{name}")
    summary = IMAGES / f"{prefix}_summary.json"
    return json.loads(summary.read_text()) if summary.is_file() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?", help="The demo's output folder.")
    parser.add_argument("--controlnet", type=Path, help="The ControlNet demo's output folder.")
    arguments = parser.parse_args()
    demo = copied(arguments.demo, "demo", ("samples.png", "forgetting.png", "summary.json"))
    controlnet = copied(arguments.controlnet, "controlnet", ("samples.png", "convergence.png", "summary.json"))
    readme = ROOT / "README.md"
    text = readme.read_text()
    if demo is not None:
        text = fill(text, BEGIN, END, table(demo))
    if controlnet is not None:
        figures = controlnet_text(controlnet, json.loads(EVIDENCE.read_text()))
        text = fill(text, CONTROLNET_BEGIN, CONTROLNET_END, figures)
    readme.write_text(text)


if __name__ == "__main__":
    main()
