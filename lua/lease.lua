#!lua
-- lease: become the one who hydrates a cold event, for a short while.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
--
-- KEYS[1] log      hash    epoch, seq
-- KEYS[2] event    hash    epoch
-- KEYS[3] lease    string  the holder's token
-- KEYS[4] staging  hash    users on their way from the ledger
-- ARGV[1] token, unique to this attempt
-- ARGV[2] how long the lease lasts, in ms
--
-- Answers a word, and writes nothing:
--   "fenced"  another epoch: recover
--   "warm"    the event is loaded already
--   "busy"    somebody else hydrates it
-- or integer seq: the last number given out, which the ledger must reach before its rows are
-- read. The lease is taken and the staging empty. Writes.
--
-- EVALSHA sha 4 onsale:{1}:log onsale:{1}:event:17 onsale:{1}:event:17:lease
--   onsale:{1}:event:17:staging 5f3a 10000   ->   9
assert(#KEYS == 4 and #ARGV == 2)
local log, event, lease, staging = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, lease_ms = ARGV[1], ARGV[2]

-- read
local epoch, seq = unpack(redis.call('HMGET', log, 'epoch', 'seq'))
seq = tonumber(seq)

-- refuse
if epoch ~= EPOCH or not seq then return 'fenced' end
if redis.call('HGET', event, 'epoch') == EPOCH then return 'warm' end
if redis.call('EXISTS', lease) == 1 then return 'busy' end

-- write
redis.call('SET', lease, token, 'PX', lease_ms)
redis.call('UNLINK', staging)

-- answer
return seq
