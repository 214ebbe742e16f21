-- Cached answers of one tenant: each a hash, all listed oldest first in one sorted set. All keys carry one hash tag.
--
-- KEYS: the tenant's list, and for 'store' the answer
-- ARGV[1]: verb; for 'store': ttl (ms, 0 for none), most entries, field, value, field, value...

local list = KEYS[1]

if ARGV[1] == 'store' then
  local answer, ttl, most = KEYS[2], tonumber(ARGV[2]), tonumber(ARGV[3])
  redis.call('HSET', answer, unpack(ARGV, 4)) -- the fields of an answer are always the same
  local now = redis.call('TIME')
  redis.call('ZADD', list, now[1] * 1000000 + now[2], answer)
  if ttl > 0 then
    redis.call('PEXPIRE', answer, ttl)
    redis.call('PEXPIRE', list, ttl)
  else
    redis.call('PERSIST', answer)
    redis.call('PERSIST', list)
  end
  local over = redis.call('ZCARD', list) - most
  if over > 0 then
    local oldest = redis.call('ZPOPMIN', list, over)
    for i = 1, #oldest, 2 do
      redis.call('UNLINK', oldest[i])
    end
  end
  return 1
end

local live = 0
for _, answer in ipairs(redis.call('ZRANGE', list, 0, -1)) do
  if ARGV[1] == 'clear' then
    live = live + redis.call('UNLINK', answer)
  elseif redis.call('EXISTS', answer) == 1 then
    live = live + 1
  else
    redis.call('ZREM', list, answer)
  end
end
if ARGV[1] == 'clear' then
  redis.call('UNLINK', list)
end
return live
