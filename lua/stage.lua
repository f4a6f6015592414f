#!lua
-- stage: put one page of the ledger's rows into the staging, and keep the lease.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
--
-- KEYS[1] log      hash    epoch
-- KEYS[2] lease    string  the holder's token
-- KEYS[3] staging  hash    user -> "epoch-seq"
-- ARGV[1] token of the lease
-- ARGV[2] how long the lease lasts from now, in ms
-- ARGV[3 ..] user, number, user, number ...: at most 500 pairs
--
-- Answers a word:
--   "fenced"      another epoch: recover. Writes nothing
--   "superseded"  the lease is gone: begin again. Writes nothing
--   "staged"      written
--
-- EVALSHA sha 3 onsale:{1}:log onsale:{1}:event:17:lease onsale:{1}:event:17:staging
--   5f3a 10000 ann 3-8   ->   "staged"
assert(#KEYS == 3 and #ARGV >= 4 and #ARGV % 2 == 0)
local log, lease, staging = KEYS[1], KEYS[2], KEYS[3]
local token, lease_ms = ARGV[1], tonumber(ARGV[2])

-- refuse
if redis.call('HGET', log, 'epoch') ~= EPOCH then return 'fenced' end
if redis.call('GET', lease) ~= token then return 'superseded' end

-- write; the staging outlives the lease, so that `lease` unlinks it for who begins again:
-- where it expires instead, a million fields may be freed while Redis blocks
redis.call('HSET', staging, unpack(ARGV, 3))
redis.call('PEXPIRE', staging, lease_ms * 6)
redis.call('PEXPIRE', lease, lease_ms)

-- answer
return 'staged'
