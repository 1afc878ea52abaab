"""A cluster as PyFlink's own programs submit to it."""

from __future__ import annotations

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

__all__ = ["environment_of"]


def environment_of(url: str, python: str, options: dict[str, str]) -> StreamExecutionEnvironment:
    """Return the environment whose jobs run on the cluster at a URL, with a Python, and are waited for."""
    configuration = Configuration()
    host, _, port = url.rpartition("//")[2].partition(":")
    remote = {
        "execution.target": "remote",
        "execution.attached": "true",
        "rest.address": host,
        "rest.port": port,
        "python.executable": python,
        "python.client.executable": python,
        "restart-strategy.type": "none",
    }
    for name, value in {**remote, **options}.items():
        configuration.set_string(name, value)
    java = get_gateway().jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    return StreamExecutionEnvironment(java(configuration._j_configuration))
