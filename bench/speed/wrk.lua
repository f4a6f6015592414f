-- What wrk asks, and what it tells at the end: one line of JSON, after its own report.
--
-- wrk … -s wrk.lua URL -- KIND FIRST LAST USERS PREFER TAG
--   KIND    reserve | mixed (two bookings, then one of them given back) | look (availability)
--   FIRST, LAST  the ids of the events to ask for, each with the same chance
--   USERS   0: every request is of somebody else; n: of n users, in turn
--   PREFER  the Prefer header; "" for none
--   TAG     begins each user's name, so that no two runs share one
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } instant; int clock_gettime(int, instant *);")
local MONOTONIC, BUCKET_MS = 1, 20
local NEW_BOOKING = '"id":(%d+),"event_id"'

local threads = {}

function setup(thread)
  thread:set("thread", #threads)
  threads[#threads + 1] = thread
end

local instant = ffi.new("instant")

local function now_ms()
  ffi.C.clock_gettime(MONOTONIC, instant)
  return tonumber(instant.s) * 1000 + tonumber(instant.ns) / 1e6
end

local asked, held, turn = 0, {}, 0

function init(args)
  kind, first, last = args[1], tonumber(args[2]), tonumber(args[3])
  users, tag = tonumber(args[4]), args[6]
  local prefer = args[5] ~= "" and "Prefer: " .. args[5] .. "\r\n" or ""
  head = "POST /api/bookings/reserve HTTP/1.1\r\nHost: onsale\r\n" .. prefer
    .. "Content-Type: application/json\r\nContent-Length: "
  math.randomseed(thread + 1)
  told, bucket, statuses, names, begun_ms = "", 1, "", {}, nil
end

local function event()
  return first == last and first or math.random(first, last)
end

local function reserve()
  asked = asked + 1
  local user = users > 0 and tag .. asked % users or tag .. thread .. "-" .. asked
  local body = '{"event_id":' .. event() .. ',"user_id":"' .. user .. '"}'
  return head .. #body .. "\r\n\r\n" .. body
end

function request()
  begun_ms = begun_ms or now_ms()
  if kind == "look" then
    return "GET /api/events/" .. event() .. " HTTP/1.1\r\nHost: onsale\r\n\r\n"
  end
  turn = turn + 1
  if kind == "mixed" and turn % 3 == 0 and #held > 0 then
    return "DELETE /api/bookings/" .. table.remove(held) .. " HTTP/1.1\r\nHost: onsale\r\n\r\n"
  end
  return reserve()
end

-- `done` can read plain values of a thread only. So the buckets that are over are in one string
-- (bucket, status, count, …); of the one that is not, `bucket` is its number, `statuses` the
-- statuses that were ever seen, and n201 and its kin are the counts.
local function turn_page(next_bucket)
  for status in string.gmatch(statuses, "%d+") do
    local name = "n" .. status
    if _G[name] > 0 then
      told = told .. bucket .. " " .. status .. " " .. _G[name] .. " "
      _G[name] = 0
    end
  end
  bucket = next_bucket
end

function response(status, headers, body)
  local arrived = math.floor((now_ms() - begun_ms) / BUCKET_MS) + 1
  if arrived ~= bucket then turn_page(arrived) end
  local name = names[status]
  if not name then
    name = "n" .. status
    names[status], statuses, _G[name] = name, statuses .. status .. " ", 0
  end
  _G[name] = _G[name] + 1
  if kind == "mixed" then
    local booking = string.match(body, NEW_BOOKING)
    if booking then held[#held + 1] = booking end
  end
end

local function merged()
  local all, longest = {}, 0
  local function add(bucket, status, count)
    all[status] = all[status] or {}
    all[status][bucket] = (all[status][bucket] or 0) + count
    longest = math.max(longest, bucket)
  end
  for _, each in ipairs(threads) do
    for bucket, status, count in string.gmatch(each:get("told"), "(%d+) (%d+) (%d+) ") do
      add(tonumber(bucket), status, tonumber(count))
    end
    for status in string.gmatch(each:get("statuses"), "%d+") do
      add(each:get("bucket"), status, each:get("n" .. status))
    end
  end
  return all, longest
end

local function as_json(all, longest)
  local parts = {}
  for status, buckets in pairs(all) do
    local counts = {}
    for bucket = 1, longest do counts[bucket] = buckets[bucket] or 0 end
    parts[#parts + 1] = '"' .. status .. '":[' .. table.concat(counts, ",") .. "]"
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

function done(summary, latency, requests)
  local points = {}
  for percent = 1, 99 do points[#points + 1] = percent end
  for _, percent in ipairs({ 99.5, 99.9, 99.95, 99.99 }) do points[#points + 1] = percent end
  for place, percent in ipairs(points) do
    points[place] = "[" .. percent .. "," .. latency:percentile(percent) / 1000 .. "]"
  end
  points[#points + 1] = "[100," .. latency.max / 1000 .. "]"
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format('\n{"seconds":%f,"failed":%d,"late":%d,"latency_ms":[%s],"series":%s}\n',
    summary.duration / 1e6, failed, summary.errors.timeout, table.concat(points, ","),
    as_json(merged())))
end
