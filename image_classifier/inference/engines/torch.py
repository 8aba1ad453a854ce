"""The torch engine: a program of torch.export, on a GPU if there is one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.export.passes import move_to_device_pass

from image_classifier.artifact.format import ArtifactError, Precision
from image_classifier.artifact.record import Plan
from image_classifier.inference.engine import Batch, Engine, Logits
from image_classifier.inference.engines.in_flight import InFlightEngine

WEIGHTS_PREFIX = "network."
"""Prefix of a program's tensors that are loaded from the weights file, which omits it."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CAST = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default)
"""Operations that autocast computes in reduced precision, and that have most of the weights."""
MAX_BATCH = 256
"""Largest batch that a program takes."""


def gpu_name() -> str | None:
    """Return the name of the GPU that the engine runs on, or None if torch finds none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


class Forward(torch.nn.Module):
    """A program in a precision: a batch (n, H, W, C) → logits, float32 (n, classes)."""

    def __init__(self, program: torch.fx.GraphModule, device: str, precision: Precision) -> None:
        super().__init__()
        self.program = program
        self._device = device
        self._autocast = AUTOCAST.get(precision)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the forward pass."""
        # No cache: the weights are converted already, and other cached tensors would be memory of
        # one CUDA graph that other graphs read.
        with torch.autocast(
            self._device,
            dtype=self._autocast,
            enabled=self._autocast is not None,
            cache_enabled=False,
        ):
            logits: torch.Tensor = self.program(batch)
        return logits.float()


class Program:
    """A program with its weights on the device, shared by all engines that run it.

    The device is the first GPU that torch finds (`service.py` makes one visible), else the CPU. A
    program does not need the source of the network. Like that source it can run any code while it
    is loaded, so it is opened only after its digest was verified.

    Args:
        path: The file of the program.
        weights: The weights file of the same artifact.

    Attributes:
        forward: The program; its state is on the device.
        dtype: Name of the dtype of an input.
        input_shape: (H, W, C).

    Raises:
        ArtifactError: The weights do not fit the program.
    """

    def __init__(self, path: Path, weights: Path, precision: Precision) -> None:
        self.device = torch.device("cpu" if gpu_name() is None else "cuda")
        # By default cuDNN convolves float32 in TF32, with 10 bits of mantissa instead of 23. Not
        # disabled by `fp32_precision`, which makes torch.export of 2.14.1 raise in this process.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        program = torch.export.load(path)
        program.example_inputs = None
        _fill(program.state_dict, weights, self.device)
        if self.device.type != "cpu":
            program = move_to_device_pass(program, self.device)
        module = program.module()
        _prepare_weights(module, AUTOCAST.get(precision))
        _prepare_layouts(module, AUTOCAST.get(precision))
        self.forward = Forward(module, self.device.type, precision)
        pixels = next(node for node in module.graph.nodes if node.op == "placeholder")
        self.dtype = str(pixels.meta["val"].dtype).removeprefix("torch.")
        self.input_shape = tuple(int(length) for length in pixels.meta["val"].shape[1:])

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 (n, classes) on the device, of a batch (n, H, W, C) there."""
        with torch.inference_mode():
            logits: torch.Tensor = self.forward(batch)
        return logits

    def load(self, plan: Plan) -> Engine:
        """Return an engine for a plan; see `LoadEngine`."""
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, plan.threads // plan.streams))
            return _OnCpu(self)
        device = _CudaDevice()
        blank = device.zeros((1, *self.input_shape), self.dtype, on_host=False)
        return InFlightEngine(
            self.run,
            device,
            plan.batch_sizes,
            slots=plan.streams,
            input_shape=self.input_shape,
            dtype=self.dtype,
            num_classes=self.run(blank).shape[1],
        )


class _OnCpu:
    """Runs a program in the calling thread."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, batch: Batch) -> Logits:
        return np.asarray(self._program.run(torch.from_numpy(np.array(batch))).numpy())


def _prepare_weights(program: torch.fx.GraphModule, reduced: torch.dtype | None) -> None:
    """Convert weights once that each run would otherwise convert.

    - Weights that only `CAST` operations read: to the reduced precision.
    - Filters of convolutions: to channels last, the layout of the pixels.

    Other tensors become buffers, which AOTInductor can leave out of a package.
    """
    for node in program.graph.nodes:
        if node.op != "get_attr":
            continue
        owner, _, name = node.target.rpartition(".")
        module = program.get_submodule(owner)
        if isinstance(vars(module).get(name), torch.Tensor):
            module.register_buffer(name, vars(module).pop(name), persistent=False)
        if {user.target for user in node.users} - set(CAST):
            continue
        weight = getattr(module, name).detach()
        if reduced is not None:
            weight = weight.to(reduced)
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        setattr(module, name, torch.nn.Parameter(weight, requires_grad=False))


def _prepare_layouts(program: torch.fx.GraphModule, reduced: torch.dtype | None) -> None:
    """Remove assumptions about the memory layouts of the CPU at the export, and `detach_`.

    - `view` fails if kernels of a GPU lay out their results differently, as attention in
      float32 does. `reshape` makes a copy then.
    - A linear layer multiplies each row of a transposed input separately (at::matmul does not
      fold it, torch 2.11 to 2.14), which took two thirds of a batch of two of ViT-L/16 on an
      H100. The input is made contiguous, as part of autocast's cast if there is one.
    - `detach_` follows each `torch.tensor(…)` of a forward. It does nothing here, and torch.export
      does not take it a second time.
    - The pixels are made contiguous for networks that `view` them. `reshape` needs no copy, and
      convolutions are faster with channels last.
    """
    graph, operations = program.graph, torch.ops.aten
    for node in graph.nodes:
        if node.target == operations.view.default:
            node.target = operations.reshape.default
        elif node.target == operations.detach_.default:
            node.target = operations.detach.default
        elif node.target == operations.contiguous.default:
            (pixels,) = node.args
            if pixels.target == operations.permute.default and pixels.args[0].op == "placeholder":
                node.replace_all_uses_with(pixels)
                graph.erase_node(node)
        elif node.target == operations.linear.default:
            rows, *weights = node.args
            with graph.inserting_before(node):
                if reduced is not None:
                    rows = graph.call_function(
                        operations.to.dtype,
                        (rows, reduced, False, False, torch.contiguous_format),
                    )
                rows = graph.call_function(operations.contiguous.default, (rows,))
            node.args = (rows, *weights)
    program.recompile()


def _fill(tensors: dict[str, torch.Tensor], weights: Path, device: torch.device) -> None:
    """Load the weights into the tensors of a program; shapes and dtypes must match."""
    stored = load_file(weights, device=str(device))
    for name, expected in tensors.items():
        if not name.startswith(WEIGHTS_PREFIX):
            continue
        stored_name = name.removeprefix(WEIGHTS_PREFIX)
        actual = stored.get(stored_name)
        if actual is None or (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
            raise ArtifactError(
                f"{weights}: {stored_name} is not the {expected.dtype} {tuple(expected.shape)} "
                "that the program takes; import the model again"
            )
        is_parameter = isinstance(expected, torch.nn.Parameter)
        tensors[name] = torch.nn.Parameter(actual, requires_grad=False) if is_parameter else actual


class _CudaDevice:
    """The GPU of this process; see `Device`."""

    def __init__(self) -> None:
        # Graphs that replay in turn on one stream can share memory.
        self._pool = torch.cuda.graph_pool_handle()

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def enqueue(self, stream: torch.cuda.Stream, work: Callable[[], object]) -> None:
        with torch.cuda.stream(stream):
            work()

    def record(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event

    def zeros(self, shape: Sequence[int], dtype: str, *, on_host: bool) -> torch.Tensor:
        place = "cpu" if on_host else "cuda"
        kind: torch.dtype = getattr(torch, dtype)
        return torch.zeros(*shape, dtype=kind, device=place, pin_memory=on_host)

    def capture(
        self, stream: torch.cuda.Stream, work: Callable[[], object]
    ) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # meanwhile libraries choose kernels and allocate memory
                    work()
            # "thread_local": other threads may allocate memory meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                work()
        except RuntimeError as error:
            # Ending a failed capture raises another error, whose context is the first.
            chain = (error, error.__context__)
            full = [cause for cause in chain if isinstance(cause, torch.OutOfMemoryError)]
            if full:
                raise MemoryError(str(full[0]).partition(". ")[0]) from error
            raise
        return graph.replay
