"""What all sections of a job have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # torch takes no more bits
AutoOrBool = Literal["auto", True, False]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        if isinstance(value, str) and "\0" in value:  # no file, variable or process can be called so
            raise ValueError("must not hold a null character")
        annotation = cls.model_fields[info.field_name].annotation
        if annotation == AutoOrBool:
            if value != "auto" and not isinstance(value, bool):
                raise ValueError("must be auto, true or false")
        elif bool in (annotation, *get_args(annotation)):
            if not isinstance(value, bool | None):
                raise ValueError("must be true or false")
        elif any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):  # pydantic would take yes for 1
            raise ValueError("true and false (yes and no) are no value of this setting")
        return value


def refuse(mistakes: Iterable[str]) -> None:
    """Raises ValueError with a line for each mistake, if there are any."""
    if lines := list(mistakes):
        raise ValueError("\n".join(lines))
