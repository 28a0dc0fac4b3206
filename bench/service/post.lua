-- Repeat one POST request, then print one line of JSON with the result.
-- Arguments: the file with the body, then pairs of header name and value.
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  for position = 2, #args, 2 do
    wrk.headers[args[position]] = args[position + 1]
  end
  file:close()
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local good = summary.requests - errors.status
  io.write(string.format('{"good": %d, "microseconds": %d, "errors": %d, "p50": %d, "p99": %d}\n',
    good, summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
