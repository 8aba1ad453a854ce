"""The aotinductor engine: a torch program that was compiled ahead of time for one machine."""

from operator import attrgetter
from pathlib import Path

import torch

from image_classifier.artifact.evidence import Package
from image_classifier.artifact.format import WEIGHTS_NAME, Precision
from image_classifier.inference.engine import EngineError, EngineUnavailable
from image_classifier.inference.engines.torch import MAX_BATCH, Program, gpu_name
from image_classifier.inference.machine import this_machine


def target_here() -> str:
    """Return what packages made here run on: torch's version, the GPU and the processor."""
    machine = this_machine(gpu_name())
    parts = (machine.accelerator, machine.cpu, " ".join(machine.features))
    return ", ".join([f"torch {torch.__version__}", *filter(None, parts)])


class CompiledProgram(Program):
    """A program of which AOTInductor made a package: native code without weights.

    The package is loaded without torch's public function, which starts a C++ compiler to look at
    the processor (torch 2.11 to 2.14). Packages check nothing: on inputs of another dtype they
    give wrong numbers, and without weights they end the process.

    Args:
        path: The file of the program, which describes the weights.
        root: Directory of the artifact.

    Raises:
        EngineUnavailable: The package is for another machine or another version of torch, or its
            library cannot be loaded.
    """

    def __init__(self, path: Path, precision: Precision, root: Path, package: Package) -> None:
        if package.target != (here := target_here()):
            raise EngineUnavailable(
                f"{package.file} was compiled for {package.target}, this is {here}; "
                "`model_import.py renew` compiles it here"
            )
        super().__init__(path, root / WEIGHTS_NAME, precision)
        captured = self.device.type == "cuda"  # then without locks, as a capture requires
        options = ("model", captured, 1, -1)  # one runner, on the current device
        try:
            self._package = torch._C._aoti.AOTIModelPackageLoader(
                str(root / package.file), *options
            )
        except RuntimeError as error:  # such as a temporary folder mounted without `exec`
            first_line = str(error).partition("\n")[0]
            raise EngineUnavailable(f"{package.file} cannot be loaded: {first_line}") from error
        # Used in place, so that the weights are on the device once.
        self._weights = {
            name: attrgetter(name)(self.forward).detach()
            for name in self._package.get_constant_fqns()
        }
        self._package.load_constants(self._weights, False, True, True)

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        """See `Program.run`."""
        dtype = str(batch.dtype).removeprefix("torch.")
        found = (tuple(batch.shape[1:]), dtype, batch.device.type, batch.is_contiguous())
        expected = (self.input_shape, self.dtype, self.device.type, True)
        if found != expected or not 0 < len(batch) <= MAX_BATCH:
            raise EngineError(f"a batch of {len(batch)} {found}, expected {expected}")
        with torch.inference_mode():
            logits: torch.Tensor = self._package.boxed_run([batch])[0]
        return logits
