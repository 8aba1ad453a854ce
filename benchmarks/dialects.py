"""How each server is asked, and where its answer has the top class."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

BOUNDARY = b"benchmark-part-border"
HOST = b"127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One way to upload an image and read the answer.

    Attributes:
        path: Of the request.
        encode: File bytes to (headers, body); the headers without Host and Content-Length.
        read_class: Body of a 200 to the top class.
    """

    path: str
    encode: Callable[[bytes], tuple[dict[str, str], bytes]]
    read_class: Callable[[bytes], int]

    def request(self, data: bytes) -> bytes:
        """A whole HTTP/1.1 request for one file."""
        headers, body = self.encode(data)
        lines = [f"{name}: {value}".encode() for name, value in headers.items()]
        head = b"\r\n".join(
            [
                b"POST " + self.path.encode() + b" HTTP/1.1",
                b"Host: " + HOST,
                b"Content-Length: %d" % len(body),
                *lines,
            ]
        )
        return head + b"\r\n\r\n" + body


def _raw(data: bytes) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "image/jpeg"}, data


def _form(part: str) -> Callable[[bytes], tuple[dict[str, str], bytes]]:
    def encode(data: bytes) -> tuple[dict[str, str], bytes]:
        head = (
            b"--%s\r\nContent-Disposition: form-data; name=%s; filename=photo.jpg\r\n"
            b"Content-Type: image/jpeg\r\n\r\n"
        ) % (BOUNDARY, b'"' + part.encode() + b'"')
        return (
            {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"},
            head + data + b"\r\n--" + BOUNDARY + b"--\r\n",
        )

    return encode


def _base64_tensor(data: bytes) -> tuple[dict[str, str], bytes]:
    tensor = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(data).decode()],
    }
    return {"Content-Type": "application/json"}, json.dumps({"inputs": [tensor]}).encode()


def _binary_tensor(data: bytes) -> tuple[dict[str, str], bytes]:
    # Binary tensor extension of the Open Inference Protocol: each element of a BYTES tensor is
    # preceded by its length, 4 bytes little-endian.
    element = len(data).to_bytes(4, "little") + data
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(element)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }, head + element


def read_prediction(body: bytes) -> int:
    """`{"predictions": [{"class_id": …}, …]}`, best first."""
    return int(json.loads(body)["predictions"][0]["class_id"])


def _read_text_output(body: bytes) -> int:
    """An Open Inference Protocol answer whose first output holds that JSON as one string."""
    data = json.loads(body)["outputs"][0]["data"][0]
    return read_prediction(data[0] if isinstance(data, list) else data)


def _read_class_output(body: bytes) -> int:
    """An Open Inference Protocol answer with an output `class_id`, best first."""
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    return int(outputs["class_id"]["data"][0])


def raw_body(path: str) -> Dialect:
    """The file is the body."""
    return Dialect(path=path, encode=_raw, read_class=read_prediction)


def form_upload(path: str, part: str = "image") -> Dialect:
    """The file is a part of a form."""
    return Dialect(path=path, encode=_form(part), read_class=read_prediction)


def base64_inference(model: str) -> Dialect:
    """Open Inference Protocol, plain JSON: the file in base64, predictions as text."""
    return Dialect(
        path=f"/v2/models/{model}/infer", encode=_base64_tensor, read_class=_read_text_output
    )


def binary_inference(model: str) -> Dialect:
    """Open Inference Protocol with binary tensors."""
    return Dialect(
        path=f"/v2/models/{model}/infer", encode=_binary_tensor, read_class=_read_class_output
    )
