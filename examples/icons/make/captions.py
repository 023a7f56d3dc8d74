# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Plain English captions from the names of icon sets.

`caption(set_name, name, siblings)` says what a drawing shows, in lower case; `core(caption)` strips what distinguishes
drawings of one thing from each other (skin tone, flag shape, logo or file icon), so that near-twins can be kept together
when data are split; `loose_core(caption)` also evens out spelling.
"""

import re
import unicodedata
from collections.abc import Collection

import pycountry


SKIN_TONE = re.compile(r"(-(light|medium-light|medium|medium-dark|dark)-skin-tone)+$|(-(light|medium|dark))+$")
EMOJI_SETS = ("noto", "noto-v1", "emojione", "emojione-v1", "fluent-emoji", "fluent-emoji-flat", "twemoji", "openmoji")
FLAG_WORDS = {
    "asean": "asean", "cefta": "cefta", "eac": "the east african community", "arab": "the arab league",
    "european-union": "the european union", "united-nations": "the united nations", "nato": "nato", "xk": "kosovo",
    "eu": "the european union", "un": "the united nations", "gb-eng": "england", "gb-sct": "scotland",
    "gb-wls": "wales", "gb-nir": "northern ireland", "uk": "the united kingdom", "earth": "earth", "mars": "mars",
    "sh-ac": "ascension island", "sh-ta": "tristan da cunha", "sh-hl": "saint helena", "ic": "the canary islands",
    "dg": "diego garcia", "cp": "clipperton island", "pc": "the pacific community",
}  # fmt: skip
COUNTRY_WORDS = {
    "bolivia": "bolivia", "venezuela": "venezuela", "iran": "iran", "korea, republic": "south korea",
    "korea, democratic": "north korea", "moldova": "moldova", "tanzania": "tanzania", "taiwan": "taiwan",
    "micronesia": "micronesia", "palestine": "palestine", "russian": "russia", "syrian": "syria",
    "viet nam": "vietnam", "lao people": "laos", "brunei": "brunei", "congo, the democratic": "dr congo",
    "holy see": "vatican city", "virgin islands, british": "the british virgin islands",
    "virgin islands, u.s.": "the us virgin islands", "saint helena": "saint helena", "falkland": "the falkland islands",
}  # fmt: skip


def _words(name: str) -> str:
    return re.sub(r"\s+", " ", name.replace("-", " ").replace("_", " ")).strip().lower()


def _place(code: str) -> str:
    """'fr' -> 'france', 'us-ak' -> 'alaska', 'lang-xx' and anything unknown -> its own words."""
    if code in FLAG_WORDS:
        return FLAG_WORDS[code]
    country = pycountry.countries.get(alpha_2=code.upper()) if len(code) == 2 else None
    if country is not None:
        name = getattr(country, "common_name", country.name).lower()
        for start, short in COUNTRY_WORDS.items():
            if name.startswith(start):
                return short
        return name.split(",")[0]
    region = pycountry.subdivisions.get(code=code.upper())
    if region is not None:
        return re.sub(r"\s*[\[(].*", "", region.name.split(",")[0]).lower()
    if re.fullmatch(r"[a-z]{2}-.+", code):  # 'by-historical': a country and a remark
        return f"{_place(code[:2])} {_words(code[3:])}"
    return _words(code)


def _file_icon(name: str) -> str:
    name = re.sub(r"-(light|dark|clone)$", "", name)
    if name in ("folder", "folder-open", "file"):
        return {"folder": "folder icon", "folder-open": "open folder icon", "file": "file icon"}[name]
    if name.startswith("folder-"):
        opened = name.endswith("-open")
        return f"{'open ' if opened else ''}{_words(name[7:-5] if opened else name[7:])} folder icon"
    return f"{_words(name)} file icon"


def caption(set_name: str, name: str, siblings: Collection[str] = ()) -> str:
    """The caption of the drawing `name` of the set `set_name`; `siblings` are all names of that set."""
    if set_name in ("circle-flags", "flag"):
        shape = "round " if set_name == "circle-flags" else "square " if name.endswith("-1x1") else ""
        return f"{shape}flag of {_place(re.sub(r'-(1x1|4x3)$', '', name))}"
    if set_name == "skill-icons":
        ground = {"-dark": " on dark square", "-light": " on light square"}
        for suffix, words in ground.items():
            if name.endswith(suffix):
                return f"{_words(name[: -len(suffix)])} logo{words}"
        return f"{_words(name)} logo on square"
    if set_name == "devicon":
        return f"{_words(name[:-9])} wordmark logo" if name.endswith("-wordmark") else f"{_words(name)} logo"
    if set_name in ("logos", "token-branded"):
        if name.endswith("-icon"):
            return f"{_words(name[:-5])} logo"
        return f"{_words(name)} wordmark logo" if f"{name}-icon" in siblings else f"{_words(name)} logo"
    if set_name in ("material-icon-theme", "catppuccin", "vscode-icons"):
        return _file_icon(re.sub(r"^(file-type|folder-type|default)-", "", name))
    if set_name in ("fluent-color", "flat-color-icons"):
        return f"{_words(re.sub(r'-[0-9]{2}$', '', name))} icon"
    if set_name in EMOJI_SETS:
        return re.sub(r"^flag (?:for )?(?:flag )?(?!in )", "flag of ", _words(name))
    return _words(name)


def unaccented(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def without_skin_tone(name: str) -> str:
    """The name of the drawing without skin tones: 'waving-hand-dark' and 'waving-hand-dark-skin-tone' -> 'waving-hand'."""
    return SKIN_TONE.sub("", name)


def core(text: str) -> str:
    """What a caption is about: 'round flag of france' -> 'flag of france', 'python wordmark logo' -> 'python'."""
    text = re.sub(r"( (light|medium light|medium|medium dark|dark) skin tone)+( |$)", r"\3", text)
    text = re.sub(r"^(round|square|open) ", "", text)
    text = re.sub(r" (wordmark logo|logo|file icon|icon)( on (dark |light )?square)?$", "", text)
    return re.sub(r"[^a-z0-9]", "", text)


def loose_core(text: str) -> str:
    """As `core`, and 'flag of the aland islands' is 'flag of åland islands', 'st lucia' is 'saint lucia'."""
    return core(re.sub(r"\b(the|and|s) ", "", re.sub(r"\bst\b", "saint", unaccented(text))))
