"""Kafka: producing and consuming events; the only place that imports aiokafka."""
