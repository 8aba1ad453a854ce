"""Classify an image with BentoML's client: bentoml_client.py IMAGE [URL]."""

import sys
from pathlib import Path

import bentoml

image = Path(sys.argv[1])
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:3000"

with bentoml.SyncHTTPClient(url, timeout=10) as client:
    answer = client.classify(image=image, top_k=None)
for prediction in answer["predictions"][:3]:
    print(prediction["label"], round(prediction["probability"], 4))
