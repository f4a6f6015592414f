#!lua flags=allow-oom
-- repair: make a warm event equal to the ledger, each user by compare-and-set.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
-- Leaves no outbox entry: the ledger knows already.
--
-- KEYS[1] log    hash    epoch
-- KEYS[2] event  hash    epoch, total, left, name, opens, closes
-- KEYS[3] users  hash    user -> "epoch-seq"
-- KEYS[4] lease  string  removed if the event is cold: what is being read may be stale
-- ARGV[1] total seats, or "" to leave it
-- ARGV[2] name, or "" to leave it
-- ARGV[3] when it opens, in Unix ms, "" if it always was, or "keep" to leave it
-- ARGV[4] when it closes, in Unix ms, "" if it never does, or "keep" to leave it
-- ARGV[5 ..] user, expected number or "", new number or "": at most 500 triples
--
-- Answers a word:
--   "fenced"  another epoch: recover. Writes nothing
--   "cold"    the event is not loaded in this epoch. Writes only the lease
-- or integer: how many users were changed. left := total - HLEN(users). Writes.
--
-- EVALSHA sha 4 onsale:{1}:log onsale:{1}:event:17 onsale:{1}:event:17:users
--   onsale:{1}:event:17:lease 1000 "" keep keep ann 3-8 "" bob "" 0-4   ->   2
assert(#KEYS == 4 and #ARGV >= 4 and (#ARGV - 4) % 3 == 0)
local log, event, users, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local total, name, opens, closes = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- refuse
if redis.call('HGET', log, 'epoch') ~= EPOCH then return 'fenced' end
if redis.call('HGET', event, 'epoch') ~= EPOCH then
  redis.call('DEL', lease)
  return 'cold'
end

-- write
local changed = 0
for i = 5, #ARGV, 3 do
  local user, expected, new = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local held = redis.call('HGET', users, user) or ''
  if held == expected then
    if new == '' then
      redis.call('HDEL', users, user)
    else
      redis.call('HSET', users, user, new)
    end
    changed = changed + 1
  end
end
if name ~= '' then redis.call('HSET', event, 'name', name) end
if opens ~= 'keep' then redis.call('HSET', event, 'opens', opens) end
if closes ~= 'keep' then redis.call('HSET', event, 'closes', closes) end
total = tonumber(total) or tonumber(redis.call('HGET', event, 'total'))
if total then  -- else a hand broke it, and the event is dirty until it is hydrated
  redis.call('HSET', event, 'total', total, 'left', total - redis.call('HLEN', users))
end

-- answer
return changed
