"""Classify an image with BentoML's client."""

import argparse
import sys
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image", type=Path)
parser.add_argument("url", nargs="?", default="http://127.0.0.1:3000")
options = parser.parse_args()

try:
    with bentoml.SyncHTTPClient(options.url, timeout=10) as client:
        answer = client.classify(image=options.image, top_k=None)
except BentoMLException as error:  # not ready within 10 s, or the answer was an error
    sys.exit(f"{options.url}: {error}")
for prediction in answer["predictions"][:3]:
    print(prediction["label"], round(prediction.get("probability", prediction.get("score")), 4))
