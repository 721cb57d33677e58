"""What a user of `tritonclient` does; run as a program, for its stubs want a process of their own. Prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

address, *texts = sys.argv[1:]
client = triton.InferenceServerClient(address)
report: dict[str, Any] = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "server": client.get_server_metadata(as_json=True),
}


def infer(model: str, shape: list[int], outputs: list[str] | None = None, **options: Any) -> Any:
    """The texts as one tensor."""
    tensor = triton.InferInput("text", shape, "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape))
    wanted = outputs and [triton.InferRequestedOutput(name) for name in outputs]
    return client.infer(model, [tensor], outputs=wanted, **options)


def refused(*arguments: Any, **options: Any) -> str:
    """The status of a call that must fail."""
    try:
        infer(*arguments, **options)
    except triton.InferenceServerException as error:
        return str(error.status())
    raise SystemExit("was not refused")


report["no model"] = client.is_model_ready("elsewhere")
report["model ready"] = client.is_model_ready("work_orders")
report["model"] = client.get_model_metadata("work_orders", as_json=True)
result = infer("work_orders", [len(texts)], request_id="request-7")
report["id"] = result.get_response().id
report["version"] = result.get_response().model_version
report["entities"] = [json.loads(one) for one in result.as_numpy("entities")]
report["details"] = [json.loads(one) for one in result.as_numpy("details")]
told = {"llm_mode": "off", "min_score": 0.9, "offset_unit": "utf8_bytes"}
result = infer("work_orders", [len(texts), 1], ["entities"], parameters=told)
report["shape"] = list(result.as_numpy("entities").shape)
report["only"] = [output.name for output in result.get_response().outputs]
report["told"] = [json.loads(one) for one in result.as_numpy("entities").reshape(-1)]
report["refused"] = [
    refused("elsewhere", [len(texts)]),
    refused("work_orders", [len(texts)], ["logits"]),
    refused("work_orders", [len(texts)], parameters={"temperature": 1}),
    refused("work_orders", [len(texts)], parameters={"min_score": 2.0}),
    refused("work_orders", [len(texts)], model_version="nothing"),
]
print(json.dumps(report))
