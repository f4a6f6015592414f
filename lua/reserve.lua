#!lua
-- reserve: give seats of one event to a micro-batch of users, in their order.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
--
-- KEYS[1] log     hash    epoch, seq, acked, master
-- KEYS[2] outbox  stream  what the ledger must learn
-- KEYS[3] event   hash    epoch, total, left, opens, closes
-- KEYS[4] users   hash    user -> "epoch-seq"
-- KEYS[5 ..] records  string  of those who sent an Idempotency-Key: "epoch-seq", for a day
-- ARGV[1] event id, 1 to 2^31-1
-- ARGV[2] bound of the outbox, in numbers
-- ARGV[3] n, the count of users, 1 to 500
-- ARGV[4 .. 3+n]  users
-- ARGV[4+n .. 3+2n]  each user's place among the records, or 0; left out where there are none
--
-- Answers one word for the whole batch, and writes nothing:
--   "fenced"      another epoch or master, or no outbox, or numbers used up: recover
--   "cold"        the event is not loaded in this epoch: hydrate
--   "dirty"       left is not total - HLEN(users), or a bound no instant: close, then hydrate
--   "overloaded"  the ledger is too far behind
-- or { Redis's time in ms, one answer per user ... }, and writes if any seat was given:
--   integer seq               the seat is his, under the number epoch-seq
--   "already_booked epoch-seq"  he holds that booking
--   "replayed epoch-seq"      he made that booking under the same key, and holds it or not
--   "not_open ms", "closed"   the event is sold from this Unix time on, in ms; no more
--   "sold_out"                no seat was left
--
-- EVALSHA sha 4 onsale:{1}:log onsale:{1}:outbox onsale:{1}:event:17 onsale:{1}:event:17:users
--   17 200000 2 ann bob   ->   { 1763816400123, 8, "already_booked 3-5" }
assert(#KEYS >= 4 and #ARGV == ARGV[3] * math.min(#KEYS - 3, 2) + 3)
local log, outbox, event, users = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local event_id, bound, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local records, FIRST, DAY_S = { unpack(KEYS, 5) }, 4, 86400

-- read
local epoch, seq, acked, master = unpack(redis.call('HMGET', log,
  'epoch', 'seq', 'acked', 'master'))
local event_epoch, total, left, opens, closes = unpack(redis.call('HMGET', event,
  'epoch', 'total', 'left', 'opens', 'closes'))
seq, acked, total, left = tonumber(seq), tonumber(acked), tonumber(total), tonumber(left)

-- refuse
if epoch ~= EPOCH or not seq or not acked or seq + count > 4294967295 then return 'fenced' end
if not string.find(redis.call('INFO', 'replication'), master or '?', 1, true) then
  return 'fenced'  -- it was demoted, given an older state, and promoted again: scripts and all
end
if event_epoch ~= EPOCH then return 'cold' end
if not total or not left or left + redis.call('HLEN', users) ~= total then return 'dirty' end
if seq - acked >= bound then return 'overloaded' end

local made = #records > 0 and redis.call('MGET', unpack(records)) or {}
local held = redis.call('HMGET', users, unpack(ARGV, FIRST, FIRST + count - 1))
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if #(opens or '') > 15 or string.find((opens or '') .. (closes or ''), '%D') then return 'dirty' end
opens, closes = tonumber(opens) or 0, tonumber(closes) or math.huge
local answers, granted, fields, given, noted = { now_ms }, {}, {}, {}, {}
for i = 1, count do
  local user, place = ARGV[FIRST + i - 1], tonumber(ARGV[FIRST + count + i - 1])
  local mine = held[i] or given[user]
  if made[place] or mine then
    answers[i + 1] = made[place] and 'replayed ' .. made[place] or 'already_booked ' .. mine
  elseif now_ms < opens or now_ms >= closes then
    answers[i + 1] = now_ms < opens and 'not_open ' .. string.format('%.0f', opens) or 'closed'
  elseif left <= 0 then
    answers[i + 1] = 'sold_out'
  else
    left, seq = left - 1, seq + 1
    local booking = EPOCH .. '-' .. seq
    given[user] = booking
    if made[place] == false then made[place], noted[records[place]] = booking, booking end
    granted[#granted + 1] = user
    fields[#fields + 1], fields[#fields + 2] = user, booking
    answers[i + 1] = seq
  end
end
if #granted == 0 then return answers end

-- write: the one that can fail first, since Redis does not undo half a script
local added = redis.pcall('XADD', outbox, 'NOMKSTREAM', EPOCH .. '-' .. seq,
  'kind', 'reserve', 'event', event_id, 'at', now_ms, 'users', cjson.encode(granted))
if not added or added.err then return 'fenced' end
redis.call('HSET', log, 'seq', seq)
redis.call('HSET', users, unpack(fields))
redis.call('HINCRBY', event, 'left', -#granted)
for record, booking in pairs(noted) do redis.call('SET', record, booking, 'EX', DAY_S) end

-- answer
return answers
