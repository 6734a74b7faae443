"""What `[onnx]` in a function manifest may hold. The agent reads it too, so neither NumPy nor onnxruntime is imported here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Threads = Annotated[int, Meta(ge=0, le=1024)]
Shape = tuple[Annotated[int, Meta(ge=-1)], ...]
Numbers = float | tuple[float, ...]
Constant = bool | int | float | str | list[Any]
Dtype = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]  # fmt: skip


class Input(Struct, frozen=True, forbid_unknown_fields=True):
    """`[onnx.input]`: how an event's body becomes a tensor.

    The body's values pass through `(value - mean) * scale`, then `transpose`, then the cast to the model's own type.
    """

    decode: Literal["json", "raw", "npy"] = "json"
    """json: nested lists for the one input, or an object of them by input name; raw: little-endian numbers; npy: a .npy file."""
    name: str = ""
    """The model input the event fills; empty: the only one that is neither constant nor state."""
    dtype: Dtype = "float32"
    """raw: the type of the numbers in the body."""
    shape: Shape = ()
    """raw: the shape of the body, one -1 allowed; empty: one flat axis."""
    mean: Numbers = 0.0
    """One number, or one per entry of the body's last axis (the channels of an image)."""
    scale: Numbers = 1.0
    transpose: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    """The order of the body's axes the model wants: [2, 0, 1] turns height, width, channel into channel, height, width."""


class Output(Struct, frozen=True, forbid_unknown_fields=True):
    """`[onnx.output]`: how the model's outputs become the answer."""

    encode: Literal["json", "raw", "npy", "labels"] = "json"
    names: tuple[str, ...] = ()
    """The outputs to answer with; empty: all that are not state. raw, npy and labels answer with exactly one."""
    labels: str | tuple[str, ...] = ()
    """labels: the classes in order, as a list or as a file in the bundle with one name a line; empty: their numbers."""
    top_k: Positive = 5
    softmax: bool = False
    """labels: turn the model's logits into probabilities first."""
    threshold: float | None = None
    """labels: leave out classes that score less."""


class Session(Struct, frozen=True, forbid_unknown_fields=True):
    """`[onnx.session]`: how onnxruntime runs the model. The defaults suit several functions on a small board."""

    intra_op_threads: Threads = 1
    """Threads inside one operator; 0 lets onnxruntime take every core."""
    inter_op_threads: Threads = 1
    optimization: Literal["off", "basic", "extended", "all"] = "all"
    arena: bool = True
    """Keep freed tensor memory for the next event; false gives it back, for large models that rarely run."""
    prepacking: bool = True
    """false, with weights in an external data file, lets every process share one mapped copy of them."""
    spinning: bool = False
    """Idle threads burn a core to start the next operator sooner."""
    config: dict[str, str] = {}
    """Further onnxruntime session configuration entries, by their full name."""


class State(Struct, frozen=True, forbid_unknown_fields=True):
    """`[onnx.state]`: what a worker remembers from one event to the next. Use `workers = 1` with it: workers share nothing."""

    carry: dict[str, str] = {}
    """Output name = input name: the output of this event is the input of the next; the first gets zeros."""
    overlap: Annotated[int, Meta(ge=0)] = 0
    """How many values of the event before are put in front of this one's along the last axis; the first gets zeros."""
    key: str = ""
    """Keep one state per `path` (the MQTT topic) or per `header:NAME`; empty: one state for all events."""
    max_keys: Positive = 256
    """States kept; one more drops the one that was used longest ago."""
    reset_header: str = ""
    """An event with this header starts from zeros."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[onnx]`: a function without code."""

    model: str
    """The model file, relative to the function's folder."""
    model_source: str = ""
    """How to get the model file when it does not travel with the function; part of the error when it is missing."""
    providers: tuple[str, ...] | Literal["auto"] = ("CPUExecutionProvider",)
    """Execution providers in order of preference, by onnxruntime's names. auto: those of the board's profile."""
    strict_providers: bool = False
    """Fail the start when the first provider does not run any of the model; otherwise only warn."""
    provider_options: dict[str, dict[str, str | int | float | bool]] = {}
    input: Input = Input()
    output: Output = Output()
    session: Session = Session()
    state: State = State()
    constants: dict[str, Constant] = {}
    """Input name = the value it has for every event."""
    shapes: dict[str, tuple[Positive, ...]] = {}
    """Input name = its shape where the model leaves dimensions open, for the first inference and the first state; 1 otherwise."""
