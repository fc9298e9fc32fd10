"""Which weights an encoder has, in a word that features are keyed by."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from ray_s2v.location import find_place

SAMPLES, SAMPLE_BYTES = 64, 1 << 16  # of each file; trained weights that agree in all of these are the same


def identity(place: str, patterns: tuple[str, ...] = ("config.json", "*.safetensors")) -> str:
    """32 hexadecimal digits for a folder, from the contents of its files; `repository@commit/folder` for the hub's.

    Of large files, the size and 64 samples: reading 11 GB at every start would take longer than all other checks.
    """
    path, subfolder = find_place(place)
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download  # slow to import

        # In the cache, the file lies below snapshots/<commit>.
        found = Path(hf_hub_download(path, patterns[0], subfolder=subfolder or None))
        commit = found.parts[found.parts.index("snapshots") + 1]
        return f"{path}@{commit}/{subfolder}"
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted({file for pattern in patterns for file in Path(path).glob(pattern)}):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            for sample in range(SAMPLES):
                content.seek(max(size - SAMPLE_BYTES, 0) * sample // (SAMPLES - 1))
                digest.update(content.read(SAMPLE_BYTES))
                if size <= SAMPLE_BYTES:
                    break
    return digest.hexdigest()


@cache
def numbers_in_config(place: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """Numbers out of an encoder's config.json; of a hub repository it is fetched into the cache."""
    path, subfolder = find_place(place)
    file = Path(path) / "config.json"
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download  # slow to import

        file = Path(hf_hub_download(path, "config.json", subfolder=subfolder or None))
    config = json.loads(file.read_text(encoding="utf-8"))
    return tuple(int(config[name]) for name in names)
