"""What an operator may change: environment variables CLASSIFIER_*."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from preprocessing import DecodeLimits, ImageLimits
from preprocessing.errors import OperatorError

PREFIX = "CLASSIFIER_"


class SettingsError(OperatorError):
    """An environment variable CLASSIFIER_* is unknown or has a value that is not allowed."""


class Settings(ImageLimits):
    """The operator's choices, checked once at the start.

    Each field is set by the environment variable CLASSIFIER_<NAME>. Numbers that belong to
    the model (sizes, mean, labels) are in its manifest, not here.
    """

    lock: str = Field(
        "model.lock", description="The lock of the model to serve; relative to service.py."
    )
    public_key: str | None = Field(
        None,
        description="PEM file of the key that must have signed the model; unset asks for no "
        "signature.",
    )
    topology: Literal["embedded", "runner"] | None = Field(
        None,
        description="Where the network runs: in each API process (embedded), or in a process of "
        "its own (runner, ModelRunner); unset means runner where the model was imported for a GPU "
        "and one is visible.",
    )
    engine: str | None = Field(
        None,
        description="Name of a certified engine (`model_import.py show`); "
        "unset takes the fastest one that passed.",
    )
    budget_ms: Annotated[float, Field(gt=0)] = Field(
        50.0, description="Milliseconds an answer may take; caps the batch size."
    )
    max_wait_ms: Annotated[float, Field(gt=0)] = Field(
        2_000.0,
        description="Longest wait of a request before work on it begins. Requests that would "
        "wait longer, or have already, are refused with 429. `CLASSIFIER_TIMEOUT_MS` where that "
        "is less.",
    )
    overload_wait_ms: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="As `CLASSIFIER_MAX_WAIT_MS`, which it never exceeds, while the service is "
        "overloaded (docs/admission.md); unset means as long as two answers "
        "take, at least half the budget and at most the budget.",
    )
    timeout_ms: Annotated[float, Field(gt=0, le=55_000)] = Field(
        5_000.0, description="Milliseconds after which an accepted request is answered 504."
    )
    keep_alive_s: Annotated[float, Field(gt=0)] = Field(
        75.0,
        description="Seconds an idle connection stays open: longer than a load balancer keeps it, "
        "often 60. `bentoml serve --timeout-keep-alive` takes precedence.",
    )
    max_queue: Annotated[int, Field(ge=1)] = Field(
        512,
        description="Requests that may be in flight in one API process at a time; more are "
        "refused with 429.",
    )
    deterministic: bool = Field(
        False,
        description="Run every batch at one fixed shape, so that the same image gives the same "
        "bits whatever the traffic.",
    )
    workers: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="API processes; unset means in the runner topology one a core, beside a GPU "
        "half as many; in the embedded topology one a core too, up to 4, where the network takes "
        "less than a third of the time of an image, else 1.",
    )
    max_body_bytes: Annotated[int, Field(ge=1_024)] = Field(
        20 * 2**20, description="Bytes of one request body, and of one image file."
    )
    max_bodies_bytes: Annotated[int, Field(ge=1_024)] = Field(
        128 * 2**20,
        description="Bytes of all request bodies that one API process holds at a time; what "
        "would be more is refused with 429.",
    )
    default_top_k: Annotated[int, Field(ge=1)] = Field(
        5, description="Predictions in an answer where the request does not say top_k."
    )

    ui: bool = Field(True, description="Whether the page at /ui/ is served.")
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the log: a line of text or a JSON object for each event."
    )

    @property
    def decode_limits(self) -> DecodeLimits:
        """What one image file may cost."""
        chosen = self.model_dump(include=set(ImageLimits.model_fields))
        return DecodeLimits(max_bytes=self.max_body_bytes, **chosen)

    @property
    def changed(self) -> dict[str, object]:
        """Settings that differ from their defaults, by the name of their variable."""
        chosen = self.model_dump(exclude_defaults=True)
        return {PREFIX + name.upper(): value for name, value in chosen.items()}

    @property
    def longest_wait_ms(self) -> float:
        """Longest wait of an accepted request: none is let in only to time out."""
        return min(self.max_wait_ms, self.timeout_ms)

    @property
    def overload_wait_range_ms(self) -> tuple[float, float]:
        """Least and greatest limit of the wait of an accepted request during overload.

        Half the budget leaves the other half, and another budget, to the work and to what HTTP adds
        on full cores. `Admission` chooses within the range.
        """
        least, most = self.budget_ms / 2, self.budget_ms
        if self.overload_wait_ms is not None:
            least = most = self.overload_wait_ms
        return min(least, self.longest_wait_ms), min(most, self.longest_wait_ms)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings.

        Args:
            environ: The environment; names that do not start with CLASSIFIER_ are ignored.

        Raises:
            SettingsError: A name is unknown or a value is not allowed.
        """
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environ.items()
            if name.startswith(PREFIX)
        }
        if unknown := sorted(given.keys() - cls.model_fields.keys()):
            raise SettingsError(_unknown_message(unknown, sorted(cls.model_fields)))
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = PREFIX + str(first["loc"][0]).upper()
            raise SettingsError(
                f"environment variable {name}: found {first['input']!r}, {first['msg']}; "
                "correct or unset it"
            ) from error


def _unknown_message(unknown: list[str], known: list[str]) -> str:
    guess = difflib.get_close_matches(unknown[0], known, n=1)
    hint = f"did you mean {PREFIX}{guess[0].upper()}? " if guess else ""
    return (
        f"environment: unknown {', '.join(PREFIX + name.upper() for name in unknown)}; {hint}"
        f"known are {', '.join(PREFIX + name.upper() for name in known)}"
    )
