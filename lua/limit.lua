#!lua
-- limit: let callers pass, at most so many in a window, evenly (GCRA), in every process together.
--
-- Not fenced: it sells nothing. All callers of a micro-batch go in one call.
--
-- KEYS[i] caller  string  the instant, in µs, at which the caller has used nothing of his limit
-- ARGV[1] max, calls in a window
-- ARGV[2] window, in ms
-- ARGV[2+i] how many calls caller i makes now
--
-- Answers { passed, wait_ms, remaining, reset_ms ... }, four per caller: how many of his calls
-- pass, in how many ms the next one would, how many more would now, and in how many ms he has used
-- nothing. Writes.
--
-- EVALSHA sha 1 onsale:{limit}:10.0.0.7 100 60000 3   ->   { 3, 0, 97, 1800 }
assert(#KEYS >= 1 and #ARGV == #KEYS + 2)
local max, window_us = tonumber(ARGV[1]), ARGV[2] * 1000

-- read
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local step_us = window_us / max

-- write
local answers = {}
for i, caller in ipairs(KEYS) do
  local calls = tonumber(ARGV[2 + i])
  local used_until_us = math.max(tonumber(redis.call('GET', caller) or 0), now_us)
  local room = math.floor((now_us + window_us - used_until_us) / step_us + 0.001)
  local passed = math.min(calls, math.max(room, 0))
  used_until_us = used_until_us + passed * step_us
  local ttl_ms = math.ceil((used_until_us - now_us) / 1000)
  if passed > 0 then
    redis.call('SET', caller, string.format('%.0f', used_until_us), 'PX', ttl_ms)
  end
  local wait_us = used_until_us + step_us - window_us - now_us
  answers[4 * i - 3] = passed
  answers[4 * i - 2] = math.max(0, math.ceil(wait_us / 1000))
  answers[4 * i - 1] = math.max(0, room - passed)
  answers[4 * i] = ttl_ms
end

-- answer
return answers
