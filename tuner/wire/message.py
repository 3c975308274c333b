"""Base class of all messages: unknown keys are rejected, values are immutable, non-finite numbers are sent by name."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A count or an id: a range that JavaScript and every database represent exactly."""

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A small count, such as a trial's number or its attempt."""


class Message(BaseModel):
    """One JSON object on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
