"""The settings of an operator: environment variables CLASSIFIER_*."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from preprocessing import DecodeLimits, ImageLimits
from preprocessing.errors import OperatorError

PREFIX = "CLASSIFIER_"


class SettingsError(OperatorError):
    """An environment variable CLASSIFIER_* is unknown or has an invalid value."""


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


class Settings(ImageLimits):
    """The operator's choices, validated once at the start.

    The environment variable CLASSIFIER_<NAME> sets a field. Numbers that belong to the model
    (sizes, mean, labels) are in its manifest.
    """

    lock: str = Field(
        "model.lock", description="The lock of the model to serve; relative to service.py."
    )
    public_key: str | None = Field(
        None,
        min_length=1,
        description="PEM file of the key that the model must be signed with; unset requires no "
        "signature.",
    )
    topology: Literal["embedded", "runner"] | None = Field(
        None,
        description="Where the network runs: in each API process (embedded), or in a separate "
        "process (runner, ModelRunner); unset means runner if the model was imported for a GPU "
        "and a GPU is visible, else embedded.",
    )
    engine: str | None = Field(
        None,
        description="Name of a certified engine (`model_import.py show`); "
        "unset selects the one that the import chose.",
    )
    budget_ms: Annotated[float, Field(gt=0)] = Field(
        50.0, description="Target latency of an answer in milliseconds; limits the batch size."
    )
    max_wait_ms: Annotated[float, Field(gt=0)] = Field(
        2_000.0,
        description="Longest wait of a request before work on it begins. Requests that would "
        "wait longer, or have already, are refused with 429. `CLASSIFIER_TIMEOUT_MS` applies if "
        "it is less.",
    )
    overload_wait_ms: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Replaces `CLASSIFIER_MAX_WAIT_MS`, if less, while the service is overloaded "
        "(docs/admission.md); unset means the duration of two answers, at least half the budget "
        "and at most the budget.",
    )
    timeout_ms: Annotated[float, Field(gt=0, le=55_000)] = Field(
        5_000.0, description="Milliseconds after which an accepted request is answered 504."
    )
    keep_alive_s: Annotated[float, Field(gt=0)] = Field(
        75.0,
        description="Seconds an idle connection stays open; should exceed the load balancer's "
        "idle timeout, often 60. `bentoml serve --timeout-keep-alive` takes precedence.",
    )
    max_queue: Annotated[int, Field(ge=1)] = Field(
        512,
        description="Maximum number of requests in flight in one API process; further ones are "
        "refused with 429.",
    )
    deterministic: bool = Field(
        False,
        description="Run every batch at one fixed shape, so that an image gives the same bits "
        "under any traffic.",
    )
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None,
        description="API processes; unset means one per core in the runner topology (half as many "
        "with a GPU); in the embedded topology one per core, up to 4, if the network takes less "
        "than a third of the time of an image, else 1. Embedded processes divide the plan's "
        "streams.",
    )
    max_body_bytes: Annotated[int, Field(ge=1_024)] = Field(
        20 * 2**20, description="Maximum size of a request body, and of an image file."
    )
    max_bodies_bytes: Annotated[int, Field(ge=1_024)] = Field(
        128 * 2**20,
        description="Maximum size of all request bodies held by one API process; requests beyond "
        "it are refused with 429.",
    )
    default_top_k: Annotated[int, Field(ge=1)] = Field(
        5,
        description="Number of predictions in an answer if the request has no top_k; "
        "all classes if fewer.",
    )

    ui: bool = Field(True, description="Whether the page at /ui/ is served.")
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the log: a line of text or a JSON object for each event."
    )

    @property
    def decode_limits(self) -> DecodeLimits:
        """The limits of decoding one image file."""
        chosen = self.model_dump(include=set(ImageLimits.model_fields))
        return DecodeLimits(max_bytes=self.max_body_bytes, **chosen)

    @property
    def changed(self) -> dict[str, object]:
        """Settings that differ from their defaults, by the name of their variable."""
        changed = self.model_dump(exclude_defaults=True)
        return {variable(name): value for name, value in changed.items()}

    @property
    def longest_wait_ms(self) -> float:
        """Longest wait of an accepted request: no longer than it takes to time out."""
        return min(self.max_wait_ms, self.timeout_ms)

    @property
    def overload_wait_range_ms(self) -> tuple[float, float]:
        """Range from which `Admission` chooses the limit of the wait during overload.

        A wait of half the budget leaves the rest of two budgets for the work, and for HTTP on
        busy cores.
        """
        least, most = self.budget_ms / 2, self.budget_ms
        if self.overload_wait_ms is not None:
            least = most = self.overload_wait_ms
        return min(least, self.longest_wait_ms), min(most, self.longest_wait_ms)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings from environment variables.

        Args:
            environ: The environment; names that do not start with CLASSIFIER_ are ignored.

        Raises:
            SettingsError: Names are unknown or values are invalid; the message lists all.
        """
        values = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environ.items()
            if name.startswith(PREFIX)
        }
        known = sorted(cls.model_fields)
        problems, cause = [], None
        try:
            settings = cls.model_validate({name: values[name] for name in values.keys() & known})
            if settings.budget_ms > settings.timeout_ms:
                problems.append(
                    f"CLASSIFIER_BUDGET_MS ({settings.budget_ms:g}) exceeds CLASSIFIER_TIMEOUT_MS "
                    f"({settings.timeout_ms:g}): answers would come too late; lower the budget"
                )
        except ValidationError as error:
            cause = error
            problems += [
                f"environment variable {variable(str(each['loc'][0]))}: found "
                f"{each['input']!r}, {each['msg']}; correct or unset it"
                for each in error.errors(include_url=False)
            ]
        if unknown := sorted(values.keys() - cls.model_fields.keys()):
            guess = difflib.get_close_matches(unknown[0], known, n=1)
            problems.append(
                f"environment: unknown {', '.join(map(variable, unknown))}; "
                f"{f'did you mean {variable(guess[0])}? ' if guess else ''}"
                f"known are {', '.join(map(variable, known))}"
            )
        if problems:
            raise SettingsError("; ".join(problems)) from cause
        return settings
