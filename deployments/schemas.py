"""What clients may send: OpenAI's request bodies, checked field by field.

Types are strict (no "3" for 3) and bounded; fields that are not known are accepted and have no effect, as with OpenAI.
A field that OpenAI knows, that would change the reply and that is not supported here is refused, not ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic_core
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

MAX_STOPS, MAX_STOP_CHARS = 4, 256
MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128  # an upper bound for the schema; the gateway's settings say what this server allows
MAX_SEED = 2**62  # leaves room for seed + number of the candidate in 64 bits

M = TypeVar("M", bound=BaseModel)
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class InvalidRequest(ValueError):
    """A body that cannot be served as it is; `param` names the field, `code` the kind of mistake."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code


def _text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain a null character")
    return value


def _joined(value: Any) -> Any:
    """Content given in parts, as one text."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('parts must be {"type": "text", "text": "..."}; only text is supported')
    return "\n".join(part["text"] for part in value)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else [] if value is None else value


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class TextPart(_Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


Text = Annotated[str, AfterValidator(_text)]
Content = Annotated[Text, BeforeValidator(_joined, json_schema_input_type=str | list[TextPart])]
Stop = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_listed, json_schema_input_type=Stop | list[Stop] | None)
]
Prompt = Annotated[Text, Field(min_length=1)]
Prompts = Annotated[
    list[Prompt], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Prompt | list[Prompt])
]


class Message(_Body):
    """One turn of a conversation.

    Fields of earlier replies (reasoning_content, ...) may be sent back; they are dropped, as a model's past reasoning
    is no part of the conversation.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class JsonSchema(_Body):
    """A named JSON schema."""

    name: Annotated[Text, Field(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(_Body):
    """What the answer's text must be: anything, a JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with type json_schema, and with no other")
        return self


class StreamOptions(_Body):
    """What a stream tells besides the text."""

    include_usage: bool | None = None


class RaythinkOptions(_Body):
    """How to think: whether to plan first, how many candidates to generate, whether to stop those that are far less
    sure than another while they write, whether to show plan, candidates, verdicts and why the winner won. What is not
    given follows from reasoning_effort and the server's settings."""

    plan: bool | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    prune: bool | None = None
    explain: bool | None = None


class _Sampling(_Body):
    model: Annotated[Text, Field(max_length=256)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stops = []
    seed: Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _supported(self) -> Self:
        for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
            _refuse(self, name)
        if self.stream_options is not None and not self.stream:
            raise _wrong("stream_options", "stream_options goes with stream: true")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _wrong(name: str, message: str, kind: str = "invalid_value") -> pydantic_core.PydanticCustomError:
    """A mistake that is told of field `name`, wherever it was found."""
    return pydantic_core.PydanticCustomError(kind, "{message}", {"name": name, "message": message})


def _refuse(body: BaseModel, name: str) -> None:
    if getattr(body, name):
        raise _wrong(name, f"{name} is not supported by this server; leave it out", "unsupported_parameter")


class ChatCompletionRequest(_Sampling):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    raythink: RaythinkOptions | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    audio: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("tools", "functions", "audio"):
            _refuse(self, name)
        if self.messages[-1].role != "user":
            raise _wrong("messages", "the last message must be the user's")
        if self.top_logprobs is not None and not self.logprobs:
            raise _wrong("top_logprobs", "top_logprobs goes with logprobs: true")
        if self.sampled and self.raythink is not None:
            raise _wrong("n", "n > 1 samples the model as it is, without raythink; raythink.n gives more candidates")
        return self

    @property
    def limit(self) -> int | None:
        """The longest reply wanted, in tokens, under either of OpenAI's names for it."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def sampled(self) -> bool:
        """Whether the model is sampled as it is, without planning, candidates and selection."""
        return (self.n or 1) > 1


class CompletionRequest(_Sampling):
    """The body of POST /v1/completions: raw text in, its continuation out, no chat template."""

    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _plain(self) -> Self:
        for name in ("echo", "suffix"):
            _refuse(self, name)
        if self.best_of not in (None, self.n or 1):
            _refuse(self, "best_of")
        return self


def openapi_body(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a body, complete in itself."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return {"required": True, "content": {"application/json": {"schema": _inlined(schema, definitions)}}}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with what it refers to in place (none refers to itself)."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items()}


def parse(model: type[M], body: bytes) -> M:
    """The body as a request. Raises InvalidRequest, whose message never repeats the body."""
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_type")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _invalid(error.errors(include_url=False, include_input=False)[0]) from None


def _invalid(error: Mapping[str, Any]) -> InvalidRequest:
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    message = error["msg"].removeprefix("Value error, ")
    named = error.get("ctx", {}).get("name")
    code = error["type"] if named else {"missing": "missing_parameter"}.get(error["type"], "invalid_value")
    return InvalidRequest(f"{param}: {message}" if param else message, param or named, code)
