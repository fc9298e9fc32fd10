"""Where a run's adapter is pushed to on the Hugging Face Hub."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from ray_s2v.config.section import Section, Text


class Hub(Section):
    """A model repository. The token is in HF_TOKEN; HF_ENDPOINT names another hub than huggingface.co."""

    repo_id: Text  # owner/name; made where it is not there
    private: bool = True  # of a repository that is made; one that is there stays as it is
    push: Literal["final", "checkpoints"] = "final"  # the adapter at the end; or that of each checkpoint too, the newest on top
    revision: Text = "main"  # a branch; made where it is not there
    prompt: Text | None = None  # shown on the card as the words to use; captions never are
    license: Text | None = None  # of the card, as the hub names it: apache-2.0, other

    @field_validator("repo_id")
    @classmethod
    def _owner_and_name(cls, value: str) -> str:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # slow to import, and not needed by most jobs

        try:
            validate_repo_id(value)
        except HFValidationError as error:
            raise ValueError(f"must read owner/name: {' '.join(str(error).split())}") from error
        if "/" not in value:
            raise ValueError("must read owner/name")
        return value
