"""Classify an image over HTTP: client.py IMAGE [URL]."""

import sys
from pathlib import Path

import httpx

image = Path(sys.argv[1]).read_bytes()
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:3000"

response = httpx.post(
    f"{url}/classify?top_k=3", content=image, headers={"X-Request-Timeout-Ms": "10000"}, timeout=10
)
answer = response.json()
if response.is_error:  # 429 and 503 can be retried after `Retry-After` seconds
    sys.exit(f"{response.status_code}: {answer['error']['message']}")
for prediction in answer["predictions"]:
    print(prediction["label"], round(prediction["probability"], 4))
