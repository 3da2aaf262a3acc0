"""What a recipe may say of a remote teacher: `args` of the teacher, read strictly, every default in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from tutelage.errors import InputError, nearest
from tutelage.recipe.kinds import Arguments, Count, Fraction, NotNegative, Positive, Section, Seed, Text

__all__ = ["PLAIN", "Budget", "ChatSettings", "OwnSettings", "Price", "WireSettings", "settings_of"]

# What to do where a teacher behind an address reads texts and the data has none as they are.
PLAIN = "give the data an input of plain text, as `raw: {text: [column]}`, and the teacher `reads: raw`"

_Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Price(Section):
    """What an endpoint charges for a million tokens, in whatever money."""

    input: NotNegative = Field(alias="in")
    """For a million tokens of questions."""
    output: NotNegative = Field(alias="out")
    """For a million tokens of answers."""


class Budget(Section):
    """What may be spent in all, over every start and restart that shares a book."""

    requests: Count | None = None
    """So many requests, failed ones included."""
    money: Positive | None = None
    """So much money, by `price`."""
    then: Literal["stop", "mask"] = "stop"
    """When it is spent: stop; mask, go on, and leave out the examples that have no answer."""


class WireSettings(Section):
    """How a server is talked to."""

    key_env: Text | None = None
    """The name of the variable of the environment that holds the key; the key itself stands nowhere."""
    key_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "authorization"
    """The header that carries the key: authorization puts `Bearer` before it, any other one sends it as it is."""
    timeout: Positive = 60.0
    """Seconds for one attempt, from connecting to the last byte."""
    deadline: Positive = 600.0
    """Seconds for one request with all its attempts and pauses."""
    retries: Annotated[int, Field(ge=0, le=100)] = 6
    """How often a request is tried again."""
    in_flight: Annotated[int, Field(ge=1, le=256)] = 8
    """How many requests may be under way at a time."""
    max_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 16 * 2**20
    """The longest answer that is read."""
    insecure: bool = False
    """Allow plain HTTP to other machines."""
    seed: Seed = 0
    """From which the jitter of pauses is drawn."""
    parity: Annotated[int, Field(ge=0, le=64)] = 4
    """So many of the first examples are asked twice, to see whether the answers agree."""


class OwnSettings(WireSettings):
    """Args of an endpoint of `tutelage serve`."""

    rows: Count = 64
    """Examples in one request, at most; the server's own limits are respected as well."""
    body: Literal["raw", "json"] = "raw"
    """How examples are sent: float32 as it is, or JSON."""


class ChatSettings(WireSettings):
    """Args of a server that speaks the chat protocol."""

    model: Text
    """The model's name there."""
    api: Literal["chat", "completions"] = "chat"
    """Which address is asked: chat/completions, or completions with a plain prompt."""
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    """The question, with {classes} where the lettered classes go and {text} where the text goes; null takes ours."""
    system: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    """A message of the system in front of it."""
    describe: Annotated[dict[str, Text], Field()] = Field(default_factory=dict)
    """Class -> what the model is told instead of its name."""
    answers: Literal["logprobs", "samples", "label"] = "logprobs"
    """Where probabilities come from: logprobs of the first token; shares of several sampled answers; one answer."""
    top: Annotated[int, Field(ge=1, le=100)] = 20
    """Of logprobs: how many tokens the server is asked to tell."""
    least: _Share = 0.05
    """Of logprobs: an answer whose letters hold less probability than this, together, names no class."""
    floor: Annotated[float, Field(gt=0, le=0.01)] = 1e-5
    """Of logprobs: no class gets less."""
    samples: Annotated[int, Field(ge=2, le=128)] = 8
    """Of samples: how many answers are drawn."""
    smoothing: Fraction | None = None
    """Of samples and label: the share that is spread over all classes; null takes 1 / (samples + 1), and 0.1."""
    permute: Count = 1
    """Ask in so many cyclic orders of the classes, and take the mean."""
    temperature: NotNegative | None = None
    """Of sampling; null takes 1 for samples, else 0."""
    max_tokens: Count | None = None
    """Of an answer; null takes 4 for logprobs, else 16."""
    body: Arguments = Field(default_factory=dict)
    """Further keys of the request; null takes one out."""
    price: Price | None = None
    """What it costs, for estimates and `budget.money`."""
    budget: Budget | None = None
    """What may be spent."""


S = TypeVar("S", bound=WireSettings)


def settings_of(kind: type[S], args: Mapping[str, Any]) -> S:
    """Args of a teacher, checked.

    Raises:
        InputError: an unknown key, or a value that cannot be. The value of an unknown key, or of one that is about
            keys, is not repeated.
    """
    known = {field.alias or name for name, field in kind.model_fields.items()}
    for name in args:
        if name not in known:
            secret = any(part in str(name).lower() for part in ("key", "token", "secret", "password", "auth"))
            raise InputError(
                f"a remote teacher has no argument `{str(name)[:60]}`", where="teacher.args",
                fix="keys never stand in recipes: `key_env` names the variable of the environment that holds it"
                if secret else nearest(str(name), known),
            )  # fmt: skip
    try:
        return kind.model_validate(dict(args))
    except ValidationError as error:
        one = error.errors()[0]
        path = f"`teacher.args.{'.'.join(map(str, one['loc']))}`"
        if one["type"] == "missing":
            raise InputError(f"{path} is missing") from None
        shown = None if one["loc"][:1] == ("key_env",) else ascii(one["input"])[:80]
        raise InputError(f"{path} cannot be this", given=shown, expected=one["msg"]) from None
