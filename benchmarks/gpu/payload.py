# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What has to be copied to a machine with a GPU and no network, and how much that is.

    python benchmarks/gpu/payload.py                    # downloads the wheels to weigh them
    python benchmarks/gpu/payload.py --wheels FOLDER    # and keeps them there

On that machine, pip installs them without an index and without dependencies (`--no-index --no-deps FOLDER/*.whl`); then
`first_light.py` runs from the tree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


LIMIT_MIB = 60
PYTHON = "3.12"  # of the images that machines for rent come with
# What these images lack; pip takes the versions of constraints.txt.
CARRIED = frozenset({"diffusers", "datasets", "dill", "multiprocess", "importlib-metadata", "zipp"})
# What they have and we use, beside what these need themselves.
ASSUMED = frozenset(
    """
    accelerate certifi charset-normalizer click contourpy cycler filelock fonttools fsspec h11 hf-xet httpcore httpcore2
    httpx httpx2 huggingface-hub idna jinja2 kiwisolver markupsafe matplotlib mpmath networkx numpy
    opencv-python-headless packaging protobuf pandas peft pillow pip psutil pyarrow pyparsing python-dateutil pyyaml regex requests
    safetensors scipy setuptools six sympy tokenizers torch torchmetrics tqdm transformers triton typer typing-extensions urllib3
    xxhash anyio sniffio pytz tzdata rich shellingham markdown-it-py mdurl pygments truststore annotated-doc
    """.split()  # noqa: SIM905 (a list of eighty words would fill eighty lines)
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="Where to keep the wheels.")
    arguments = parser.parse_args(argv)
    found = weigh(Path(__file__).resolve().parents[2], arguments.wheels)
    print(json.dumps(found, indent=2))
    sys.exit(0 if found["fits"] else 1)


def weigh(root: Path, wheels: Path | None = None) -> dict[str, Any]:
    """The bytes of the tracked files and of the wheels, and whether they fit.

    Args:
        root (`Path`): The clone.
        wheels (`Path`, *optional*): Where to keep the wheels.

    Returns:
        `dict`: Bytes, MiB, and `fits`.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=root, check=True).stdout
    tree = sum((root / name).stat().st_size for name in listed.split("\0") if name and (root / name).is_file())
    with tempfile.TemporaryDirectory() as temporary:
        folder = wheels or Path(temporary)
        download(root, folder)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.glob("*.whl"))}
    total = tree + sum(sizes.values())
    return {
        "tree_bytes": tree,
        "wheels": sizes,
        "tree_mib": round(tree / 2**20, 2),
        "wheels_mib": round(sum(sizes.values()) / 2**20, 2),
        "total_mib": round(total / 2**20, 2),
        "limit_mib": LIMIT_MIB,
        "fits": total <= LIMIT_MIB * 2**20,
    }


def download(root: Path, folder: Path) -> None:
    """Downloads the wheels, for the Python and the system of the other machine."""
    platforms = [
        f"--platform={name}" for name in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
    ]
    pinned = dict(line.split("==") for line in (root / "constraints.txt").read_text().splitlines() if "==" in line)
    versions = {name.lower().replace("_", "-"): version.strip() for name, version in pinned.items()}
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    command += [f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    subprocess.run([*command, *(f"{name}=={versions[name]}" for name in sorted(CARRIED))], check=True)


if __name__ == "__main__":
    main()
