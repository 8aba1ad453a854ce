"""The tables of docs/deploy.md, made from the stored trial of the image."""

import json
from pathlib import Path
from typing import Any

START = "<!-- image: generated -->\n"
END = "<!-- end -->"


def with_tables(document: str, results: Path) -> str:
    """The document with the part between its marks made anew from the results."""
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    return before + START + tables(json.loads(results.read_bytes())) + END + after


def tables(record: dict[str, Any]) -> str:
    """Markdown of one stored trial."""
    lines = [
        f"Bento `{record['bento']}`, base: {record['base']}. Built without a cache in "
        f"{record['build_seconds']:.0f} s; ready {record['ready_seconds']:.1f} s after the start "
        f"of the container, with {record['memory_megabytes']:.0f} MB of memory. "
        f"{record['megabytes_beside_the_model']:.0f} MB beside the model, uncompressed.",
        "",
        "| layer, from the bottom | MB |",
        "|---|---|",
        *(f"| {layer['step']} | {layer['bytes'] / 1e6:.2f} |" for layer in record["layers"]),
        f"| together | {record['megabytes']:.1f} |",
    ]
    return "\n".join(lines) + "\n"
