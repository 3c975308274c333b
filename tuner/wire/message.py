"""Base of everything on the wire: unknown keys are refused, values are immutable, non-finite numbers have names."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """One JSON object on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
