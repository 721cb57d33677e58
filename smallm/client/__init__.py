"""Typed gRPC clients, for threads and for asyncio. They need no more than a plain install.

`calls`, `backlog` and `retry` decide; `sync` and `aio` only call and wait.
"""

from smallm.client.aio import AsyncClient
from smallm.client.answers import Entity, Options, Result
from smallm.client.connection import Connection
from smallm.client.retry import Retry
from smallm.client.sync import Client

__all__ = ["AsyncClient", "Client", "Connection", "Entity", "Options", "Result", "Retry"]
