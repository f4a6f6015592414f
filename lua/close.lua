#!lua flags=allow-oom
-- close: make an event cold, so that it sells nothing until it is hydrated from the ledger.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
-- Nothing is lost: what was sold is in the outbox or in the ledger.
--
-- KEYS[1] log    hash    epoch
-- KEYS[2] event  hash    removed
-- KEYS[3] users  hash    removed
-- KEYS[4] lease  string  removed: a hydration under way begins again
--
-- Answers a word:
--   "fenced"  another epoch: recover. Writes nothing
--   "closed"  the event is cold
--
-- EVALSHA sha 4 onsale:{1}:log onsale:{1}:event:17 onsale:{1}:event:17:users
--   onsale:{1}:event:17:lease   ->   "closed"
assert(#KEYS == 4 and #ARGV == 0)
local log, event, users, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

-- refuse
if redis.call('HGET', log, 'epoch') ~= EPOCH then return 'fenced' end

-- write
redis.call('DEL', event, lease)
redis.call('UNLINK', users)

-- answer
return 'closed'
