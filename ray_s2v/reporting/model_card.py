"""The model card of an adapter on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import ModelCardData

from ray_s2v.config.hub import Hub
from ray_s2v.config.job import Job
from ray_s2v.reporting.losses import Losses
from ray_s2v.reporting.public_job import base_model

TAGS = ["lora", "wan", "wan2.2", "speech-to-video", "ray_s2v"]
LAYERS = {"all": "blocks and audio injector", "blocks": "the blocks", "audio_injector": "the audio injector"}
CARD = """---
{metadata}
---
# {name}

{what}
{prompt}
![the loss over the steps](loss.png)

| | |
|---|---|
{figures}
{videos}
## Sample

`job.yaml` has the settings that it was trained with, without the places of clips and weights.

```sh
hf download {repo_id} --local-dir {name}{revision_option}
python -m ray_s2v.sample {name}/job.yaml --adapter {name} --picture face.png --speech voice.wav --prompt "..." --out video.mp4
```

## Load

The adapter is PEFT's, under the names of the diffusers layout.

```python
from huggingface_hub import snapshot_download
from ray_s2v.model.transformer import WanS2VTransformer3DModel

model = WanS2VTransformer3DModel.from_pretrained("{base}")
model.load_lora_adapter(snapshot_download("{repo_id}"{revision_argument}))
```

`peft.PeftModel.from_pretrained(model, "{repo_id}"{revision_argument})` wraps the model instead.
"""


def model_card(job: Job, hub: Hub, losses: Losses, videos: Mapping[str, str], video_steps: int | None) -> str:
    """The README.md: metadata for the hub, what was trained, how it went, how to use it. It names no path, clip or caption.

    videos: scene names to places in the repository, made after `video_steps`.
    """
    base = base_model(job)
    metadata = ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        instance_prompt=hub.prompt,
        library_name="peft",
        license=hub.license,
        pipeline_tag="image-to-video",
        tags=TAGS,
    )
    what = f"A LoRA for [{base}](https://huggingface.co/{base})" if base else "A LoRA for the random toy weights of ray_s2v's demo"
    revision = "" if hub.revision == "main" else hub.revision
    return CARD.format(
        metadata=metadata.to_yaml(),
        name=hub.repo_id.split("/")[1],
        what=f"{what}: a picture, speech and a prompt become a video of that person speaking. Trained with ray_s2v.",
        prompt=f"\nPrompts that call up what it has learnt hold these words:\n\n    {' '.join(hub.prompt.split())}\n" if hub.prompt else "",
        figures="\n".join(f"| {name} | {value} |" for name, value in _figures(job, losses).items()),
        videos=_listed(videos, video_steps),
        repo_id=hub.repo_id,
        base=base or "demo-files/weights",
        revision_option=f" --revision {revision}" if revision else "",
        revision_argument=f', revision="{revision}"' if revision else "",
    )


def _figures(job: Job, losses: Losses) -> dict[str, str]:
    lora, training = job.lora, job.training
    figures = {
        "clips": str(losses.num_clips),
        "steps": f"{max(losses.steps, default=0)} of {training.global_batch} clips",
        "rank, alpha": f"{lora.rank}, {lora.alpha or lora.rank:g}",
        "adapted layers": f"{', '.join(lora.targets)} of {LAYERS[lora.layers]}",
        "learning rate": f"{training.learning_rate:g}",
        "frozen weights": job.model.base_precision,
    }
    if losses.held_out:
        first, last = min(losses.held_out), max(losses.held_out)
        records = losses.held_out[first], losses.held_out[last]
        figures["loss of held-out clips"] = f"{records[0]['loss']:.4f} after {first} steps, {records[1]['loss']:.4f} after {last}"
        if records[1]["worse_without_sound"] is not None:
            figures["what the sound is worth"] = (
                f"that loss is {records[1]['worse_without_sound']:+.4f} without the sound, "
                f"{records[1]['worse_with_other_sound']:+.4f} with another's"
            )
    return figures


def _listed(videos: Mapping[str, str], steps: int | None) -> str:
    if not videos:
        return ""
    lines = [f"- [{name}](<{place}>)" for name, place in videos.items()]
    return "\n".join([f"\nSamples after {steps} steps:\n", *lines, ""])
