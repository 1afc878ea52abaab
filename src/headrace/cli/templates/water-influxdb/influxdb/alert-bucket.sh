#!/bin/sh
# InfluxDB's container runs this once, after it has made the first bucket.
set -eu
influx bucket create --name "$INFLUXDB_ALERT_BUCKET" --org "$DOCKER_INFLUXDB_INIT_ORG"
