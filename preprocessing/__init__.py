"""File bytes → model input. Pure: knows neither HTTP nor the model."""

from preprocessing.conformance import conformance_cases, conformance_digests, differing_cases
from preprocessing.decode import decode_image
from preprocessing.errors import PreprocessingBug, SpecError
from preprocessing.input_spec import InputSpec
from preprocessing.limits import DecodeLimits, ImageLimits
from preprocessing.spec import DecodeRules, PreprocessingSpec, Resize
from preprocessing.trace import Step, trace
from preprocessing.transform import SpecPreprocessing, to_input
from preprocessing.user_class import Preprocessing, load_preprocessing

__all__ = [
    "DecodeLimits",
    "DecodeRules",
    "ImageLimits",
    "InputSpec",
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
