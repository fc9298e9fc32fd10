"""What all sections of a job have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_only_where_asked(cls, value: Any, info: ValidationInfo) -> Any:
        is_switch = info.field_name is not None and "bool" in str(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and not is_switch:  # pydantic would take yes for 1
            raise ValueError("true and false (yes and no) are no value of this setting")
        if is_switch and not isinstance(value, bool | None):
            raise ValueError("must be true or false")
        return value
