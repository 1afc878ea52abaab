"""Topics in Kafka: a log for plants that have one, with a pipeline's state beside it in the home's folder."""

from headrace.errors import EnvironmentFault

try:
    from headrace.topics.kafka.connection import asked
    from headrace.topics.kafka.log import KafkaLog
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package confluent-kafka", where="Kafka", fix="pip install 'headrace[kafka]'") from None

__all__ = ["KafkaLog", "asked"]
