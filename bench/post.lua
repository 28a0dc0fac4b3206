-- wrk: post one file again and again; say in one line of JSON what happened.
-- Arguments: the file, and then names and values of headers in turns.
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  for place = 2, #args, 2 do
    wrk.headers[args[place]] = args[place + 1]
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
