-- What wrk has seen, as one JSON object; latencies in ms. A timeout is no failure: that request is answered later.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"rate": %f, "failures": %d, "p50": %f, "p90": %f, "p99": %f, "max": %f}\n',
    summary.requests / summary.duration * 1e6,
    errors.connect + errors.read + errors.write + errors.status,
    latency:percentile(50) / 1000, latency:percentile(90) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
