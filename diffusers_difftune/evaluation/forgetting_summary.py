# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning did, in words, from the figures of `forgetting.json`."""

from typing import Any


CLEAR = 2  # standard errors; less says nothing
PLACES = {"near_data": "near the data", "middle": "in the middle", "near_noise": "near the noise"}


def summary(report: dict[str, Any]) -> dict[str, str]:
    """What was forgotten and learned where, what the swap says, and how far the weights went, a text for each.

    A change counts as one from two standard errors on, here as everywhere in the project.

    Args:
        report (`dict[str, Any]`): `settings`, `losses`, `swap` and `distance`, as `difftune forgetting` writes them.
    """
    settings, losses = report["settings"], report["losses"]
    control = settings["kind"] == "controlnet"
    source = "samples of the pretrained model" if settings["source_kind"] == "bank" else "source images"
    blank = " under a blank control image" if control else ""
    shown = " under their control images" if control else ""
    return {
        "Forgotten": f"on {losses['source']['num_rows']} {source}{blank} {change(losses['source'])}.",
        "Learned": f"on {losses['target']['num_rows']} target images{shown} {change(losses['target'])}.",
        "Swap": swap_words(report["swap"]),
        "Control": control_words(report["swap"]),
        "Distance": distance_words(report["distance"], control),
    }


def change(losses: dict[str, Any]) -> str:
    """How the denoising loss changed, and where."""
    mean, error = losses["mean_change"], losses["mean_change_standard_error"]
    parts = [
        f"{place} {100 * third['mean_change']:+.1f} ± {100 * third['mean_change_standard_error']:.1f} %"
        for name, place in PLACES.items()
        if (third := losses["thirds"][name]) is not None
    ]
    if mean == 0 == error:
        return "the denoising loss is the same, to the last digit: this is the pretrained model"
    if abs(mean) < CLEAR * error:
        said = f"the denoising loss did not clearly change ({100 * mean:+.1f} ± {100 * error:.1f} %"
        return f"{said} on average over the noise levels): {', '.join(parts)}"
    said = f"the denoising loss {'rose' if mean > 0 else 'fell'} by {100 * abs(mean):.1f} ± {100 * error:.1f} %"
    return f"{said} on average over the noise levels: {', '.join(parts)}"


def swap_words(swap: dict[str, Any]) -> str:
    """What the curve of the data end says."""
    points, (name, metric) = of_end(swap, "data"), metric_of(swap)
    values = {point["percent"]: point["target"][metric] for point in points}
    best = min(values, key=lambda percent: values[percent])
    floor = swap["target_floor"][metric]
    real = "" if floor is None else f"; real images among themselves have {floor:.4g}"
    middle = f", {values[best]:.4g} at best (x = {best:g})" if best not in (0, 100) else ""
    return (
        f"with the last x % of sampling given to the pretrained model, {name} to the target is {values[0]:.4g} at x = 0"
        f"{middle} and {values[100]:.4g} at x = 100{real}. {verdict(points)}"
    )


def verdict(points: list[dict[str, Any]]) -> str:
    """Where swapping hurts, and where it helps, by the paired difference of KIDs."""
    farther, nearer = (
        ", ".join(f"{point['percent']:g}" for point in points if standing(point) == sign) for sign in (1, -1)
    )
    if not farther and not nearer:
        return (
            "By KID no x is clearly nearer or farther than the fine-tuned model, the pretrained model alone included."
        )
    said = [f"clearly farther from the target at x = {farther}"] if farther else []
    said += [f"clearly nearer to the target at x = {nearer}"] if nearer else []
    return f"By KID it is {', and '.join(said)}."


def control_words(swap: dict[str, Any]) -> str:
    """What the curve of the noise end says, beside that of the data end."""
    points, (name, metric) = of_end(swap, "noise"), metric_of(swap)
    data = {point["percent"]: point for point in of_end(swap, "data")}
    between = [point for point in points if 0 < point["percent"] < 100]
    if not between:
        return "with the first x % instead there is nothing between x = 0 and x = 100 to compare."
    # where the two ends differ most is where the chain shows
    at = max(between, key=lambda point: abs(point["target"][metric] - data[point["percent"]]["target"][metric]))
    percent, found = at["percent"], verdict(points)
    if found == verdict(of_end(swap, "data")):
        found = "By KID the same holds."
    return (
        f"with the first x % instead, {name} at x = {percent:g} is {at['target'][metric]:.4g}, where the last"
        f" {percent:g} % give {data[percent]['target'][metric]:.4g}. {found}"
    )


def distance_words(distance: dict[str, Any], control: bool) -> str:
    """How far the weights went, and where."""
    total, each, trained = distance["total"], distance["per_trained_parameter"], distance["num_trained"]
    if not total["num_changed"]:
        return "not one weight differs from the pretrained model's."
    what = "the ControlNet's copy of the denoiser" if control else "the weights"
    farthest = max(distance["blocks"].items(), key=lambda item: item[1]["relative_l2"])
    weightiest = max(distance["blocks"].items(), key=lambda item: item[1]["ewc"])
    share = f", {100 * weightiest[1]['ewc'] / total['ewc']:.0f} % of it in {weightiest[0]}" if total["ewc"] else ""
    return (
        f"{what} went {total['l2']:.4g} from the pretrained ones in L2 ({100 * total['relative_l2']:.2g} % of their norm;"
        f" farthest {farthest[0]}, {100 * farthest[1]['relative_l2']:.2g} %), and {total['ewc']:.3g} ±"
        f" {total['ewc_standard_error']:.1g} weighted by the Fisher information (EWC{share}); per trained parameter"
        f" ({trained:,}) {each['rms']:.2g} (root mean square) and {each['ewc']:.2g}."
    )


def standing(point: dict[str, Any]) -> int:
    """1 if a point is clearly farther from the target than the fine-tuned model, −1 if clearly nearer, 0 if neither."""
    difference, error = point["kid_difference"], point["kid_difference_standard_error"]
    if abs(difference) <= CLEAR * error:
        return 0
    return 1 if difference > 0 else -1


def of_end(swap: dict[str, Any], end: str) -> list[dict[str, Any]]:
    """The points of one curve, by x."""
    return sorted((point for point in swap["points"] if point["end"] == end), key=lambda point: point["percent"])


def metric_of(swap: dict[str, Any]) -> tuple[str, str]:
    """Name and key of what the curve is told by: FID, or KID where there are too few images for an FID."""
    known = all(point["target"]["fid"] is not None for point in swap["points"])
    return ("FID", "fid") if known else ("KID", "kid")
