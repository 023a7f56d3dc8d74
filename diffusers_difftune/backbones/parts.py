# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of a pretrained pipeline: which files each is read from, without its weights or with them, and those in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from .fingerprint import weights_fingerprint
from .pipeline_files import own_variant


def library_class(model_class: type) -> type:
    """A class as diffusers or transformers has it, where it is one of ours that derives from that."""
    return next(each for each in model_class.__mro__ if each.__module__.split(".")[0] in ("diffusers", "transformers"))


class PipelineParts:
    """The part of a [`Backbone`] that reads models from the pipeline's folder.

    Attributes:
        replaced (`dict[str, Path]`): The folders of components that are elsewhere.
        denoiser_class, denoiser_name (`type`, `str`): The component that is trained.
        encoder_classes (`dict[str, type]`): The components that encode images and prompts, by name.
        encoders (`dict[str, torch.nn.Module]`): Those of them that are in memory.
    """

    denoiser_class: type
    denoiser_name: str
    encoder_classes: dict[str, type] = {"vae": AutoencoderKL}

    def __init__(self, folder: Path, variant: str | None, replaced: dict[str, Path]) -> None:
        self.folder = Path(folder)
        self.variant = variant
        self.replaced = replaced
        self.encoders: dict[str, Any] = {}

    @property
    def weight_components(self) -> tuple[str, ...]:
        """The components whose weights decide what the pipeline draws."""
        return (self.denoiser_name, *self.encoder_classes)

    def component_path(self, name: str) -> Path:
        """The folder of a component; a setting may have replaced the pipeline's own."""
        return self.replaced.get(name, self.folder / name)

    def fingerprint_of(
        self, components: Sequence[str], cache_dir: str | Path | None = None, verify: bool = False
    ) -> str:
        """The fingerprint of some components; see [`weights_fingerprint`]."""
        return weights_fingerprint(self.folder, components, self.variant, cache_dir, verify, self.replaced)

    def empty(self, component: str) -> torch.nn.Module:
        """A model of the pipeline without its weights, to look at its modules."""
        model_class: Any = self.encoder_classes.get(component, self.denoiser_class)
        folder = self.component_path(component)
        with torch.device("meta"):
            if hasattr(model_class, "config_class"):  # of transformers
                return model_class(model_class.config_class.from_pretrained(folder))
            return model_class.from_config(model_class.load_config(folder))

    def empty_denoiser(self) -> torch.nn.Module:
        """The denoiser without its weights."""
        return self.empty(self.denoiser_name)

    def load_denoiser(
        self, folder: str | Path | None = None, dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> torch.nn.Module:
        """Loads the denoiser, from another folder or model id if one is given."""
        folder = folder or self.folder
        local = Path(folder, self.denoiser_name)
        variant = own_variant(local, self.variant) if local.is_dir() else self.variant
        loaded: Any = self.denoiser_class
        return loaded.from_pretrained(
            folder, subfolder=self.denoiser_name, variant=variant, dtype=dtype, use_safetensors=True, **kwargs
        )

    @property
    def vae(self) -> Any:
        """The VAE, which must be in memory."""
        return self.encoders["vae"]

    def encoder_dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """The precision to load an encoder in, where the run's is `dtype`."""
        return dtype

    def load_encoders(self, device: torch.device, dtype: torch.dtype) -> None:
        """Brings the VAE and the text encoders into memory; does nothing if they are there."""
        if self.encoders:
            return
        for name, model_class in self.encoder_classes.items():
            self.encoders[name] = self.load_encoder(name, model_class, dtype).to(device)

    def load_encoder(self, name: str, model_class: Any, dtype: torch.dtype) -> torch.nn.Module:
        module = model_class.from_pretrained(
            self.component_path(name),
            variant=own_variant(self.component_path(name), self.variant),
            dtype=self.encoder_dtype(name, dtype),
            use_safetensors=True,
        )
        return module.requires_grad_(False).eval()

    def release_encoders(self) -> None:
        """Drops the VAE and the text encoders."""
        self.encoders = {}
