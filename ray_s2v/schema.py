"""What flows from room to room: the model's fixed numbers, the clip, the plan's rows, the training batch, and the users' errors.

Units stand in the names: `frames` are pictures at 16 per second, `latent_frames` are VAE steps of four frames,
`_s` seconds, sizes are pixels unless they say latent. One latent layout everywhere: [batch, 16, latent_frames, h, w].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

# Fixed by the checkpoint (wan_s2v: sound, frames and latents); no setting changes them.
FRAME_RATE = 16  # frames a second that the model is trained on
SAMPLE_RATE = 16_000  # sound samples a second that Wav2Vec2 was trained on
LATENT_CHANNELS = 16
LATENT_STRIDE = 8  # pixels of one latent cell, each way
FRAMES_PER_LATENT = 4
HISTORY_FRAMES = 73  # frames before a continuation clip that become its motion latents
HISTORY_LATENTS = 19
SIZE_MULTIPLE = 16  # pixels: one latent cell times the patch of two
MAX_HEARD_S = 120  # seconds of sound that Wav2Vec2 hears at once; a longer sound is heard in parts
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
MIN_SIDE = 64  # pixels: the motion packer's coarsest cell is eight latents wide

Kind = Literal["first", "continuation"]


class UserError(ValueError):
    """A mistake that the person who runs a job can mend; entry points print it and exit with code 2."""


class ConfigError(UserError):
    """Something is wrong with the job file or with a place it names."""


class DataError(UserError):
    """The clips cannot make a training run: none usable, too few for a step, or too many rejected."""


class RunStopped(RuntimeError):
    """A run ended before its last step through nobody's typing; entry points print it and exit with code 1."""


class ClipError(ValueError):
    """One clip cannot be used; the message is the reason that `rejected.csv` shows."""


class Bucket(NamedTuple):
    """What clips must share to stand in one batch: the size they are cropped to, and the frames trained on."""

    width: int
    height: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}@{self.num_frames}"


class Framing(NamedTuple):
    """How a shown picture becomes its bucket's size: scaled as a whole, then cut out. Pixels."""

    scaled_width: int
    scaled_height: int
    left: int
    top: int
    width: int
    height: int


class Media(NamedTuple):
    """A file, wherever it lies, and what is in it."""

    place: str  # an absolute path, a URI, or a member of a tar, as storage.py reads it
    digest: str  # of its bytes: what features are keyed by, so that moving a file changes nothing


@dataclass(frozen=True)
class Clip:
    """One usable clip of a source."""

    clip_id: str  # source name and path below the source, the same on every machine
    source: str
    video: Media
    audio: Media | None  # the video's own file where the sound is in it; None trains with zeros
    pose: Media | None
    captions: tuple[str, ...]  # at least one; each time one is taken
    num_frames: int  # of the whole clip, at 16 frames a second
    audio_s: float  # from the first picture to the end of the sound; 0 without
    bucket: Bucket
    scaled_width: int  # of the whole picture, of which the bucket's size is cut out
    scaled_height: int


class PlanRow(TypedDict):
    """What one slot of one global step sees. Nothing about a sample is decided anywhere else."""

    step: int
    slot: int
    clip_id: str  # empty for a row that only fills up a step (data/share.py)
    video: str
    video_digest: str
    audio: str  # empty for a clip without sound
    audio_digest: str
    pose: str  # empty for a clip without a pose video
    pose_digest: str
    caption: str  # empty where the text is dropped for guidance
    kind: Kind
    scaled_width: int
    scaled_height: int
    left: int
    top: int
    width: int
    height: int
    clip_frames: int  # of the whole clip
    start_frame: int
    num_frames: int
    reference_frame: int
    heard_start: int  # of the sound that the speech encoder hears, in frames
    heard_frames: int  # 0 for all of it
    drop_audio: bool  # the model gets zeros for the sound
    noise_level: float  # uniform in [0, 1), before the flow's shift
    noise_seed: int


@dataclass
class Batch:
    """One worker's share of a micro-step: clips of one size, one length and one kind."""

    step: int
    slots: list[int]
    clip_ids: list[str]  # empty for what only fills up a step
    errors: list[str]  # empty, or why the clip could not be read; it then adds nothing to loss and gradient
    latents: Tensor  # [batch, 16, latent_frames, h, w], clean and normalised
    reference: Tensor  # [batch, 16, 1, h, w]
    motion: Tensor | None  # [batch, 16, 19, h, w], None for first clips
    pose: Tensor | None  # like latents, zeros for clips without; None where no clip has one
    audio: Tensor  # [batch, 25, audio_dim, 4 * latent_frames]
    text: list[Tensor]  # each [length, text_dim]
    noise: Tensor  # like latents
    noise_level: Tensor  # [batch], uniform in [0, 1), before the flow's shift
    seed: int  # of what is drawn on the way through the network: LoRA's dropout
