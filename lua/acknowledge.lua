#!lua flags=allow-oom
-- acknowledge: the ledger has taken the outbox up to a number; drop what is long behind it.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
-- A short tail stays, so that a ledger that was failed over to a lagging standby can catch up.
--
-- KEYS[1] log     hash    epoch, acked
-- KEYS[2] outbox  stream  trimmed
-- ARGV[1] seq, the last number the ledger took, 0 to 2^32-1
-- ARGV[2] tail, how many numbers before it stay
--
-- Answers a word:
--   "fenced"        another epoch: recover. Writes nothing
--   "acknowledged"  acked is at least seq
--
-- EVALSHA sha 2 onsale:{1}:log onsale:{1}:outbox 9 1000   ->   "acknowledged"
assert(#KEYS == 2 and #ARGV == 2)
local log, outbox = KEYS[1], KEYS[2]
local seq, tail = tonumber(ARGV[1]), tonumber(ARGV[2])

-- read
local epoch, acked = unpack(redis.call('HMGET', log, 'epoch', 'acked'))

-- refuse
if epoch ~= EPOCH then return 'fenced' end

-- write; two overlapping shifts may come here out of order
if (tonumber(acked) or -1) < seq then redis.call('HSET', log, 'acked', seq) end
if seq > tail then redis.call('XTRIM', outbox, 'MINID', '~', EPOCH .. '-' .. (seq - tail)) end

-- answer
return 'acknowledged'
