"""What the services share: settings, errors, tracing, pools, events, Kafka, tokens."""
