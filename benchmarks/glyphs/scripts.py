# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""Which letters the benchmark is of, and the Debian packages whose fonts draw them."""

import unicodedata


SOURCE = "source"
TUNING_TARGETS = ("georgian", "tamil", "bengali")
TARGETS = ("armenian", "hebrew", "thai", "ethiopic", "devanagari", "lao", "khmer", "sinhala")
SETS = (SOURCE, *TUNING_TARGETS, *TARGETS)

# A letter that looks like one of an earlier alphabet is that one's: the Greek Α is left out for the Latin A, the Cyrillic Г
# for the Greek Γ. The small Cyrillic в stays, since it is smaller than B: all letters of a font are drawn at one size.
ALPHABETS = (
    "0123456789",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθιλμξπρσςτυφχψω",
    "БДЖЗИЙЛУЦЧШЩЪЫЬЭЮЯбвгджзийклмнптфцчшщъыьэюя",
)
# First and last code points. What is not a letter between them, such as vowel signs, is left out.
RANGES = {
    "georgian": (0x10D0, 0x10F0),
    "tamil": (0x0B85, 0x0BB9),
    "bengali": (0x0985, 0x09B9),
    "armenian": (0x0531, 0x0586),
    "hebrew": (0x05D0, 0x05EA),
    "thai": (0x0E01, 0x0E2E),
    "devanagari": (0x0905, 0x0939),
    "lao": (0x0E81, 0x0EAE),
    "khmer": (0x1780, 0x17A2),
    "sinhala": (0x0D85, 0x0DC6),
}
ETHIOPIC = "ሀለሐመሠረሰሸቀበተቸኀነኘአከኸወዐዘዠየደጀገጠጨጰጸፀፈፐ"  # the consonants with their first vowel

NOTO = "fonts-noto-core fonts-noto-extra "
WORLD = "fonts-dejavu-core fonts-dejavu-extra fonts-freefont-ttf fonts-georgewilliams fonts-hack fonts-mph-2b-damase "
# Fonts of the other packages put letters of their scripts where Latin ones belong, so that the source has these alone.
SOURCE_PACKAGES = (
    NOTO + WORLD + "fonts-adf-baskervald fonts-adf-gillius fonts-adf-romande fonts-adf-universalis fonts-agave"
    " fonts-anonymous-pro fonts-averia-serif-gwf fonts-b612 fonts-cabin fonts-cantarell fonts-cardo fonts-clear-sans"
    " fonts-cmu fonts-comfortaa fonts-comic-neue fonts-courier-prime fonts-crosextra-caladea fonts-crosextra-carlito"
    " fonts-dosis fonts-dustin fonts-ebgaramond fonts-ebgaramond-extra fonts-fantasque-sans fonts-firacode"
    " fonts-gfs-artemisia fonts-gfs-bodoni-classic fonts-gfs-didot fonts-gfs-neohellenic fonts-go fonts-goudybookletter"
    " fonts-hermit fonts-inconsolata fonts-inter fonts-jetbrains-mono fonts-junicode fonts-jura fonts-karla fonts-lato"
    " fonts-league-mono fonts-league-spartan fonts-levien-museum fonts-liberation fonts-linuxlibertine fonts-lobster"
    " fonts-manrope fonts-monofur fonts-mononoki fonts-mplus fonts-oldstandard fonts-open-sans fonts-opendin fonts-oxygen"
    " fonts-paratype fonts-play fonts-quattrocento fonts-quicksand fonts-roboto-slab fonts-roboto-unhinted"
    " fonts-sil-andika fonts-sil-charis fonts-sil-gentiumplus fonts-sora fonts-stix fonts-texgyre fonts-tiresias"
    " fonts-tuffy fonts-uralic fonts-urw-base35 fonts-vollkorn fonts-yanone-kaffeesatz"
).split()
TARGET_PACKAGES = (
    NOTO
    + WORLD
    + "culmus culmus-fancy fonts-aksharyogini2 fonts-arundina fonts-beng-extra fonts-bpg-georgian fonts-cardo"
    " fonts-deva-extra fonts-gargi fonts-gemunu-libre fonts-karla fonts-khmeros fonts-lao fonts-ldco fonts-linuxlibertine"
    " fonts-lklug-sinhala fonts-lohit-beng-assamese fonts-lohit-beng-bengali fonts-lohit-deva fonts-lohit-deva-marathi"
    " fonts-lohit-deva-nepali fonts-lohit-taml fonts-lohit-taml-classical fonts-meera-inimai fonts-nakula"
    " fonts-oldstandard fonts-sahadeva fonts-samyak-deva fonts-samyak-taml fonts-sarai fonts-senamirmir-washra"
    " fonts-sil-abyssinica fonts-sil-annapurna fonts-sil-ezra fonts-sil-mondulkiri fonts-sil-mondulkiri-extra"
    " fonts-tlwg-garuda-ttf fonts-tlwg-kinnari-ttf fonts-tlwg-laksaman-ttf fonts-tlwg-loma-ttf fonts-tlwg-mono-ttf"
    " fonts-tlwg-norasi-ttf fonts-tlwg-purisa-ttf fonts-tlwg-sawasdee-ttf fonts-tlwg-typewriter-ttf"
    " fonts-tlwg-typist-ttf fonts-tlwg-typo-ttf fonts-tlwg-umpush-ttf fonts-tlwg-waree-ttf"
).split()
PACKAGES = sorted({*SOURCE_PACKAGES, *TARGET_PACKAGES})


def letters(name: str) -> str:
    """The letters of a set, in the order of their classes."""
    if name == SOURCE:
        return "".join(ALPHABETS)
    if name == "ethiopic":
        return ETHIOPIC
    first, last = RANGES[name]
    return "".join(filter(str.isalpha, map(chr, range(first, last + 1))))


def class_name(letter: str) -> str:
    """What the class of a letter is called, such as `"georgian letter an"`."""
    return unicodedata.name(letter).lower()
