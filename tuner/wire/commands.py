"""What users ask of studies and trials, as far as it needs a body."""

from typing import Annotated, Any

from pydantic import Field

from tuner.study.reading import AnyScalar
from tuner.wire.message import Message


class Clone(Message):
    """POST /studies/{study}/clone."""

    name: str | None = Field(default=None, description="of the new study; default: the study's with -2, -3, ...")
    changes: dict[str, Any] = Field(
        default_factory=dict, description="a JSON merge patch (RFC 7396) of the study's document"
    )


class Enqueue(Message):
    """POST /studies/{study}/trials."""

    params: Annotated[dict[str, AnyScalar], Field(max_length=200)] = Field(
        description="values of hyperparameters; what is left out takes the study's fixed value, or the default"
    )
