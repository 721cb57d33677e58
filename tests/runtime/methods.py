"""Every method that a server offers, as gRPC names it on the wire."""

from __future__ import annotations

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from smallm_runtime import open_inference

from smallm.admin.v1 import admin_pb2
from smallm.ner.v1 import ner_pb2

_FILES = (ner_pb2, admin_pb2, health_pb2, reflection_pb2)
METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
] + [f"/{open_inference.SERVICE}/{name}" for name in open_inference.methods()]
