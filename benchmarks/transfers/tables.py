# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of benchmarks/evidence.md, from the summary."""

from typing import Any

from benchmarks.paired import LEAST_CONDITIONS, LEAST_PAIRS

from .methods import MAIN, METHODS, VARIED, WEIGHTED
from .settings import STAGE_2_TARGETS
from .splits import SOURCE


NO_INTERVAL = (
    f"Intervals are those of a bootstrap over sets and seeds; there is none for fewer than {LEAST_PAIRS} pairs or"
    f" {LEAST_CONDITIONS} sets."
)


def markdown(summary: dict[str, Any]) -> str:
    """All of them."""
    parts = [source_table(summary[SOURCE])]
    if not summary["targets"]:
        return "\n\n".join([*parts, "No run of stage 1 is finished yet."])
    parts += [gain_table(summary), in_words(summary), generality_table(summary)]
    parts += [figure_table(summary, "fid", 1), figure_table(summary, "kid", 2), facts(summary)]
    parts += [given_up(one) for one in summary["other_recipes"]]
    if summary["stage_2"]:
        parts += stage_2_tables(summary["stage_2"])
    if summary["stage_3"]:
        parts += [sensitivity_table(summary["stage_3"]), curve_table(summary["stage_3"])]
    if summary["tuning"]["tried"]:
        parts.append(tuning_table(summary))
    return "\n\n".join(part for part in parts if part)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def around(value: dict[str, Any], digits: int) -> str:
    """A mean with its standard deviation over seeds."""
    deviation = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{deviation}"


def percent(gain: dict[str, Any] | None) -> str:
    """A relative gain with its interval."""
    if gain is None:
        return ""
    ends = gain["ci95"]
    interval = f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})" if ends else ""
    return f"{100 * gain['mean_relative_gain']:+.1f} %{interval}"


def source_table(found: dict[str, Any]) -> str:
    return (
        f"The source model on its own held-out drawings: FID {found['fid']:.1f} (floor {found['fid_floor']:.1f},"
        f" autoencoder alone {found['autoencoder']['fid']:.1f}), KID {found['kid']:.2f} (floor {found['kid_floor']:.2f},"
        f" autoencoder alone {found['autoencoder']['kid']:.2f}), precision {found['precision']:.2f}"
        f" ({found['precision_floor']:.2f}), recall {found['recall']:.2f} ({found['recall_floor']:.2f});"
        f" {found['num_generated']} samples, {found['num_held_out']} drawings."
    )


def gain_table(summary: dict[str, Any]) -> str:
    rows = [
        [
            METHODS[method].title,
            *gain_cells(gain),
            f"{100 * gain['gain_of_averages']:+.1f} %",
            f"{gain['better']} of {gain['num_pairs']}",
        ]
        for method, gain in summary["gains"].items()
        if method in table_methods(summary)
    ]
    head = [
        "against standard",
        "FID lower by (95 %)",
        "over the floor (95 %)",
        "over the autoencoder alone (95 %)",
        "KID",
        "FID of averages",
        "pairs with lower FID",
    ]
    return table(head, rows)


def in_words(summary: dict[str, Any]) -> str:
    """What the tables say of the model that was not tuned, of weighted losses, and of intervals."""
    sets = {target: part for target, part in summary["targets"].items() if part["pretrained"]}
    nearer = {
        name: [
            target
            for target, part in sets.items()
            if part["pretrained"][name] < part["methods"]["standard"][name]["mean"]
        ]
        for name in ("fid", "kid")
        if all("standard" in part["methods"] for part in sets.values())
    }
    texts = []
    if sets and nearer:
        texts.append(
            f"Without tuning, the source model has a lower FID than standard fine-tuning on {named(nearer['fid'], sets)}, and a"
            f" lower KID on {named(nearer['kid'], sets)}."
        )
    elsewhere = summary["weighted_elsewhere"]
    if elsewhere:
        low, high = elsewhere["t95"]
        count = len(elsewhere["targets"])
        texts.append(
            f"Weighted losses were run on every set because {', '.join(STAGE_2_TARGETS)} spoke for them; on the {count} others,"
            f" which had no part in that, their FID is {100 * elsewhere['mean_relative_gain']:.1f} % lower than standard's (95 %, by"
            f" Student's t over the {count} sets: {100 * low:.1f} to {100 * high:.1f}), in {elsewhere['better']} of"
            f" {elsewhere['num_pairs']} pairs."
        )
    texts.append(NO_INTERVAL)
    return " ".join(texts)


def named(some: list[str], sets: dict[str, Any]) -> str:
    """How many of the sets, and which."""
    which = f" ({', '.join(some)})" if some else ""
    return f"{len(some)} of {len(sets)} sets{which}"


def in_short(summary: dict[str, Any]) -> str:
    """What README.md says of it: the full method against standard fine-tuning, on every target set."""
    parts = [
        part
        for part in summary["targets"].values()
        if part["pretrained"] and {"standard", "difftune"} <= part["methods"].keys()
    ]
    has_weighted = "weighted" in table_methods(summary)
    names = ("standard", "difftune", "weighted") if has_weighted else ("standard", "difftune")
    by_method = {name: [part["methods"][name] for part in parts] for name in names}
    untuned = {
        name: mean_of([part["pretrained"] for part in parts], name) for name in ("loss_source", "loss_held_out")
    }
    forgotten = {
        name: mean_of(figures, "loss_source") / untuned["loss_source"] - 1 for name, figures in by_method.items()
    }
    unseen = {name: mean_of(figures, "loss_held_out") for name, figures in by_method.items()}
    copies = {name: f"{100 * mean_of(figures, 'copied'):.0f} %" for name, figures in by_method.items()}
    gains = summary["gains"]
    seeds = max(part["methods"]["difftune"]["num_seeds"] for part in parts)
    weighted = has_weighted and (
        "; with ψ and ξ as weights of the loss (`--coefficients weighted`)"
        f" {100 * gains['weighted']['mean_relative_gain']:.1f} %{between(gains['weighted'])}"
    )
    beside = f"{copies['difftune']} of Diff-Tuning's" + (
        f" and {copies['weighted']} of the weighted form's" if has_weighted else ""
    )
    below = 1 - untuned["loss_held_out"] / unseen["difftune"]
    return (
        f"On {len(parts)} transfers of a small class-conditional DiT to 250 drawings each, {seeds} seeds with equal budgets,"
        f" Diff-Tuning's loss on what the model had known rose by {100 * forgotten['difftune']:.0f} %, where standard"
        f" fine-tuning's rose by {100 * forgotten['standard']:.0f} %. On held-out drawings of the target it was"
        f" {100 * (1 - unseen['difftune'] / unseen['standard']):.0f} % lower than standard fine-tuning's, but both methods are"
        f" overfitted: the untuned model's is {100 * abs(below):.0f} % {'lower still' if below > 0 else 'higher'}. FID was"
        f" {100 * gains['difftune']['mean_relative_gain']:.1f} % lower{between(gains['difftune'], '95 %: ')}, where the paper has 26 %,"
        f" and with retention alone {100 * gains['retention']['mean_relative_gain']:.1f} %{weighted or ''}. FID with"
        f" so few drawings rewards copies of them: {copies['standard']} of standard fine-tuning's samples are near copies of a training"
        f" drawing, {beside}. Going a part of the way back to the pretrained weights after training, a simple rival, is not"
        " compared yet ([benchmarks/evidence.md](benchmarks/evidence.md#transfers-eight-target-sets))."
    )


def between(gain: dict[str, Any], before: str = "") -> str:
    """The interval of a gain in parentheses, if there is one."""
    ends = gain["ci95"]
    return f" ({before}{' to '.join(f'{100 * end:.1f}' for end in ends)})" if ends else ""


def table_methods(summary: dict[str, Any]) -> list[str]:
    """The methods of stage 1; and those with weighted losses that were run on every set."""
    parts = summary["targets"].values()
    main = [method for method in MAIN if any(method in part["methods"] for part in parts)]
    return main + [method for method in WEIGHTED if all(method in part["methods"] for part in parts)]


def gain_cells(gain: dict[str, Any] | None) -> list[str]:
    """A gain in FID, in FID over the floor and over the autoencoder's, and the difference in KID."""
    if gain is None:
        return ["", "", "", ""]
    parts = (gain, gain["over_floor"], gain["over_autoencoder"])
    return [*map(percent, parts), f"{gain['kid_difference']['mean']:+.2f}"]


def generality_table(summary: dict[str, Any]) -> str:
    """Losses and copies: means over the target sets that every method was run on."""
    methods = table_methods(summary)
    parts = [part for part in summary["targets"].values() if all(method in part["methods"] for method in methods)]
    if not parts:
        return ""

    losses = ("loss_train", "loss_held_out", "loss_source")
    untuned = [part["pretrained"] for part in parts if part["pretrained"]]
    rows = [["untuned source model", *(f"{mean_of(untuned, name):.3f}" for name in losses), ""]] if untuned else []
    for method in methods:
        figures = [part["methods"][method] for part in parts]
        copies = f"{100 * mean_of(figures, 'copied'):.1f} %"
        rows.append([METHODS[method].title, *(f"{mean_of(figures, name):.3f}" for name in losses), copies])
    drawings = ("its training drawings", "held-out drawings of the set", "held-out source drawings")
    return table(
        [f"mean over {len(parts)} sets", *(f"loss on {name}" for name in drawings), "samples that are copies"], rows
    )


def figure_table(summary: dict[str, Any], name: str, digits: int) -> str:
    methods = table_methods(summary)
    head = [
        f"{name.upper()} of",
        "floor",
        "autoencoder alone",
        "untuned source model",
        *(METHODS[method].title for method in methods),
    ]
    rows = []
    for target, part in summary["targets"].items():
        untuned = part["pretrained"] and f"{part['pretrained'][name]:.{digits}f}"
        cells = [around(part["methods"][m][name], digits) if m in part["methods"] else "" for m in methods]
        bounds = (part[f"{name}_floor"], part["autoencoder"][name])
        rows.append([target, *(f"{value:.{digits}f}" for value in bounds), untuned or "", *cells])
    return table(head, rows)


def facts(summary: dict[str, Any]) -> str:
    """What the figures rest on."""
    settings = summary["settings"]
    counts = [
        f"{target} {part['num_train']}, {part['num_held_out']}, {part['num_generated']}, {part['num_floor']}"
        for target, part in summary["targets"].items()
    ]
    seen = {METHODS[method].title: n for method, n in settings["target_images_seen"].items() if method in MAIN}
    sampling = settings["sampling"]
    return (
        f"Every method: {recipe_words(summary['recipe'])}; {settings['flags']['train_batch_size']} rows per step; {sampling['sampler']} with {sampling['steps']} steps,"
        f" guidance {sampling['guidance_scale']:g}; a bank of {settings['bank'][0]} samples of {settings['bank'][1]} steps."
        f" Target images seen: {', '.join(f'{title} {n:,}' for title, n in seen.items())}. Drawings trained on, drawings held"
        f" out, samples compared with them, and real drawings on either side of the floor: {'; '.join(counts)}."
        f" {settings['num_runs']} runs, {settings['hours']:.1f} hours of one run at a time, the longest of the table"
        f" {settings['longest_minutes']:.1f} minutes, on {', '.join(settings['machines'])}."
    )


def recipe_words(recipe: dict[str, Any]) -> str:
    """A recipe in words."""
    average = "the moving average of the weights" if recipe["use_ema"] else "the weights themselves"
    gamma = recipe["snr_gamma"]
    loss = "the loss unweighted" if gamma is None else f"the loss weighted by min-SNR with γ = {gamma:g}"
    return f"learning rate {recipe['learning_rate']:g}, {recipe['steps']} steps, {loss}, {average}"


def given_up(found: dict[str, Any]) -> str:
    """What the methods gained with a recipe that is not the one of the tables."""
    gains = [
        f"{METHODS[method].title} {percent(gain)} in {gain['num_pairs']} pairs"
        for method, gain in found["gains"].items()
    ]
    return f"With {recipe_words(found['recipe'])}, against standard: {'; '.join(gains)}." if gains else ""


def stage_2_tables(found: dict[str, Any]) -> list[str]:
    """Variants; and adapters, alone and with Diff-Tuning, beside the model that was not trained."""
    targets = found["targets"]
    columns = [f"FID of {target}" for target in targets]
    rows = [
        [
            METHODS[name].title,
            *stage_2_row(one, targets),
            *gain_cells(one["gain"]),
            *generality(list(one["targets"].values())),
        ]
        for name, one in found["variants"].items()
    ]
    losses = ["loss on held-out drawings of the set", "on held-out source drawings", "copies"]
    gains = [
        "lower than standard by (95 %)",
        "over the floor (95 %)",
        "over the autoencoder alone (95 %)",
        "KID against it",
    ]
    texts = [table(["variants", *columns, *gains, *losses], rows)]
    if not found["adapters"]:
        return texts
    untuned = found["pretrained"]
    known = [untuned[target] for target in targets if untuned[target]]
    figures = [f"{untuned[target]['fid']:.1f}" if untuned[target] else "" for target in targets]
    rows = [["untuned source model", *figures, *gain_cells(None), *generality(known)]] if known else []
    for one in found["adapters"]:
        rate = f", {one['learning_rate']:g}{' (chosen)' if one['chosen'] else ''}"
        for name, method in one["methods"].items():
            gain = gain_cells(one["gain_of_difftune"] if name != one["adapter"] else None)
            cells = [*stage_2_row(method, targets), *gain, *generality(list(method["targets"].values()))]
            rows.append([METHODS[name].title + rate, *cells])
    gains[0] = "lower than the adapter alone by (95 %)"
    head = ["adapters, learning rate", *columns, *gains, *losses]
    return [*texts, table(head, rows)]


def stage_2_row(one: dict[str, Any], targets: list[str]) -> list[str]:
    """FID of a method by target."""
    return [around(one["targets"][target]["fid"], 1) if target in one["targets"] else "" for target in targets]


def generality(figures: list[dict[str, Any]]) -> list[str]:
    """Losses on held-out drawings and copies, means over targets, as far as they were measured."""
    cells = []
    for name in ("loss_held_out", "loss_source"):
        cells.append(f"{mean_of(figures, name):.3f}" if all(name in one for one in figures) else "")
    copies = all("copied" in one for one in figures)
    return [*cells, f"{100 * mean_of(figures, 'copied'):.1f} %" if copies else ""]


def mean_of(figures: list[dict[str, Any]], name: str) -> float:
    """A mean over targets, of means over seeds where there are several."""
    values = [one[name]["mean"] if isinstance(one[name], dict) else one[name] for one in figures]
    return sum(values) / len(values)


def sensitivity_table(found: dict[str, Any]) -> str:
    methods = [name for name in ("standard", "difftune", *VARIED) if name in found["methods"]]
    rows = []
    for name in methods:
        one = found["methods"][name]
        rows.append([METHODS[name].title, around(one["fid"], 1), around(one["kid"], 2), *generality([one])])
    losses = ["loss on held-out drawings of the set", "on held-out source drawings", "copies"]
    return table([f"sensitivity, on {found['target']}", "FID", "KID", *losses], rows) if rows else ""


def curve_table(found: dict[str, Any]) -> str:
    if not found["curves"]:
        return ""
    steps = list(next(iter(found["curves"].values())))
    rows = [
        [
            METHODS[method].title,
            *(", ".join((around(points[step]["fid"], 1), around(points[step]["kid"], 1))) for step in steps),
        ]
        for method, points in found["curves"].items()
    ]
    return table([f"FID, KID by training step, on {found['target']}", *steps], rows)


def tuning_table(summary: dict[str, Any]) -> str:
    """What the recipe was chosen from."""
    tried = summary["tuning"]["tried"]
    steps = sorted({one["steps"] for one in tried})
    kinds = sorted({(one["snr_gamma"] or 0, one["learning_rate"], one["use_ema"]) for one in tried})
    scores = {(one["snr_gamma"] or 0, one["learning_rate"], one["use_ema"], one["steps"]): one for one in tried}
    rows = []
    for gamma, rate, ema in kinds:
        found = [scores.get((gamma, rate, ema, step)) for step in steps]
        cells = [f"{one['fid']:.1f}, {one['kid']:.2f}" if one else "" for one in found]
        loss = f"γ = {gamma:g}" if gamma else "unweighted"
        rows.append([f"{loss}, {rate:g}, {'moving average' if ema else 'weights themselves'}", *cells])
    head = [f"FID, KID of standard on {summary['tuning']['target']}", *(f"{step} steps" for step in steps)]
    return table(head, rows)
