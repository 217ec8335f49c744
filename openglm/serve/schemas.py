"""Bodies of requests. Unknown fields are ignored, wrong values are an error that names the field; nothing is converted:
"1" is no number.

Fields that would hand the server a template, tensors or code are declared as null, so that sending one is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

Json = dict[str, Any]
Real = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=1 << 20)]
Embedded = Annotated[str, Field(min_length=1, max_length=1 << 15)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Effort = Annotated[str, Field(max_length=32)]
TopK = Annotated[int, Field(ge=-1, le=1 << 31), AfterValidator(lambda count: max(count, 0))]
"""-1: all, as 0"""
TopP = Annotated[Real, Field(ge=0, le=1), AfterValidator(lambda share: share or 1e-6)]
"""0: the likeliest token alone"""
Most = Annotated[int, Field(ge=-1, le=1 << 31)]
"""tokens of an answer; -1: as many as there is room for"""
Temperature = Annotated[Real, Field(ge=0, le=2)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=2048, fail_fast=True)]
Ids = Annotated[list[int], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
_Stop = Annotated[str, Field(max_length=1024)]
Stop = Annotated[
    _Stop | Annotated[list[_Stop], Field(max_length=16, fail_fast=True)],
    AfterValidator(lambda stop: [text for text in ([stop] if isinstance(stop, str) else stop) if text]),
]
"""empty texts stop nothing"""
_DEEPEST = 32


def layers(value: Any) -> Iterator[list[Any]]:
    """The parts of a JSON value, one depth after another."""
    layer = [value]
    while layer:
        yield layer
        held = (one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, (dict, list)))
        layer = [below for parts in held for below in parts]


def _shallow(value: Any) -> Any:
    """Deep nesting is no schema that anyone wrote, and its text grows with the square of the depth."""
    if any(depth == _DEEPEST for depth, _ in enumerate(layers(value))):
        raise ValueError(f"nested more than {_DEEPEST} deep")
    return value


Schema = Annotated[Json, AfterValidator(_shallow)]
Candidates = Annotated[int, Field(ge=1, le=64)]
"""Beyond the originals: so many fillings are tried, and the one that makes the whole text likeliest is the answer."""
_Count = Annotated[int, Field(ge=1, le=1 << 31)]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(Body):
    type: Literal["text"]
    text: Text


class Function(Body):
    name: Name
    arguments: Annotated[Text, AfterValidator(lambda text: text.strip() or "{}")] = "{}"


class ToolCall(Body):
    id: Annotated[str, Field(max_length=256)] = ""
    type: Literal["function"] = "function"
    function: Function


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)] | None = None
    reasoning_content: Text | None = Field(None, validation_alias=AliasChoices("reasoning_content", "reasoning"))
    tool_calls: Annotated[list[ToolCall], Field(max_length=32)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None


class ToolFunction(Body):
    name: Name
    description: Text | None = None
    parameters: Schema | None = None


class Tool(Body):
    type: Literal["function"]
    function: ToolFunction


class ChosenFunction(Body):
    name: Name


class ToolChoice(Body):
    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(Body):
    name: Name
    json_schema: Schema | None = Field(None, alias="schema")


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class TemplateOptions(Body):
    """What vLLM passes on to the published templates."""

    enable_thinking: bool | None = None
    clear_thinking: bool | None = None
    reasoning_effort: Effort | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """An option that no template has is an error, for it would be left out without a word."""
        unknown = [name for name in values if name not in cls.model_fields] if isinstance(values, dict) else []
        if unknown:
            raise ValueError(f"{unknown[0][:64]} is not an option; known: {', '.join(cls.model_fields)}")
        return values


class ThinkingSwitch(Body):
    """Z.ai's own."""

    type: Literal["enabled", "disabled"]


class StreamOptions(Body):
    include_usage: bool | None = None


class Sampling(Body):
    """What chat and completions share."""

    model: Annotated[str, Field(max_length=256)] | None = None
    max_tokens: Most | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Real, Field(ge=0.001, le=1000)] | None = None
    frequency_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[Real, Field(ge=-100, le=100)]],
            Field(max_length=1024),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template: None = None
    chat_template_kwargs: None = None
    prompt_embeds: None = None
    logits_processors: None = None

    @property
    def most(self) -> int:
        """Tokens of an answer; -1: as many as there is room for."""
        raise NotImplementedError


class ChatRequest(Sampling):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Most | None = None
    chat_template_kwargs: TemplateOptions | None = None  # type: ignore[assignment]
    reasoning_effort: Effort | None = None
    thinking: ThinkingSwitch | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    web: bool | None = None
    """answer from the server's sources, with citations"""

    @property
    def most(self) -> int:
        given = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return -1 if given is None else given


class CompletionRequest(Sampling):
    prompt: Text | Texts | Ids | Annotated[list[Ids], Field(min_length=1, max_length=2048, fail_fast=True)]
    suffix: Text | None = None
    candidates: Candidates = 1
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None

    @property
    def most(self) -> int:
        return 16 if self.max_tokens is None else self.max_tokens


class EmbeddingRequest(Body):
    """`input_type` tells questions from what is searched, as other servers of such models have it."""

    model: Annotated[str, Field(max_length=256)] | None = None
    input: Embedded | Annotated[list[Embedded], Field(min_length=1, max_length=2048, fail_fast=True)]
    input_type: Literal["query", "passage"] = "passage"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: _Count | None = None


class ExtraFile(Body):
    filename: Text = ""
    text: Text = ""


class InfillRequest(Body):
    """llama.cpp's `/infill`, as editor plug-ins send it. n_predict 0 only warms the cache; below 0 is up to the model."""

    input_prefix: Text = ""
    input_suffix: Text = ""
    input_extra: Annotated[list[ExtraFile], Field(max_length=256)] | None = None
    prompt: Text = ""
    n_predict: Annotated[int, Field(ge=-2, le=1 << 31)] = 128
    candidates: Candidates = 1
    temperature: Temperature = 0.0
    top_k: TopK = 40
    top_p: TopP = 0.99
    seed: Annotated[int, Field(ge=-1, lt=1 << 63)] | None = None
    stop: Stop | None = None
    stream: bool = False


class ChatGLMRequest(Body):
    """The first ChatGLM-6B server's."""

    prompt: Text
    history: Annotated[list[Annotated[list[Text], Field(min_length=2, max_length=2)]], Field(max_length=512)] | None = (
        None
    )
    max_length: _Count | None = None
    top_p: TopP | None = None
    temperature: Temperature | None = None


class FeedbackMessage(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: Text


class FeedbackRequest(Body):
    """One judgement. `kind` up or down rates `answer`; edit and retry give in `better` the text that replaced it."""

    conversation: Annotated[str, Field(pattern=r"^[a-zA-Z0-9-]{16,64}$")]
    kind: Literal["up", "down", "edit", "retry"]
    messages: Annotated[list[FeedbackMessage], Field(min_length=1, max_length=1024)]
    answer: Text
    better: Text | None = None
    reason: Annotated[str, Field(max_length=4096)] | None = None
    sampling: Annotated[dict[Name, Real | str | None], Field(max_length=32)] | None = None
    system_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    """as the answer gave it; None: of the version that answers now"""
