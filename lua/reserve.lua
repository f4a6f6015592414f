#!lua
-- reserve: give seats of one event to a micro-batch of users, in their order.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
--
-- KEYS[1] log     hash    epoch, seq, acked, master
-- KEYS[2] outbox  stream  what the ledger must learn
-- KEYS[3] event   hash    epoch, total, left, opens, closes
-- KEYS[4] users   hash    user -> "epoch-seq", then "|fingerprint" if a key was sent
-- ARGV[1] event id, 1 to 2^31-1
-- ARGV[2] bound of the outbox, in numbers
-- ARGV[3] n, the count of users, 1 to 500
-- ARGV[4 .. 3+n]  users
-- ARGV[4+n ..]    for each user who sent an Idempotency-Key: his place (1 to n), fingerprint
--
-- Answers one word for the whole batch, and writes nothing:
--   "fenced"      another epoch or master, or no outbox, or numbers used up: recover
--   "cold"        the event is not loaded in this epoch: hydrate
--   "dirty"       left is not total - HLEN(users): close, then hydrate
--   "overloaded"  the ledger is too far behind
-- or { Redis's time in ms, one answer per user ... }, and writes if any seat was given:
--   integer seq               the seat is his, under the number epoch-seq
--   "already_booked epoch-seq"  he holds that booking
--   "replayed epoch-seq"      he holds that booking, made with the same fingerprint
--   "not_open ms", "closed"   the event is sold from this Unix time on, in ms; no more
--   "sold_out"                no seat was left
--
-- EVALSHA sha 4 onsale:{1}:log onsale:{1}:outbox onsale:{1}:event:17 onsale:{1}:event:17:users
--   17 200000 2 ann bob   ->   { 1763816400123, 8, "already_booked 3-5" }
assert(#KEYS == 4 and #ARGV >= 4)
local log, outbox, event, users = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local event_id, bound, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local FIRST = 4

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

local fingerprints = {}
for i = FIRST + count, #ARGV, 2 do fingerprints[tonumber(ARGV[i])] = ARGV[i + 1] end
local held = redis.call('HMGET', users, unpack(ARGV, FIRST, FIRST + count - 1))
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
opens, closes = tonumber(opens) or 0, tonumber(closes) or math.huge
local answers, granted, fields, given = { now_ms }, {}, {}, {}
for i = 1, count do
  local user, fingerprint = ARGV[FIRST + i - 1], fingerprints[i]
  local mine = held[i] or given[user]
  if mine then
    local number, made_with = string.match(mine, '^([^|]*)|?(.*)$')
    local same = fingerprint and fingerprint == made_with
    answers[i + 1] = (same and 'replayed ' or 'already_booked ') .. number
  elseif now_ms < opens or now_ms >= closes then
    answers[i + 1] = now_ms < opens and 'not_open ' .. string.format('%.0f', opens) or 'closed'
  elseif left <= 0 then
    answers[i + 1] = 'sold_out'
  else
    left, seq = left - 1, seq + 1
    local booking = EPOCH .. '-' .. seq .. (fingerprint and '|' .. fingerprint or '')
    given[user] = booking
    granted[#granted + 1] = user
    fields[#fields + 1] = user
    fields[#fields + 1] = booking
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

-- answer
return answers
