"""Base class of all messages: unknown keys are rejected, values are immutable, non-finite numbers are sent by name."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tuner.wire.strict_json import storable

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A count or an id: a range that JavaScript and every database represent exactly."""

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A small count, such as a trial's number or its attempt."""


def _storable(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_storable)]
"""Text that a user's program wrote: tracebacks, names of metrics. What cannot be stored or sent in it is replaced."""

DeviceName = Annotated[str, Field(min_length=1, max_length=64)]
"""A device of a worker, e.g. `cuda:0`, or one of several processes on it."""


class Message(BaseModel):
    """One JSON object on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
