#!lua flags=no-writes
-- find: the entry of the outbox that holds a number, if it is still there.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
-- Never writes.
--
-- KEYS[1] log     hash    epoch, seq
-- KEYS[2] outbox  stream  an entry's id is the number of its last item
-- ARGV[1] number, "epoch-seq"
--
-- Answers "fenced" (another epoch: recover)
-- or { seq, entry ... }: the last number given out, and the first entry at or after the
-- number, as XRANGE gives it, if there is one.
--
-- EVALSHA sha 2 onsale:{1}:log onsale:{1}:outbox 3-8
--   ->   { 9, { "3-8", { "kind", "reserve", ... } } }
assert(#KEYS == 2 and #ARGV == 1)
local log, outbox = KEYS[1], KEYS[2]
local number = ARGV[1]

-- read
local epoch, seq = unpack(redis.call('HMGET', log, 'epoch', 'seq'))
seq = tonumber(seq)

-- refuse
if epoch ~= EPOCH or not seq then return 'fenced' end

-- answer
return { seq, unpack(redis.call('XRANGE', outbox, number, '+', 'COUNT', 1)) }
