"""Tiny frozen encoders with random weights: the real classes, in the folders and files of the hub's repositories."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import interpolate
from transformers import (
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from ray_s2v.schema import SAMPLE_RATE

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
LETTER_SCORE = -20.0  # log probability: below any word's, so that letters only spell what is no known word


def save_encoders(folder: Path, captions: Sequence[str], seed: int = 0) -> None:
    """Folders `vae`, `text_encoder`, `tokenizer` and `wav2vec2-large-xlsr-53-english` below `folder`, under 3 MB in all.

    captions: whose words become tokens. The same arguments give the same files; torch's global generator is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_vae(folder / "vae")
        save_text_encoder(folder / "text_encoder", folder / "tokenizer", captions)
        save_speech_encoder(folder / "wav2vec2-large-xlsr-53-english")


def save_vae(folder: Path) -> None:
    """A VAE with the strides of Wan's, whose config holds its own latents' mean and standard deviation."""
    vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    # With the trained VAE's numbers, random latents would be sixteen constants with a ripple of a twentieth.
    pictures = interpolate(2 * torch.rand(4, 3, 3, 6, 6) - 1, size=(9, 64, 64), mode="trilinear")
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode().transpose(0, 1).flatten(1)
    measured = {"latents_mean": latents.mean(1), "latents_std": latents.std(1)}
    vae.register_to_config(**{name: [round(value, 4) for value in values.tolist()] for name, values in measured.items()})
    vae.save_pretrained(folder)


def save_text_encoder(folder: Path, tokenizer_folder: Path, captions: Sequence[str]) -> None:
    """A UMT5 encoder of width 64 and its tokenizer."""
    pad, end, unknown = SPECIAL_TOKENS
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram_tokenizer(captions), pad_token=pad, eos_token=end, unk_token=unknown)
    tokenizer.save_pretrained(tokenizer_folder)
    config = UMT5Config(vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    UMT5EncoderModel(config).save_pretrained(folder)


def unigram_tokenizer(captions: Sequence[str]) -> Tokenizer:
    """A tokenizer like T5's, of the captions' words and letters: padding 0, end 1 (appended), unknown 2.

    Built from counts: the trainer of `tokenizers` gives another order of pieces in every process.
    """
    words = Counter(f"▁{word}" for caption in captions for word in caption.split())
    letters = {"▁", *string.ascii_letters, *string.digits, *string.punctuation, *"".join(captions)} - set(string.whitespace)
    pieces = [(token, 0.0) for token in SPECIAL_TOKENS]
    pieces += [(word, log(count / words.total())) for word, count in sorted(words.items())]
    pieces += [(letter, LETTER_SCORE) for letter in sorted(letters)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2))
    tokenizer.normalizer = NFKC()
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = MetaspaceDecoder()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def save_speech_encoder(folder: Path) -> None:
    """A Wav2Vec2 of width 32 with the 24 layers of the large one, under a head for letters as the hub's has."""
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=24,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=[16] * 7,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        initializer_range=0.1,  # the default of 0.02 leaves all layers alike at this width
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE, return_attention_mask=True).save_pretrained(folder)
