#!lua
-- install: open a hydrated event for sale.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
--
-- KEYS[1] log      hash    epoch
-- KEYS[2] event    hash    epoch, total, left, name, opens, closes
-- KEYS[3] users    hash    user -> "epoch-seq"
-- KEYS[4] lease    string  the holder's token
-- KEYS[5] staging  hash    user -> "epoch-seq": becomes `users`
-- ARGV[1] token of the lease
-- ARGV[2] total seats
-- ARGV[3] name
-- ARGV[4] how many users were staged
-- ARGV[5] when it opens, in Unix ms, or "" if it always was
-- ARGV[6] when it closes, in Unix ms, or "" if it never does
--
-- Answers a word:
--   "fenced"      another epoch: recover. Writes nothing
--   "superseded"  the lease is gone, or the staging is not whole: begin again. Writes nothing
--   "installed"   the event is warm
--
-- EVALSHA sha 5 onsale:{1}:log onsale:{1}:event:17 onsale:{1}:event:17:users
--   onsale:{1}:event:17:lease onsale:{1}:event:17:staging 5f3a 1000 "Swan Lake" 8 "" ""
--   ->   "installed"
assert(#KEYS == 5 and #ARGV == 6)
local log, event, users, lease, staging = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local token, total, name, count = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local opens, closes = ARGV[5], ARGV[6]

-- refuse
if redis.call('HGET', log, 'epoch') ~= EPOCH then return 'fenced' end
if redis.call('GET', lease) ~= token then return 'superseded' end
if redis.call('HLEN', staging) ~= count then return 'superseded' end

-- write; unlinked first, so that RENAME has no million fields to free while it blocks
redis.call('UNLINK', users)
if count > 0 then
  redis.call('RENAME', staging, users)
  redis.call('PERSIST', users)
end
redis.call('HSET', event, 'epoch', EPOCH, 'total', total, 'left', total - count, 'name', name,
  'opens', opens, 'closes', closes)
redis.call('DEL', lease)

-- answer
return 'installed'
