#!lua flags=allow-oom
-- advance: fence every older epoch off a partition. The first step of a recovery.
--
-- Not fenced itself: it is what the fence is made of.
--
-- KEYS[1] log  hash  epoch
-- ARGV[1] the new epoch, 1 to 2^14-1
--
-- Answers a word:
--   "newer"     the log's epoch is not older: another recovery was given a later one, or the
--               ledger is older than Redis. Writes nothing
--   "advanced"  no script of an older epoch can write any more
--
-- EVALSHA sha 1 onsale:{1}:log 4   ->   "advanced"
assert(#KEYS == 1 and #ARGV == 1)
local log = KEYS[1]
local new_epoch = tonumber(ARGV[1])

-- read
local epoch = tonumber(redis.call('HGET', log, 'epoch')) or 0

-- refuse
if epoch >= new_epoch then return 'newer' end

-- write
redis.call('HSET', log, 'epoch', new_epoch)

-- answer
return 'advanced'
