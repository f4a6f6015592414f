#!lua flags=no-writes
-- look: read an event as it is at this instant, and what one user holds of it.
--
-- Fenced: the loader puts `local EPOCH = '…'` after the first line, with the partition's name.
-- Never writes.
--
-- KEYS[1] log    hash  epoch
-- KEYS[2] event  hash  epoch, total, left, name, opens, closes
-- KEYS[3] users  hash  user -> "epoch-seq"
-- ARGV[1] user, or "" for nobody
--
-- Answers a word:
--   "fenced"  another epoch: recover
--   "cold"    the event is not loaded in this epoch: hydrate
-- or { total, left, HLEN(users), name, what the user holds or "", opens or "", closes or "" }; what
-- a hand wrote and is no number is -1 as total and -2^31 as left, so that they never add up; nor do
-- they where it wrote a bound that is no instant.
--
-- EVALSHA sha 3 onsale:{1}:log onsale:{1}:event:17 onsale:{1}:event:17:users ann
--   ->   { 1000, 992, 8, "Swan Lake", "3-8", "", "" }
assert(#KEYS == 3 and #ARGV == 1)
local log, event, users = KEYS[1], KEYS[2], KEYS[3]
local user = ARGV[1]

-- read
local epoch = redis.call('HGET', log, 'epoch')
local event_epoch, total, left, name, opens, closes = unpack(
  redis.call('HMGET', event, 'epoch', 'total', 'left', 'name', 'opens', 'closes'))

-- refuse
if epoch ~= EPOCH then return 'fenced' end
if event_epoch ~= EPOCH then return 'cold' end

-- answer
local held = user ~= '' and redis.call('HGET', users, user) or ''
if #(opens or '') > 15 or string.find((opens or '') .. (closes or ''), '%D') then left = nil end
total, left = tonumber(total) or -1, tonumber(left) or -2147483648
return { total, left, redis.call('HLEN', users), name or '', held, opens or '', closes or '' }
