"""Classify an image over HTTP."""

import argparse
import sys
from pathlib import Path

import httpx

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image", type=Path)
parser.add_argument("url", nargs="?", default="http://127.0.0.1:3000")
options = parser.parse_args()

try:
    response = httpx.post(
        f"{options.url}/classify?top_k=3",
        content=options.image.read_bytes(),
        headers={"X-Request-Timeout-Ms": "10000"},
        timeout=10,
    )
except httpx.TransportError as error:
    sys.exit(f"{options.url}: {error}")
answer = response.json()
if response.is_error:  # 429 and 503 can be retried after `Retry-After` seconds
    sys.exit(f"{response.status_code}: {answer['error']['message']}")
for prediction in answer["predictions"]:
    print(prediction["label"], round(prediction.get("probability", prediction.get("score")), 4))
