# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""What class-conditional training has of its own: the new label space, and the classes of validation images."""

from .. import errors
from ..backbones.dit import DiTBackbone
from ..bank.prompts import read_prompts
from ..data.dataset import TargetData
from ..errors import DiffTuneError
from .run import Run


def use_classes(run: Run, backbone: DiTBackbone, target: TargetData) -> tuple[DiTBackbone, list[str]]:
    """Makes the classes of the target data the model's own, and checks the classes that the flags name.

    Args:
        run ([`Run`]): The run.
        backbone ([`DiTBackbone`]): The pretrained pipeline.
        target ([`TargetData`]): Has them.

    Returns:
        `tuple[DiTBackbone, list[str]]`: The pipeline with these classes, and the ids of `--validation_classes`, as prompts.

    Raises:
        DiffTuneError: All rows are of one class, `--validation_classes` names a class that the target data do not have, or
            `--bank_prompts` one that the pretrained model does not have.
    """
    names = target.class_names or []
    used = {target.captions(row)[0] for row in range(len(target))}
    if len(used) < 2:
        raise DiffTuneError(
            f"--label_column: of {len(names)} classes only {names[int(used.pop())]} has rows in the target data ({len(target)} in"
            " use); a class-conditional model needs two."
        )
    wanted = run.config.validation_classes or []
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise DiffTuneError(
            f"--validation_classes: there is no class {unknown[0]} in the target data; the classes are"
            f" {', '.join(names[:20])}{' …' if len(names) > 20 else ''}."
        )
    if run.source_share and run.config.bank_prompts != "classes":
        with errors.flag("--bank_prompts"):
            backbone.source_prompts(read_prompts(run.config.bank_prompts, "classes"))
    own = backbone.with_classes(names, run.seed if run.config.class_embeddings == "reset" else None)
    return own, [str(names.index(name)) for name in wanted]
