"""File bytes → model input. Pure: knows neither HTTP nor the model."""

from preprocessing.conformance import conformance_cases, conformance_digests, differing_cases
from preprocessing.decode import decode_image
from preprocessing.errors import PreprocessingBug, SpecError
from preprocessing.interface import Preprocessing
from preprocessing.loading import load_preprocessing
from preprocessing.pipeline import to_input
from preprocessing.rules import DecodeLimits, DecodeRules
from preprocessing.spec import PreprocessingSpec, Resize
from preprocessing.trace import Step, trace
from preprocessing.transform import SpecPreprocessing

__all__ = [
    "DecodeLimits",
    "DecodeRules",
    "Preprocessing",
    "PreprocessingBug",
    "PreprocessingSpec",
    "Resize",
    "SpecError",
    "SpecPreprocessing",
    "Step",
    "conformance_cases",
    "conformance_digests",
    "decode_image",
    "differing_cases",
    "load_preprocessing",
    "to_input",
    "trace",
]
