#!lua flags=allow-oom
-- open: begin a new epoch's outbox. The last writing step of a recovery.
--
-- Not fenced by its text: it checks the epoch that `advance` wrote.
--
-- KEYS[1] log     hash    epoch, seq, acked, master
-- KEYS[2] outbox  stream  begins anew if it cannot take the epoch's first entry
-- ARGV[1] the new epoch, 1 to 2^14-1
--
-- Answers a word:
--   "newer"   the log is not at this epoch: another recovery came later. Writes nothing
--   "opened"  the outbox is ready, numbers start at 1; the log names this master. It gets a new
--             name whenever it is promoted, and what it forgot meanwhile must not be sold again
--
-- EVALSHA sha 2 onsale:{1}:log onsale:{1}:outbox 4   ->   "opened"
assert(#KEYS == 2 and #ARGV == 1)
local log, outbox = KEYS[1], KEYS[2]
local new_epoch = ARGV[1]

-- refuse
if redis.call('HGET', log, 'epoch') ~= new_epoch then return 'newer' end

-- write; a stream whose last id is beyond this epoch (or no stream) was written by a hand,
-- and its entries are in the ledger's dead letters by now
local added = redis.pcall('XADD', outbox, new_epoch .. '-0', 'kind', 'open')
if added.err then
  redis.call('DEL', outbox)
  redis.call('XADD', outbox, new_epoch .. '-0', 'kind', 'open')
end
local master = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('HSET', log, 'seq', 0, 'acked', 0, 'master', master)

-- answer
return 'opened'
