"""The last operations of a network, where they decide the meaning of outputs that do not show it.

ONNX graphs are read. Networks of torch, eager or scripted, are watched while they run: those for
`--engine torch` are never exported to ONNX.
"""

import contextlib
from typing import Any, NamedTuple

import onnx
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from importer.errors import ImportRefused

PASSING = frozenset(
    {
        *("alias", "cast", "clone", "contiguous", "detach", "dropout", "expand", "flatten"),
        *("identity", "permute", "reshape", "select", "slice", "squeeze", "t", "to", "tocopy"),
        *("transpose", "unsafeview", "unsqueeze", "view"),
    }
)
"""Operations that leave scores unchanged."""
SCALING = frozenset({"add", "div", "mul", "rsub", "sub"})
"""Operations that, with a constant, only scale or shift scores."""
BOUNDED = frozenset({"hardsigmoid", "sigmoid", "softmax"})
"""Operations whose results show that they are no logits, unless they are scaled."""


class Ending(NamedTuple):
    """The last operations of a network, without those that pass, scale or shift scores.

    Names are those of ONNX or torch in small letters, without underscores.

    Attributes:
        last: The last one; empty if unknown.
        before: The one before it.
        scaled: Whether the result of `last` is scaled or shifted.
    """

    last: str = ""
    before: str = ""
    scaled: bool = False

    def refuse(self, where: str) -> None:
        """Refuse a logsigmoid, and operations that sort or select classes."""
        spelled_out = (("log", "sigmoid"), ("neg", "softplus"))
        if self.last.startswith("logsigmoid") or (self.last, self.before) in spelled_out:
            raise ImportRefused(
                f"{where}: ends in a logsigmoid, whose softmax is no probability; remove it from "
                "the network and add --activation sigmoid"
            )
        if self.last in ("argmax", "msort", "sort", "topk"):
            raise ImportRefused(
                f"{where}: ends in {self.last}, so its outputs are no scores in the order of the "
                "classes; remove it from the network, which then returns its input, the scores"
            )

    @property
    def doubtful(self) -> str | None:
        """Describe a last operation whose positive or bounded outputs could be taken for logits."""
        exponential = self.last == "exp" and not self.before.startswith("logsoftmax")
        if exponential or self.last in ("relu", "softplus", "tanh"):
            return self.last
        scaled = self.last in BOUNDED and self.scaled
        return f"{self.last} times or plus a constant" if scaled else None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def graph_ending(model: onnx.ModelProto) -> Ending:
    """Return the ending of an ONNX graph."""
    producers = producers_of(model)
    node, scaled = producers.get(model.graph.output[0].name), False
    while node is not None and (name := _plain(node.op_type)) in PASSING | SCALING:
        computed = [producers[result] for result in node.input if result in producers]
        if name in SCALING:
            scaled = True
            if len(computed) > 1:  # of two results, none is a constant
                return Ending()
        node = computed[0] if computed else None
    if node is None:
        return Ending()
    before = producers.get(next(iter(node.input), ""))
    return Ending(_plain(node.op_type), _plain(before.op_type) if before else "", scaled)


def producers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Map the name of each result, constants aside, to its operator."""
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    return {name: node for node in nodes for name in node.output}


def network_ending(network: nn.Module, pixels: torch.Tensor) -> Ending:
    """Run a network of torch on one input, (1, C, H, W), and return its ending."""
    endings: Any = WeakIdKeyDictionary()  # tensor computed from the image → its ending

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not declare it
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = _plain(function.overloadpacket.__name__)
            if name == "item" and not isinstance(args[0], torch.Tensor):  # a constant of a trace
                return args[0]
            result = function(*args, **(kwargs or {}))
            tensors = [item for item in tree_leaves(args) if isinstance(item, torch.Tensor)]
            computed: list[Ending] = [endings[item] for item in tensors if item in endings]
            if not computed:
                return result
            ending = computed[0]
            if name in SCALING and len(computed) == 1:
                ending = ending._replace(scaled=True)
            elif name not in PASSING:
                ending = Ending(name, ending.last)
            for item in tree_leaves(result):
                if isinstance(item, torch.Tensor):
                    endings[item] = ending
            return result

    found = Ending()
    image = pixels.clone()  # networks may change their input in place
    endings[image] = found
    # A network that runs by itself may fail under the watch; then its ending is unknown.
    with torch.inference_mode(), contextlib.suppress(Exception), Watch():  # type: ignore[no-untyped-call]
        found = endings.get(network(image), found)
    return found
