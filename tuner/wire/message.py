"""Base of everything on the wire: unknown keys are refused, values are immutable, non-finite numbers have names."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A count or an id: what JavaScript and every database hold exactly."""

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A small count, such as a trial's number or its attempt."""


class Message(BaseModel):
    """One JSON object on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
