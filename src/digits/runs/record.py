"""What a run's record may hold, when it comes from a file: pydantic's schema of metrics.json."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

Number = int | float | None
Text = Annotated[str, Field(min_length=1)]


class MetricFacts(BaseModel):
    """Of an entry of the metric list."""

    model_config = ConfigDict(extra="forbid")

    label: str
    direction: Literal["min", "max"]
    stages: list[Literal["train", "val", "test"]]
    percent: bool
    prominent: bool


class Record(BaseModel):
    """The facts of a run; a name with a slash is a figure's."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    status: str
    started_at: str = ""
    error: str | None = None
    name: str | None = None
    tags: list[str] = []
    data: str | None = None
    dataset: str | None = None
    device: str | None = None
    precision: str | None = None
    best_checkpoint: str | None = None
    mlflow_run_id: str | None = None
    wandb_id: str | None = None
    slurm_job_id: str | None = None
    duration_seconds: Number = None
    train_seconds: Number = None
    seed: Number = None
    epochs: Number = None
    tested_epoch: Number = None
    parameters: Number = None
    typed_images: Number = None
    overrides: list[Text] = []
    resumed_at: list[Text] = []
    command: list[Text] = []
    git_commit: str | None = None
    git_dirty: bool | None = None
    split_sizes: dict[str, int] = {}
    metrics: dict[str, MetricFacts] = {}


FIGURES = TypeAdapter(dict[str, Number])


def parse_record(text: str) -> dict[str, Any]:
    """The facts in a metrics.json.

    Raises:
        ValueError: if it is damaged.
    """
    record = Record.model_validate_json(text)  # a ValidationError is a ValueError
    facts = record.model_dump(exclude_unset=True)
    FIGURES.validate_python({name: value for name, value in facts.items() if "/" in name}, strict=True)
    return facts
