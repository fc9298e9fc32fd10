"""Caption to embedding: UMT5, as the model was trained with it."""

from __future__ import annotations

import html
from pathlib import Path

import ftfy
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from ray_s2v.encoders.loading import load_frozen
from ray_s2v.location import find_place
from ray_s2v.schema import ConfigError

MAX_TOKENS = 512  # the end token included


def cleaned(caption: str) -> str:
    """The caption with broken Unicode and HTML entities mended and every run of whitespace one space."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(caption))).split())


def load_tokenizer(place: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer that tokenizer.json at `place` holds, unchanged. ConfigError if there is none.

    Not AutoTokenizer: for a T5 tokenizer, transformers 5 takes only the pieces from the file and sets normaliser, unknown
    token and byte fallback itself.
    """
    path, subfolder = find_place(place)
    try:
        return PreTrainedTokenizerFast.from_pretrained(path, subfolder=subfolder)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{place}: cannot load the tokenizer: {error}") from error


class TextEncoder:
    """The frozen encoder half of UMT5; both paths as in location.find_place. What it returns lies on `device`."""

    def __init__(self, path: str | Path, tokenizer_path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
        self.device = device
        self.tokenizer = load_tokenizer(tokenizer_path)
        self.umt5 = load_frozen(UMT5EncoderModel, path, device, dtype)

    @torch.no_grad()
    def encode(self, caption: str) -> Tensor:
        """Embedding [length, text_dim] of the caption's tokens, length at most 512; the empty caption has the end token alone.

        Without padding: under its mask the encoder gives these rows the same values. wan_s2v section 9.
        """
        tokens = self.tokenizer(cleaned(caption), truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return self.umt5(tokens["input_ids"].to(self.device)).last_hidden_state[0]
