#!/bin/bash
# What the entry of the image apache/kafka does, by the same Java class: its settings are the environment's KAFKA_…
set -e
# shellcheck disable=SC2086
java() { "$JAVA" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 ${OPTIONS:--Xmx128m} -cp '/opt/kafka/libs/*' "$@"; }
case $0 in
  */run)
    said=$(java kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config \
      --final-configs-dir /opt/kafka/config 2>&1) || [[ $said == *"already formatted"* ]] || { echo "$said"; exit 1; }
    exec "$JAVA" -XX:+UseSerialGC ${KAFKA_HEAP_OPTS--Xmx1G} -cp '/opt/kafka/libs/*' kafka.Kafka /opt/kafka/config/server.properties ;;
  */kafka-topics.sh) java org.apache.kafka.tools.TopicCommand "$@" ;;
  */kafka-consumer-groups.sh) java org.apache.kafka.tools.consumer.group.ConsumerGroupCommand "$@" ;;
  */kafka-console-consumer.sh) java org.apache.kafka.tools.consumer.ConsoleConsumer "$@" ;;
esac
