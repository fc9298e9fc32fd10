"""What a clip looks like while it is sampled: its latents through the small decoder, every few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ray_s2v.config.sampling import Previews
from ray_s2v.encoders.tiny_decoder import TinyDecoder, load_tiny_decoder
from ray_s2v.location import local_folder
from ray_s2v.media.write import write_video
from ray_s2v.schema import FRAME_RATE, ConfigError

NAMES = ("taew2_1.safetensors", "taew2_1.pth")


def find_decoder(place: str) -> Path:
    """The file of the decoder's weights: itself, or in the folder or hub repository that `place` names. Raises ConfigError."""
    file = Path(place).expanduser()
    if file.is_file():
        return file
    folder = local_folder(place, NAMES)
    if there := [folder / name for name in NAMES if (folder / name).is_file()]:
        return there[0]
    raise ConfigError(f"{place} holds neither {' nor '.join(NAMES)}")


class Previewer:
    """Writes `folder/clip_1_step_010.mp4` of a clip's latents, without sound, as often as the settings say."""

    def __init__(self, settings: Previews, num_steps: int, device: torch.device, written: Callable[[Path], object]) -> None:
        """`written` gets each file. Raises ConfigError where the decoder cannot be loaded."""
        self.every, self.num_steps, self.written = settings.every, num_steps, written
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.decoder: TinyDecoder = load_tiny_decoder(find_decoder(settings.decoder), str(device), dtype)

    def look(self, folder: Path, clip: int, step: int, latents: Tensor) -> None:
        """latents: [16, latent_frames, h, w] after so many steps of the clip; after the last the video itself comes."""
        if step % self.every or step == self.num_steps:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"clip_{clip + 1}_step_{step:03d}.mp4"
        frames = ((self.decoder.decode(latents.float()) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        write_video(path, frames, FRAME_RATE, preset="ultrafast")
        self.written(path)
