# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP score: whether images show what their prompts say."""

import torch
from tqdm.auto import tqdm

from ..errors import DiffTuneError, first_sentence
from .features import named


DEFAULT_MODEL = "openai/clip-vit-large-patch14"


class ClipScore:
    """The CLIP score (Hessel et al., EMNLP 2021): 100 · max(cos(image, prompt), 0), averaged over the images.

    The scale is that of torchmetrics, whose own metric does not work with transformers 5. Figures of different models
    cannot be compared.

    Args:
        model (`str`, *optional*, defaults to `"openai/clip-vit-large-patch14"`): A CLIP model of transformers: its
            folder, or its id on the Hub.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where to compute; between two calls the model is on
            the CPU.
        cache_dir (`str`, *optional*): Where downloaded models are kept.
        token (`str`, *optional*): Token for the Hub.

    Raises:
        DiffTuneError: There is no such model.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        device: str | torch.device = "cpu",
        cache_dir: str | None = None,
        token: str | None = None,
    ) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.device = device
        try:
            self.name, where = named(model, cache_dir, token)
            self.processor = AutoImageProcessor.from_pretrained(backend="pil", **where)
            self.tokenizer = AutoTokenizer.from_pretrained(**where)
            self.network = CLIPModel.from_pretrained(dtype=torch.float32, use_safetensors=True, **where).eval()
        except Exception as error:  # the Hub client, requests and transformers raise dozens of classes here
            raise DiffTuneError(
                f"The CLIP model {model} is neither a folder with one nor one that can be had from the Hub:"
                f" {first_sentence(error)}; none leaves the score out."
            ) from error

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, prompts: list[str], batch_size: int = 64) -> float:
        """Scores images.

        Args:
            images (`torch.Tensor` of shape `(N, 3, H, W)`): The images, uint8.
            prompts (`list[str]`): The prompt of each; long ones are cut at the model's length.
            batch_size (`int`, *optional*, defaults to 64): Images at once.

        Returns:
            `float`: The score, in [0, 100].
        """
        if len(images) != len(prompts) or not prompts:
            raise DiffTuneError(f"Each image needs its prompt, but there are {len(prompts)} for {len(images)} images.")
        length = self.network.config.text_config.max_position_embeddings
        self.network.to(self.device)
        scores = []
        for rows in tqdm(torch.arange(len(images)).split(batch_size), "CLIP score", leave=False, delay=5):
            pictures = list(images[rows].permute(0, 2, 3, 1).numpy())
            pixels = self.processor(images=pictures, return_tensors="pt")
            words = self.tokenizer(
                [prompts[row] for row in rows.tolist()],
                padding=True,
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
            output = self.network(
                input_ids=words["input_ids"].to(self.device),
                attention_mask=words["attention_mask"].to(self.device),
                pixel_values=pixels["pixel_values"].to(self.device),
            )
            cosines = torch.cosine_similarity(output.image_embeds.double(), output.text_embeds.double())
            scores.append(100 * cosines.clamp(min=0))
        self.network.cpu()  # a model that is trained or sampled meanwhile has the memory
        return torch.cat(scores).mean().item()
