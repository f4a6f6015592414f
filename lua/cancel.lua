#!lua flags=allow-oom
-- cancel: give one booking's seat back.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
-- Runs out of memory too: it frees a seat, and its entry is small.
--
-- KEYS[1] log     hash    epoch, seq, acked, master
-- KEYS[2] outbox  stream  what the ledger must learn
-- KEYS[3] event   hash    epoch, total, left
-- KEYS[4] users   hash    user -> "epoch-seq"
-- ARGV[1] event id, 1 to 2^31-1
-- ARGV[2] bound of the outbox, in numbers
-- ARGV[3] user
-- ARGV[4] the booking's number, "epoch-seq": an old one cannot cancel a re-booking
--
-- Answers a word, and writes nothing:
--   "fenced"      another epoch or master, or no outbox, or numbers used up: recover
--   "cold"        the event is not loaded in this epoch: hydrate
--   "dirty"       left is not total - HLEN(users): close, then hydrate
--   "overloaded"  the ledger is too far behind
--   "not_held"    the user does not hold this booking
-- or integer seq: the seat is free, and the cancel has the number epoch-seq. Writes.
--
-- EVALSHA sha 4 onsale:{1}:log onsale:{1}:outbox onsale:{1}:event:17 onsale:{1}:event:17:users
--   17 220000 ann 3-8   ->   9
assert(#KEYS == 4 and #ARGV == 4)
local log, outbox, event, users = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local event_id, bound, user, booking = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

-- read
local epoch, seq, acked, master = unpack(redis.call('HMGET', log,
  'epoch', 'seq', 'acked', 'master'))
local event_epoch, total, left = unpack(redis.call('HMGET', event, 'epoch', 'total', 'left'))
seq, acked, total, left = tonumber(seq), tonumber(acked), tonumber(total), tonumber(left)

-- refuse
if epoch ~= EPOCH or not seq or not acked or seq + 1 > 4294967295 then return 'fenced' end
if not string.find(redis.call('INFO', 'replication'), master or '?', 1, true) then
  return 'fenced'  -- it was demoted, given an older state, and promoted again: scripts and all
end
if event_epoch ~= EPOCH then return 'cold' end
if not total or not left or left + redis.call('HLEN', users) ~= total then return 'dirty' end
local mine = redis.call('HGET', users, user)
if mine ~= booking then return 'not_held' end
if seq - acked >= bound then return 'overloaded' end

-- write: the one that can fail first, since Redis does not undo half a script
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
seq = seq + 1
local added = redis.pcall('XADD', outbox, 'NOMKSTREAM', EPOCH .. '-' .. seq,
  'kind', 'cancel', 'event', event_id, 'at', now_ms,
  'users', cjson.encode({ user }), 'booking', booking)
if not added or added.err then return 'fenced' end
redis.call('HSET', log, 'seq', seq)
redis.call('HDEL', users, user)
redis.call('HINCRBY', event, 'left', 1)

-- answer
return seq
