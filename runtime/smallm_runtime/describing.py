"""Server reflection over every service on offer, wherever its descriptors live."""

from __future__ import annotations

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from smallm.admin.v1 import admin_pb2
from smallm.ner.v1 import ner_pb2
from smallm_runtime import open_inference


def enable_reflection(server: grpc.aio.Server, names: list[str]) -> None:
    """Describe the services `names`, reflection itself, and the details of errors."""
    pool = DescriptorPool()
    for file in open_inference.FILES.file:
        pool.Add(file)
    for known in (ner_pb2, admin_pb2, health_pb2, reflection_pb2, error_details_pb2):
        _add(pool, known.DESCRIPTOR)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server, pool)


def _add(pool: DescriptorPool, file: FileDescriptor) -> None:
    for needed in file.dependencies:
        _add(pool, needed)
    pool.AddSerializedFile(file.serialized_pb)
